"""Sweeps: every point of a grid simulated, in bulk, to one row of a table.

A point goes through the same functions as a single run and ends with the same metrics; what only a report needs is left
out. Points that cannot be are rows with their reason: those that do not fit are found before anything is timed.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from simulator.assembly.evaluated import Step
from simulator.assembly.items import style
from simulator.assembly.metrics import batch_figures, inference_metrics, step_figures, training_metrics
from simulator.engine.runner import Engine
from simulator.errors import InfeasibleError, SimulatorError, SpecError
from simulator.result import Color, Number
from simulator.shards.store import SHARD_POINTS, Memory, Store
from simulator.shards.work import Job, Progress, Workers, finish
from simulator.simulation import inference_batch, training_steps
from simulator.spec.grid import Grid
from simulator.spec.run import Run
from simulator.spec.sweep import Sweep, base_document, read_sweep

if TYPE_CHECKING:
    import pandas

__all__ = ["Sweep", "Workers", "evaluate", "read_sweep"]

METRICS = (
    "step_time_s", "ttft_s", "tpot_s", "tokens_per_s", "output_tokens_per_s", "tokens_per_s_per_gpu", "mfu",
    "peak_memory_gib", "max_concurrency", "days", "cost_usd", "usd_per_million_output_tokens", "energy_total_j",
    "joules_per_output_token", "average_power_w_per_gpu", "carbon_kg",
)  # fmt: skip

KINDS: tuple[Color, ...] = get_args(Color)

Columns = dict[str, NDArray[np.float64]]


REPEATED = ("step_time_s", "tokens_per_s")
"""Of a batch the same as tpot_s and output_tokens_per_s."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a point takes: its metrics, and the seconds of a step (a decode step) by item, which sum to it."""

    metrics: Mapping[str, Number | None]
    seconds: Mapping[str, float]


def evaluate(
    sweep: Sweep,
    *,
    workers: int | Workers = 1,
    store: Store | None = None,
    progress: Progress | None = None,
) -> pandas.DataFrame:
    """One row a point: its axes' values, its metrics with `.low` and `.high` where these differ, status and reason.

    Metrics are named as in a Result, those that no point has are left out. `status` is "ok" or "infeasible"; a point
    that doesn't fit still has its peak memory. `workers` are processes of this machine or a Dask cluster. With `store`
    shards already there are not done again and new ones are left there. `progress` is told how many points of how many
    are done. Raises SpecError where the store's disk is full or the scheduler can't be reached.
    """
    import pandas

    text, size = sweep.model_dump_json(), sweep.size
    starts = range(0, size, SHARD_POINTS)
    ends = [min(start + SHARD_POINTS, size) for start in starts]
    jobs = {
        f"points-{number:05d}": Job((text, start, end), end - start)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    }
    keep = Memory() if store is None else store
    who = Workers(workers) if isinstance(workers, int) else workers
    finish(evaluate_range, jobs, keep, workers=who, progress=progress)
    return _known(pandas.concat([keep.read(name) for name in jobs], ignore_index=True))


def evaluate_range(job: tuple[str, int, int]) -> pandas.DataFrame:
    """The table of the points from one number to before another of the sweep in a JSON text."""
    import pandas

    text, start, end = job
    grid = _grid(text)
    numbers = _numbers(grid, start, end)
    columns, reasons = evaluate_points(grid, zip(*(axis.tolist() for axis in numbers), strict=True))
    return pandas.DataFrame({**axis_columns(grid, numbers), **columns, **status_columns(reasons)})


def evaluate_points(
    grid: Grid, numbers: Iterable[tuple[int, ...]], *, kinds: bool = False
) -> tuple[Columns, list[str | None]]:
    """(value, low and high of every metric; reason or None) of points of a grid, each by its axes' numbers.

    With `kinds` also the seconds of a step (a decode step) by kind of time, in columns such as `seconds.expert`.
    """
    with _no_collection():
        return evaluate_runs([grid.run(place) for place in numbers], kinds=kinds, engine=grid.engine)


def evaluate_runs(
    points: Sequence[Run | SpecError], *, kinds: bool = False, engine: Engine = "fast"
) -> tuple[Columns, list[str | None]]:
    """The same of runs of one kind; a SpecError in place of a run is its reason."""
    rows: list[list[float]] = []
    reasons: list[str | None] = []
    found = iter(_outcomes([point for point in points if isinstance(point, Run)], engine))
    for point in points:
        outcome = next(found) if isinstance(point, Run) else point
        rows.append(_row(outcome) + (_seconds_by_kind(outcome) if kinds else []))
        reasons.append(str(outcome) if isinstance(outcome, SimulatorError) else None)
    return dict(zip(_names(kinds), np.array(rows).reshape(len(rows), -1).T, strict=True)), reasons


