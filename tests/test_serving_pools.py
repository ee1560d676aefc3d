"""Prompts on some GPUs, answers on others: caches cross in bytes over bandwidth, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat
from math import inf
from typing import Any

import pytest
import toy
from test_serving_queue import BUDGET, engine

from simulator.cost.machine import build_machine
from simulator.errors import InfeasibleError, SpecError
from simulator.graph.kv_cache import CacheShape, sequence_cache
from simulator.serving.disaggregated import handover, phase_runs
from simulator.serving.pools import Handover, Pools
from simulator.serving.requests import Request, arrival_times, open_loop
from simulator.serving.served import serve_requests
from simulator.serving.simulation import Outcome, serve
from simulator.simulation import simulate
from simulator.spec.base import data_root
from simulator.spec.run import Run, run_from_mapping
from simulator.spec.serving import Serving
from simulator.sweeps import evaluate, read_sweep
from simulator.units import US

SECOND_PER_TOKEN = CacheShape(1e6, 0.0)
"""A megabyte a token over ports of a megabyte a second: a cache of n tokens takes n seconds."""


def hand(*, readers: int = 1, latency: float = 0.0, out: float = 1e6, into: float = 1e6, kv: float = inf) -> Handover:
    limits = replace(BUDGET, instances=readers, sequences=100, kv_tokens=kv)
    return Handover(engine(), limits, SECOND_PER_TOKEN, out, into, latency)


def served(requests: list[Request], over: Handover, *, writers: int = 1, **changes: Any) -> Outcome:
    limits = replace(BUDGET, instances=writers, sequences=100, **changes)
    return serve(engine(), limits, arrivals=iter(requests), handover=over)


def test_a_cache_crosses_in_latency_and_bytes_over_bandwidth() -> None:
    """10 tokens read in 10 ms, 10 MB at 1 MB/s and half a second of latency, then 4 steps of a millisecond."""
    outcome = served([Request(0, 0.0, 10, 5)], hand(latency=0.5))
    (life,) = outcome.lives
    assert life.first_token == pytest.approx(0.010)
    assert life.end == pytest.approx(0.010 + 0.5 + 10.0 + 0.004)
    assert hand(latency=0.5).seconds(10) == pytest.approx(10.5)


def test_the_slower_port_sets_the_pace() -> None:
    assert hand(out=2e6, into=0.5e6).seconds(10) == pytest.approx(20)
    (life,) = served([Request(0, 0.0, 10, 2)], hand(out=2e6, into=0.5e6)).lives
    assert life.end == pytest.approx(0.010 + 20 + 0.001)


def test_caches_on_their_way_together_share_a_port() -> None:
    """Both prompts of 10 tokens end with one step of 20 ms; each cache then has half of the port."""
    outcome = served([Request(0, 0.0, 10, 2), Request(1, 0.0, 10, 2)], hand())
    assert [life.end for life in outcome.lives] == [pytest.approx(0.020 + 20 + 0.001)] * 2


def test_two_instances_that_send_to_one_share_its_port_only() -> None:
    outcome = served([Request(0, 0.0, 10, 2), Request(1, 0.0, 10, 2)], hand(readers=2, into=2e6))
    assert [life.end for life in outcome.lives] == [pytest.approx(0.010 + 10 + 0.001)] * 2


def test_prompts_do_not_hold_up_what_is_written() -> None:
    """The second prompt of 100 ms is read while the first answer is written a millisecond a token."""
    fast = hand(out=1e12, into=1e12)
    first, _ = sorted(
        served([Request(0, 0.0, 10, 51), Request(1, 0.0101, 100, 2)], fast).lives, key=lambda life: life.arrival
    )
    assert first.end == pytest.approx(0.010 + 0.050, abs=1e-4)


def test_an_answer_of_one_token_never_crosses() -> None:
    (life,) = served([Request(0, 0.0, 10, 1)], hand()).lives
    assert life.end == life.first_token == pytest.approx(0.010)


def test_prompts_queue_as_in_an_m_d_1_queue() -> None:
    """One prompt at a time takes 0.1 s; caches cross in no time and answers are short."""
    load, service = 0.6, 0.1
    over = replace(hand(out=1e12, into=1e12), budget=BUDGET)
    arrivals = open_loop(arrival_times(load / service, 1.0, seed=3), repeat((100, 2)), 10_000)
    outcome = serve(engine(), replace(BUDGET, sequences=1000), arrivals=arrivals, handover=over)
    assert outcome.ttft.mean == pytest.approx(service + load * service / (2 * (1 - load)), rel=0.03)


@pytest.mark.parametrize("reserves", [True, False])
def test_nothing_is_left_behind(reserves: bool) -> None:
    """Caches so small that prompts wait for those on their way and answers are dropped: all are served all the same."""
    pools: list[Pools] = []
    original = Pools.__init__

    def spy(self: Pools, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        pools.append(self)

    cost = engine(reserves_output=reserves)
    limits = replace(BUDGET, sequences=10, kv_tokens=500.0, instances=2)
    over = hand(readers=8, out=1e9, into=1e9, kv=100.0)
    requests = (Request(i, i / 1000, 40, 100) for i in range(60))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pools, "__init__", spy)
        outcome = serve(cost, limits, arrivals=requests, handover=over)
    assert outcome.requests == 60
    assert outcome.output_tokens == 6000
    assert (outcome.preemptions > 0) == (not reserves)
    for instance in (*pools[0].readers, *pools[0].writers):
        assert instance.held == pytest.approx(0, abs=1e-6)
        assert not instance.load


POOLS = {"disaggregated": {"prefill": {"gpus": 4, "tp": 2}, "decode": {"gpus": 4, "tp": 4}}}


def run(
    *, gpus: int = 8, prefill: dict[str, Any] | None = None, decode: dict[str, Any] | None = None, **more: Any
) -> Run:
    pools = {"prefill": prefill or {"gpus": 4, "tp": 2}, "decode": decode or {"gpus": 4, "tp": 4}}
    data: dict[str, Any] = {
        "name": "apart",
        "kind": "serving",
        "model": "llama3-8b",
        "hardware": {"device": "h100-sxm", "gpus": gpus},
        "inference": {"isl": 2000, "osl": 100, "request_rate": 20, "framework": "vllm"},
        "serving": {"requests": 500, "disaggregated": pools},
    }
    data["inference"] |= more.pop("inference", {})
    return run_from_mapping({**data, **more})


def test_ports_are_the_links_of_an_instance_or_its_nics() -> None:
    """Eight GPUs share a board: links. Sixteen don't: a NIC of 50 GB/s each, at the share of it that is reached."""
    inside, outside = run(), run(gpus=16, prefill={"gpus": 8, "tp": 2}, decode={"gpus": 8, "tp": 8})
    for asked, near in ((inside, True), (outside, False)):
        machine = build_machine(asked.hardware, serves=True)
        curves = machine.curves
        each = machine.link * curves.collective.ring if near else machine.nic * curves.network.efficiency
        over = handover(asked, *phase_runs(asked))
        split = asked.serving.disaggregated if asked.serving else None
        assert split is not None
        assert over.out == pytest.approx(2 * each)
        assert over.into == pytest.approx(split.decode.tp * each)
        size = 2000 * 32 * 2 * 8 * 128 * 2  # 32 layers of 8 heads of 128, keys and values, two bytes
        base = curves.collective.base_us if near else curves.network.base_us
        assert over.seconds(2000) == pytest.approx(base * US + size / (2 * each))
    assert build_machine(outside.hardware, serves=True).nic == pytest.approx(50e9)


