"""Pipeline schedules: who runs what when, and how much of a step is spent filling and draining."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from strategies import pipelines

from simulator.engine.pipeline import Placed, Times, place, stage_ends
from simulator.engine.schedule import schedule_of, task_waves
from simulator.errors import DeadlockError
from simulator.graph.order import Held, Pass, fullest, position, runs

LETTERS = {
    Pass.FORWARD: "F",
    Pass.BACKWARD: "B",
    Pass.INPUT_GRADIENT: "I",
    Pass.WEIGHT_GRADIENT: "W",
    Pass.PAIRED_FORWARD: "f",
    Pass.PAIRED_BACKWARD: "b",
}


def uniform(
    stages: int,
    chunks: int,
    forward: float,
    backward: float,
    send: float = 0.0,
    weights: float = 1.0,
    pair: float = 3.0,
) -> Times:
    """Every stage and chunk alike."""
    passes = (backward - weights, weights, pair / 3, pair * 2 / 3)
    cut = [((seconds,) * chunks,) * stages for seconds in passes]
    return Times(((forward,) * chunks,) * stages, ((backward,) * chunks,) * stages, send, *cut)


def duration(times: Times, micro_batches: int, kind: str) -> float:
    return float(stage_ends([times], micro_batches, kind).max())


def order(stage: int, stages: int, chunks: int, micro_batches: int, kind: str = "1f1b") -> str:
    """What a stage runs, such as `F0 F1 B0 B1`; with chunks, `F0.1` is the second chunk of micro-batch 0."""
    tasks = [t for t in place(uniform(stages, chunks, 1, 1), micro_batches, kind, range(stages)) if t.stage == stage]
    chunked = ".{}" if chunks > 1 else ""
    return " ".join(
        LETTERS[t.what] + str(t.micro_batch) + chunked.format(t.chunk)
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
        Placed(1, Pass.FORWARD, 0, 0, 1, 2),
        Placed(1, Pass.BACKWARD, 0, 0, 2, 4),
        Placed(1, Pass.FORWARD, 0, 1, 4, 5),
        Placed(1, Pass.BACKWARD, 0, 1, 5, 7),
    ]


@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 2), (4, 4), (4, 9), (8, 100), (16, 512)])
@pytest.mark.parametrize(("forward", "inputs", "weights"), [(1.0, 1.0, 1.0), (1.0, 1.2, 0.8)])
def test_the_bubble_of_zb_h1(stages: int, micro_batches: int, forward: float, inputs: float, weights: float) -> None:
    """(p - 1)(F + B - W) with B the input gradient alone (arXiv 2401.10241 table 2): (p - 1)(F + B - 2W) where B is
    all of the backward pass (arXiv 2412.19437 table 2)."""
    times = uniform(stages, 1, forward, inputs + weights, weights=weights)
    bubble = duration(times, micro_batches, "zb-h1") - micro_batches * (forward + inputs + weights)
    assert bubble == pytest.approx((stages - 1) * (forward + inputs - weights), rel=1e-9)


@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 2), (4, 4), (8, 10), (8, 90), (16, 60)])
@pytest.mark.parametrize("pair", [3.0, 2.5])
def test_the_bubble_of_dualpipe(stages: int, micro_batches: int, pair: float) -> None:
    """(p/2 - 1)(F&B + B - 3W) on the ranks in the middle (arXiv 2412.19437 table 2), with F = W and B = 2 W."""
    times = uniform(stages, 2, 1.0, 2.0, pair=pair)
    tasks = runs("dualpipe", stages // 2, stages, 2, micro_batches)
    busy = sum(times.tables[what][0][0] * count for (what, _), count in tasks.items())
    bubble = duration(times, micro_batches, "dualpipe") - busy
    assert bubble == pytest.approx((stages / 2 - 1) * (pair + 2.0 - 3.0), abs=1e-9)


def test_the_order_of_zb_h1() -> None:
    """Stage s is s weight gradients behind."""
    assert order(0, 3, 1, 4, "zb-h1") == "F0 F1 F2 I0 W0 F3 I1 W1 I2 W2 I3 W3"
    assert order(2, 3, 1, 4, "zb-h1") == "F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3"


def test_the_order_of_dualpipe() -> None:
    """Two ranks, two micro-batches from either end: the middle of a pipeline that has nothing else."""
    assert order(0, 2, 2, 2, "dualpipe") == "F0.0 F0.1 F1.0 B0.1 f1.1 b0.0 B1.1 I1.0 W1.0"
    assert order(1, 2, 2, 2, "dualpipe") == "F0.1 F0.0 F1.1 B0.0 f1.0 b0.1 B1.0 I1.1 W1.1"


@pytest.mark.parametrize("stages", [2, 4, 8, 16])
def test_what_stages_keep_at_most(stages: int) -> None:
    """PP micro-batches with 1F1B on the first stage, PP + 1 everywhere with DualPipe (arXiv 2412.19437 table 2); with
    ZB-H1 stage s has PP - s in flight and s that wait for their weight gradients (arXiv 2401.10241 section 2.1)."""
    many = 4 * stages
    for stage in range(stages):
        assert fullest("1f1b", stage, stages, 1, many) == (Held(stages - stage, 0),)
        assert fullest("zb-h1", stage, stages, 1, many) == (Held(stages - stage, stage),)
        assert fullest("gpipe", stage, stages, 1, many) == (Held(many, 0),)
        held = fullest("dualpipe", stage, stages, 2, many)
        assert max(h.in_flight for h in held) == stages + 1
        assert max(h.in_flight + h.deferred for h in held) == stages + 1


PARTS = {
    Pass.FORWARD: "F",
    Pass.BACKWARD: "IW",
    Pass.INPUT_GRADIENT: "I",
    Pass.WEIGHT_GRADIENT: "W",
    Pass.PAIRED_FORWARD: "F",
    Pass.PAIRED_BACKWARD: "IW",
}
"""Forward, input gradient, weight gradient: what a task leaves done."""


@given(pipelines())
def test_every_task_runs_once_after_what_it_needs(case: tuple[Times, int, str]) -> None:
    times, micro_batches, kind = case
    stages, chunks = len(times.forward), len(times.forward[0])
    tasks = list(place(times, micro_batches, kind, range(stages)))
    done: dict[tuple[str, int, int, int], float] = {}
    for stage in range(stages):
        mine = [t for t in tasks if t.stage == stage]  # in the order they run
        assert all(later.start >= earlier.end - 1e-9 for earlier, later in pairwise(mine))
        expected = {key: n for key, n in runs(kind, stage, stages, chunks, micro_batches).items() if n}
        assert Counter((t.what, t.chunk) for t in mine) == expected
        for t, after in zip(mine, [*mine[1:], None], strict=True):
            out = after.end if t.what is Pass.PAIRED_FORWARD and after else t.end  # a pair's results are out together
            for part in PARTS[t.what]:
                key = (part, *where(kind, t, stages), t.micro_batch)
                assert key not in done
                done[key] = out
    last = stages * (1 if kind == "dualpipe" else chunks) - 1
    for t in tasks:
        path, place_in_model = where(kind, t, stages)

        def ready(part: str, at: int, path: int = path, micro_batch: int = t.micro_batch) -> float:
            return done[part, path, at, micro_batch]

        if t.what is Pass.WEIGHT_GRADIENT:
            assert t.start >= ready("I", place_in_model) - 1e-9
        elif not t.what.goes_forward and place_in_model == last:
            assert t.start >= ready("F", last) - 1e-9
        elif not t.what.goes_forward:
            assert t.start >= ready("I", place_in_model + 1) + times.send - 1e-9
        elif place_in_model:
            assert t.start >= ready("F", place_in_model - 1) + times.send - 1e-9


def where(kind: str, task: Placed, stages: int) -> tuple[int, int]:
    """The direction a task's micro-batch travels in, and the part of the model it passes."""
    return task.chunk if kind == "dualpipe" else 0, position(kind, task.stage, task.chunk, stages)


def test_tasks_that_wait_for_each_other_raise_and_are_named() -> None:
    """Two stages, each of which wants the other's last result before it does its own."""
    with pytest.raises(DeadlockError) as caught:
        task_waves(np.array([[3], [-1], [1], [-1]]), [0, 2, 4], lambda task: f"task {task}", "crossed")
    assert str(caught.value) == "the schedule 'crossed' can't go on: stage 0 for task 0, stage 1 for task 2"


def test_waves_hold_what_can_run_at_the_same_time() -> None:
    schedule = schedule_of("1f1b", 2, 1, 2)
    waves = [
        {(int(schedule.stage[i]), int(schedule.what[i]), int(schedule.micro_batch[i])) for i in range(*wave)}
        for wave in schedule.waves
    ]
    forward, backward = Pass.FORWARD, Pass.BACKWARD
    assert waves == [
        {(0, forward, 0)},
        {(0, forward, 1), (1, forward, 0)},
        {(1, backward, 0)},
        {(0, backward, 0), (1, forward, 1)},
        {(1, backward, 1)},
        {(0, backward, 1)},
    ]
