"""Sweeps: what a file may say, which points it makes, and that a point's figures are those of its run alone."""

from __future__ import annotations

import gc
import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from toy import DEVICE, MOE_MODEL, NETWORK, TRAINING

from simulator import sweeps
from simulator.errors import InfeasibleError, SimulatorError, SpecError
from simulator.result import Number
from simulator.simulation import simulate
from simulator.spec.grid import Grid
from simulator.spec.run import Run, run_from_mapping
from simulator.spec.sweep import Range, Sweep, base_document
from simulator.sweeps import evaluate, read_sweep

RUN: dict[str, Any] = {
    "name": "toy",
    "kind": "training",
    "model": MOE_MODEL,
    "hardware": {"device": DEVICE, "gpus": 16, "gpus_per_node": 8, "network": NETWORK},
    "training": {**TRAINING, "global_batch": 64, "tokens": 1e9},
    "economics": {"gpu_hour": "2 USD/h"},
}
INFERENCE: dict[str, Any] = {
    **{key: RUN[key] for key in ("name", "model", "hardware", "economics")},
    "kind": "inference",
    "inference": {"isl": 64, "osl": 32, "concurrency": 8},
    "framework": "vllm",
}


def make(axes: dict[str, Any], run: dict[str, Any] | str = RUN) -> Sweep:
    return Sweep.model_validate({"name": "toy", "run": run, "axes": axes})


def written(folder: Path, text: str) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(f"name: s\nrun: mixtral-8x7b-64xh100\naxes:\n{text}", encoding="utf-8")
    return file


def runs(sweep: Sweep) -> list[Run | SpecError]:
    """Every point's run, each made anew from plain data."""
    out: list[Run | SpecError] = []
    for values in itertools.product(*sweep.axes.values()):
        assert isinstance(sweep.run, dict)
        data = json.loads(json.dumps(sweep.run))
        for path, value in zip(sweep.axes, values, strict=True):
            block, _, field = path.partition(".")
            data.setdefault(block, {})[field] = value
        try:
            out.append(run_from_mapping(data))
        except SpecError as error:
            out.append(error)
    return out


AXES: dict[str, Any] = {
    "parallelism.tp": [1, 2, 3],
    "parallelism.pp": [1, 2, 4],
    "parallelism.vpp": [1, 2],
    "parallelism.ep": [1, 8],
    "training.recompute": ["none", "full"],
    "training.sharding": ["none", "zero1", "zero3"],
    "training.precision": ["bf16", "mxfp4"],
}


def outcome(run: Run | SpecError) -> dict[str, Number] | str:
    """The figures of a run simulated by itself, or why it can't be."""
    if isinstance(run, SpecError):
        return str(run)
    try:
        return simulate(run).numbers()
    except SimulatorError as error:
        return str(error)


def test_a_point_has_the_figures_of_its_run_alone() -> None:
    sweep = make(AXES)
    frame = evaluate(sweep)
    assert len(frame) == sweep.size == 432
    assert (frame["status"] == "ok").sum() == 84
    for run, (_, row) in zip(runs(sweep), frame.iterrows(), strict=True):
        alone = outcome(run)
        if isinstance(alone, str):
            assert row["status"] == "infeasible"
            assert row["reason"] in alone
            continue
        assert row["status"] == "ok"
        for key in (column for column in sweeps.METRICS if column in frame.columns):
            got = (row[key], row[f"{key}.low"], row[f"{key}.high"])
            assert got == pytest.approx((alone[key].value, alone[key].low, alone[key].high), rel=1e-12), key


def test_inference_points_too() -> None:
    sweep = make({"parallelism.tp": [1, 2, 4], "inference.concurrency": [1, 8, 10**9]}, INFERENCE)
    frame = evaluate(sweep)
    assert frame["status"].tolist() == ["ok", "ok", "infeasible"] * 3
    for run, (_, row) in zip(runs(sweep), frame.iterrows(), strict=True):
        assert isinstance(run, Run)
        if row["status"] == "ok":
            numbers = simulate(run).numbers()
            for key in ("ttft_s", "tpot_s", "output_tokens_per_s", "joules_per_output_token", "cost_usd"):
                assert row[key] == pytest.approx(numbers[key].value, rel=1e-12)
                assert row[f"{key}.high"] == pytest.approx(numbers[key].high, rel=1e-12)
    assert "max_concurrency" in frame.columns
    assert "max_concurrency.low" not in frame.columns  # counted, so without an interval
    assert not {"mfu", "step_time_s", "tokens_per_s"} & set(frame.columns)


