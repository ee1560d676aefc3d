"""Published runs near a run, and how well they were predicted: the record that `moesim validate` leaves behind."""

from __future__ import annotations

import csv
from functools import lru_cache
from math import log2
from pathlib import Path

from simulator.result import Precedent
from simulator.spec.base import data_root
from simulator.spec.run import Run
from simulator.validation.replay import Validation, read_table, row_run

COLUMNS = (
    "id",
    "name",
    "source",
    "device",
    "moe",
    "gpus",
    "active_parameters",
    "precision",
    "framework",
    "ratio",
    "low",
    "high",
)
NEAREST = 8


def record_path() -> Path:
    """Where the shipped record lies."""
    return data_root() / "workloads/validation/training_record.csv"


def write_record(validation: Validation, path: Path) -> None:
    """Write one line for each replayed quality-A row of a table, the last of those that are alike."""
    source_rows = {row["id"]: row for row in read_table(validation.table)}
    kept: dict[tuple[str, ...], tuple[str, ...]] = {}
    for row in validation.rows:
        comparison = row.metrics.get("step_time_s")
        if comparison is None or row.quality != "A":
            continue
        run = row_run(source_rows[row.id])
        predicted, measured = comparison.predicted, comparison.measured
        assert run.training is not None
        facts = (
            run.hardware.device.name,
            str(run.model.is_moe),
            str(run.hardware.gpus),
            str(run.model.active_parameters),
            run.training.precision,
            run.framework,
        )
        ratios = tuple(f"{value / measured:.4f}" for value in (predicted.value, predicted.low, predicted.high))
        kept[(row.facts.get("name", ""), *facts)] = (row.id, row.facts.get("name", ""), row.source, *facts, *ratios)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(kept.values())


@lru_cache(maxsize=1)
def _record() -> list[dict[str, str]]:
    path = record_path()
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def nearest_precedents(run: Run) -> list[Precedent]:
    """The recorded runs most like this one, nearest first; empty for inference."""
    if run.training is None:
        return []
    scored = sorted(((_distance(run, row), row) for row in _record()), key=lambda pair: (pair[0], pair[1]["id"]))
    return [
        Precedent(
            name=f"{row['name']}, {row['gpus']} {row['device']}, {row['precision']}",
            source=row["source"],
            ratio=float(row["ratio"]),
            low=float(row["low"]),
            high=float(row["high"]),
            distance=distance,
        )
        for distance, row in scored[:NEAREST]
    ]


def _distance(run: Run, row: dict[str, str]) -> float:
    """Dissimilarity: a different device or kind of model counts as four doublings of size, precision or framework 2."""
    assert run.training is not None
    unlike = (
        (row["device"] != run.hardware.device.name)
        + (row["moe"] != str(run.model.is_moe))
        + 0.5 * (row["precision"] != run.training.precision)
        + 0.5 * (row["framework"] != run.framework)
    )
    size = abs(log2(int(row["active_parameters"]) / run.model.active_parameters))
    gpus = abs(log2(int(row["gpus"]) / run.hardware.gpus))
    return 4 * unlike + size + gpus / 2
