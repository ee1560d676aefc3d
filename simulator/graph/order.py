"""In which order the stages of a pipeline run their passes: pure counting, which no duration enters.

1F1B and its interleaving: arXiv 2104.04473 sections 2.2.1 and 2.2.2. ZB-H1 (arXiv 2401.10241 section 2.1) cuts the
backward pass in two: the gradient of the input, which the stage before waits for, and that of the weights, which
nobody does; stage s runs the latter s micro-batches late and fills the drain with them. DualPipe (arXiv 2412.19437
section 3.2.1 and figure 5) feeds micro-batches from both ends, holds two chunks on each rank, runs a forward and a
backward pass of opposite directions as one pair, and cuts the backward passes that fill and drain.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class Pass(IntEnum):
    """What a task does with its chunk."""

    FORWARD = 0
    BACKWARD = 1
    INPUT_GRADIENT = 2
    WEIGHT_GRADIENT = 3
    PAIRED_FORWARD = 4
    """Runs as one with the paired backward pass that follows it: both start when both can, and end together."""
    PAIRED_BACKWARD = 5

    @property
    def goes_forward(self) -> bool:
        """Whether it needs the activation of the chunk before, not the gradient of the chunk after."""
        return self in (Pass.FORWARD, Pass.PAIRED_FORWARD)


class Task(NamedTuple):
    """One pass of one micro-batch through one chunk of a stage."""

    what: int
    chunk: int
    micro_batch: int


class Held(NamedTuple):
    """What a stage keeps at a moment: passes whose backward is not done, and those that only lack weight gradients."""

    in_flight: int
    deferred: int


CUTTING = frozenset({"zb-h1", "dualpipe"})
"""Schedules that run the gradients of weights apart."""
PAIRING = frozenset({"dualpipe"})
"""Schedules that run a forward and a backward pass as one."""


def position(kind: str, stage: int, chunk: int, stages: int) -> int:
    """Which part of the model, in its order, a chunk of a stage holds; DualPipe's second one mirrors the first."""
    return stages - 1 - stage if kind in PAIRING and chunk else chunk * stages + stage


def neighbour(kind: str, stage: int, chunk: int, stages: int, *, forward: bool) -> int:
    """The stage that waits for a chunk's activation (`forward`) or for its gradient."""
    reversed_way = kind in PAIRING and chunk == 1
    return (stage + (1 if forward != reversed_way else -1)) % stages


def near_chunk(stage: int, stages: int) -> int:
    """DualPipe: the chunk whose micro-batches enter at the rank's own end of the pipeline; it runs first and last."""
    return 0 if stage < stages // 2 else 1


def orders(kind: str, stages: int, chunks: int, micro_batches: int) -> list[Indices]:
    """The tasks of every stage in the order it runs them: for each an array (tasks, 3) of `Task`s.

    `micro_batches` are those that pass each chunk: with DualPipe half of a step's.
    """
    match kind:
        case "zb-h1":
            return [np.array(_zero_bubble(stage, stages, micro_batches)) for stage in range(stages)]
        case "dualpipe":
            return [np.array(_dualpipe(stage, stages, micro_batches)) for stage in range(stages)]
        case _:
            return list(_turns(kind, stages, chunks, micro_batches))


def steady(kind: str, stages: int, chunks: int) -> tuple[int, int]:
    """(tasks at either end of a stage's order that may not repeat, tasks of a round of `stages` micro-batches)."""
    match kind:
        case "zb-h1":
            return 2 * (stages - 1), 3 * stages
        case "dualpipe":
            return 3 * stages + 4, 4 * stages
        case _:
            return (stages - 1) * (1 if chunks == 1 else 2) + (chunks - 1) * stages, 2 * chunks * stages


def runs(kind: str, stage: int, stages: int, chunks: int, micro_batches: int) -> dict[tuple[Pass, int], int]:
    """How often a stage runs each pass of each of its chunks in a step."""
    match kind:
        case "zb-h1":
            return {(what, 0): micro_batches for what in (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)}
        case "dualpipe":  # what fills and drains is the same for any number of micro-batches, and the rest is pairs
            more = {(what, chunk): micro_batches - stages for what in PAIR for chunk in (0, 1)}
            for what, chunk, _ in _dualpipe(stage, stages, stages):
                key = (Pass(what), chunk)
                more[key] = more.get(key, 0) + 1
            return more
        case _:
            return {(what, chunk): micro_batches for what in (Pass.FORWARD, Pass.BACKWARD) for chunk in range(chunks)}


PAIR = (Pass.PAIRED_FORWARD, Pass.PAIRED_BACKWARD)


@lru_cache(maxsize=1024)
def fullest(kind: str, stage: int, stages: int, chunks: int, micro_batches: int) -> tuple[Held, ...]:
    """What a stage keeps at the moments at which it may keep the most."""
    total = micro_batches * chunks
    match kind:
        case "gpipe":
            return (Held(total, 0),)
        case "zb-h1":
            return (Held(min(stages - stage, total), min(stage, max(0, total - stages + stage))),)
        case "dualpipe":
            return tuple(dict.fromkeys(_held(_dualpipe(stage, stages, stages))))
        case _:
            warm = warm_up(kind, stage, stages, chunks, micro_batches)
            return (Held(min(warm + 1, total), 0),)


def _held(tasks: list[Task]) -> list[Held]:
    """What is kept while each task runs."""
    flight = late = 0
    out = []
    for what, _, _ in tasks:
        flight += Pass(what).goes_forward
        out.append(Held(flight, late))
        flight -= what in (Pass.BACKWARD, Pass.PAIRED_BACKWARD, Pass.INPUT_GRADIENT)
        late += (what == Pass.INPUT_GRADIENT) - (what == Pass.WEIGHT_GRADIENT)
    return out