def test_points_come_in_order_with_the_last_axis_fastest() -> None:
    frame = evaluate(make({"training.micro_batch": [1, 2], "training.recompute": ["none", "full"]}))
    assert frame["training.micro_batch"].tolist() == [1, 1, 2, 2]
    assert frame["training.recompute"].tolist() == ["none", "full", "none", "full"]
    columns = [column for column in frame.columns if "." not in column]
    assert columns == [
        "step_time_s", "tokens_per_s", "tokens_per_s_per_gpu", "mfu", "peak_memory_gib", "days", "cost_usd",
        "energy_total_j", "average_power_w_per_gpu", "carbon_kg", "status", "reason",
    ]  # fmt: skip
    assert (frame["step_time_s.low"] < frame["step_time_s"]).all()
    # Nothing but the full forward pass again, which is a third of 3 passes, and its launches.
    assert frame["step_time_s"][1] > frame["step_time_s"][0]
    assert frame["peak_memory_gib"][1] < frame["peak_memory_gib"][0]


def test_what_cannot_be_is_a_row_with_its_reason() -> None:
    axes = {"hardware.device.memory.capacity": ["1 TiB", "1 GiB"], "parallelism.tp": [1, 3], "parallelism.vpp": [1, 2]}
    frame = evaluate(make(axes))
    assert frame["reason"].tolist() == [
        None,
        "parallelism: vpp 2 needs pp above 1",
        "parallelism.tp: tp 3 must divide num_attention_heads 8",
        "parallelism: vpp 2 needs pp above 1",
        "hardware.device: it doesn't fit: the fullest GPU needs 1.9 of 1.0 GiB",
        "parallelism: vpp 2 needs pp above 1",
        "parallelism.tp: tp 3 must divide num_attention_heads 8",
        "parallelism: vpp 2 needs pp above 1",
    ]
    device = {**DEVICE, "memory": {**DEVICE["memory"], "capacity": "1 GiB"}}
    with pytest.raises(InfeasibleError) as caught:
        simulate(run_from_mapping({**RUN, "hardware": {**RUN["hardware"], "device": device}}))
    assert frame["peak_memory_gib"][4] == caught.value.needed
    assert pd.isna(frame["step_time_s"][4])
    assert pd.isna(frame["peak_memory_gib"][2])


