"""Pipeline schedules: the order in which a stage runs its forward and backward chunks, and what each of them waits for.

Tasks of a stage run in that order; a forward task waits for the activation of the previous chunk, a backward task for
the gradient of the next. Who waits for whom does not depend on how long anything takes: a schedule is worked out once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simulator.errors import DeadlockError

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """All tasks of a step by waves: a task waits only for tasks of earlier waves. Every column has one entry a task."""

    stage: Indices
    forward: NDArray[np.bool_]
    chunk: Indices
    micro_batch: Indices
    before: Indices
    """The task its stage runs before it; -1 for the first."""
    awaited: Indices
    """The task whose result it needs; -1 where it needs none."""
    sent: NDArray[np.bool_]
    """Whether that result comes from another chunk, so travels."""
    waves: tuple[tuple[int, int], ...]
    """First task of each wave, and the one after its last."""
    last: Indices
    """The last task of each stage."""
    micro_batches: int


@lru_cache(maxsize=128)
def schedule_of(kind: str, stages: int, chunks: int, micro_batches: int) -> Schedule:
    """The tasks of a step. Raises DeadlockError where they wait for each other."""
    forward, chunk, micro_batch = _orders(kind, stages, chunks, micro_batches)
    awaited, sent = _awaited(forward, chunk, micro_batch, chunks)
    length = forward.shape[1]
    wave = np.array(task_waves(kind, awaited, forward, chunk, micro_batch))
    order = np.argsort(wave, kind="stable")
    place = np.empty(order.size + 1, dtype=np.int64)
    place[order], place[-1] = np.arange(order.size), -1
    first = np.arange(order.size) % length == 0
    edges = np.flatnonzero(np.diff(wave[order], prepend=-1, append=-1))
    return Schedule(
        stage=np.repeat(np.arange(stages), length)[order],
        forward=forward.ravel()[order],
        chunk=chunk.ravel()[order],
        micro_batch=micro_batch.ravel()[order],
        before=np.where(first, -1, place[np.arange(order.size) - 1])[order],
        awaited=place[awaited.ravel()[order]],
        sent=sent.ravel()[order],
        waves=tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)),
        last=place[np.arange(1, stages + 1) * length - 1],
        micro_batches=micro_batches,
    )


def _orders(kind: str, stages: int, chunks: int, micro_batches: int) -> tuple[NDArray[np.bool_], Indices, Indices]:
    """(is forward, chunk, micro-batch) of every stage's tasks in the order it runs them: arrays (stages, tasks).

    1F1B: arXiv 2104.04473 section 2.2; with several chunks the interleaved order of its section 2.2.2, in which
    micro-batches go round in groups of `stages`. A stage runs `warm` forward tasks first, then takes turns.
    """
    total = micro_batches * chunks
    warm = np.array([_warm_up(kind, stage, stages, chunks, micro_batches) for stage in range(stages)])[:, None]
    k = np.arange(2 * total)
    turn = np.where((k >= warm) & (k < 2 * total - warm), k - warm, -1)
    forward = (k < warm) | ((turn >= 0) & (turn % 2 == 0))
    nth = np.where(k < warm, k, np.where(turn < 0, k - total, turn // 2 + np.where(forward, warm, 0)))
    there = np.array(_interleave(stages, chunks, micro_batches, reverse=False))
    back = np.array(_interleave(stages, chunks, micro_batches, reverse=True))
    task = np.where(forward[:, :, None], there[nth], back[nth])
    return forward, task[:, :, 1], task[:, :, 0]


def _warm_up(kind: str, stage: int, stages: int, chunks: int, micro_batches: int) -> int:
    total = micro_batches * chunks
    if kind == "gpipe" or (chunks > 1 and micro_batches == stages):
        return total
    if chunks == 1:
        return min(stages - stage - 1, total)
    return min((stages - stage - 1) * 2 + (chunks - 1) * stages, total)


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


def _awaited(
    forward: NDArray[np.bool_], chunk: Indices, micro_batch: Indices, chunks: int
) -> tuple[Indices, NDArray[np.bool_]]:
    """(number of the task that each one waits for or -1, whether its result travels). Tasks count stage by stage.

    Chunk c of stage s is the (c stages + s)-th of the model.
    """
    stages, length = forward.shape
    number = np.empty((2, stages * chunks, length // (2 * chunks)), dtype=np.int64)
    position = chunk * stages + np.arange(stages)[:, None]
    number[forward.astype(int), position, micro_batch] = np.arange(forward.size).reshape(forward.shape)
    last = stages * chunks - 1
    source = np.where(forward, position - 1, np.minimum(position + 1, last))
    needs_forward = forward | (position == last)  # the loss follows the forward pass of its own chunk
    awaited = np.where(source < 0, -1, number[needs_forward.astype(int), np.maximum(source, 0), micro_batch])
    return awaited, (source >= 0) & (source != position)


def task_waves(
    kind: str, awaited: Indices, forward: NDArray[np.bool_], chunk: Indices, micro_batch: Indices
) -> list[int]:
    """The wave of every task: one after the later of the stage's task before it and of the one it awaits."""
    stages, length = awaited.shape
    needs: list[int] = awaited.ravel().tolist()
    waves = [-1] * len(needs)
    cursor, clock = [s * length for s in range(stages)], [-1] * stages
    left = len(needs)
    while left:
        before = left
        for s in range(stages):
            at, now, end = cursor[s], clock[s], (s + 1) * length
            while at < end:
                need = needs[at]
                if need >= 0:
                    ready = waves[need]
                    if ready < 0:
                        break
                    if ready > now:
                        now = ready
                now += 1
                waves[at] = now
                at += 1
            left -= at - cursor[s]
            cursor[s], clock[s] = at, now
        if left == before:
            held = [divmod(at, length) for s, at in enumerate(cursor) if at < (s + 1) * length]
            waiting = ", ".join(
                f"stage {s} for {_name(forward[s, k], chunk[s, k], micro_batch[s, k])}" for s, k in held
            )
            raise DeadlockError(f"the schedule '{kind}' can't go on: {waiting}")
    return waves


def _name(forward: bool, chunk: int, micro_batch: int) -> str:
    return f"{'forward' if forward else 'backward'} of micro-batch {micro_batch}, chunk {chunk}"