def test_a_latent_cache_crosses_once_and_a_window_only_as_far_as_it_reaches() -> None:
    latent = run_from_mapping({**BARE, "model": "deepseek-v3", "hardware": {"device": "h200-sxm", "gpus": 8}})
    assert sequence_cache(latent).bytes(1000) == 1000 * 61 * (512 + 64) * 2
    sliding = {**toy.MODEL, "sliding_window": 100, "sliding_window_every": 2}
    assert sequence_cache(toy.inference(model=sliding)).bytes(300) == (300 + 100) * 2 * 2 * 128 * 2


BARE: dict[str, Any] = {"name": "x", "kind": "inference", "inference": {"osl": 10}}


@pytest.mark.parametrize("rate", [5, 20, 30])
def test_the_closed_form_agrees_with_the_simulation(rate: float) -> None:
    asked = run(inference={"request_rate": rate})
    formula, simulated = (serve_requests(asked, closed_form=only).steady for only in (True, False))
    assert formula.tpot == pytest.approx(simulated.tpot, rel=0.05)
    assert formula.ttft == pytest.approx(simulated.ttft, rel=0.25)
    assert formula.in_flight == pytest.approx(rate * 100 * formula.step, rel=0.02)  # Little's law


def test_a_closed_loop_obeys_littles_law() -> None:
    for concurrency in (4, 64, 4000):
        work = {"request_rate": None, "concurrency": concurrency}
        steady = serve_requests(run(inference=work), closed_form=True).steady
        cycle = steady.ttft + 99 * steady.tpot
        assert steady.output_tokens_per_s / 100 * cycle == pytest.approx(concurrency, rel=0.01)


