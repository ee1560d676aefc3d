"""The simulated engine against queueing theory, and nothing it holds is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, repeat
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from simulator.serving.capacity import Budget
from simulator.serving.instance import Instance
from simulator.serving.requests import Request, arrival_times, lengths, open_loop
from simulator.serving.simulation import Loop, serve
from simulator.spec.framework import read_framework
from simulator.spec.serving import Serving
from simulator.spec.speculative import Speculative

BUDGET = Budget(kv_tokens=1e9, sequences=1, step_tokens=10**9, instances=1, data_ranks=1)
MILLISECOND = 1e-3


def engine(*, speculative: Speculative | None = None, **changes: Any) -> Any:
    """A cost model of one millisecond a prompt token or decode step, and an engine without overheads."""
    defaults = read_framework("vllm").model_copy(update={"request_us": 0.0, **changes})

    def seconds(decodes: float, keys: float, prompts: Any = ()) -> float:
        return MILLISECOND * (sum(new for new, _ in prompts) or 1.0)

    return SimpleNamespace(
        run=SimpleNamespace(defaults=defaults),
        layout=SimpleNamespace(pp=1),
        key_s=0.0,
        seconds=seconds,
        speculative=speculative,
        queries=1 if speculative is None else 1 + speculative.tokens,
        tokens_per_step=1 if speculative is None else speculative.tokens_per_step,
    )


def waits(sizes: Iterator[tuple[int, int]], rate: float, count: int) -> float:
    """Mean seconds from arrival to the last token, one request served at a time."""
    arrivals = open_loop(arrival_times(rate, 1.0, seed=3), sizes, count)
    return serve(engine(), BUDGET, arrivals=arrivals).e2e.mean


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_fixed_service_is_an_m_d_1_queue(load: float) -> None:
    """Pollaczek-Khinchine: service s waits rho s / 2 (1 - rho)."""
    service = 0.1
    mean = waits(repeat((100, 1)), load / service, 20_000)
    assert mean == pytest.approx(service + load * service / (2 * (1 - load)), rel=0.03)


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_exponential_service_is_an_m_m_1_queue(load: float) -> None:
    """Time in system s / (1 - rho)."""
    service = 0.5
    draws = np.random.default_rng(5).exponential(service / MILLISECOND, 40_000)
    mean = waits(((max(1, round(x)), 1) for x in draws), load / service, 40_000)
    assert mean == pytest.approx(service / (1 - load), rel=0.04)


def test_even_arrivals_below_capacity_never_wait() -> None:
    arrivals = open_loop(arrival_times(9.0, 0.0, seed=0), repeat((100, 1)), 50)
    outcome = serve(engine(), BUDGET, arrivals=arrivals)
    assert outcome.e2e.largest == pytest.approx(0.1)
    assert outcome.duration == pytest.approx(50 / 9 + 0.1)


@pytest.mark.parametrize("burstiness", [0.0, 0.5, 1.0, 3.0])
def test_gaps_have_the_mean_and_the_variation_asked_for(burstiness: float) -> None:
    """Gamma distributed: 1 is exponential, whose median is ln 2 of its mean; 0 is even."""
    gaps = np.diff(list(islice(arrival_times(4.0, burstiness, seed=2), 40_000)))
    assert gaps.mean() == pytest.approx(0.25, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness, rel=0.03, abs=1e-9)
    if burstiness == 1:
        assert np.median(gaps) == pytest.approx(0.25 * np.log(2), rel=0.03)


@pytest.mark.parametrize("rate", [4.0, 8.0])
def test_requests_inside_are_the_rate_times_their_stay(rate: float) -> None:
    """Little's law, of the load as it is sampled over time and of the latencies as they are counted at the end."""
    arrivals = open_loop(arrival_times(rate, 1.0, seed=4), repeat((100, 51)), 10_000)
    outcome = serve(engine(), replace(BUDGET, sequences=4), arrivals=arrivals)
    inside = [sample.running + sample.waiting for sample in outcome.samples]
    assert sum(inside) / len(inside) == pytest.approx(10_000 / outcome.duration * outcome.e2e.mean, rel=0.1)


def test_cached_prompts_are_not_read_again() -> None:
    """60 of 100 tokens are cached: 40 ms are left; of a wholly cached prompt the last token."""
    for hit, read in ((0.0, 0.100), (0.6, 0.040), (1.0, 0.001)):
        requests = open_loop(repeat(0.0), repeat((100, 1)), 1, hit=hit)
        assert serve(engine(), BUDGET, arrivals=requests).e2e.mean == pytest.approx(read)


