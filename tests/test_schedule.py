"""Pipeline schedules: who runs what when, and how much of a step is spent filling and draining."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from strategies import pipelines

from simulator.engine.pipeline import Placed, Times, place, stage_ends
from simulator.engine.schedule import schedule_of, task_waves
from simulator.errors import DeadlockError


def uniform(stages: int, chunks: int, forward: float, backward: float, send: float = 0.0) -> Times:
    """Every stage and chunk alike."""
    return Times(((forward,) * chunks,) * stages, ((backward,) * chunks,) * stages, send)


def duration(times: Times, micro_batches: int, kind: str) -> float:
    return float(stage_ends([times], micro_batches, kind).max())


def order(stage: int, stages: int, chunks: int, micro_batches: int, kind: str = "1f1b") -> str:
    """What a stage runs, such as `F0 F1 B0 B1`; with chunks, `F0.1` is the second chunk of micro-batch 0."""
    tasks = [t for t in place(uniform(stages, chunks, 1, 1), micro_batches, kind, range(stages)) if t.stage == stage]
    chunked = ".{}" if chunks > 1 else ""
    return " ".join(
        "FB"[not t.forward] + str(t.micro_batch) + chunked.format(t.chunk)
        for t in sorted(tasks, key=lambda task: task.start)
    )


def test_the_order_of_one_forward_one_backward() -> None:
    """arXiv 2104.04473, figure 4, with four micro-batches."""
    assert order(0, 4, 1, 4) == "F0 F1 F2 F3 B0 B1 B2 B3"
    assert order(2, 4, 1, 4) == "F0 F1 B0 F2 B1 F3 B2 B3"
    assert order(3, 4, 1, 4) == "F0 B0 F1 B1 F2 B2 F3 B3"


def test_the_order_of_gpipe() -> None:
    assert order(1, 2, 1, 3, "gpipe") == "F0 F1 F2 B0 B1 B2"


def test_the_order_of_interleaving() -> None:
    """arXiv 2104.04473, section 2.2.2: two micro-batches at a time through one chunk, then through the next."""
    assert order(1, 2, 2, 4) == "F0.0 F1.0 F0.1 B0.1 F1.1 B1.1 F2.0 B0.0 F3.0 B1.0 F2.1 B2.1 F3.1 B3.1 B2.0 B3.0"
    assert (
        order(0, 2, 2, 2) == "F0.0 F1.0 F0.1 F1.1 B0.1 B1.1 B0.0 B1.0"
    )  # as many micro-batches as stages: all warm-up


@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 5), (2, 2), (4, 4), (4, 7), (4, 8), (8, 100), (16, 512)])
@pytest.mark.parametrize("kind", ["1f1b", "gpipe"])
def test_the_bubble_is_stages_less_one_in_all_rounds(stages: int, micro_batches: int, kind: str) -> None:
    """(p - 1) / (m + p - 1) of the step, for 1F1B as for GPipe (arXiv 2104.04473, section 2.2.1)."""
    step = duration(uniform(stages, 1, 1, 2), micro_batches, kind)
    assert step == pytest.approx(3 * (micro_batches + stages - 1), rel=1e-12)
    assert 1 - 3 * micro_batches / step == pytest.approx((stages - 1) / (micro_batches + stages - 1), abs=1e-12)


@pytest.mark.parametrize(
    ("stages", "chunks", "micro_batches"), [(2, 2, 2), (2, 2, 4), (4, 2, 8), (4, 3, 12), (8, 4, 128)]
)
def test_interleaving_divides_the_bubble_by_the_chunks(stages: int, chunks: int, micro_batches: int) -> None:
    """(p - 1) / (v m) of the ideal time (arXiv 2104.04473, section 2.2.2)."""
    step = duration(uniform(stages, chunks, 1 / chunks, 2 / chunks), micro_batches, "1f1b")
    ideal = 3.0 * micro_batches
    assert step / ideal - 1 == pytest.approx((stages - 1) / (chunks * micro_batches), rel=1e-12)


def test_the_slowest_stage_sets_the_pace() -> None:
    slow = Times(((1.0,), (1.0,), (2.0,)), ((1.0,), (1.0,), (2.0,)), 0.0)
    assert duration(slow, 101, "1f1b") - duration(slow, 100, "1f1b") == pytest.approx(4.0)


def test_transfers_delay_the_fill_and_the_drain_and_the_middle_only_where_it_waits() -> None:
    """One micro-batch crosses each of the p - 1 cuts twice."""
    assert duration(uniform(4, 1, 1, 2, send=0.5), 1, "1f1b") == 4 * 3 + 2 * 3 * 0.5


def test_tasks_carry_their_place() -> None:
    tasks = list(place(uniform(2, 1, 1, 2), 2, "1f1b", [1]))
    assert sorted(tasks, key=lambda task: task.start) == [
        Placed(1, True, 0, 0, 1, 2),
        Placed(1, False, 0, 0, 2, 4),
        Placed(1, True, 0, 1, 4, 5),
        Placed(1, False, 0, 1, 5, 7),
    ]


@given(pipelines())
def test_every_task_runs_once_after_what_it_needs(case: tuple[Times, int, str]) -> None:
    times, micro_batches, kind = case
    stages, chunks = len(times.forward), len(times.forward[0])
    tasks = list(place(times, micro_batches, kind, range(stages)))
    ends = {(t.forward, t.chunk * stages + t.stage, t.micro_batch): t.end for t in tasks}
    assert len(ends) == len(tasks) == 2 * stages * chunks * micro_batches
    last = stages * chunks - 1
    for t in tasks:
        position = t.chunk * stages + t.stage
        sent = times.send
        if t.forward:
            ready = ends[True, position - 1, t.micro_batch] + sent if position else 0.0
        elif position == last:
            ready = ends[True, last, t.micro_batch]
        else:
            ready = ends[False, position + 1, t.micro_batch] + sent
        assert t.start >= ready - 1e-9
    for stage in range(stages):
        mine = sorted((t for t in tasks if t.stage == stage), key=lambda t: t.start)
        assert all(later.start >= earlier.end - 1e-9 for earlier, later in pairwise(mine))


def test_tasks_that_wait_for_each_other_raise_and_are_named() -> None:
    """Two stages, each of which wants the other's last result before it does its own."""
    awaited = np.array([[3, -1], [1, -1]])
    forward, zero, one = np.array([[True, True]] * 2), np.zeros((2, 2), dtype=int), np.array([[0, 1], [0, 1]])
    with pytest.raises(DeadlockError) as caught:
        task_waves("crossed", awaited, forward, zero, one)
    assert str(caught.value) == (
        "the schedule 'crossed' can't go on: stage 0 for forward of micro-batch 0, chunk 0, "
        "stage 1 for forward of micro-batch 0, chunk 0"
    )


def test_waves_hold_what_can_run_at_the_same_time() -> None:
    schedule = schedule_of("1f1b", 2, 1, 2)
    waves = [
        {(int(schedule.stage[i]), bool(schedule.forward[i]), int(schedule.micro_batch[i])) for i in range(*wave)}
        for wave in schedule.waves
    ]
    assert waves == [
        {(0, True, 0)},
        {(0, True, 1), (1, True, 0)},
        {(1, False, 0)},
        {(0, False, 0), (1, True, 1)},
        {(1, False, 1)},
        {(0, False, 1)},
    ]
