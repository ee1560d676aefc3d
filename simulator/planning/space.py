"""The points of a plan: every combination of what varies, with its legal splits, and what bounds rule out in advance.

A bound is what nothing can beat: all FLOPs at the dense peak for time and money, idle devices for power. A combination
whose bound breaks a limit by more than a plan ever relaxes it has no split worth timing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import SpecError
from simulator.planning.splits import Split, legal_splits
from simulator.spec.base import Document
from simulator.spec.grid import Grid
from simulator.spec.parameters import sequence_flops_per_token
from simulator.spec.plan import Plan, device_axis, devices_of
from simulator.spec.price_table import hourly, rents
from simulator.spec.run import Run
from simulator.spec.sweep import Sweep
from simulator.units import DAY

MAX_POINTS = 1_000_000
RELAXED = 1.10
"""Limits are relaxed by this to say what they cost."""
_SPLIT, _RENT = "parallelism", "economics.gpu_hour"

Places = NDArray[np.int32]
"""One row a point: the number of its value on each axis."""


@dataclass(frozen=True)
class Space:
    """`axes` are those of the plan, then the split and the rent that goes with the device.

    `points` are to be timed; `ruled_out` break a limit by their bound; `refused` says which combinations can't be.
    """

    axes: dict[str, list[Any]]
    base: dict[str, Any]
    points: Places
    ruled_out: Places
    refused: tuple[tuple[str, int], ...]
    combinations: int

    def grid(self) -> Grid:
        """The runs of the points, by the numbers of a row."""
        return make_grid(self.base, self.axes)


def make_grid(base: dict[str, Any], axes: dict[str, list[Any]]) -> Grid:
    """A grid of axes that may span more points than a sweep allows: only some of them are ever made."""
    return Grid(Sweep.model_construct(name="plan", run=base, axes=axes), Document(base, {}, "<plan>", ""))


def build_space(plan: Plan, *, force: bool = False) -> Space:
    """The space of a plan whose run is plain data. Raises SpecError where it is empty, or too large and not forced."""
    assert isinstance(plan.run, dict)
    combinations = prod(len(values) for values in plan.axes.values())
    if combinations > MAX_POINTS and not force:
        raise _too_many(f"{combinations:,} combinations before any is split")
    rent = _Rent.of(plan)
    grid = make_grid(plan.run, {**plan.axes, **rent.axis})
    splits: dict[Split, int] = {}
    points: list[tuple[int, ...]] = []
    ruled_out: list[tuple[int, ...]] = []
    refused: dict[str, int] = {}
    for done, place in enumerate(itertools.product(*(range(len(values)) for values in plan.axes.values())), start=1):
        run = grid.run(place + rent.number(place))
        if isinstance(run, SpecError):
            refused[str(run)] = refused.get(str(run), 0) + 1
            continue
        made = [place + split + rent.number(place) for split in _split_numbers(plan, run, splits)]
        if not made:
            refused["no split divides"] = refused.get("no split divides", 0) + 1
        (ruled_out if breaks_a_bound(run, plan) else points).extend(made)
        if len(points) + len(ruled_out) > MAX_POINTS and not force:
            raise _too_many(f"more than {MAX_POINTS:,} points in {done:,} of {combinations:,} combinations")
    if not points and not ruled_out:
        reasons = "; ".join(f"{count:,} of them: {reason}" for reason, count in refused.items())
        raise SpecError(f"none of {combinations:,} combinations can be. {reasons}", path="vary")
    cut = {_SPLIT: [_block(plan.run, split) for split in splits]} if plan.splits is not None else {}
    axes = {**plan.axes, **cut, **rent.axis}
    return Space(axes, plan.run, _places(points, axes), _places(ruled_out, axes), tuple(refused.items()), combinations)


def _too_many(size: str) -> SpecError:
    return SpecError(f"the plan has {size}; narrow it, or force it", path="vary")


def _places(rows: list[tuple[int, ...]], axes: dict[str, list[Any]]) -> Places:
    return np.array(rows, dtype=np.int32).reshape(len(rows), len(axes))


@dataclass(frozen=True)
class _Rent:
    """The axis of rents, a value for each device, and the number on it that goes with a combination."""

    axis: dict[str, list[Any]]
    device: int | None

    @classmethod
    def of(cls, plan: Plan) -> _Rent:
        if plan.prices is None:
            return cls({}, None)
        known, path = rents(plan.prices), device_axis(plan)
        device = None if path is None else list(plan.axes).index(path)
        return cls({_RENT: [hourly(known[name]) for name in devices_of(plan)]}, device)

    def number(self, place: tuple[int, ...]) -> tuple[int, ...]:
        if not self.axis:
            return ()
        return (0 if self.device is None else place[self.device],)


def _split_numbers(plan: Plan, run: Run, known: dict[Split, int]) -> Iterator[tuple[int, ...]]:
    """The numbers of a combination's splits on their axis, new ones put at its end; one empty where none is made."""
    if plan.splits is None:
        yield ()
        return
    for split in legal_splits(run, plan.splits):
        yield (known.setdefault(split, len(known)),)


def _block(base: dict[str, Any], split: Split) -> dict[str, Any]:
    """The `parallelism` block of a split, with what else the run says of it."""
    stated = base.get(_SPLIT) or {}
    return {**{key: value for key, value in stated.items() if key not in Split._fields}, **split.fields()}


def breaks_a_bound(run: Run, plan: Plan) -> bool:
    """Whether a run can't keep the plan's limits even when relaxed, however it is split."""
    limits, gpus = plan.constraints, run.hardware.gpus
    if limits.gpus is not None and gpus > limits.gpus * RELAXED:
        return True
    idle = run.hardware.device.idle_power * gpus * run.economics.pue
    if limits.power is not None and idle > limits.power * RELAXED:
        return True
    days = least_days(run)
    if days is None:
        return False
    rent = run.economics.gpu_hour
    return (limits.deadline is not None and days * DAY > limits.deadline * RELAXED) or (
        limits.budget is not None and rent is not None and rent * gpus * days * DAY > limits.budget * RELAXED
    )


def least_days(run: Run) -> float | None:
    """Days of a training at the dense peak of every GPU; None where its length is open, or tokens may be dropped."""
    work = run.training
    if work is None or work.tokens is None or run.routing.capacity_factor is not None:
        return None
    if not run.hardware.device.supports(work.precision):  # each of its points will say so
        return None
    flops = 3 * work.tokens * sequence_flops_per_token(run.model, work.seq_len)
    return flops / (run.hardware.gpus * run.hardware.device.peak_for(work.precision)) / DAY
