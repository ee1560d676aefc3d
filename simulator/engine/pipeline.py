"""When the tasks of a pipeline start and end: a longest path (max-plus) through its schedule.

Between warm-up and cool-down the order of every stage repeats each round of `stages` micro-batches. A task depends on
nothing older than one round, so once two rounds lie the same time apart in all stages, all further ones do: long
schedules are folded, evaluated for as many rounds as that takes and extended by it. That is exact, not an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.engine.schedule import Schedule, schedule_of
from simulator.graph.order import Pass

Seconds = NDArray[np.float64]
Table = tuple[tuple[float, ...], ...]
"""Seconds by stage and chunk."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each stage's chunk tasks, and of the transfer to the next stage.

    Where the schedule cuts or pairs passes, what these take follows; a pair takes the seconds of both.
    """

    forward: Table
    backward: Table
    send: float
    input_gradient: Table = ()
    weight_gradient: Table = ()
    paired_forward: Table = ()
    paired_backward: Table = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """By `Pass`; empty for those that the schedule does not run."""
        cut, paired = (self.input_gradient, self.weight_gradient), (self.paired_forward, self.paired_backward)
        return self.forward, self.backward, *cut, *paired


class Placed(NamedTuple):
    """A task with its place in time."""

    stage: int
    what: Pass
    chunk: int
    micro_batch: int
    start: float
    end: float


def place(times: Times, micro_batches: int, kind: str, stages: Sequence[int]) -> Iterator[Placed]:
    """The tasks of some stages with start and end. Raises DeadlockError where the order can't be run."""
    schedule = schedule_of(kind, len(times.forward), len(times.forward[0]), micro_batches)
    chosen = np.isin(schedule.stage, stages)
    columns = (schedule.stage, schedule.what, schedule.chunk, schedule.micro_batch, _ends(schedule, [times])[:, 0])
    for s, what, c, i, end in zip(*(column[chosen].tolist() for column in columns), strict=True):
        yield Placed(s, Pass(what), c, i, end - times.tables[what][s][c], end)


FIRST_ROUNDS = 4
"""Rounds of `stages` micro-batches evaluated first: the fewest whose middle holds two. Most runs settle in them."""
SAME = 1e-12
"""Relative difference below which two periods are the same number."""


def stage_ends(points: Sequence[Times], micro_batches: int, kind: str) -> Seconds:
    """Seconds at which each stage has run its last task, long schedules folded: an array (points, stages).

    All points have as many stages and chunks as the first.
    """
    stages, chunks = len(points[0].forward), len(points[0].forward[0])
    if stages == 1:
        return np.array([[micro_batches * (sum(t.forward[0]) + sum(t.backward[0]))] for t in points])
    ends = np.empty((len(points), stages))
    left = np.arange(len(points))
    rounds = FIRST_ROUNDS
    while left.size:
        count = min(micro_batches, rounds * stages + micro_batches % stages)
        schedule = schedule_of(kind, stages, chunks, micro_batches if kind == "gpipe" else count)
        tasks = _ends(schedule, [points[i] for i in left.tolist()])
        period = np.zeros(left.size) if schedule.micro_batches == micro_batches else _period(schedule, tasks)
        done = ~np.isnan(period)
        skipped = (micro_batches - count) / stages
        ends[left[done]] = tasks[schedule.last][:, done].T + period[done, None] * skipped
        left, rounds = left[~done], rounds * 2
    return ends


def _period(schedule: Schedule, ends: Seconds) -> Seconds:
    """Seconds a round takes from the middle of the schedule on: one for each point, NaN where it has not settled."""
    if schedule.rounds is None:
        return np.full(ends.shape[1], np.nan)
    rounds = ends[schedule.rounds]
    gain = rounds[:, 1] - rounds[:, 0]
    period = gain[0, 0]
    same = (np.abs(gain - period) <= SAME * period).all(axis=(0, 1))
    return np.where(same, period, np.nan)


WIDE = 40
"""Tasks that must be evaluated at once for numpy to be faster than a loop."""


def _ends(schedule: Schedule, points: Sequence[Times]) -> Seconds:
    """Ends of all tasks: an array (tasks, points)."""
    if len(points) * schedule.last.size < WIDE and schedule.released.shape[1] == 1:
        return np.array([_ends_of_one(schedule, times) for times in points]).T
    rows = np.array([_rows(times) for times in points]).T
    durations = rows[_durations(schedule, points[0])]
    sends = np.array([times.send for times in points])
    needs = [
        (released, np.multiply.outer(sent, sends))
        for released, sent in zip(schedule.released.T, schedule.sent.T, strict=True)
    ]
    ends = np.zeros((len(durations) + 1, len(points)))  # the last row is the start of time, at index -1
    for begin, end in schedule.waves:
        now = ends[begin:end]
        np.copyto(now, ends.take(schedule.before[begin:end], axis=0))
        for released, lags in needs:
            ready = ends.take(released[begin:end], axis=0)
            ready += lags[begin:end]
            np.maximum(now, ready, out=now)
        now += durations[begin:end]
    return ends[:-1]


def _ends_of_one(schedule: Schedule, times: Times) -> list[float]:
    """The same of one point whose tasks need one result each."""
    rows, lags = _rows(times), (0.0, times.send)
    ends = [0.0] * (schedule.stage.size + 1)
    columns = (schedule.before, schedule.released[:, 0], schedule.sent[:, 0], _durations(schedule, times))
    for task, (before, released, sent, row) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        ready, now = ends[released] + lags[sent], ends[before]
        ends[task] = (ready if ready > now else now) + rows[row]
    return ends[:-1]


def _rows(times: Times) -> list[float]:
    """The seconds of all tables after one another."""
    return [seconds for table in times.tables for row in table for seconds in row]


def _durations(schedule: Schedule, times: Times) -> NDArray[np.int64]:
    """Which entry of all tables after one another each task takes."""
    sizes = [sum(map(len, table)) for table in times.tables]
    first = np.cumsum([0, *sizes[:-1]])
    return np.asarray(first[schedule.what] + schedule.stage * len(times.forward[0]) + schedule.chunk)
