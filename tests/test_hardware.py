"""Devices, networks and clusters: the catalog's figures, inheritance, the links of a cluster, and refusals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import SpecError
from simulator.spec.base import catalog, parse_document
from simulator.spec.hardware import (
    DEVICES,
    MAX_GPUS,
    NETWORKS,
    Device,
    Hardware,
    Network,
    load_device,
    load_network,
    resolve_hardware,
    torus_shape,
)

MANUAL = Path(__file__).resolve().parent.parent / "docs" / "hardware.md"

TOY = """\
architecture: other
peak: {bf16: 1 TFLOP/s}
memory: {capacity: 1 GB, bandwidth: 1 TB/s}
tdp: 100 W
idle_power: 10 W
scale_up: {kind: nvlink4, bandwidth: 10 GB/s, domain: 8}
node: {gpus: 8, network: ib-ndr400-rail, overhead_power: 0 W}
"""


def toy(**changes: Any) -> dict[str, Any]:
    """The smallest device there can be, as an inline mapping."""
    return {**parse_document(TOY).data, **changes}


def cluster(device: Any, gpus: int, **more: Any) -> Hardware:
    return resolve_hardware({"device": device, "gpus": gpus, **more})


def refusal(**hardware: Any) -> str:
    with pytest.raises(SpecError) as caught:
        resolve_hardware(hardware)
    return str(caught.value)


# The catalog


@pytest.mark.parametrize("name", catalog("device"))
def test_every_device_states_the_source_of_every_figure(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    for field in DEVICES.sources:
        if getattr(device, field) is not None:
            assert len(device.source_of(field)) > 5
            assert not device.source_of(field).startswith(("not stated", "stated in")), field


@pytest.mark.parametrize("name", catalog("network"))
def test_every_network_states_the_source_of_every_figure(name: str) -> None:
    network = load_network(name)
    assert network.name == name
    for field in NETWORKS.sources:
        if field in network.model_fields_set:
            assert not network.source_of(field).startswith(("not stated", "stated in")), field


@pytest.mark.parametrize("name", catalog("device"))
def test_every_device_has_a_usual_node(name: str) -> None:
    device = load_device(name)
    node = cluster(name, device.node.gpus)
    assert node.nodes == 1
    assert node.gpus_per_node == device.node.gpus
    assert node.network.name == device.node.network


@pytest.mark.parametrize("name", catalog("device"))
def test_the_peaks_of_a_device_stand_in_plausible_ratios(name: str) -> None:
    """Halving the bits never lowers the dense rate; a sparse figure by mistake would be a ratio of 4."""
    peak = load_device(name).peak
    assert peak.get("fp16", peak.get("bf16")) == peak.get("bf16", peak.get("fp16"))
    for wide, narrow in [("tf32", "fp16"), ("bf16", "fp8"), ("fp8", "fp4")]:
        if wide in peak and narrow in peak:
            assert 0.99 <= peak[narrow] / peak[wide] <= 3.01  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "flops_per_clock_and_sm"),
    [("v100-sxm2-32gb", 1024), ("a100-sxm-80gb", 2048), ("a30", 2048), ("h100-sxm", 4096), ("h100-pcie", 4096)],
)
def test_the_peak_is_what_the_tensor_cores_do_at_the_clock(name: str, flops_per_clock_and_sm: int) -> None:
    device = load_device(name)
    assert device.sms is not None
    assert device.clock is not None
    assert device.peak["fp16"] == pytest.approx(device.sms * flops_per_clock_and_sm * device.clock, rel=0.005)


@pytest.mark.parametrize(("name", "units"), [("tpu-v3", 4), ("tpu-v4", 8), ("tpu-v5p", 8)])
def test_the_peak_of_a_tpu_is_its_matrix_units_at_the_clock(name: str, units: int) -> None:
    device = load_device(name)
    assert device.clock is not None
    assert device.peak["bf16"] == pytest.approx(units * 128 * 128 * 2 * device.clock, rel=0.005)


def test_the_figures_of_an_h100() -> None:
    device = load_device("h100-sxm")
    assert device.peak["bf16"] == 989.4e12
    assert device.peak["fp8"] == 1978.9e12
    assert device.memory.capacity == 81559 * 2**20
    assert device.memory.bandwidth == 3.35e12
    assert device.sms == 132
    assert device.l2 == 50 * 2**20
    assert device.clock == 1.83e9
    assert (device.tdp, device.idle_power) == (700.0, 70.0)
    assert (device.scale_up.kind, device.scale_up.bandwidth, device.scale_up.domain) == ("nvlink4", 450e9, 8)
    assert device.scale_up.in_network_reduction
    assert device.pcie == 64e9
    assert device.node.overhead_power == 2800.0


@pytest.mark.parametrize(
    ("name", "bf16", "capacity_gib", "bandwidth", "tdp"),
    [
        ("a100-sxm-40gb", 312e12, 40.0, 1.555e12, 400.0),
        ("a100-sxm-80gb", 312e12, 80.0, 2.039e12, 400.0),
        ("h100-hbm2e-500w", 989.4e12, 95.58, 2.4e12, 500.0),
        ("h200-sxm", 989.4e12, 140.40, 4.8e12, 700.0),
        ("b200-sxm", 2250e12, 179.06, 7.7e12, 1000.0),
        ("b300-sxm", 2250e12, 268.59, 7.75e12, 1100.0),
        ("gb200", 2500e12, 185.03, 8e12, 1200.0),
        ("gb300", 2500e12, 277.55, 8e12, 1400.0),
        ("l40s", 362.05e12, 44.99, 0.864e12, 350.0),
        ("tpu-v4", 275e12, 32.0, 1.2e12, 192.0),
        ("mi300x", 1307.4e12, 192.0, 5.3e12, 750.0),
    ],
)
def test_published_figures(name: str, bf16: float, capacity_gib: float, bandwidth: float, tdp: float) -> None:
    device = load_device(name)
    assert device.peak["bf16"] == bf16
    assert device.memory.capacity / 2**30 == pytest.approx(capacity_gib, abs=0.005)
    assert device.memory.bandwidth == bandwidth
    assert device.tdp == tdp


def test_a_rack_of_gb200_adds_up_to_its_data_sheet() -> None:
    gpu = load_device("gb200")
    assert 72 * gpu.peak["bf16"] == 180e15
    assert 72 * gpu.peak["fp4"] == 720e15
    assert 72 * gpu.memory.bandwidth == 576e12
    assert 72 * 2 * gpu.scale_up.bandwidth == pytest.approx(130e12, rel=0.005)


@pytest.mark.parametrize(
    ("name", "per_node"),
    [
        ("ib-hdr200-rail", 200e9),
        ("ib-ndr400-rail", 400e9),
        ("ib-xdr800-rail", 800e9),
        ("ib-800-node", 100e9),
        ("roce-1600-node", 200e9),
        ("roce-4x100", 50e9),
        ("opa-4x100", 50e9),
    ],
)
def test_bytes_a_second_out_of_a_node(name: str, per_node: float) -> None:
    network = load_network(name)
    assert network.nics_per_node is not None
    assert network.bandwidth * network.nics_per_node == per_node


# Precisions


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("h100-sxm", "bf16", 989.4e12),
        ("h100-sxm", "fp8", 1978.9e12),
        ("h100-sxm", "fp8_block", 1978.9e12),
        ("h100-sxm", "mxfp8", 1978.9e12),
        ("h100-sxm", "int8", 1978.9e12),
        ("h100-sxm", "int4", 989.4e12),
        ("v100-sxm2-32gb", "int4", 125e12),
        ("gb300", "nvfp4", 15e15),
        ("gb300", "mxfp8", 5e15),
        ("gb300", "fp8_block", 5e15),
        ("b200-sxm", "mxfp4", 9e15),
        ("a100-sxm-80gb", "tf32", 156e12),
    ],
)
def test_a_run_precision_finds_its_peak(device: str, precision: str, peak: float) -> None:
    assert load_device(device).peak_for(precision) == peak


def test_a_precision_the_chip_lacks_is_refused() -> None:
    a100 = load_device("a100-sxm-80gb")
    assert not a100.supports("fp8")
    with pytest.raises(SpecError) as caught:
        a100.peak_for("fp8")
    message = "precision 'fp8' is not supported by a100-sxm-80gb (it has: fp32, tf32, fp16, bf16, int8)"
    assert str(caught.value) == message


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        load_device("h100-sxm").peak_for("bf61")
    assert str(caught.value).startswith("unknown precision 'bf61'. Did you mean 'bf16'")


# Clusters


def test_node_and_network_default_to_the_device_s_own() -> None:
    hardware = cluster("h100-sxm", 64)
    assert hardware.gpus_per_node == 8
    assert hardware.network.name == "ib-ndr400-rail"
    assert hardware.nodes == 8
    assert cluster("h100-sxm", 64, gpus_per_node=None, network=None) == hardware


def test_part_of_a_node() -> None:
    hardware = cluster("h100-sxm", 3)
    assert hardware.nodes == 1
    assert hardware.scale_up_domain == 3


@pytest.mark.parametrize(
    ("device", "gpus", "gpus_per_node", "domain"),
    [
        ("h100-sxm", 4, 8, 4),
        ("h100-sxm", 8, 8, 8),
        ("h100-sxm", 1024, 8, 8),
        ("h100-sxm", 1024, 4, 4),  # half nodes: NVLink does not reach the next half
        ("gb200", 4, 4, 4),
        ("gb200", 64, 4, 64),
        ("gb200", 72, 4, 72),
        ("gb200", 576, 4, 72),
        ("a100-pcie-80gb", 8, 8, 8),
        ("gh200", 16, 1, 1),
    ],
)
def test_the_scale_up_domain_is_a_node_or_a_rack(device: str, gpus: int, gpus_per_node: int, domain: int) -> None:
    assert cluster(device, gpus, gpus_per_node=gpus_per_node).scale_up_domain == domain


def test_gpus_share_the_nics_of_their_node() -> None:
    assert cluster("h100-sxm", 16).node_bandwidth_per_gpu == 50e9
    assert cluster("a100-sxm-80gb", 16, network="roce-4x100").node_bandwidth_per_gpu == 6.25e9
    assert cluster("gb200", 144).node_bandwidth_per_gpu == 50e9
    assert cluster("tpu-v4", 64).node_bandwidth_per_gpu == 300e9
    assert cluster("l4", 8).node_bandwidth_per_gpu == 0.0


def test_a_tapered_tree_slows_traffic_between_all_nodes() -> None:
    tapered = {"extends": "ib-ndr400-rail", "oversubscription": 2.0}
    assert cluster("h100-sxm", 64).all_to_all_bandwidth_per_gpu == 50e9
    assert cluster("h100-sxm", 64, network=tapered).all_to_all_bandwidth_per_gpu == 25e9
    assert cluster("h100-sxm", 64, network=tapered).node_bandwidth_per_gpu == 50e9


@pytest.mark.parametrize(
    ("gpus", "dimensions", "shape"),
    [
        (64, 3, (4, 4, 4)),
        (1024, 3, (8, 8, 16)),
        (4096, 3, (16, 16, 16)),
        (1024, 2, (32, 32)),
        (6, 2, (2, 3)),
        (7, 2, (1, 7)),
    ],
)
def test_the_most_cubic_torus(gpus: int, dimensions: int, shape: tuple[int, ...]) -> None:
    assert torus_shape(gpus, dimensions) == shape


def test_all_to_all_in_a_torus_is_held_by_its_bisection() -> None:
    """A pod of 4096 TPU v4: half the traffic crosses 2 x 16 x 16 links of 50 GB/s, the documented 24 TB/s or so."""
    pod = cluster("tpu-v4", 4096)
    assert pod.all_to_all_bandwidth_per_gpu == 25e9
    assert pod.all_to_all_bandwidth_per_gpu * 4096 / 4 == 2 * 16 * 16 * 50e9
    assert cluster("tpu-v4", 8).all_to_all_bandwidth_per_gpu == 200e9
    assert cluster("tpu-v4", 4).all_to_all_bandwidth_per_gpu == 200e9


def test_the_largest_cluster() -> None:
    assert cluster("h100-sxm", MAX_GPUS).nodes == 524_288
    message = "gpus: Input should be less than or equal to 4194304, got 4194312"
    assert refusal(device="h100-sxm", gpus=MAX_GPUS + 8) == message


def test_records_are_read_once_and_can_be_keys() -> None:
    assert cluster("h100-sxm", 8).device is cluster("h100-sxm", 16).device
    assert len({cluster("h100-sxm", 8), cluster("h100-sxm", 8), cluster("h100-sxm", 16)}) == 2


def test_hardware_can_be_validated_again() -> None:
    hardware = cluster("h100-sxm", 8)
    assert Hardware.model_validate(hardware) is hardware
    assert cluster(hardware.device, 8, network=hardware.network) == hardware


# Inheritance


def test_an_inline_device_changes_what_it_states() -> None:
    device = cluster({"extends": "h100-sxm", "tdp": "500 W", "memory": {"bandwidth": "2.4 TB/s"}}, 8).device
    assert device.name == "h100-sxm (changed)"
    assert device.extends == "h100-sxm"
    assert device.tdp == 500.0
    assert device.memory.bandwidth == 2.4e12
    assert device.memory.capacity == load_device("h100-sxm").memory.capacity


def test_what_a_run_changes_loses_the_data_sheet_as_its_source() -> None:
    device = cluster({"extends": "h100-sxm", "tdp": "500 W"}, 8).device
    assert device.source_of("tdp") == "stated in the run"
    assert device.source_of("peak") == load_device("h100-sxm").source_of("peak")
    cited = cluster({"extends": "h100-sxm", "tdp": "500 W", "source": {"power": "our rack's meter"}}, 8).device
    assert cited.source_of("tdp") == "our rack's meter"


def test_null_takes_a_figure_out() -> None:
    device = cluster({"extends": "h100-sxm", "peak": {"fp8": None}, "clock": None}, 8).device
    assert not device.supports("fp8")
    assert device.clock is None


def test_extending_without_a_change_is_the_device_itself() -> None:
    assert cluster({"extends": "h100-sxm"}, 8).device is load_device("h100-sxm")


def test_an_inline_network() -> None:
    network = cluster("h100-sxm", 16, network={"extends": "ib-ndr400-rail", "nics_per_node": 4}).network
    assert network.name == "ib-ndr400-rail (changed)"
    assert network.bandwidth * 4 == 200e9


def test_a_device_written_out_in_full() -> None:
    hardware = cluster(toy(name="toy"), 16)
    assert hardware.device.name == "toy"
    assert hardware.device.peak_for("bf16") == 1e12
    assert hardware.device.source_of("peak") == "not stated"
    assert hardware.network.name == "ib-ndr400-rail"


def test_a_device_file_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: a100-sxm-80gb\ntdp: 350 W\n")
    file = str(tmp_path / "mine.yaml")
    device = load_device(file)
    assert (device.name, device.tdp, device.extends) == ("mine", 350.0, "a100-sxm-80gb")
    assert device.source_of("tdp") == "stated in mine.yaml"
    assert cluster({"extends": file, "idle_power": "40 W"}, 8).device.tdp == 350.0


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: a100-sxm-80gb\ntdp: 350 W\n")
    assert load_device(str(file)).tdp == 350.0
    file.write_text("extends: a100-sxm-80gb\ntdp: 300 W\n")
    os.utime(file, (1, 1))  # the two writes can fall into one tick of a coarse clock
    assert load_device(str(file)).tdp == 300.0


# Refusals


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("h100", "device: unknown device 'h100'. Did you mean 'h100-sxm' or 'gh200' or 'h100-pcie'?"),
        ({"extends": "h100-sxn", "tdp": "1 W"}, "device: unknown device 'h100-sxn'. Did you mean 'h100-sxm' or"),
        ({"extends": "h100-sxm", "tdp": 500}, "device.tdp: 500 has no unit; a power is written like '700 W'"),
        (
            {"extends": "h100-sxm", "tdp": "500 GB/s"},
            "device.tdp: '500 GB/s' is not a power; write it like '700 W'",
        ),
        ({"extends": "h100-sxm", "tdp": "-5 W"}, "device.tdp: '-5 W' must be at least 0"),
        (
            {"extends": "h100-sxm", "tdp": "60 W"},
            "device: idle_power (70 W) must be below tdp (60 W)",
        ),
        ({"extends": "h100-sxm", "tpd": "500 W"}, "device.tpd: unknown key 'tpd'. Did you mean 'tdp'?"),
        (
            {"extends": "h100-sxm", "memory": {"bandwith": "3 TB/s"}},
            "device.memory.bandwith: unknown key 'bandwith'. Did you mean 'bandwidth'?",
        ),
        (
            {"extends": "h100-sxm", "peak": {"fp9": "1 TFLOP/s"}},
            "device.peak.fp9: Input should be 'fp32', 'tf32', 'fp16', 'bf16', 'fp8', 'int8' or 'fp4', got 'fp9'",
        ),
        ({"extends": "h100-sxm", "memory": None}, "device.memory: missing; it is required"),
        ({"extends": ["h100-sxm"]}, "device: extends takes the name of one device"),
        (3, "device: expected the name of a device, a path ending in .yaml, or a mapping, got 3"),
        ("nowhere.yaml", "device: nowhere.yaml: no such file"),
        ("/etc/passwd", "device: unknown device '/etc/passwd'. Known: "),
        (None, "needs a device, as in {device: h100-sxm, gpus: 8}"),
    ],
)
def test_a_wrong_device_is_refused(device: Any, message: str) -> None:
    found = refusal(device=device, gpus=8)
    assert found.startswith(message) if message.endswith((" ", " or")) else found == message


@pytest.mark.parametrize(
    ("hardware", "message"),
    [
        ({"gpus": 12}, "gpus (12) must be a multiple of gpus_per_node (8) beyond one node"),
        ({"gpus": 16, "network": "hgx-nvlink"}, "gpus (16) spans 2 nodes, but network 'hgx-nvlink' joins none"),
        ({"gpus": 0}, "gpus: Input should be greater than or equal to 1, got 0"),
        ({}, "gpus: missing; it is required"),
        ({"gpus": 8, "gpus_per_node": 0}, "gpus_per_node: Input should be greater than or equal to 1, got 0"),
        ({"gpus": 8, "gpu_per_node": 8}, "gpu_per_node: unknown key 'gpu_per_node'. Did you mean 'gpus_per_node'?"),
        (
            {"gpus": 8, "network": "ib-ndr400-rial"},
            "network: unknown network 'ib-ndr400-rial'. "
            "Did you mean 'ib-ndr400-rail' or 'ib-ndr400-1' or 'ib-xdr800-rail'?",
        ),
        (
            {"gpus": 8, "network": {"extends": "ib-ndr400-rail", "oversubscription": 0.5}},
            "network.oversubscription: Input should be greater than or equal to 1, got 0.5",
        ),
    ],
)
def test_a_wrong_cluster_is_refused(hardware: dict[str, Any], message: str) -> None:
    assert refusal(device="h100-sxm", **hardware) == message


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"kind": "ethernet", "topology": "fat-tree"}, "a network of kind 'ethernet' needs bandwidth"),
        (
            {"kind": "ethernet", "topology": "fat-tree", "bandwidth": "1 GB/s"},
            "a network of kind 'ethernet' needs nics_per_node, and no links_per_gpu",
        ),
        (
            {"kind": "torus", "topology": "torus-3d", "bandwidth": "1 GB/s", "nics_per_node": 4},
            "a torus needs links_per_gpu, and no nics_per_node",
        ),
        (
            {"kind": "none", "topology": "single-node", "bandwidth": "1 GB/s"},
            "a network of kind 'none' has no bandwidth, nics_per_node or links_per_gpu",
        ),
    ],
)
def test_a_network_states_its_links(network: dict[str, Any], message: str) -> None:
    assert refusal(device="h100-sxm", gpus=8, network=network) == f"network: {message}"


def test_a_rack_needs_no_network_but_two_racks_do() -> None:
    assert cluster("gb200", 72, network="hgx-nvlink").scale_up_domain == 72
    assert refusal(device="gb200", gpus=144, network="hgx-nvlink") == (
        "gpus (144) spans 36 nodes, but network 'hgx-nvlink' joins none"
    )


def test_a_mistake_in_a_file_is_shown_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: h100-sxm\nmemory:\n  bandwidth: 3350\n")
    assert refusal(device=str(file), gpus=8) == (
        f"device: {file}:3: memory.bandwidth: 3350 has no unit; a bandwidth is written like '3.35 TB/s'"
    )


def test_a_file_that_extends_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: {file}\n")
    assert refusal(device=str(file), gpus=8) == (
        f"device: {file}:1: extends: device '{file}' extends a chain of more than 8, or itself"
    )


def test_a_file_without_the_required_figures_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(TOY.replace("tdp: 100 W\n", ""))
    with pytest.raises(SpecError) as caught:
        load_device(str(file))
    assert str(caught.value) == f"{file}:1: tdp: missing; it is required"


# Schema


def test_the_schema_shows_units_and_choices() -> None:
    device = Device.model_json_schema()
    assert device["properties"]["tdp"]["examples"] == ["700 W"]
    assert "hopper" in device["properties"]["architecture"]["enum"]
    assert "torus" in Network.model_json_schema()["properties"]["kind"]["enum"]
    hardware = Hardware.model_json_schema()["properties"]
    assert [choice["type"] for choice in hardware["device"]["anyOf"]] == ["string", "object"]


def test_the_manual_names_everything_in_the_catalogs() -> None:
    manual = MANUAL.read_text(encoding="utf-8")
    assert [name for kind in ("device", "network") for name in catalog(kind) if f"`{name}`" not in manual] == []


def test_the_manual_s_device_in_ten_lines_works(tmp_path: Path) -> None:
    manual = MANUAL.read_text(encoding="utf-8")
    example = manual.split("## A device in ten lines")[1].split("```yaml\n")[1].split("```")[0]
    assert len(example.splitlines()) == 10
    (tmp_path / "mine.yaml").write_text(example)
    assert load_device(str(tmp_path / "mine.yaml")).peak_for("bf16") == 989.4e12
