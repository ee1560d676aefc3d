"""Sweeps: every point of a grid simulated, in bulk, to one row of a table.

A point goes through the same functions as a single run and ends with the same metrics; what only a report needs is left
out. Points that cannot be are rows with their reason: those that do not fit are found before anything is timed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import nan, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from simulator.assembly.evaluated import Step
from simulator.assembly.items import style
from simulator.assembly.metrics import batch_figures, inference_metrics, step_figures, training_metrics
from simulator.errors import InfeasibleError, SimulatorError, SpecError
from simulator.result import Color, Number
from simulator.simulation import inference_batch, training_steps
from simulator.spec.grid import Grid
from simulator.spec.run import Run
from simulator.spec.sweep import Sweep, base_document, read_sweep

if TYPE_CHECKING:
    import pandas

__all__ = ["Sweep", "evaluate", "read_sweep"]

WINDOW = 512
"""Points evaluated together: enough that numpy's overhead is spread thin, few enough to be held at once."""
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


def evaluate(sweep: Sweep, *, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> pandas.DataFrame:
    """One row a point: its axes' values, its metrics with `.low` and `.high` where these differ, status and reason.

    Metrics are named as in a Result, those that no point has are left out. `status` is "ok" or "infeasible"; a point
    that doesn't fit still has its peak memory. `progress` is told how many points of how many are done.
    """
    text = sweep.model_dump_json()
    starts = range(0, sweep.size, WINDOW)
    columns: list[Columns] = []
    reasons: list[str | None] = []
    for window, why in _windows(text, starts, workers):
        columns.append(window)
        reasons += why
        if progress is not None:
            progress(len(reasons), sweep.size)
    return _frame(sweep, columns, reasons)


def _windows(text: str, starts: Sequence[int], workers: int) -> Iterator[tuple[Columns, list[str | None]]]:
    if workers == 1 or len(starts) == 1:
        yield from (_window(text, start) for start in starts)
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(min(workers, len(starts))) as pool:
        yield from pool.map(_window, [text] * len(starts), starts)


def _window(text: str, start: int) -> tuple[Columns, list[str | None]]:
    """The figures of the points from `start` on."""
    grid = _grid(text)
    return evaluate_points(grid, _numbers(grid, start))


def evaluate_points(
    grid: Grid, numbers: Iterable[tuple[int, ...]], *, kinds: bool = False
) -> tuple[Columns, list[str | None]]:
    """(value, low and high of every metric; reason or None) of points of a grid, each by its axes' numbers.

    With `kinds` also the seconds of a step (a decode step) by kind of time, in columns such as `seconds.expert`.
    """
    rows: list[list[float]] = []
    reasons: list[str | None] = []
    with _no_collection():
        points = [grid.run(place) for place in numbers]
        outcomes = iter(_outcomes([point for point in points if isinstance(point, Run)]))
        for point in points:
            outcome = next(outcomes) if isinstance(point, Run) else point
            rows.append(_row(outcome) + (_seconds_by_kind(outcome) if kinds else []))
            reasons.append(str(outcome) if isinstance(outcome, SimulatorError) else None)
    names = [name for key in METRICS for name in (key, f"{key}.low", f"{key}.high")]
    names += [f"seconds.{kind}" for kind in KINDS] if kinds else []
    return dict(zip(names, np.array(rows).T, strict=True)), reasons


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


def _numbers(grid: Grid, start: int) -> Iterator[tuple[int, ...]]:
    """The numbers of the axes' values for each point of a window, the last axis changing fastest."""
    sizes = tuple(len(values) for values in grid.values)
    places = np.arange(start, min(start + WINDOW, prod(sizes)))
    return zip(*(axis.tolist() for axis in np.unravel_index(places, sizes)), strict=True)


def _outcomes(runs: Sequence[Run]) -> list[Outcome | SimulatorError]:
    """What each run takes, or why it can't be."""
    if not runs:
        return []
    if runs[0].kind == "training":
        return [_step_outcome(step) if isinstance(step, Step) else step for step in training_steps(runs)]
    return [_batch_outcome(run) for run in runs]


def _step_outcome(step: Step) -> Outcome:
    figures = step_figures(step)
    return Outcome(training_metrics(step, figures), figures.exposed)


def _batch_outcome(run: Run) -> Outcome | SimulatorError:
    try:
        batch = inference_batch(run, advise=False, closed_form=True)
    except (InfeasibleError, SpecError) as error:
        return error
    metrics = inference_metrics(batch, batch_figures(batch))
    return Outcome({key: number for key, number in metrics.items() if key not in REPEATED}, batch.token)


def _frame(sweep: Sweep, columns: Sequence[Columns], reasons: list[str | None]) -> pandas.DataFrame:
    import pandas

    data: dict[str, Any] = _axis_columns(sweep)
    for key in METRICS:
        value, low, high = (
            np.concatenate([window[name] for window in columns]) for name in (key, f"{key}.low", f"{key}.high")
        )
        if not np.isnan(value).all():
            data[key] = value
            if not np.array_equal(low, high, equal_nan=True):
                data[f"{key}.low"], data[f"{key}.high"] = low, high
    data["status"] = ["ok" if reason is None else "infeasible" for reason in reasons]
    data["reason"] = pandas.Series(reasons, dtype=object)
    return pandas.DataFrame(data)


def _axis_columns(sweep: Sweep) -> dict[str, Any]:
    """The value of every axis at every point; lists and blocks as text."""
    columns: dict[str, Any] = {}
    repeat, size = sweep.size, sweep.size
    for path, values in sweep.axes.items():
        repeat //= len(values)
        shown = [str(value) if isinstance(value, list | dict) else value for value in values]
        columns[path] = [value for value in shown for _ in range(repeat)] * (size // (repeat * len(values)))
    return columns