@pytest.mark.parametrize(("isl", "osl"), [(4000, 20), (100, 400)])
def test_a_flood_is_served_at_the_rate_that_can_be_sustained(isl: int, osl: int) -> None:
    """Bound by prompts, then by answers: more requests wait than ever fit."""
    work = {"isl": isl, "osl": osl, "request_rate": None, "concurrency": 1500 if osl > isl else 500}
    asked = run(inference=work, serving={**POOLS, "requests": 6000 if osl > isl else 2000})
    served = serve_requests(asked)
    assert served.outcome is not None
    assert served.outcome.requests / served.outcome.duration == pytest.approx(served.sustainable, rel=0.1)


def test_the_result_counts_all_gpus_and_shows_both_pools() -> None:
    result = simulate(run(economics={"gpu_hour": "3 USD/h"}))
    assert result.summary.gpus == 8
    assert result.summary.notes[0].startswith("4 GPUs read prompts and 4 write answers")
    assert [stage.label for stage in result.memory_by_stage] == ["Stage 0 (prompts)", "Stage 1 (answers)"]
    assert result.tpot_s is not None
    assert result.serving is not None
    assert sum(item.seconds.value for item in result.breakdown) == pytest.approx(result.tpot_s.value, rel=1e-6)
    assert any(item.key == "handover" for item in result.breakdown)
    assert result.serving.reading_share is not None
    assert 0 < result.serving.reading_share < 1
    size, time = result.serving.handover_bytes, result.serving.handover_s
    assert size is not None
    assert time is not None
    assert size.value == pytest.approx(2000 * 32 * 2 * 8 * 128 * 2, rel=1e-3)
    assert time.value == pytest.approx(handover(run(), *phase_runs(run())).seconds(2000), rel=1e-3)
    assert "bf16, 32 KiB a token here" in result.memory_rules["kv_cache"]  # a quarter of 128 KiB on each rank
    paid = result.serving.usd_per_million_prompt_tokens
    all_tokens, answers = result.serving.usd_per_million_tokens, result.serving.usd_per_million_answer_tokens
    assert paid is not None
    assert all_tokens is not None
    assert answers is not None
    assert 2000 * paid.value + 100 * answers.value == pytest.approx(2100 * all_tokens.value)


def test_a_sweep_over_splits_finds_what_each_sustains() -> None:
    """Two GPUs that read prompts of 4,000 tokens can't keep up with four a second; six can."""
    sweep = read_sweep(data_root() / "workloads/sweeps/disaggregated-split.yaml")
    assert sweep.size == 40
    frame = evaluate(sweep)
    asked = frame[(frame["inference.request_rate"] == 4) & (frame["inference.isl"] == 4000)]
    fits = dict(zip(asked["serving.disaggregated"].str[:22], asked["status"], strict=True))
    assert fits['{"prefill": {"gpus": 2'] == "infeasible"
    assert fits['{"prefill": {"gpus": 6'] == "ok"


def test_what_is_refused() -> None:
    with pytest.raises(SpecError, match=r"serving\.disaggregated: the pools have 4 \+ 2 = 6 GPUs, hardware\.gpus is 8"):
        run(decode={"gpus": 2, "tp": 2})
    with pytest.raises(SpecError, match=r"parallelism: the pools of serving\.disaggregated have splits of their own"):
        run(parallelism={"tp": 4})
    with pytest.raises(SpecError, match=r"serving\.disaggregated\.decode\.tpp: unknown key 'tpp'"):
        run(decode={"gpus": 4, "tpp": 2})
    with pytest.raises(InfeasibleError, match=r"requests arrive at 1000 per second, but at most \d+"):
        simulate(run(inference={"request_rate": 1000}))
    with pytest.raises(InfeasibleError, match=r"tp x pp x cp = 3 x 1 x 1 = 3 must divide|tp 3 must divide"):
        simulate(run(prefill={"gpus": 4, "tp": 3}))


def test_round_robin_alternates_and_least_loaded_evades_the_busy() -> None:
    """Long and short prompts in turn: round robin sends all long ones to one reader, least loaded to both."""
    requests = [Request(i, 0.0, 1000 if i % 2 == 0 else 10, 1) for i in range(8)]
    ends = {}
    for kind in ("round_robin", "least_loaded"):
        over = replace(hand(readers=2), budget=replace(BUDGET, instances=2))
        asked = Serving.model_validate({"router": kind})
        timed = (Request(r.index, r.index * 0.02, r.prompt, r.output) for r in requests)
        ends[kind] = serve(engine(), replace(BUDGET, instances=2), arrivals=timed, asked=asked, handover=over).duration
    assert ends["round_robin"] == pytest.approx(4 * 1.0, abs=0.01)
    assert ends["least_loaded"] < 3.5
