"""Goodput: closed forms of failures and checkpoints, the best interval, and what it does to a training's days."""

from __future__ import annotations

from math import e, exp, expm1, sqrt
from typing import Any

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import lambertw

from simulator import simulate
from simulator.cost.goodput import best_interval, checkpoint_interval, goodput, mean_time_between_failures
from simulator.errors import InfeasibleError, SpecError
from simulator.spec.workload import Reliability

HOUR = 3600.0


def reliability(**fields: Any) -> Reliability:
    return Reliability.model_validate({"checkpoint_time": "60 s", "restart_time": "0 s", **fields})


def test_a_thousand_gpus_fail_a_thousand_times_as_often() -> None:
    assert mean_time_between_failures(reliability(gpu_mtbf="1000 h"), 1000) == pytest.approx(HOUR)


def test_llama_3_stopped_every_three_hours() -> None:
    """arXiv 2407.21783: 419 unexpected interruptions in 54 days on 16,384 GPUs; over 90 % of the time was effective."""
    stated = reliability(restart_time="10 min")
    assert mean_time_between_failures(stated, 16384) == pytest.approx(54 * 24 * HOUR / 419, rel=0.02)
    assert 0.80 < goodput(stated, 16384) < 0.90  # random failures, each repeated from the last checkpoint
    assert goodput(reliability(checkpoint_time="5 s", restart_time="5 min"), 16384) > 0.90


def test_work_as_long_as_the_time_between_failures() -> None:
    # no checkpoint cost, no restart: t = M gives t / (M (e - 1))
    stated = reliability(gpu_mtbf="8 h", checkpoint_time="0 s", checkpoint_interval="1 h")
    assert goodput(stated, 8) == pytest.approx(1 / (e - 1))


def test_restarts_come_on_top() -> None:
    stated = reliability(gpu_mtbf="8 h", restart_time="30 min", checkpoint_interval="1 h")
    assert goodput(stated, 8) == pytest.approx(exp(-0.5) / expm1(3660 / 3600))


def test_free_checkpoints_lose_only_the_restarts() -> None:
    assert goodput(reliability(gpu_mtbf="8 h", checkpoint_time="0 s", restart_time="6 min"), 8) == pytest.approx(
        exp(-0.1)
    )


@given(st.floats(1.0, 1e4), st.floats(10.0, 1e6))
def test_the_best_interval_is_dalys(checkpoint: float, between: float) -> None:
    exact = between * (1 + lambertw(-exp(-1 - checkpoint / between)).real)
    assert best_interval(checkpoint, between) == pytest.approx(exact, rel=1e-6)


def test_youngs_approximation_holds_for_rare_failures() -> None:
    assert best_interval(60.0, 1e7) == pytest.approx(sqrt(2 * 60.0 * 1e7), rel=2e-3)


@given(st.floats(0.2, 5.0))
def test_no_other_interval_is_better(factor: float) -> None:
    best = reliability()
    other = reliability(checkpoint_interval=f"{checkpoint_interval(best, 4096) * factor} s")
    assert goodput(other, 4096) <= goodput(best, 4096) * (1 + 1e-12)


def test_days_and_money_hold_the_time_lost() -> None:
    blocks: dict[str, Any] = {"training": {"tokens": 10**12}, "economics": {"gpu_hour": "2 USD/h"}}
    calm = simulate(toy.run(gpus=8, **blocks))
    rough = simulate(
        toy.run(
            gpus=8,
            reliability={
                "gpu_mtbf": "8 h",
                "checkpoint_time": "0 s",
                "restart_time": "0 s",
                "checkpoint_interval": "1 h",
            },
            **blocks,
        )
    )
    assert calm.goodput is None
    assert rough.goodput is not None
    assert rough.goodput.value == pytest.approx(1 / (e - 1))
    assert rough.goodput.high == 1.0
    for name in ("days", "cost_usd", "energy_total_j", "carbon_kg"):
        before, after = getattr(calm, name).value, getattr(rough, name).value
        assert after / before == pytest.approx(e - 1), name
    assert rough.step_time_s == calm.step_time_s
    (row,) = [row for row in rough.assumptions if row.name == "Failures and restarts"]
    assert row.value == "one in 1 h, a checkpoint every 60 min, 58.2% of the time moves forward"


def test_a_machine_that_always_fails_is_refused() -> None:
    stated = reliability(gpu_mtbf="1 h", checkpoint_interval="1 h")
    with pytest.raises(InfeasibleError) as error:
        goodput(stated, 360)
    assert str(error.value) == "reliability: a failure every 10 s leaves no time to work 3.6e+03 s and save it"


def test_a_mean_time_of_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match="gpu_mtbf must be above 0"):
        toy.run(reliability={"gpu_mtbf": "0 h", "checkpoint_time": "1 s", "restart_time": "1 s"})
