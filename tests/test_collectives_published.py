"""Published timings of collectives replayed: the shipped table, its bounds, and rows that can't be."""

from __future__ import annotations

from statistics import mean

import pytest

from simulator.errors import SpecError
from simulator.spec.base import data_root
from simulator.validation.collectives import predict_collective
from simulator.validation.replay import Row, Validation, replay, validate_table

MIB_512 = str(2**29)
ROW = {
    "id": "X-1",
    "kind": "collective",
    "name": "all_gather",
    "hardware.device": "h100-sxm",
    "hardware.gpus": "8",
    "collective.kind": "all_gather",
    "collective.ranks": "8",
    "collective.bytes": MIB_512,
    "measured.bus_gb_per_s": "336",
}


@pytest.fixture(scope="module")
def table() -> Validation:
    return validate_table(data_root() / "workloads/validation/collectives.csv")


def errors(table: Validation, prefix: str, metric: str = "seconds") -> dict[str, list[float]]:
    """Errors of the rows whose name begins so, by name and device."""
    found: dict[str, list[float]] = {}
    for row in table.rows:
        if row.facts["name"].startswith(prefix) and metric in row.metrics:
            key = f"{row.facts['name']} {row.facts['hardware.device']}"
            found.setdefault(key, []).append(row.metrics[metric].error)
    return found


def mape(found: dict[str, list[float]]) -> float:
    return mean(abs(error) for values in found.values() for error in values)


def test_every_row_is_replayed(table: Validation) -> None:
    assert len(table.rows) == 1092
    assert table.refused() == []


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
def test_bus_bandwidth_at_512_mib(table: Validation, kind: str) -> None:
    """5 % on every device, over its releases of NCCL, which differ among themselves by up to 15 %."""
    found = errors(table, f"{kind}, 512 MiB")
    assert len(found) == 7
    for device, values in found.items():
        assert mean(map(abs, values)) < 0.05, device


def test_nine_of_ten_timings_at_512_mib_are_within_5_percent(table: Validation) -> None:
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
    every = [error for kind in kinds for values in errors(table, f"{kind}, 512 MiB").values() for error in values]
    assert len(every) == 182
    assert mean(abs(error) <= 0.05 for error in every) > 0.9


@pytest.mark.parametrize("phase", ["dispatch", "combine"])
@pytest.mark.parametrize(("kernel", "nodes"), [("normal", (1, 2, 4)), ("low-latency", (1, 2, 4, 8))])
def test_deepep_on_some_nodes(table: Validation, kernel: str, nodes: tuple[int, ...], phase: str) -> None:
    for count in nodes:
        assert mape(errors(table, f"DeepEP {kernel} {phase}, {count} node")) < 0.10


def test_deepeps_own_figures_were_in_no_fit(table: Validation) -> None:
    assert mape(errors(table, "DeepEP normal, README")) < 0.05
    assert mape(errors(table, "DeepEP low-latency, README")) < 0.08


def test_an_nvlink_rack_from_8_to_64_ranks(table: Validation) -> None:
    found = errors(table, "NVL72")
    assert len(found) == 4
    for name, values in found.items():
        assert mean(map(abs, values)) < 0.12, name


def test_a_row_becomes_a_collective() -> None:
    row = replay(ROW)
    assert isinstance(row, Row)
    assert row.group == "X/all_gather/h100-sxm"
    predicted = row.metrics["bus_gb_per_s"].predicted
    assert predicted.low < 336 < predicted.high
    slow = predict_collective(
        {
            "hardware": {"device": "h100-sxm", "gpus": 8},
            "collective": {"kind": "all_gather", "ranks": 8, "bytes": 2**29},
        }
    )
    assert slow["bus_gb_per_s"] == predicted


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"collective.ranks": "16"},
            "collective.ranks: a group of 16 is larger than the machine of 8 GPUs",
        ),
        ({"collective.bytes": ""}, "collective: an all_gather needs bytes"),
        (
            {"collective.kind": "dispatch"},
            "collective: a dispatch needs tokens, hidden, top_k, precision",
        ),
        ({"collective.byte": "1"}, "collective.byte: unknown key 'byte'. Did you mean 'bytes'?"),
        (
            {"hardware.device": "h100-smx"},
            "device: unknown device 'h100-smx'. Did you mean 'h100-sxm' or 'h800-sxm' or 'h200-sxm'?",
        ),
    ],
)
def test_rows_that_are_wrong_say_so(changed: dict[str, str], reason: str) -> None:
    assert replay({**ROW, **changed}).reason == reason


def test_an_algorithm_that_a_row_names_is_taken() -> None:
    blocks = {
        "hardware": {"device": "h100-sxm", "gpus": 8},
        "collective": {"kind": "all_reduce", "ranks": 8, "bytes": 2**29, "algorithm": "ring"},
    }
    ringed = predict_collective(blocks)["bus_gb_per_s"].value
    assert ringed == pytest.approx(352, rel=0.02)  # NCCL in int8, which switches can't add: 351 to 353 GB/s
    with pytest.raises(SpecError):
        predict_collective({**blocks, "hardware": {"device": "h100-smx", "gpus": 8}})
