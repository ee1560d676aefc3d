"""Seconds and bytes of collectives by hand on links of 1 GB/s and a latency of 1 us."""

from __future__ import annotations

from math import log2

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from simulator.cost.collective import bus_bandwidth, collective_seconds, sent_bytes
from simulator.cost.machine import Machine, build_machine
from simulator.graph.operator import Collective, CollectiveKind, Group
from simulator.spec.hardware import resolve_hardware

MB = 1e6
US = 1e-6
NODE, NODES, LEADERS = Group(8, 8), Group(16, 8), Group(2, 1)
RINGS: list[tuple[CollectiveKind, int]] = [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)]


def seconds(work: Collective, machine: Machine | None = None) -> float:
    return float(collective_seconds([(machine or toy.machine(64), work)])[0])


@pytest.mark.parametrize(("kind", "passes"), RINGS)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_ring_passes_all_but_one_share_of_the_buffer_through_each_link(
    kind: CollectiveKind, passes: int, ranks: int
) -> None:
    """2 (p-1)/p for an all-reduce, (p-1)/p for a gather or scatter; an all-reduce has the longer latency."""
    latency = US * (1.4 if kind == "all_reduce" else 1)
    expected = latency + passes * (ranks - 1) / ranks * 1e-3
    assert seconds(Collective(kind, MB, Group(ranks, ranks))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("kind", "passes"), RINGS)
def test_a_ring_over_nodes_is_as_fast_as_its_slowest_link(kind: CollectiveKind, passes: int) -> None:
    """Two nodes of eight NICs carry 8 GB/s between them, so NVLink sets the pace; a rank alone has one."""
    slow = toy.machine(64, network={"bandwidth": "0.5 GB/s"})
    assert bus_bandwidth(slow, Collective(kind, MB, NODES)) == 1e9
    assert bus_bandwidth(slow, Collective(kind, MB, LEADERS)) == 0.5e9
    assert bus_bandwidth(slow, Collective(kind, MB, NODES, nics=1)) == 0.5e9
    latency = 2 * US * (1.4 if kind == "all_reduce" else 1)  # inside, and one doubling of the nodes
    assert seconds(Collective(kind, MB, LEADERS), slow) == pytest.approx(latency + passes * 1e-3, rel=1e-12)


def test_latency_grows_with_the_ranks_of_a_node_and_the_doublings_of_nodes() -> None:
    machine = toy.machine(64, collective={"hop_us": 0.25})
    assert seconds(Collective("all_gather", 0.0, NODE), machine) == pytest.approx(3 * US)
    assert seconds(Collective("all_gather", 0.0, Group(64, 8)), machine) == pytest.approx((3 + log2(8)) * US)


def test_latency_and_transfer_join_as_fitted() -> None:
    """(a^q + t^q)^(1/q): with q = 1/2, 1 us and 4 us make 9."""
    machine = toy.machine(collective={"q": 0.5})
    assert seconds(Collective("all_gather", 8e3, Group(2, 2)), machine) == pytest.approx(9 * US)


def test_in_switch_reduction_serves_an_all_reduce_that_fills_a_node() -> None:
    hardware = toy.hardware(
        8, scale_up={"kind": "nvlink4", "bandwidth": "1 GB/s", "domain": 8, "in_network_reduction": True}
    )
    machine = Machine(hardware, toy.curves(collective={"in_network": 2.0}))
    assert bus_bandwidth(machine, Collective("all_reduce", MB, NODE)) == 2e9
    assert bus_bandwidth(machine, Collective("all_reduce", MB, Group(4, 4))) == 1e9
    assert bus_bandwidth(machine, Collective("all_gather", MB, NODE)) == 1e9


def test_a_transfer_between_stages_crosses_one_link() -> None:
    machine = toy.machine(64, network={"bandwidth": "0.25 GB/s"})
    assert seconds(Collective("send_recv", MB, Group(2, 2)), machine) == pytest.approx(1e-3 + US)
    assert seconds(Collective("send_recv", MB, LEADERS), machine) == pytest.approx(4e-3 + US)


