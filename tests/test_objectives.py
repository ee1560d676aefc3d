"""The load that an engine carries within the objectives of its requests."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.explanation.objectives import largest_rate, with_objectives
from simulator.serving.served import serve_requests
from simulator.simulation import simulate
from simulator.spec.base import data_root
from simulator.spec.run import Run, run_from_mapping


def run(rate: float = 4.0, **serving: Any) -> Run:
    return run_from_mapping(
        {
            "name": "asked",
            "kind": "serving",
            "model": "llama3-8b",
            "hardware": {"device": "h100-sxm", "gpus": 1},
            "inference": {"isl": 1000, "osl": 100, "request_rate": rate, "framework": "vllm"},
            "serving": {"requests": 1000, "ttft_slo": "200 ms", "tpot_slo": "20 ms", **serving},
        }
    )


def kept(rate: float, **serving: Any) -> float:
    outcome = serve_requests(run(rate, **serving)).outcome
    assert outcome is not None
    return outcome.good / outcome.requests


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_below_the_rate_objectives_are_kept_and_above_they_are_not(share: float) -> None:
    rate = largest_rate(run(slo_share=share))
    assert kept(0.95 * rate) >= share
    assert kept(1.05 * rate) < share


def test_the_rate_falls_with_the_share_that_must_keep_them() -> None:
    rates = [largest_rate(run(slo_share=share)) for share in (0.5, 0.9, 0.99)]
    assert rates == sorted(rates, reverse=True)


def test_an_objective_below_an_empty_engine_is_never_kept() -> None:
    assert largest_rate(run(tpot_slo="1 ms")) == 0


def test_without_an_objective_that_binds_the_queue_is_the_limit() -> None:
    loose = run(ttft_slo="1000 s", tpot_slo="10 s")
    limit = serve_requests(loose, closed_form=True).sustainable
    assert limit is not None
    assert largest_rate(loose) == pytest.approx(limit, rel=0.01)


def test_an_engine_twice_as_slow_carries_half_of_what_shorter_objectives_leave() -> None:
    halved = run(ttft_slo="100 ms", tpot_slo="10 ms")
    assert largest_rate(run(), slower=2.0) == pytest.approx(largest_rate(halved) / 2)


def test_the_result_has_the_rate_with_its_interval_where_objectives_are_stated() -> None:
    asked = run()
    served = with_objectives(asked, simulate(asked)).serving
    assert served is not None
    rate = served.objective_requests_per_s
    assert rate is not None
    assert rate.low < rate.value < rate.high
    assert rate.value == largest_rate(asked)
    assert served.objective_share == 0.9
    for bare in (run(ttft_slo=None, tpot_slo=None), traced()):
        result = simulate(bare)
        assert with_objectives(bare, result) is result


def traced() -> Run:
    trace = str(data_root() / "workloads/traces/chat-swell.csv")
    asked = run()
    serving = {"trace": trace, "ttft_slo": 0.2}
    assert asked.serving is not None
    return asked.model_copy(update={"serving": asked.serving.model_copy(update=serving)})