def test_one_point_that_cannot_be_costed_does_not_spoil_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a schedule that waits for itself: found only when all points of the window are timed together."""
    import simulator.simulation as simulation

    timed = simulation._timed

    def refuse(parts: Any, engine: Any = "fast") -> Any:
        if any(b.run.training.micro_batch == 2 for b, _ in parts):
            raise SimulatorError("no time line")
        return timed(parts, engine)

    axes = {"training.micro_batch": [1, 2, 4], "training.recompute": ["none", "full"]}
    alone = evaluate(make(axes))
    monkeypatch.setattr(simulation, "_timed", refuse)
    frame = evaluate(make(axes))
    assert frame["reason"].tolist() == [None, None, "no time line", "no time line", None, None]
    kept = frame["status"] == "ok"
    pd.testing.assert_frame_equal(frame[kept], alone[kept])


def test_windows_and_processes_change_nothing_but_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make({"parallelism.tp": [1, 2, 4], "training.micro_batch": [1, 2], "training.sharding": ["none", "zero1"]})
    whole = evaluate(sweep)
    monkeypatch.setattr(sweeps, "SHARD_POINTS", 5)
    told: list[tuple[int, int]] = []
    cut = evaluate(sweep, progress=lambda done, total: told.append((done, total)))
    assert told == [(5, 12), (10, 12), (12, 12)]
    pd.testing.assert_frame_equal(cut, whole)
    pd.testing.assert_frame_equal(evaluate(sweep, workers=2), whole)


def test_garbage_collection_is_as_it_was() -> None:
    sweep = make({"parallelism.tp": [1, 2]})
    assert gc.isenabled()
    evaluate(sweep)
    assert gc.isenabled()
    gc.disable()
    try:
        evaluate(sweep)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_any_part_of_a_run_can_be_an_axis() -> None:
    device = {**DEVICE, "name": "faster", "peak": dict.fromkeys(DEVICE["peak"], "2 TFLOP/s")}
    axes: dict[str, Any] = {
        "model.num_experts_per_tok": [2, 1],
        "hardware.device.tdp": ["100 W", "90 W"],
        "framework": ["megatron-core", "torchtitan"],
        "economics.gpu_hour": ["2 USD/h", "4 USD/h"],
    }
    frame = evaluate(make(axes))
    first = frame.iloc[0]
    assert frame["status"].eq("ok").all()
    assert frame["cost_usd"][1] == pytest.approx(2 * first["cost_usd"], rel=1e-12)  # the price doubles, the rest stays
    assert frame["step_time_s"][1] == first["step_time_s"]
    assert frame["energy_total_j"][4] < first["energy_total_j"]
    assert frame["step_time_s"][8] < first["step_time_s"]  # one expert instead of two
    devices = evaluate(make({"hardware.device": [DEVICE, device]}))
    assert devices["step_time_s"][1] < devices["step_time_s"][0]
    assert devices["hardware.device"].map(type).eq(str).all()


def test_a_field_that_is_an_axis_may_be_left_out_of_the_run() -> None:
    training = {key: value for key, value in TRAINING.items() if key != "global_batch"}
    frame = evaluate(make({"training.global_batch": [16, 32]}, {**RUN, "training": training}))
    assert frame["status"].tolist() == ["ok", "ok"]


def test_blocks_are_validated_once_for_each_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make({"parallelism.tp": [1, 2], "training.micro_batch": [1, 2], "training.precision": ["bf16", "fp16"]})
    assert isinstance(sweep.run, dict)
    grid = Grid(sweep, base_document(sweep.run, Path()))
    built: list[str] = []
    field = Grid._field
    monkeypatch.setattr(Grid, "_field", lambda self, name, settings: built.append(name) or field(self, name, settings))
    points = [grid.run(numbers) for numbers in itertools.product(range(2), repeat=3)]
    assert sorted(built) == ["parallelism"] * 2 + ["training"] * 4
    assert all(isinstance(point, Run) for point in points)
    assert [points[5].training.micro_batch, points[5].training.precision] == [1, "fp16"]  # type: ignore[union-attr]
    assert points[0].hardware is points[7].hardware  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ({"from": 1, "to": 64, "factor": 2}, [1, 2, 4, 8, 16, 32, 64]),
        ({"from": 1, "to": 70, "factor": 4}, [1, 4, 16, 64]),
        ({"from": 2, "to": 8, "step": 3}, [2, 5, 8]),
        ({"from": 0.1, "to": 0.4, "step": 0.1}, [0.1, 0.2, 0.3, 0.4]),
        ({"from": 5, "to": 5, "step": 1}, [5]),
    ],
)
def test_ranges(written: dict[str, Any], values: list[float]) -> None:
    got = Range.model_validate(written).values()
    assert got == values
    assert [type(value) for value in got] == [type(value) for value in values]


PLACE = "sweep.yaml:4: axes."


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("parallelism.tp: []", "parallelism.tp: an axis needs at least one value"),
        ("parallelism.tp: [1, 2, 1]", "parallelism.tp: the value 1 stands twice"),
        (
            "parallelism.tp: 4",
            "parallelism.tp: expected a list of values, or a range such as {from: 1, to: 64, factor: 2}",
        ),
        ("parallelism.tp: [1, 0]", "parallelism.tp.1: Input should be greater than 0, got 0"),
        ("parallelism.tpp: [1]", "parallelism.tpp.0: unknown key 'tpp'. Did you mean 'tp' or 'pp' or 'vpp'?"),
        ("paralelism.tp: [1]", "paralelism.tp: unknown key 'paralelism'. Did you mean 'parallelism'?"),
        ("kind: [training]", "kind: 'kind' can't be an axis"),
        ("framework.tp: [1]", "framework.tp: framework is no block, so framework.tp can't be set"),
        ("inference.isl: [1]", "inference.isl: the run is of kind training and has no block 'inference'"),
        (
            "economics.gpu_hour: [2 USD/h, 3]",
            "economics.gpu_hour.1: 3 has no unit; a price per hour is written like '2.95 USD/h'",
        ),
        (
            "parallelism.tp: {from: 1, to: 8}",
            "parallelism.tp: a range needs a factor or a step, as in {from: 1, to: 64, factor: 2}",
        ),
        ("parallelism.tp: {from: 8, to: 1, step: 1}", "parallelism.tp: to (1) is below from (8)"),
        (
            "parallelism.tp: {from: 0, to: 8, factor: 2}",
            "parallelism.tp: from (0) must be above 0 where values grow by a factor",
        ),
        (
            "parallelism.tp: {from: 1, too: 8, step: 1}",
            "parallelism.tp: too: unknown key 'too'. Did you mean 'to'? (1 more)",
        ),
        ("parallelism.tp: {from: 1, to: 1e9, step: 1}", "parallelism.tp: this range has more than 1,000,000 values"),
    ],
)  # fmt: skip
def test_a_wrong_axis_is_refused_at_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axis: str, message: str
) -> None:
    written(tmp_path, f"  {axis}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        read_sweep("sweep.yaml")
    assert str(caught.value) == PLACE + message


def test_too_many_points_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"  parallelism.{axis}: {{from: 1, to: 101, step: 1}}\n" for axis in ("tp", "pp", "ep")]
    written(tmp_path, "".join(lines))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"sweep.yaml:1: the axes make 1,030,301 points; at most 1,000,000 are allowed"):
        read_sweep("sweep.yaml")


def test_the_run_is_shipped_beside_the_sweep_or_inline(tmp_path: Path) -> None:
    run_file = tmp_path / "base.yaml"
    run_file.write_text(json.dumps(RUN), encoding="utf-8")
    for run in ('"base.yaml"', json.dumps(RUN), "mixtral-8x7b-64xh100"):
        file = tmp_path / "sweep.yaml"
        file.write_text(f"name: s\nrun: {run}\naxes:\n  parallelism.tp: [1, 2]\n", encoding="utf-8")
        sweep = read_sweep(file)
        assert isinstance(sweep.run, dict)
        assert sweep.run["kind"] == "training"
        assert sweep.size == 2
    file.write_text("name: s\nrun: mixtral-8x7b-64xh10\naxes:\n  parallelism.tp: [1]\n", encoding="utf-8")
    with pytest.raises(
        SpecError, match=r"sweep.yaml:2: run: no shipped run 'mixtral-8x7b-64xh10', and a path ends in "
    ):
        read_sweep(file)


def test_an_override_changes_the_run_or_replaces_an_axis(tmp_path: Path) -> None:
    file = written(tmp_path, "  parallelism.tp: [1, 2]\n  parallelism.pp: [1, 2, 4]\n")
    sweep = read_sweep(file, ["hardware.gpus=128", "parallelism.tp=4", "parallelism.pp=[4, 8]"])
    assert sweep.axes == {"parallelism.tp": [4], "parallelism.pp": [4, 8]}
    assert isinstance(sweep.run, dict)
    assert sweep.run["hardware"]["gpus"] == 128
    with pytest.raises(SpecError, match=r"axes.parallelism.tp.0: Input should be greater than 0, got 0"):
        read_sweep(file, ["parallelism.tp=0"])


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parent.parent / "workloads/sweeps").glob("*.yaml")), ids=lambda f: f.stem
)
def test_shipped_sweeps_are_read_and_have_their_name(file: Path) -> None:
    sweep = read_sweep(file)
    assert sweep.name == file.stem
    assert 10 <= sweep.size <= 10_000
