"""Replaying published measurements: every row of a table becomes a run; predictions are held against what was measured.

A row's columns are dotted paths of a run; `measured.*` are what was published. Nothing measured feeds a prediction of
the same row. Rows that can't be built are listed with the reason and counted, never dropped.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from statistics import mean, median
from typing import Any

from simulator.errors import SimulatorError, SpecError
from simulator.result import Number
from simulator.spec import parameters as counts
from simulator.spec.base import data_root
from simulator.spec.run import Run, run_from_mapping, set_path

BLOCKS = ("model", "hardware", "parallelism", "training", "inference", "routing", "execution", "economics")
PLAIN = ("name", "kind", "framework")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one row: the prediction with its interval, and the measurement."""

    predicted: Number
    measured: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted.value / self.measured - 1

    @property
    def covered(self) -> bool:
        """Whether the measurement lies inside the 90 % interval."""
        return self.predicted.low <= self.measured <= self.predicted.high


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table after its replay; `metrics` is empty where it was refused.

    `arch` is dense or MoE, empty where no run could be built; `breakdown` is the predicted step's seconds by item.
    """

    id: str
    group: str
    quality: str
    source: str
    reason: str = ""
    metrics: Mapping[str, Comparison] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    arch: str = ""
    breakdown: Mapping[str, float] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether no run could be built or it was infeasible."""
        return self.reason != ""


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of one metric over some rows, in percent; `macro` is the mean over groups of the groups' `mape`."""

    n: int
    macro: float
    mape: float
    median: float
    bias: float
    worst: float
    coverage: float


@dataclass(frozen=True)
class Validation:
    """All rows of a table, in its order."""

    table: str
    rows: Sequence[Row]

    def refused(self) -> list[Row]:
        """Rows without a prediction."""
        return [row for row in self.rows if row.refused]

    def metrics(self) -> list[str]:
        """Metrics any row was measured in."""
        return list(dict.fromkeys(metric for row in self.rows for metric in row.metrics))

    def score(self, metric: str, chosen: Iterable[Row] | None = None) -> Score | None:
        """Errors of a metric over the chosen rows (all by default); None where none has it."""
        rows = [row for row in (self.rows if chosen is None else chosen) if metric in row.metrics]
        if not rows:
            return None
        errors = [row.metrics[metric].error for row in rows]
        groups: dict[str, list[float]] = {}
        for row, error in zip(rows, errors, strict=True):
            groups.setdefault(row.group, []).append(abs(error))
        return Score(
            n=len(rows),
            macro=100 * mean(mean(values) for values in groups.values()),
            mape=100 * mean(map(abs, errors)),
            median=100 * median(map(abs, errors)),
            bias=100 * mean(errors),
            worst=100 * max(errors, key=abs),
            coverage=100 * mean(row.metrics[metric].covered for row in rows),
        )

    def to_json(self) -> str:
        """The document of `validate --json`."""
        return json.dumps({"table": self.table, "rows": [_row_json(row) for row in self.rows]}, indent=1)


def _row_json(row: Row) -> dict[str, Any]:
    metrics = {
        name: {
            "predicted": c.predicted.value,
            "low": c.predicted.low,
            "high": c.predicted.high,
            "measured": c.measured,
            "error": c.error,
        }
        for name, c in row.metrics.items()
    }
    status = "refused" if row.refused else "ok"
    return {
        "id": row.id,
        "group": row.group,
        "quality": row.quality,
        "status": status,
        "reason": row.reason or None,
        "metrics": metrics,
    }


def read_table(file: str | Path) -> list[dict[str, str]]:
    """Rows of a CSV as text. Raises SpecError where it is no table of runs."""
    path = Path(file)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise SpecError("as many cells as the header has are needed", file=str(file), line=reader.line_num)
                rows.append(dict(row))
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"can't be read as CSV: {error}", file=str(file)) from None
    missing = [name for name in ("id", "kind") if name not in columns]
    if missing:
        raise SpecError(
            f"column {missing[0]} is missing; a validation table has id, kind and measured.*", file=str(file)
        )
    return rows


def row_run(row: Mapping[str, str]) -> Run:
    """The run a row describes: its non-blank columns that are dotted paths. Raises SpecError or InfeasibleError."""
    data: dict[str, Any] = {}
    for path, text in row.items():
        if not text or path is None:
            continue
        if path in PLAIN or path.split(".")[0] in BLOCKS:
            set_path(data, path, cell_value(text))
    if isinstance(data.get("model"), dict):
        data["model"].setdefault("name", data.get("name", "unnamed"))
    data.setdefault("name", row["id"])
    stated = row.get("interconnect_stated", "")
    if "network" not in data.get("hardware", {}) and stated in stated_networks():
        set_path(data, "hardware.network", stated_networks()[stated])
    return run_from_mapping(data, row["id"])