def _turns(kind: str, stages: int, chunks: int, micro_batches: int) -> Indices:
    """GPipe, 1F1B and its interleaving: an array (stages, tasks, 3).

    A stage runs its warm-up of forward tasks first, then takes turns. With several chunks micro-batches go round in
    groups of `stages`.
    """
    total = micro_batches * chunks
    warm = np.array([warm_up(kind, stage, stages, chunks, micro_batches) for stage in range(stages)])[:, None]
    k = np.arange(2 * total)
    turn = np.where((k >= warm) & (k < 2 * total - warm), k - warm, -1)
    forward = (k < warm) | ((turn >= 0) & (turn % 2 == 0))
    nth = np.where(k < warm, k, np.where(turn < 0, k - total, turn // 2 + np.where(forward, warm, 0)))
    there = np.array(_interleave(stages, chunks, micro_batches, reverse=False))
    back = np.array(_interleave(stages, chunks, micro_batches, reverse=True))
    where = np.where(forward[:, :, None], there[nth], back[nth])
    what = np.where(forward, int(Pass.FORWARD), int(Pass.BACKWARD))
    return np.concatenate([what[:, :, None], where], axis=2)


def warm_up(kind: str, stage: int, stages: int, chunks: int, micro_batches: int) -> int:
    """Forward tasks a stage runs before it takes turns."""
    total = micro_batches * chunks
    if kind == "gpipe" or (chunks > 1 and micro_batches == stages):
        return total
    if chunks == 1:
        return min(stages - stage - 1, total)
    return min((stages - stage - 1) * 2 + (chunks - 1) * stages, total)


def _interleave(stages: int, chunks: int, micro_batches: int, *, reverse: bool) -> list[tuple[int, int]]:
    """(chunk, micro-batch) in interleaved order: `stages` micro-batches through one chunk, then through the next."""
    if chunks == 1:
        return [(0, i) for i in range(micro_batches)]
    order = []
    for first in range(0, micro_batches, stages):
        group = range(first, min(first + stages, micro_batches))
        for chunk in range(chunks - 1, -1, -1) if reverse else range(chunks):
            order += [(chunk, i) for i in group]
    return order


def _zero_bubble(stage: int, stages: int, micro_batches: int) -> list[Task]:
    """1F1B with the weight gradients of stage s run s micro-batches after their input gradients."""
    warm = min(stages - stage - 1, micro_batches)
    tasks = [Task(Pass.FORWARD, 0, i) for i in range(warm)]
    for i in range(micro_batches):
        if warm + i < micro_batches:
            tasks.append(Task(Pass.FORWARD, 0, warm + i))
        tasks.append(Task(Pass.INPUT_GRADIENT, 0, i))
        if i >= stage:
            tasks.append(Task(Pass.WEIGHT_GRADIENT, 0, i - stage))
    late = range(max(0, micro_batches - stage), micro_batches)
    return tasks + [Task(Pass.WEIGHT_GRADIENT, 0, i) for i in late]


def _dualpipe(stage: int, stages: int, micro_batches: int) -> list[Task]:
    """Figure 5 of arXiv 2412.19437, from the ends (`outside` 0) to the middle of the pipeline (`inside` 0)."""
    outside = min(stage, stages - 1 - stage)
    inside = stages // 2 - 1 - outside
    near = near_chunk(stage, stages)
    far = 1 - near
    plan = _Plan()
    plan.add(2 * inside, (Pass.FORWARD, near))
    plan.add(outside + 1, (Pass.FORWARD, near), (Pass.FORWARD, far))
    plan.add(inside, (Pass.INPUT_GRADIENT, far), WEIGHTS, (Pass.FORWARD, far))
    pairs = micro_batches - stages + outside + 1
    if inside == 0:  # the two ranks in the middle do not wait to overlap their first two passes
        plan.add(1, (Pass.FORWARD, near), (Pass.BACKWARD, far), *_pair(far, near))
        pairs -= 1
    plan.add(pairs, *_pair(near, far), *_pair(far, near))
    plan.add(inside, (Pass.BACKWARD, far), *_pair(far, near))
    drain = [(Pass.BACKWARD, far), (Pass.BACKWARD, near)] * (outside + 1)
    cut = [(Pass.INPUT_GRADIENT, chunk) for _, chunk in drain[outside + 1 :]]
    plan.add(1, *drain[: outside + 1], *cut)
    plan.add(inside, WEIGHTS, (Pass.INPUT_GRADIENT, near))
    plan.add(outside + 1, WEIGHTS)
    return plan.tasks


WEIGHTS = (Pass.WEIGHT_GRADIENT, 0)
"""The oldest weight gradients that are left over, of whichever chunk."""


def _pair(there: int, back: int) -> tuple[tuple[Pass, int], tuple[Pass, int]]:
    return (Pass.PAIRED_FORWARD, there), (Pass.PAIRED_BACKWARD, back)


class _Plan:
    """Tasks in order; each takes the next micro-batch of its chunk in its direction, weight gradients the oldest."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.next: dict[tuple[bool, int], int] = {}
        self.late: list[tuple[int, int]] = []

    def add(self, times: int, *passes: tuple[Pass, int]) -> None:
        for what, chunk in passes * times:
            if what is Pass.WEIGHT_GRADIENT:
                self.tasks.append(Task(what, *self.late.pop(0)))
                continue
            key = (what.goes_forward, chunk)
            micro_batch = self.next[key] = self.next.get(key, -1) + 1
            self.tasks.append(Task(what, chunk, micro_batch))
            if what is Pass.INPUT_GRADIENT:
                self.late.append((chunk, micro_batch))
