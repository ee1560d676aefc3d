"""Replaying tables: how rows become runs, how errors are scored, and that the shipped tables are predicted no worse."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import toy
from conftest import Golden

from simulator.errors import SpecError
from simulator.result import Number
from simulator.spec import parameters as counts
from simulator.spec.base import data_root
from simulator.validation.replay import (
    Comparison,
    Row,
    Validation,
    cell_value,
    derive_step_time,
    group_of,
    read_table,
    replay,
    row_run,
    validate_table,
)

TABLES = data_root() / "workloads/validation"
ROW = {
    "id": "X-1",
    "source": "a paper",
    "quality": "A",
    "kind": "training",
    "name": "llama3.1-8b",
    "framework": "torchtitan",
    "model": "llama3.1-8b",
    "hardware.device": "h100-sxm",
    "hardware.gpus": "8",
    "training.global_batch": "8",
    "training.seq_len": "8192",
    "notes": "not a path",
    "measured.tokens_per_s_per_gpu": "5762",
}


def number(value: float, factor: float = 1.2) -> Number:
    return Number(value=value, low=value / factor, high=value * factor, basis="datasheet")


def scored(error: float, group: str = "g", factor: float = 1.2, **more: Any) -> Row:
    metrics = {"step_time_s": Comparison(number(1 + error, factor), 1.0)}
    return Row(id="r", group=group, quality="A", source="s", metrics=metrics, **more)


def test_errors_are_predicted_over_measured() -> None:
    comparison = Comparison(number(1.1), 1.0)
    assert comparison.error == pytest.approx(0.1)
    assert comparison.covered
    assert not Comparison(number(1.3), 1.0).covered


def test_scores_weigh_groups_alike() -> None:
    """Errors of 10 and 30 % in one group, of -40 % in another: their mean is 26.7 %, that of the groups 30 %."""
    rows = [
        scored(0.1),
        scored(0.3),
        scored(-0.4, "other"),
        Row(id="x", group="g", quality="A", source="s", reason="no"),
    ]
    validation = Validation("t", rows)
    score = validation.score("step_time_s")
    assert score is not None
    assert score.n == 3
    assert score.macro == pytest.approx(30)
    assert score.mape == pytest.approx(80 / 3)
    assert score.median == pytest.approx(30)
    assert score.bias == pytest.approx(0, abs=1e-9)
    assert score.worst == pytest.approx(-40)
    assert score.coverage == pytest.approx(100 / 3)
    assert validation.refused() == rows[3:]
    assert validation.metrics() == ["step_time_s"]
    assert validation.score("peak_memory_gib") is None
    only = validation.score("step_time_s", rows[2:])
    assert only is not None
    assert only.n == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("True", True), ("false", False), ("8", 8), ("2.0e12", 2 * 10**12), ("0.5", 0.5), ("h100-sxm", "h100-sxm")],
)
def test_cells_are_read_as_yaml_would(text: str, value: object) -> None:
    found = cell_value(text)
    assert found == value
    assert type(found) is type(value)


def test_columns_that_are_dotted_paths_make_a_run() -> None:
    run = row_run({**ROW, "parallelism.tp": "2", "training.micro_batch": ""})
    assert run.name == "llama3.1-8b"
    assert (run.parallelism.tp, run.hardware.gpus) == (2, 8)
    assert run.training is not None
    assert (run.training.micro_batch, run.training.seq_len) == (1, 8192)


def test_groups_are_source_model_and_device() -> None:
    assert group_of(ROW) == "X/llama3.1-8b/h100-sxm"
    assert group_of({**ROW, "id": "abc:1"}) == "abc/llama3.1-8b/h100-sxm"


@pytest.mark.parametrize(
    ("measured", "step"),
    [
        ({"step_time_s": 2.0, "tokens_per_s_per_gpu": 1.0}, 2.0),
        ({"tokens_per_s_per_gpu": 8192.0}, 1.0),
        ({"model_tflops_per_gpu": 100.0}, None),
        ({"mfu_pct": 10.0}, None),
    ],
)
def test_step_time_from_what_is_published_in_its_place(measured: dict[str, float], step: float | None) -> None:
    run = row_run(ROW)
    flops = 3 * 8192 * counts.sequence_flops_per_token(run.model, 8192)  # of one GPU
    derive_step_time(run, measured)
    if "model_tflops_per_gpu" in measured:
        step = flops / 100e12
    if "mfu_pct" in measured:
        step = flops / 98.94e12
    assert measured["step_time_s"] == pytest.approx(step)


def test_a_published_mfu_of_a_device_without_bf16_is_over_its_fp16_peak() -> None:
    run = toy.run(device={"peak": {"fp16": "2 TFLOP/s", "fp32": "1 TFLOP/s"}}, training={"precision": "fp16"})
    measured = {"mfu_pct": 50.0}
    derive_step_time(run, measured)
    assert measured["step_time_s"] == pytest.approx(3 * 512 * counts.sequence_flops_per_token(run.model, 64) / 1e12)


def test_nothing_measured_feeds_the_prediction_of_its_row() -> None:
    few, many = (
        replay({**ROW, "measured.tokens_per_s_per_gpu": text, "measured.peak_memory_gib": text})
        for text in ("10", "20")
    )
    for metric in ("step_time_s", "peak_memory_gib"):
        assert few.metrics[metric].predicted == many.metrics[metric].predicted
        assert few.metrics[metric].measured != many.metrics[metric].measured


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "lama3.1-8b"}, "X-1: model: unknown model 'lama3.1-8b'. Did you mean"),
        ({"parallelism.tp": "3"}, "parallelism.tp: tp 3 must divide num_attention_heads 32. Nearest change"),
        ({"measured.tokens_per_s_per_gpu": ""}, "nothing measured that the simulator predicts"),
        ({"measured.tokens_per_s_per_gpu": "0"}, "nothing measured that the simulator predicts"),
        ({"measured.tokens_per_s_per_gpu": "fast"}, "measured.tokens_per_s_per_gpu: 'fast' is not a finite number"),
        ({"measured.tokens_per_s_per_gpu": "nan"}, "measured.tokens_per_s_per_gpu: 'nan' is not a finite number"),
    ],
)
def test_rows_that_cannot_be_compared_are_listed_with_the_reason(change: dict[str, str], reason: str) -> None:
    row = replay({**ROW, **change})
    assert row.refused
    assert row.reason.startswith(reason)
    assert row.metrics == {}


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "name,kind\na,training\n")
    with pytest.raises(SpecError) as caught:
        read_table(path)
    assert str(caught.value) == f"{path}: column id is missing; a validation table has id, kind and measured.*"


def test_some_rows_of_a_table(tmp_path: Path) -> None:
    header, values = ",".join(ROW), ",".join(ROW.values())
    path = table(tmp_path, f"{header}\n{values}\n{values.replace('X-1', 'X-2').replace('h100-sxm', 'h200-sxm')}\n")
    seen: list[tuple[int, int]] = []
    chosen = validate_table(
        path, where=[("hardware.device", "h200-sxm")], progress=lambda done, all_: seen.append((done, all_))
    )
    assert [row.id for row in chosen.rows] == ["X-2"]
    assert seen == [(1, 1)]
    with pytest.raises(SpecError, match=r"no column 'hardware.devise'. Did you mean 'hardware.device'"):
        validate_table(path, where=[("hardware.devise", "h200-sxm")])


def test_the_document_of_a_validation() -> None:
    refused = Row(id="n", group="g", quality="B", source="s", reason="too large")
    document = json.loads(Validation("t.csv", [scored(0.1), refused]).to_json())
    assert document["table"] == "t.csv"
    first, second = document["rows"]
    assert first["status"] == "ok"
    assert first["reason"] is None
    assert first["metrics"]["step_time_s"]["error"] == pytest.approx(0.1)
    assert set(first["metrics"]["step_time_s"]) >= {"predicted", "low", "high", "measured", "error"}
    assert (second["status"], second["reason"], second["metrics"]) == ("refused", "too large", {})


def errors_by_group() -> dict[str, float]:
    """Mean absolute error in percent of each source, device and metric over every third row, and the rows refused."""
    found: dict[str, list[float]] = {}
    refused: dict[str, float] = {}
    for name in ("training", "inference"):
        rows = [replay(row) for row in read_table(TABLES / f"{name}.csv")[::3]]
        refused[f"{name} rows refused"] = float(sum(row.refused for row in rows))
        for row in rows:
            source, _, device = row.group.partition("/")
            for metric, comparison in row.metrics.items():
                key = f"{source} {device.rpartition('/')[2]} {metric}"
                found.setdefault(key, []).append(100 * abs(comparison.error))
    return {**refused, **{key: round(mean(errors), 2) for key, errors in sorted(found.items())}}


def test_no_group_of_measurements_is_predicted_worse_than_recorded(golden: Golden) -> None:
    """A group may get worse by a twentieth or half a point; beyond that: pytest --update-golden validation_bounds."""
    found = errors_by_group()
    recorded = golden.check("validation_bounds", found, describe="the errors of the validation tables")
    assert set(found) == set(recorded)
    worse = {key: (error, recorded[key]) for key, error in found.items() if error > recorded[key] * 1.05 + 0.5}
    assert not worse, f"error in percent, and recorded: {worse}"
