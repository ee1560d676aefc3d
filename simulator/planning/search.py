"""The search of a plan's space: every point timed, in shards, by processes of this machine or a Dask cluster."""

from __future__ import annotations

import json
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simulator.planning.space import Space, make_grid
from simulator.planning.table import add_facts
from simulator.shards.store import SHARD_POINTS, Store
from simulator.shards.work import HERE, Job, Progress, Workers, finish
from simulator.spec.grid import Grid
from simulator.sweeps import axis_columns, evaluate_points, status_columns

if TYPE_CHECKING:
    import pandas

Part = Literal["points", "ruled_out"]
Places = list[tuple[int, ...]]


def search(
    space: Space,
    part: Part = "points",
    *,
    store: Store,
    workers: Workers = HERE,
    progress: Progress | None = None,
) -> list[str]:
    """The names of the shards of a part of the space, all of them in the store.

    Their rows are the points in order, numbered through both parts: the number `point`, `option.*` facts, the value of
    every axis, the figures with `.low` and `.high`, `seconds.<kind>`, `status`, `reason`. Raises as `finish` does.
    """
    places = getattr(space, part)
    first = len(space.points) if part == "ruled_out" else 0
    text = space_text(space.base, space.axes)
    jobs = {}
    for number in range(ceil(len(places) / SHARD_POINTS)):
        start = number * SHARD_POINTS
        rows = [tuple(row) for row in places[start : start + SHARD_POINTS].tolist()]
        jobs[f"{part}-{number:05d}"] = Job((text, first + start, rows), len(rows))
    finish(evaluate_shard, jobs, store, workers=workers, progress=progress)
    return list(jobs)


def space_text(base: dict[str, Any], axes: dict[str, list[Any]]) -> str:
    """What a shard needs of a space, as text."""
    return json.dumps({"base": base, "axes": axes}, default=str)


def evaluate_shard(job: tuple[str, int, Places]) -> pandas.DataFrame:
    """The table of some points, numbered from the second part of the job on."""
    import pandas

    text, first, places = job
    grid = _grid(text)
    columns, reasons = evaluate_points(grid, places, kinds=True)
    numbers = np.array(places, dtype=np.intp).reshape(len(places), len(grid.paths))
    frame = pandas.DataFrame(
        {
            "point": np.arange(first, first + len(places)),
            **axis_columns(grid, list(numbers.T)),
            **columns,
            **status_columns(reasons),
        }
    )
    return add_facts(frame, grid, numbers)


@lru_cache(maxsize=1)
def _grid(text: str) -> Grid:
    """The grid of a space, built once in each process."""
    data = json.loads(text)
    return make_grid(data["base"], data["axes"])