def figures_of(outcome: Outcome) -> dict[str, float]:
    """One outcome by column: metrics with their ends, and seconds by kind of time."""
    return dict(zip(_names(True), _row(outcome) + _seconds_by_kind(outcome), strict=True))


def _names(kinds: bool) -> list[str]:
    names = [name for key in METRICS for name in (key, f"{key}.low", f"{key}.high")]
    return names + ([f"seconds.{kind}" for kind in KINDS] if kinds else [])


def _row(outcome: Outcome | SimulatorError) -> list[float]:
    """Value, low and high of every metric; of a point that doesn't fit only its memory."""
    nothing = (nan, nan, nan)
    if isinstance(outcome, SimulatorError):
        needed = outcome.needed if isinstance(outcome, InfeasibleError) and outcome.breakdown else None
        memory = (nan if needed is None else needed,) * 3
        return [part for key in METRICS for part in (memory if key == "peak_memory_gib" else nothing)]
    row: list[float] = []
    for key in METRICS:
        number = outcome.metrics.get(key)
        row += nothing if number is None else (number.value, number.low, number.high)
    return row


def _seconds_by_kind(outcome: Outcome | SimulatorError) -> list[float]:
    if isinstance(outcome, SimulatorError):
        return [nan] * len(KINDS)
    sums = dict.fromkeys(KINDS, 0.0)
    for item, seconds in outcome.seconds.items():
        sums[style(item).color] += seconds
    return list(sums.values())


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage collection held off.

    A window makes many thousand small records without cycles; to look for cycles among them takes a third of its time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@lru_cache(maxsize=1)
def _grid(text: str) -> Grid:
    """The grid of a sweep, built once in each process."""
    sweep = Sweep.model_validate_json(text)
    return Grid(sweep, base_document(sweep.run, Path()))


def _numbers(grid: Grid, start: int, end: int) -> tuple[NDArray[np.intp], ...]:
    """The numbers of each axis's values at the points of a range, the last axis changing fastest."""
    return np.unravel_index(np.arange(start, end), tuple(len(values) for values in grid.values))


def _outcomes(runs: Sequence[Run], engine: Engine) -> list[Outcome | SimulatorError]:
    """What each run takes, or why it can't be."""
    if not runs:
        return []
    if runs[0].kind == "training":
        return [step_outcome(step) if isinstance(step, Step) else step for step in training_steps(runs, engine)]
    return [_batch_outcome(run) for run in runs]


def step_outcome(step: Step) -> Outcome:
    """What a training step takes."""
    figures = step_figures(step)
    return Outcome(training_metrics(step, figures), figures.exposed)


def _batch_outcome(run: Run) -> Outcome | SimulatorError:
    try:
        batch = inference_batch(run, advise=False, closed_form=True)
    except (InfeasibleError, SpecError) as error:
        return error.with_traceback(None)
    metrics = inference_metrics(batch, batch_figures(batch))
    return Outcome({key: number for key, number in metrics.items() if key not in REPEATED}, batch.token)


def axis_columns(grid: Grid, numbers: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """The value of every axis at points given by its number: numbers where all its values are, else words.

    Lists and blocks are JSON.
    """
    columns: dict[str, Any] = {}
    for path, values, at in zip(grid.paths, grid.values, numbers, strict=True):
        if all(isinstance(value, bool) for value in values):
            columns[path] = np.array(values, dtype=bool)[at]
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            columns[path] = np.array(values)[at]
        else:
            columns[path] = np.array([value if isinstance(value, str) else _json(value) for value in values])[at]
    return columns


def _json(value: object) -> str:
    import json

    return json.dumps(value, default=str)


def status_columns(reasons: Sequence[str | None]) -> dict[str, Any]:
    """The columns `status` and `reason`."""
    import pandas

    status = ["ok" if reason is None else "infeasible" for reason in reasons]
    return {"status": status, "reason": pandas.Series(reasons, dtype=object)}


def _known(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The table without metrics that no point has and ends of intervals that are their value."""
    needless = []
    for key in METRICS:
        value, low, high = (frame[f"{key}{end}"].to_numpy() for end in ("", ".low", ".high"))
        if np.isnan(value).all():
            needless += [key, f"{key}.low", f"{key}.high"]
        elif np.array_equal(low, high, equal_nan=True):
            needless += [f"{key}.low", f"{key}.high"]
    return frame.drop(columns=needless)
