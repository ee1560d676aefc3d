"""Steady states in closed form: held to the simulation, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.errors import InfeasibleError
from simulator.serving.served import serve_work
from simulator.serving.statistics import Distribution
from simulator.serving.steps import StepCost, Table
from simulator.spec.run import Run, run_from_mapping


def run(**inference: Any) -> Run:
    gpus = inference.pop("gpus", 1)
    return run_from_mapping(
        {
            "name": "steady",
            "kind": "inference",
            "model": inference.pop("model", "llama3-8b"),
            "hardware": {"device": "h100-sxm", "gpus": gpus},
            "parallelism": {"tp": gpus},
            "inference": {"isl": 1000, "osl": 200, "framework": "vllm", **inference},
        }
    )


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_a_closed_loop_agrees_with_its_simulation(concurrency: int) -> None:
    asked = run(concurrency=concurrency, batching="continuous", lengths="uniform_0.8_1")
    formula, simulated = (serve_work(asked, closed_form=only).steady for only in (True, False))
    assert formula.tpot == pytest.approx(simulated.tpot, rel=0.05)
    assert formula.ttft == pytest.approx(simulated.ttft, rel=0.35)


@pytest.mark.parametrize("rate", [1.0, 8.0, 16.0])
def test_random_arrivals_agree_with_their_simulation(rate: float) -> None:
    asked = run(request_rate=rate, requests=2000)
    formula, simulated = (serve_work(asked, closed_form=only).steady for only in (True, False))
    assert formula.tpot == pytest.approx(simulated.tpot, rel=0.05)
    assert formula.ttft == pytest.approx(simulated.ttft, rel=0.25)


def test_arrivals_that_outrun_the_service_are_refused_with_what_would_be_served() -> None:
    with pytest.raises(InfeasibleError) as refused:
        serve_work(run(request_rate=1000.0))
    error = refused.value
    assert error.path == "inference.request_rate"
    assert error.message.startswith("requests arrive at 1000 per second, but at most ")
    assert error.available is not None
    assert error.suggestion == f"inference.request_rate: {0.9 * error.available:.3g}"
    assert serve_work(run(request_rate=0.9 * error.available, requests=200)).steady.in_flight > 10


def test_a_request_longer_than_the_cache_is_refused() -> None:
    with pytest.raises(InfeasibleError, match=r"a request of 1000200 tokens is longer than .* allow \(\d+\)"):
        serve_work(run(isl=1_000_000, concurrency=2, batching="continuous"))


def test_no_room_for_a_cache_is_refused() -> None:
    with pytest.raises(InfeasibleError, match=r"leave no KV cache: they need 132\.6 of 79\.6 GiB a GPU"):
        serve_work(run(model="llama3-70b", concurrency=4, batching="continuous"))


def test_fewer_requests_than_slots_are_one_wave() -> None:
    """At maximum load ten requests decode together from the first to the last token."""
    few = serve_work(run(concurrency="max", requests=10), closed_form=True).steady
    assert few.in_flight == 10
    assert few.output_tokens_per_s == pytest.approx(10 / few.tpot)
    many = serve_work(run(concurrency="max", requests=100_000), closed_form=True).steady
    assert many.in_flight > 100
    assert many.output_tokens_per_s > 3 * few.output_tokens_per_s


def test_more_in_flight_than_fit_wait_for_a_place() -> None:
    server = run(isl=4000, osl=4000, concurrency=1000, batching="continuous")
    steady = serve_work(server, closed_form=True).steady
    assert steady.in_flight < 1000
    cycle = steady.ttft + 4000 * steady.tpot
    assert steady.in_flight == pytest.approx(1000 * 4000 * steady.tpot / cycle, rel=0.02)  # Little's law


def test_a_chunked_prompt_costs_what_the_whole_does_but_for_the_weights_read_again() -> None:
    cost = StepCost(run())
    whole = cost.gpu(0, 0, [(4096.0, 0.0)])
    first, second = cost.gpu(0, 0, [(2048.0, 0.0)]), cost.gpu(0, 0, [(2048.0, 2048.0)])
    assert second > first
    assert 0.95 * whole < first + second < 1.1 * whole  # measured GEMMs are not the faster the larger


def test_a_step_grows_with_what_is_in_it() -> None:
    cost = StepCost(run())
    assert cost.gpu(1, 1000) < cost.gpu(2, 2000) < cost.gpu(64, 64_000) < cost.gpu(64, 640_000)
    assert cost.gpu(64, 64_000, [(100.0, 0.0)]) > cost.gpu(64, 64_000)
    # Keys are read at 0.82 of 3.35 TB/s: 32 layers of 8 heads of 128, keys and values, two bytes.
    assert cost.key_s == pytest.approx(32 * 2 * 8 * 128 * 2 / (0.82 * 3.35e12), rel=0.02)


def test_a_table_is_exact_at_its_nodes_and_straight_between() -> None:
    asked: list[float] = []

    def square(counts: Any) -> list[float]:
        asked.extend(counts)
        return [x * x for x in counts]

    table = Table(square)
    assert [table.at(x) for x in (0, 1, 5, 8, 16, 1024)] == [0, 1, 25, 64, 256, pytest.approx(1024**2)]
    assert table.at(6.5) == pytest.approx((36 + 49) / 2)
    before = len(asked)
    table.at(6.25)
    assert len(asked) == before  # its segment is known


def test_percentiles_of_a_distribution() -> None:
    values = Distribution()
    for value in range(1, 1001):
        values.add(value / 1000)
    assert values.mean == pytest.approx(0.5005)
    for share in (0.5, 0.9, 0.99):
        assert values.percentile(share) == pytest.approx(share, rel=0.005)
    assert values.within(0.25) == pytest.approx(0.25, abs=0.003)
    assert (values.within(0.0001), values.within(2.0)) == (0, 1)
    other = Distribution()
    other.add(10.0, weight=1000)
    values.merge(other)
    assert values.percentile(0.75) == pytest.approx(10, rel=0.005)
    assert Distribution().percentile(0.5) == Distribution().mean == 0