@lru_cache(maxsize=1)
def stated_networks() -> dict[str, str]:
    """The network that a source's own words for its interconnect mean, for tables that hold only the words."""
    file = data_root() / "workloads/validation/interconnects.csv"
    with file.open(newline="", encoding="utf-8") as stream:
        return {row["interconnect_stated"]: row["hardware.network"] for row in csv.DictReader(stream)}


def cell_value(text: str) -> object:
    """A cell as the value YAML would make of it: True, a number, or text."""
    if text in ("True", "true", "False", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return int(value) if isinstance(value, float) and value.is_integer() else value
    return text


def group_of(row: Mapping[str, str]) -> str:
    """Source, model and device of a row: the unit whose mean errors the macro average weighs alike."""
    prefix = row["id"].replace(":", "-").split("-")[0]
    return f"{prefix}/{row.get('name', '')}/{row.get('hardware.device', '')}"


def validate_table(
    file: str | Path,
    *,
    where: Sequence[tuple[str, str]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Replay a table's rows, those whose columns equal all of `where`. `progress` is told (done, all)."""
    rows = read_table(file)
    for column, _ in where:
        if rows and column not in rows[0]:
            from simulator.errors import nearest

            raise SpecError(f"no column '{column}'.{nearest(column, rows[0])}", file=str(file))
    rows = [row for row in rows if all(row[column] == value for column, value in where)]
    out = []
    for index, row in enumerate(rows):
        out.append(replay(row))
        if progress is not None:
            progress(index + 1, len(rows))
    return Validation(str(file), out)


def replay(row: Mapping[str, str]) -> Row:
    """One row simulated and compared."""
    facts = {key: value for key, value in row.items() if value and not key.startswith("measured.")}
    refused = Row(
        id=row["id"],
        group=group_of(row),
        quality=row.get("quality", ""),
        source=row.get("source", ""),
        reason="nothing measured that the simulator predicts",
        facts=facts,
    )
    metrics: dict[str, Comparison]
    breakdown: Mapping[str, float] = {}
    try:
        if row.get("kind") == "collective":
            metrics = compare_collective(row)
        else:
            run = row_run(row)
            refused = replace(refused, arch="MoE" if run.model.is_moe or run.model.peer else "dense")
            metrics, breakdown = compare(run, row)
    except SimulatorError as error:
        return replace(refused, reason=str(error) or type(error).__name__)
    return replace(refused, reason="", metrics=metrics, breakdown=breakdown) if metrics else refused


def compare(run: Run, row: Mapping[str, str]) -> tuple[dict[str, Comparison], Mapping[str, float]]:
    """Predictions of what the row measured, and the predicted step's seconds by item."""
    from simulator.predictions import predict

    measured = _measured(row)
    if run.kind == "training":
        derive_step_time(run, measured)
    elif run.inference is not None and {"ttft_s", "tpot_s"} <= set(measured):
        measured["e2e_s"] = measured["ttft_s"] + measured["tpot_s"] * (run.inference.osl - 1)
    prediction = predict(run)
    return _held_against(prediction.numbers, measured), prediction.breakdown


def compare_collective(row: Mapping[str, str]) -> dict[str, Comparison]:
    """Predictions of what the row measured of a collective."""
    from simulator.validation.collectives import predict_collective

    blocks: dict[str, Any] = {}
    for path, text in row.items():
        if text and path.split(".")[0] in ("hardware", "collective"):
            set_path(blocks, path, cell_value(text))
    return _held_against(predict_collective(blocks), _measured(row))


def _measured(row: Mapping[str, str]) -> dict[str, float]:
    cells = {key: _measurement(key, text) for key, text in row.items() if key.startswith("measured.") and text}
    return {key.removeprefix("measured."): value for key, value in cells.items() if value > 0}


def _held_against(numbers: Mapping[str, Number], measured: Mapping[str, float]) -> dict[str, Comparison]:
    return {name: Comparison(numbers[name], value) for name, value in measured.items() if name in numbers}


def _measurement(path: str, text: str) -> float:
    """The number in a cell. Raises SpecError where it is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SpecError(f"'{text[:80]}' is not a finite number", path=path)
    return value


def derive_step_time(run: Run, measured: dict[str, float]) -> None:
    """Step time from what is published in its place: tokens/s, model FLOP/s, or MFU over the dense 16-bit peak."""
    work = run.training
    assert work is not None
    if "step_time_s" in measured:
        return
    tokens = work.global_batch * work.seq_len
    flops = 3 * tokens * counts.sequence_flops_per_token(run.model, work.seq_len) / run.hardware.gpus
    if "tokens_per_s_per_gpu" in measured:
        measured["step_time_s"] = tokens / (measured["tokens_per_s_per_gpu"] * run.hardware.gpus)
    elif "model_tflops_per_gpu" in measured:
        measured["step_time_s"] = flops / (measured["model_tflops_per_gpu"] * 1e12)
    elif "mfu_pct" in measured:
        device = run.hardware.device
        peak = device.peak_for("bf16" if device.supports("bf16") else "fp16")
        measured["step_time_s"] = flops / (measured["mfu_pct"] / 100 * peak)
