"""Long schedules are evaluated for a few rounds only: the answer is that of the whole schedule, to the last digit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import pipelines

from simulator.engine.pipeline import Times, place, stage_ends


def unfolded(times: Times, micro_batches: int, kind: str) -> list[float]:
    """The end of every stage's last task when all of them are placed."""
    stages = range(len(times.forward))
    tasks = list(place(times, micro_batches, kind, stages))
    return [max(t.end for t in tasks if t.stage == s) for s in stages]


@settings(max_examples=200)
@given(pipelines())
def test_folded_equals_unfolded(case: tuple[Times, int, str]) -> None:
    times, micro_batches, kind = case
    assert stage_ends([times], micro_batches, kind)[0] == pytest.approx(unfolded(times, micro_batches, kind), rel=1e-12)


@pytest.mark.parametrize("slack", [0.001, 0.01, 0.1])
def test_a_pipeline_that_settles_late_is_followed_until_it_does(slack: float) -> None:
    """The last stage is a little slower than the first: rounds pass before all wait for it."""
    times = Times(((1.0,), (0.1,), (0.1,), (1.0 + slack,)), ((1.0,), (0.1,), (0.1,), (1.0,)), 0.0)
    assert stage_ends([times], 200, "1f1b")[0] == pytest.approx(unfolded(times, 200, "1f1b"), rel=1e-12)


def test_points_of_one_shape_are_what_they_are_alone() -> None:
    """Those that settle early and those that settle late, few (a loop) and many (numpy)."""
    points = [
        Times(((1.0 + i / 7,), (1.0,), (1.2,)), ((2.0,), (2.0 + (i % 5) / 100,), (1.9,)), (i % 3) / 10)
        for i in range(30)
    ]
    together = stage_ends(points, 100, "1f1b")
    assert together.shape == (30, 3)
    for point, row in zip(points, together, strict=True):
        np.testing.assert_allclose(stage_ends([point], 100, "1f1b")[0], row, rtol=1e-13)


def test_the_cost_of_a_long_schedule_is_that_of_its_first_rounds() -> None:
    """A million micro-batches could not be evaluated one by one."""
    times = Times(((1.0,), (1.0,)), ((2.0,), (2.0,)), 0.0)
    assert stage_ends([times], 10**6, "1f1b")[0] == pytest.approx([3e6 + 3, 3e6 + 1])
