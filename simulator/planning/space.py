"""The points of a plan: every combination of what varies, with its legal splits, and what bounds rule out in advance.

A combination whose bound breaks a limit by more than a plan ever relaxes it has no split worth timing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import SpecError
from simulator.planning.bounds import breaks_a_bound
from simulator.planning.splits import Split, legal_splits
from simulator.spec.base import Document
from simulator.spec.grid import Grid
from simulator.spec.plan import Plan, device_axis, devices_of
from simulator.spec.price_table import hourly, rents
from simulator.spec.run import Run
from simulator.spec.sweep import MAX_POINTS, Sweep

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


def run_of(base: Mapping[str, Any], settings: Mapping[str, Any]) -> Run:
    """The run of a point, alone."""
    axes = {path: [value] for path, value in settings.items()}
    run = make_grid(dict(base), axes).run([0] * len(axes))
    assert isinstance(run, Run)
    return run


class Combinations:
    """What varies in a plan apart from the splits: every combination has a number on each axis."""

    def __init__(self, plan: Plan) -> None:
        assert isinstance(plan.run, dict)
        self.plan = plan
        self.sizes = tuple(len(values) for values in plan.axes.values())
        self.count = prod(self.sizes)
        self._rent = _Rent.of(plan)
        self._grid = make_grid(plan.run, {**plan.axes, **self._rent.axis})
        self._splits: dict[Split, int] = {}

    def run(self, place: tuple[int, ...]) -> Run | SpecError:
        """The run of a combination as the plan's run is split; SpecError where it can't be."""
        return self._grid.run(place + self._rent.number(place))

    def points(self, place: tuple[int, ...], run: Run) -> list[tuple[int, ...]]:
        """The points of a combination, one for each legal split, on `axes`."""
        rent = self._rent.number(place)
        return [place + split + rent for split in _split_numbers(self.plan, run, self._splits)]

    @property
    def base(self) -> Run:
        """A run of the plan: as written or, where that is none, with the first values."""
        return self._grid.base

    def axes(self) -> dict[str, list[Any]]:
        """The axes of the points made so far: those of the plan, the splits, and the rent that goes with the device."""
        assert isinstance(self.plan.run, dict)
        cut = {} if self.plan.splits is None else {_SPLIT: [_block(self.plan.run, split) for split in self._splits]}
        return {**self.plan.axes, **cut, **self._rent.axis}


def build_space(plan: Plan, *, force: bool = False) -> Space:
    """The space of a plan whose run is plain data. Raises SpecError where it is empty, or too large and not forced."""
    assert isinstance(plan.run, dict)
    combinations = Combinations(plan)
    if combinations.count > MAX_POINTS and not force:
        raise _too_many(f"{combinations.count:,} combinations before any is split")
    points: list[tuple[int, ...]] = []
    ruled_out: list[tuple[int, ...]] = []
    refused: dict[str, int] = {}
    for done, place in enumerate(itertools.product(*(range(size) for size in combinations.sizes)), start=1):
        run = combinations.run(place)
        if isinstance(run, SpecError):
            refused[str(run)] = refused.get(str(run), 0) + 1
            continue
        made = combinations.points(place, run)
        if not made:
            refused["no split divides"] = refused.get("no split divides", 0) + 1
        (ruled_out if breaks_a_bound(run, plan) else points).extend(made)
        if len(points) + len(ruled_out) > MAX_POINTS and not force:
            raise _too_many(f"more than {MAX_POINTS:,} points in {done:,} of {combinations.count:,} combinations")
    if not points and not ruled_out:
        reasons = "; ".join(f"{count:,} of them: {reason}" for reason, count in refused.items())
        raise SpecError(f"none of {combinations.count:,} combinations can be. {reasons}", path="vary")
    axes = combinations.axes()
    kept, rest = _places(points, axes), _places(ruled_out, axes)
    return Space(axes, plan.run, kept, rest, tuple(refused.items()), combinations.count)


def _too_many(size: str) -> SpecError:
    ways = "narrow it, have a part of it searched (search: {points: 50000}), or force it"
    return SpecError(f"the plan has {size}; {ways}", path="vary")


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
