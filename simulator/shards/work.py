"""Shards of work done by processes of this machine or by a Dask cluster.

A shard depends on nothing but its job, so one whose worker died is simply done again, and the result is the same
however many workers there were and however often the work was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import parent_process
from threading import Thread
from typing import TYPE_CHECKING, Any

from simulator.errors import SimulatorError
from simulator.shards.store import Memory, Store

if TYPE_CHECKING:
    import pandas

MOST_DEATHS = 3
"""Worker processes that may die before the work gives up."""

Progress = Callable[[int, int], None]
Do = Callable[[Any], "pandas.DataFrame"]


@dataclass(frozen=True)
class Workers:
    """Who does the work: processes of this machine, or the cluster of a Dask scheduler."""

    processes: int = 1
    scheduler: str | None = None


HERE = Workers()
"""This process alone."""


@dataclass(frozen=True)
class Job:
    """What a shard is made of: plain data for the function that makes it, and how many points it has."""

    data: Any
    points: int


def finish(
    do: Do, jobs: Mapping[str, Job], store: Store | Memory, *, workers: Workers, progress: Progress | None = None
) -> None:
    """Leave every shard of `jobs` in the store; those already there are not done again.

    `progress` is told how many points of how many are there. Raises SpecError where the store refuses or the scheduler
    can't be reached, SimulatorError where workers keep dying; what is finished stays.
    """
    waiting = {name: job.data for name, job in jobs.items() if not store.has(name)}
    total = sum(job.points for job in jobs.values())
    done = total - sum(jobs[name].points for name in waiting)
    if progress is not None and done:
        progress(done, total)
    for name, frame in _done(do, waiting, workers):
        store.write(name, frame)
        done += jobs[name].points
        if progress is not None:
            progress(done, total)


def _done(do: Do, waiting: dict[str, Any], workers: Workers) -> Iterator[tuple[str, pandas.DataFrame]]:
    """Every shard's name and table, as they are finished."""
    if not waiting:
        return
    if workers.scheduler is not None:
        from simulator.shards.cluster import on_cluster

        yield from on_cluster(workers.scheduler, do, waiting)
    elif workers.processes == 1 or len(waiting) == 1:
        yield from ((name, do(data)) for name, data in waiting.items())
    else:
        yield from _by_processes(do, waiting, workers.processes)


def _by_processes(do: Do, waiting: dict[str, Any], processes: int) -> Iterator[tuple[str, pandas.DataFrame]]:
    for _ in range(MOST_DEATHS + 1):
        with ProcessPoolExecutor(min(processes, len(waiting)), initializer=_end_with_parent) as pool:
            names = {pool.submit(do, data): name for name, data in waiting.items()}
            try:
                for future in as_completed(list(names)):
                    name, frame = names.pop(future), future.result()
                    del waiting[name]
                    yield name, frame
            except BrokenProcessPool:
                continue
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return
    raise SimulatorError(f"worker processes died {MOST_DEATHS + 1} times (out of memory?); use fewer with --workers")


def _end_with_parent() -> None:
    """In a worker: end when the process that started it is killed, which would leave it waiting for work forever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
