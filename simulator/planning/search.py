"""The search of a plan's space: every point timed, in shards, by as many processes as asked for.

A shard depends on nothing but the space and its number, so one whose process died is simply done again, and the table
is the same however many processes there were and however often the search was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simulator.errors import SimulatorError
from simulator.planning.shards import SHARD_POINTS, Shards
from simulator.planning.space import Places, Space, make_grid
from simulator.spec.grid import Grid
from simulator.sweeps import evaluate_points

if TYPE_CHECKING:
    import pandas

MOST_DEATHS = 3
"""Worker processes that may die before the search gives up."""

Part = Literal["points", "ruled_out"]
Job = tuple[str, str, list[tuple[int, ...]]]


def search(
    space: Space,
    part: Part = "points",
    *,
    shards: Shards | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> pandas.DataFrame:
    """One row a point of a part of the space, in its order.

    Columns: the value of every axis, the metrics with `.low` and `.high`, `seconds.<kind>`, `status`, `reason`. With
    `shards`, those already there are read instead of computed, and new ones are left there.
    """
    import pandas

    places: Places = getattr(space, part)
    if not len(places):
        return pandas.DataFrame()
    names = [f"{part}-{number:05d}" for number in range(ceil(len(places) / SHARD_POINTS))]
    found = {name: shards.read(name) for name in names if shards is not None and shards.has(name)}
    done = sum(len(frame) for frame in found.values())
    text = json.dumps({"base": space.base, "axes": space.axes}, default=str)
    jobs = [
        (name, text, [tuple(row) for row in places[i * SHARD_POINTS : (i + 1) * SHARD_POINTS].tolist()])
        for i, name in enumerate(names)
        if name not in found
    ]
    if progress is not None:
        progress(done, len(places))
    for name, frame in _frames(jobs, workers):
        if shards is not None:
            shards.write(name, frame)
        found[name] = frame
        done += len(frame)
        if progress is not None:
            progress(done, len(places))
    return pandas.concat([found[name] for name in names], ignore_index=True)


def _frames(jobs: Sequence[Job], workers: int) -> Iterator[tuple[str, pandas.DataFrame]]:
    """Every shard's name and table, as they are finished."""
    if workers == 1 or len(jobs) <= 1:
        yield from (evaluate_shard(job) for job in jobs)
        return
    waiting = {job[0]: job for job in jobs}
    for _ in range(MOST_DEATHS + 1):
        with ProcessPoolExecutor(min(workers, len(waiting))) as pool:
            futures = [pool.submit(evaluate_shard, job) for job in waiting.values()]
            try:
                for future in as_completed(futures):
                    name, frame = future.result()
                    del waiting[name]
                    yield name, frame
            except BrokenProcessPool:
                continue
        return
    raise SimulatorError(f"worker processes died {MOST_DEATHS + 1} times (out of memory?); use fewer with --workers")


def evaluate_shard(job: Job) -> tuple[str, pandas.DataFrame]:
    """The name and the table of a shard."""
    import pandas

    name, text, places = job
    grid = _grid(text)
    columns, reasons = evaluate_points(grid, places, kinds=True)
    numbers = np.array(places).T
    data: dict[str, Any] = {
        path: [_shown(values[number]) for number in numbers[axis]]
        for axis, (path, values) in enumerate(zip(grid.paths, grid.values, strict=True))
    }
    status = ["ok" if reason is None else "infeasible" for reason in reasons]
    return name, pandas.DataFrame({**data, **columns, "status": status, "reason": reasons})


def _shown(value: object) -> object:
    """A value of a table; blocks and lists as JSON."""
    return json.dumps(value, default=str) if isinstance(value, list | dict) else value


@lru_cache(maxsize=1)
def _grid(text: str) -> Grid:
    """The grid of a space, built once in each process."""
    data = json.loads(text)
    return make_grid(data["base"], data["axes"])