def test_an_all_to_all_is_as_slow_as_the_slower_of_its_paths() -> None:
    machine = toy.machine(64, network={"bandwidth": "0.5 GB/s"})
    assert seconds(Collective("all_to_all", MB, NODE), machine) == pytest.approx(1e-3 + US)
    assert seconds(Collective("all_to_all", MB, NODES, 0.25 * MB), machine) == pytest.approx(1e-3 + US)
    assert seconds(Collective("all_to_all", MB, NODES, MB), machine) == pytest.approx(2e-3 + US)


def test_a_tapered_tree_slows_the_all_to_all_and_no_ring() -> None:
    tapered = toy.machine(64, network={"oversubscription": 4.0})
    assert seconds(Collective("all_to_all", MB, NODES, MB), tapered) == pytest.approx(4e-3 + US)
    assert bus_bandwidth(tapered, Collective("all_gather", MB, LEADERS)) == 1e9


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"])
def test_one_rank_talks_to_nobody(kind: CollectiveKind) -> None:
    alone = Collective(kind, MB, Group(1, 1), MB)
    assert seconds(alone) == 0.0
    assert sent_bytes(alone) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("work", "inside", "outside"),
    [
        (Collective("all_reduce", MB, NODE), 1.75 * MB, 0),
        (Collective("all_gather", MB, NODE), 0.875 * MB, 0),
        (Collective("all_gather", MB, NODES), 0.9375 * MB * 7 / 8, 0.9375 * MB / 8),  # a ring leaves each node once
        (Collective("reduce_scatter", MB, LEADERS), 0, 0.5 * MB),
        (Collective("send_recv", MB, Group(2, 2)), MB, 0),
        (Collective("send_recv", MB, LEADERS), 0, MB),
        (Collective("all_to_all", MB, NODES, 3 * MB), MB, 3 * MB),
    ],
)
def test_bytes_a_rank_sends(work: Collective, inside: float, outside: float) -> None:
    assert sent_bytes(work) == (inside, outside)


@given(
    st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]),
    st.floats(0, 1e10),
    st.floats(1.0, 100.0),
    st.sampled_from([NODE, NODES, LEADERS, Group(4, 4), Group(64, 8), Group(8, 1)]),
    st.sampled_from(["h100-sxm", "a100-sxm-80gb", "b200-sxm", "gb200", "tpu-v4"]),
)
def test_more_bytes_never_take_less_time(
    kind: CollectiveKind, size: float, factor: float, group: Group, device: str
) -> None:
    machine = build_machine(resolve_hardware({"device": device, "gpus": 64}))
    outside = size if group.domains > 1 else 0.0
    few = Collective(kind, size, group, outside)
    many = Collective(kind, size * factor, group, outside * factor)
    assert 0 <= seconds(few, machine) <= seconds(many, machine) * (1 + 1e-12)
    assert sum(sent_bytes(few)) <= sum(sent_bytes(many))


@pytest.mark.parametrize(
    ("device", "gpus", "kind", "size", "low", "high"),
    [
        # Bus bandwidth in GB/s of 8 ranks at 512 MB (nccl-tests; hardware_profiles/priors).
        ("h100-sxm", 8, "all_gather", 512e6, 317, 336),
        ("h100-sxm", 8, "all_reduce", 512e6, 400, 480),
        ("a100-sxm-80gb", 8, "all_gather", 512e6, 200, 230),
        ("b200-sxm", 8, "all_gather", 512e6, 532, 685),
    ],
)
def test_bus_bandwidth_of_published_machines(
    device: str, gpus: int, kind: CollectiveKind, size: float, low: float, high: float
) -> None:
    machine = build_machine(resolve_hardware({"device": device, "gpus": gpus}))
    time = seconds(Collective(kind, size, Group(gpus, gpus)), machine)
    passes = 2 if kind == "all_reduce" else 1
    assert 0.94 * low <= passes * (gpus - 1) / gpus * size / time / 1e9 <= high