def test_a_loop_finds_the_same_share_cached() -> None:
    outcome = serve(engine(), BUDGET, loop=Loop(repeat((100, 1)), 1, 5, hit=0.5))
    assert outcome.cached_tokens == 250
    assert outcome.duration == pytest.approx(5 * 0.050)


def test_decode_steps_between_events_are_one_event() -> None:
    """Two requests: 10 tokens read, then steps of a millisecond shared by both, the second joining at its arrival."""
    requests = [Request(0, 0.0, 10, 101), Request(1, 0.0505, 10, 101)]
    outcome = serve(engine(), replace(BUDGET, sequences=2), arrivals=iter(requests))
    first, second = outcome.lives
    # It arrives within the 41st step, is read in the next (10 ms, in which the first also decodes), and both go on.
    assert second.first_token == pytest.approx(0.051 + 0.010)
    assert first.end == pytest.approx(0.010 + 0.100 + 0.009)
    assert second.end == pytest.approx(second.first_token + 0.100)


def test_prompts_of_an_engine_that_keeps_phases_apart_hold_up_those_that_decode() -> None:
    requests = [Request(0, 0.0, 10, 21), Request(1, 0.0105, 100, 2)]
    mixed, apart = (
        serve(engine(mixes_phases=mixes), replace(BUDGET, sequences=2), arrivals=iter(map(replace, requests)))
        for mixes in (True, False)
    )
    # Twenty further tokens: mixed, one of them takes the 100 ms of the prompt; apart, all wait for it.
    assert mixed.lives[-1].end - mixed.lives[-1].first_token == pytest.approx(0.019 + 0.100)
    assert apart.lives[-1].end - apart.lives[-1].first_token == pytest.approx(0.020 + 0.100)


@pytest.mark.parametrize("reserves", [True, False])
def test_the_cache_is_given_back(reserves: bool) -> None:
    """A cache of five requests, ten in flight: some wait, some are preempted, all are served, and nothing is left."""
    cost, budget = engine(reserves_output=reserves), replace(BUDGET, kv_tokens=700.0, sequences=10)
    instances: list[Instance] = []
    original = Instance.__init__

    def spy(self: Instance, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        instances.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Instance, "__init__", spy)
        outcome = serve(cost, budget, loop=Loop(lengths(40, 100, "fixed", 0), 10, 60))
    assert outcome.requests == 60
    assert outcome.output_tokens == pytest.approx(60 * 100, rel=0.01)
    assert (outcome.preemptions > 0) == (not reserves)
    for instance in instances:
        assert instance.held == instance.keys == instance.unwritten == 0
        assert not instance.load
    assert max(sample.cache for sample in outcome.samples) <= 1


def test_a_router_spreads_requests_over_replicas() -> None:
    budget = replace(BUDGET, instances=2)
    for router in ("least_loaded", "round_robin"):
        requests = [Request(i, 0.0, 100, 1) for i in range(4)]
        asked = Serving.model_validate({"router": router})
        assert serve(engine(), budget, arrivals=iter(requests), asked=asked).duration == pytest.approx(0.2)


def test_goodput_counts_requests_within_both_objectives() -> None:
    asked = Serving.model_validate({"ttft_slo": "250 ms"})
    requests = (Request(i, 0.0, 100, 1) for i in range(5))  # first tokens after 0.1, 0.2, ... 0.5 s
    assert serve(engine(), BUDGET, arrivals=requests, asked=asked).good == 2


def test_what_is_kept_of_many_requests_stays_small() -> None:
    arrivals = open_loop(arrival_times(5.0, 1.0, seed=1), repeat((100, 1)), 5000)
    outcome = serve(engine(), BUDGET, arrivals=arrivals)
    assert outcome.requests == 5000
    assert len(outcome.lives) == 80
    assert 200 <= len(outcome.samples) <= 400


def test_the_requests_kept_are_those_that_waited_longest() -> None:
    """A burst of 80 after 160 quiet ones, and 160 more."""
    times = [*range(160), *[160.0] * 80, *range(200, 360)]
    outcome = serve(engine(), BUDGET, arrivals=(Request(i, at, 100, 1) for i, at in enumerate(times)))
    assert [life.arrival for life in outcome.lives] == [160.0] * 80
    assert outcome.queue.percentile(0.5) == 0
