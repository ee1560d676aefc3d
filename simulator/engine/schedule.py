"""Pipeline schedules: what each task of a step waits for, in waves that can be evaluated together.

Tasks of a stage run in its order (simulator.graph.order); a forward pass waits for the activation of the previous
chunk, a backward pass for the gradient of the next, weight gradients for nothing but their turn. A pair starts when
both of its passes can. Who waits for whom does not depend on how long anything takes: a schedule is worked out once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from simulator.errors import DeadlockError
from simulator.graph.order import PAIRING, Indices, Pass, orders, position, steady

NAMES = {
    Pass.FORWARD: "forward",
    Pass.BACKWARD: "backward",
    Pass.INPUT_GRADIENT: "input gradient",
    Pass.WEIGHT_GRADIENT: "weight gradient",
    Pass.PAIRED_FORWARD: "paired forward",
    Pass.PAIRED_BACKWARD: "paired backward",
}


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """All tasks of a step by waves: a task waits only for tasks of earlier waves. Every column has one entry a task."""

    stage: Indices
    what: Indices
    """A `Pass`."""
    chunk: Indices
    micro_batch: Indices
    before: Indices
    """The task its stage runs before it; -1 for the first."""
    awaited: Indices
    """The tasks whose results it needs, a column for each that one may need: two where a pair starts. -1 where none."""
    released: Indices
    """The task at whose end an awaited result is out: that task, or the second of its pair."""
    sent: NDArray[np.bool_]
    """Whether an awaited result comes from another stage, so travels."""
    waves: tuple[tuple[int, int], ...]
    """First task of each wave, and the one after its last."""
    last: Indices
    """The last task of each stage."""
    rounds: Indices | None
    """Of each stage, the tasks of two rounds that follow each other and repeat: an array (stages, 2, tasks)."""
    micro_batches: int


@lru_cache(maxsize=128)
def schedule_of(kind: str, stages: int, chunks: int, micro_batches: int) -> Schedule:
    """The tasks of a step, `micro_batches` through each chunk. Raises DeadlockError where they wait for each other."""
    rows = orders(kind, stages, chunks, micro_batches)
    starts = [0, *accumulate(map(len, rows))]
    what, chunk, micro_batch = np.concatenate(rows).T.copy()
    stage = np.repeat(np.arange(stages), np.diff(starts))
    awaited, sent = _awaited(kind, stage, what, chunk, micro_batch)
    own = np.arange(stage.size)
    out = np.append(np.where(what == Pass.PAIRED_FORWARD, own + 1, own), -1)

    def name(task: int) -> str:
        return f"{NAMES[Pass(what[task])]} of micro-batch {micro_batch[task]}, chunk {chunk[task]}"

    wave = np.array(task_waves(out[awaited], starts, name, kind))
    order = np.argsort(wave, kind="stable")
    place = np.empty(own.size + 1, dtype=np.int64)
    place[order], place[-1] = own, -1
    first = np.isin(own, starts)
    edges = np.flatnonzero(np.diff(wave[order], prepend=-1, append=-1))
    rounds = _rounds(kind, chunks, starts)
    return Schedule(
        stage=stage[order],
        what=what[order],
        chunk=chunk[order],
        micro_batch=micro_batch[order],
        before=np.where(first, -1, place[own - 1])[order],
        awaited=place[awaited[order]],
        released=place[out[awaited[order]]],
        sent=sent[order],
        waves=tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)),
        last=place[np.array(starts[1:]) - 1],
        rounds=None if rounds is None else place[rounds],
        micro_batches=micro_batches,
    )


def _awaited(
    kind: str, stage: Indices, what: Indices, chunk: Indices, micro_batch: Indices
) -> tuple[Indices, NDArray[np.bool_]]:
    """(numbers of the tasks that each one waits for or -1, whether their results travel): arrays (tasks, needs).

    A chunk's weight gradients wait for nobody: their stage ran what they need before.
    """
    stages, size = int(stage[-1]) + 1, what.size
    place = np.array([[position(kind, s, c, stages) for c in range(int(chunk.max()) + 1)] for s in range(stages)])
    where = place[stage, chunk]
    path = chunk if kind in PAIRING else np.zeros_like(chunk)  # micro-batches of the two directions are different ones
    forward = (what == Pass.FORWARD) | (what == Pass.PAIRED_FORWARD)
    passing = what != Pass.WEIGHT_GRADIENT
    last = int(where.max())
    number = np.full((2, int(path.max()) + 1, last + 1, int(micro_batch.max()) + 1), -1, dtype=np.int64)
    ways = forward.astype(int)
    number[ways[passing], path[passing], where[passing], micro_batch[passing]] = np.flatnonzero(passing)
    source = np.where(forward, where - 1, np.minimum(where + 1, last))
    needs_forward = forward | (where == last)  # the loss follows the forward pass of its own chunk
    found = number[needs_forward.astype(int), path, np.maximum(source, 0), micro_batch]
    awaited = np.where(passing & (source >= 0), found, -1)
    sent = (awaited >= 0) & (source != where)
    paired = np.flatnonzero(what == Pass.PAIRED_FORWARD)
    if not paired.size:
        return awaited[:, None], sent[:, None]
    both, travel = np.full((size, 2), -1), np.zeros((size, 2), dtype=bool)
    both[:, 0], travel[:, 0] = awaited, sent
    both[paired, 1], travel[paired, 1] = awaited[paired + 1], sent[paired + 1]
    return both, travel


def _rounds(kind: str, chunks: int, starts: Sequence[int]) -> Indices | None:
    """The tasks of the last two rounds before a schedule drains; None where it has not as many."""
    margin, window = steady(kind, len(starts) - 1, chunks)
    if min(np.diff(starts)) < 2 * (margin + window):
        return None
    ends = np.array(starts[1:]) - margin
    return np.asarray(ends[:, None, None] + np.arange(-2 * window, 0).reshape(2, window))


def task_waves(released: Indices, starts: Sequence[int], name: Callable[[int], str], kind: str) -> list[int]:
    """The wave of every task: one after the later of the stage's task before it and of those it waits for.

    Tasks count stage by stage: `starts` are the first of each, and their number. -1 stands for no task; `name` says
    what one does.
    """
    needs: list[list[int]] = released.tolist()
    waves = [-1] * len(needs)
    cursor, clock = list(starts[:-1]), [-1] * (len(starts) - 1)
    left = len(needs)
    while left:
        before = left
        for s, end in enumerate(starts[1:]):
            at, now = cursor[s], clock[s]
            while at < end:
                blocked = False
                for need in needs[at]:
                    if need >= 0:
                        ready = waves[need]
                        if ready < 0:
                            blocked = True
                            break
                        if ready > now:
                            now = ready
                if blocked:
                    break
                now += 1
                waves[at] = now
                at += 1
            left -= at - cursor[s]
            cursor[s], clock[s] = at, now
        if left == before:
            held = [(s, at) for s, at in enumerate(cursor) if at < starts[s + 1]]
            waiting = ", ".join(f"stage {s} for {name(at)}" for s, at in held)
            raise DeadlockError(f"the schedule '{kind}' can't go on: {waiting}")
    return waves
