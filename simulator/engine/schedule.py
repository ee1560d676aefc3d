"""Pipeline schedules: the order in which a stage runs its forward and backward chunks, and when each starts.

Tasks of a stage run in that order; a forward task waits for the activation of the previous chunk, a backward task for
the gradient of the next. Start times are a longest path (max-plus). A stage's order after its warm-up repeats every
`stages` micro-batches and so does the critical path, so long schedules are folded: evaluated for a few rounds and extended
by the period of the last, which a test holds to the unfolded result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Order = list[tuple[bool, int, int]]
"""(is forward, chunk, micro-batch) in the order a stage runs them."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a stage's chunk tasks, and of the transfer to the next stage."""

    forward: Sequence[Sequence[float]]
    backward: Sequence[Sequence[float]]
    send: float


@dataclass(frozen=True, slots=True)
class Placed:
    """A task with its place in time."""

    stage: int
    forward: bool
    chunk: int
    micro_batch: int
    start: float
    end: float


def stage_order(stage: int, stages: int, chunks: int, micro_batches: int, schedule: str) -> Order:
    """What a stage runs, in order.

    1F1B: arXiv 2104.04473 section 2.2; with several chunks the interleaved order of its section 2.2.2, in which
    micro-batches go round in groups of `stages`.
    """
    m, v = micro_batches, chunks
    forwards = [(c, i) for i, c in _interleave(stages, v, m, reverse=False)]
    backwards = [(c, i) for i, c in _interleave(stages, v, m, reverse=True)]
    total = m * v
    if schedule == "gpipe":
        return [(True, c, i) for c, i in forwards] + [(False, c, i) for c, i in backwards]
    if v == 1:
        warm = min(stages - stage - 1, total)
    elif m == stages:
        warm = total
    else:
        warm = min((stages - stage - 1) * 2 + (v - 1) * stages, total)
    order: Order = [(True, c, i) for c, i in forwards[:warm]]
    for k in range(total - warm):
        c, i = forwards[warm + k]
        order.append((True, c, i))
        c, i = backwards[k]
        order.append((False, c, i))
    return order + [(False, c, i) for c, i in backwards[total - warm :]]


def _interleave(stages: int, chunks: int, micro_batches: int, *, reverse: bool) -> list[tuple[int, int]]:
    """(micro-batch, chunk) in interleaved order: `stages` micro-batches through one chunk, then through the next."""
    if chunks == 1:
        return [(i, 0) for i in range(micro_batches)]
    order = []
    for first in range(0, micro_batches, stages):
        group = range(first, min(first + stages, micro_batches))
        for chunk in range(chunks - 1, -1, -1) if reverse else range(chunks):
            order += [(i, chunk) for i in group]
    return order


def place(times: Times, micro_batches: int, schedule: str) -> list[Placed]:
    """Every task with start and end. Raises DeadlockError where the order can't be run."""
    stages, chunks = len(times.forward), len(times.forward[0])
    orders = [stage_order(s, stages, chunks, micro_batches, schedule) for s in range(stages)]
    ends: dict[tuple[bool, int, int], float] = {}
    placed: list[Placed] = []
    clock, cursor = [0.0] * stages, [0] * stages
    last = stages * chunks - 1
    left = sum(len(order) for order in orders)
    while left:
        before = left
        for s in range(stages):
            order, at, now = orders[s], cursor[s], clock[s]
            while at < len(order):
                forward, c, i = order[at]
                position = c * stages + s
                if forward:
                    ready = 0.0 if position == 0 else ends.get((True, i, position - 1), -1.0)
                    duration, lag = times.forward[s][c], times.send if position else 0.0
                elif position == last:
                    ready, duration, lag = ends.get((True, i, position), -1.0), times.backward[s][c], 0.0
                else:
                    ready, duration = ends.get((False, i, position + 1), -1.0), times.backward[s][c]
                    lag = times.send
                if ready < 0:
                    break
                start = max(now, ready + lag)
                now = start + duration
                ends[(forward, i, position)] = now
                placed.append(Placed(s, forward, c, i, start, now))
                at += 1
                left -= 1
            cursor[s], clock[s] = at, now
        if left == before:
            from simulator.errors import DeadlockError

            waiting = ", ".join(f"stage {s} for {_name(o[cursor[s]])}" for s, o in enumerate(orders) if cursor[s] < len(o))
            raise DeadlockError(f"the schedule '{schedule}' can't go on: {waiting}")
    return placed


def _name(task: tuple[bool, int, int]) -> str:
    forward, chunk, micro_batch = task
    return f"{'forward' if forward else 'backward'} of micro-batch {micro_batch}, chunk {chunk}"


FOLD_ROUNDS = 3
"""Rounds of `stages` micro-batches after which the schedule is periodic."""


def stage_ends(times: Times, micro_batches: int, schedule: str) -> list[float]:
    """Seconds at which each stage has run its last task, folding long schedules."""
    stages = len(times.forward)
    if stages == 1:
        return [micro_batches * (sum(times.forward[0]) + sum(times.backward[0]))]
    rounds = FOLD_ROUNDS + 1
    if micro_batches <= (rounds + 1) * stages:
        return _ends(times, micro_batches, schedule)
    rest = micro_batches % stages
    short, long = FOLD_ROUNDS * stages + rest, rounds * stages + rest
    near, far = _ends(times, short, schedule), _ends(times, long, schedule)
    periods = (micro_batches - long) / stages
    return [b + (b - a) * periods for a, b in zip(near, far, strict=True)]


def _ends(times: Times, micro_batches: int, schedule: str) -> list[float]:
    ends = [0.0] * len(times.forward)
    for task in place(times, micro_batches, schedule):
        ends[task.stage] = max(ends[task.stage], task.end)
    return ends
