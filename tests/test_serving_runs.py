"""Runs of kind serving: from a file to a result with what its requests saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simulator.errors import InfeasibleError, SpecError
from simulator.graph.expert_traffic import chosen, fullest_rank, touched_experts
from simulator.result import Result
from simulator.serving.served import serve_requests
from simulator.simulation import inference_batch, simulate
from simulator.spec.base import data_root
from simulator.spec.framework import engine_file
from simulator.spec.model import resolve_model
from simulator.spec.run import Run, run_from_mapping
from simulator.spec.workload import Economics

TRACE = str(data_root() / "workloads/traces/chat-swell.csv")


def run(*, serving: dict[str, Any] | None = None, gpus: int = 1, **inference: Any) -> Run:
    return run_from_mapping(
        {
            "name": "served",
            "kind": "serving",
            "model": "llama3-8b",
            "hardware": {"device": "h100-sxm", "gpus": gpus},
            "inference": {"isl": 500, "osl": 100, "framework": "vllm", **inference},
            "serving": serving or {},
        }
    )


def values(result: Result) -> Any:
    assert result.serving is not None
    return result.serving


def test_percentiles_rise_and_the_requests_are_all_there() -> None:
    result = simulate(run(request_rate=10.0, serving={"requests": 500, "ttft_slo": "40 ms"}))
    served = values(result)
    assert result.kind == "serving"
    assert served.served == 500
    for latency in (served.ttft_s, served.tpot_s, served.itl_s, served.e2e_s):
        assert latency.p50.value <= latency.p90.value <= latency.p99.value
    assert result.ttft_s == served.ttft_s.mean.model_copy(update={})
    assert result.numbers()["serving.ttft_s.p99"] == served.ttft_s.p99
    assert served.goodput_requests_per_s.value <= served.requests_per_s.value
    assert served.requests_per_s.value == pytest.approx(10, rel=0.15)
    assert served.sustainable_requests_per_s.value > 10
    assert all(s.arrival_s <= s.start_s <= s.first_token_s <= s.end_s for s in served.requests)
    assert Result.model_validate_json(result.model_dump_json()) == result


def test_the_breakdown_of_a_token_sums_to_it() -> None:
    result = simulate(run(request_rate=20.0, serving={"requests": 300}))
    assert result.tpot_s is not None
    assert sum(item.seconds.value for item in result.breakdown) == pytest.approx(result.tpot_s.value, rel=1e-6)
    assert any(item.key == "prompts" for item in result.breakdown)


def test_two_replicas_serve_twice_as_much() -> None:
    one, two = (simulate(run(gpus=g, request_rate=10.0, serving={"requests": 100})) for g in (1, 2))
    assert values(two).instances == 2
    ratio = values(two).sustainable_requests_per_s.value / values(one).sustainable_requests_per_s.value
    assert ratio == pytest.approx(2, rel=0.02)


def test_a_trace_sets_arrivals_and_lengths() -> None:
    served = values(simulate(run(gpus=2, serving={"trace": TRACE})))
    assert served.served == 600
    assert values(simulate(run(gpus=2, serving={"trace": TRACE, "requests": 50}))).served == 50


def test_the_closed_form_of_a_trace_is_that_of_its_means(tmp_path: Path) -> None:
    """Ten requests in nine seconds, 500 tokens in and 100 out on average: as random arrivals of one a second."""
    file = tmp_path / "even.csv"
    rows = [f"{i},{400 + 200 * (i % 2)},100,{50 * (i % 2)}" for i in range(10)]
    file.write_text("arrival_s,input_tokens,output_tokens,cached_tokens\n" + "\n".join(rows), encoding="utf-8")
    traced = serve_requests(run(serving={"trace": str(file)}), closed_form=True)
    asked = serve_requests(run(request_rate=1.0, serving={"prefix_hit": 25 / 499}), closed_form=True)
    assert traced.outcome is None
    assert traced.steady.tpot == pytest.approx(asked.steady.tpot, rel=1e-6)
    assert traced.steady.output_tokens_per_s == pytest.approx(100)
    file.write_text(
        "arrival_s,input_tokens,output_tokens\n" + "\n".join("0,500,100" for _ in range(9)), encoding="utf-8"
    )
    flood = serve_requests(run(serving={"trace": str(file)}), closed_form=True)
    assert flood.sustainable is not None
    assert flood.steady.output_tokens_per_s == pytest.approx(0.99 * flood.sustainable * 100, rel=0.02)


def test_bursts_wait_longer_than_even_arrivals() -> None:
    even, bursts = (
        values(simulate(run(request_rate=30.0, serving={"requests": 600, "burstiness": b}))) for b in (0.0, 3.0)
    )
    assert bursts.ttft_s.p99.value > 1.5 * even.ttft_s.p99.value


def test_a_closed_loop_of_the_kind_serving() -> None:
    served = values(simulate(run(concurrency=8, serving={"requests": 80})))
    assert served.served == 80
    assert served.sustainable_requests_per_s is not None


def test_cached_prefixes_shorten_the_first_token_and_the_bill() -> None:
    cold, warm = (
        simulate(run(isl=4000, request_rate=4.0, serving={"requests": 200, "prefix_hit": hit})) for hit in (0.0, 0.75)
    )
    assert values(warm).cached_tokens == pytest.approx(0.75 * values(warm).prompt_tokens, rel=1e-3)
    assert values(cold).cached_tokens == 0
    assert values(warm).ttft_s.p50.value < 0.6 * values(cold).ttft_s.p50.value
    assert values(warm).sustainable_requests_per_s.value > 1.5 * values(cold).sustainable_requests_per_s.value
    assert values(warm).joules_per_token.value < values(cold).joules_per_token.value


def test_sweeps_use_a_closed_form_near_the_simulation() -> None:
    asked = run(request_rate=10.0, serving={"requests": 1000, "prefix_hit": 0.5})
    formula, simulated = (inference_batch(asked, closed_form=only).served.steady for only in (True, False))
    assert formula.tpot == pytest.approx(simulated.tpot, rel=0.05)
    assert formula.ttft == pytest.approx(simulated.ttft, rel=0.25)


def test_prices_share_the_rent_between_prompts_and_answers() -> None:
    """500 prompt and 100 answer tokens a request: their prices add up to the rent of all 600."""
    asked = run(request_rate=10.0, serving={"requests": 300})
    rented = simulate(asked.model_copy(update={"economics": Economics.model_validate({"gpu_hour": "3 USD/h"})}))
    served = values(rented)
    both = 500 * served.usd_per_million_prompt_tokens.value + 100 * served.usd_per_million_answer_tokens.value
    assert both == pytest.approx(600 * served.usd_per_million_tokens.value)
    assert rented.usd_per_million_output_tokens is not None
    assert both == pytest.approx(100 * rented.usd_per_million_output_tokens.value)
    assert served.good_share is None


def test_the_interval_of_goodput_is_where_latencies_reach() -> None:
    """An objective at the median of the first token is kept by half of the requests, by all or none at the ends."""
    plain = values(simulate(run(request_rate=10.0, serving={"requests": 300})))
    limit = f"{plain.ttft_s.p50.value} s"
    good = values(simulate(run(request_rate=10.0, serving={"requests": 300, "ttft_slo": limit})))
    share = good.goodput_requests_per_s
    assert share.value / good.requests_per_s.value == pytest.approx(0.5, abs=0.02)
    assert share.low < 0.05 * share.value
    assert share.high == pytest.approx(good.requests_per_s.value, rel=0.05)
    assert good.requests_per_s.low == good.requests_per_s.high  # as they arrive: the engine keeps up


def test_quantiles_rise_from_the_fastest_to_the_slowest() -> None:
    served = values(simulate(run(request_rate=10.0, serving={"requests": 300, "tpot_slo": "20 ms"})))
    for latency in (served.ttft_s, served.tpot_s, served.e2e_s, served.queue_s):
        seconds = [value for _, value in latency.quantiles]
        assert seconds == sorted(seconds)
        assert dict(latency.quantiles)[0.5] == latency.p50.value
    assert served.good_share * served.requests_per_s.value == pytest.approx(served.goodput_requests_per_s.value)
    assert (served.ttft_slo_s, served.tpot_slo_s) == (None, 0.02)


def test_what_is_refused() -> None:
    with pytest.raises(SpecError, match="a trace has its own cached_tokens; leave prefix_hit out"):
        run(serving={"trace": TRACE, "prefix_hit": 0.5})
    with pytest.raises(SpecError, match=r"serving\.prefix_hit: .*less than or equal to 1, got 1\.5"):
        run(serving={"prefix_hit": 1.5})
    with pytest.raises(
        SpecError,
        match=r"serving\.trace: no file 'chat-swel\.csv', nor a shipped trace\. Did you mean 'chat-swell\.csv'\?",
    ):
        simulate(run(serving={"trace": "chat-swel.csv"}))
    with pytest.raises(SpecError, match=r"inference\.precision: Input should be 'fp32', .* got 'fp7'"):
        run(precision="fp7")
    with pytest.raises(InfeasibleError, match="weights and work space leave no KV cache: they need"):
        simulate(run(request_rate=1.0).model_copy(update={"model": resolve_model("llama3-70b")}))
    with pytest.raises(InfeasibleError, match="requests arrive at 1e\\+04 per second, but at most"):
        simulate(run(request_rate=10_000.0))
    with pytest.raises(InfeasibleError, match=r"a request of 9100 tokens .* allow \(8192\)"):
        simulate(run(isl=9000, request_rate=1.0))
    with pytest.raises(SpecError, match="a trace has its own arrivals"):
        run(serving={"trace": TRACE, "burstiness": 2.0})
    with pytest.raises(SpecError, match=r"unknown framework 'vlm'\. Did you mean 'vllm'"):
        run(framework="vlm")


def test_an_engine_of_a_version_with_a_file_of_its_own() -> None:
    assert engine_file("trtllm", "0.9.0") == "trtllm-0.9"
    assert engine_file("trtllm", "0.17") == "trtllm-0.10"
    assert engine_file("trtllm", "1.2.0rc6") == engine_file("trtllm", None) == "trtllm"
    assert engine_file("vllm", "0.18.1") == "vllm-0.15"
    assert engine_file("vllm", "0.14") == engine_file("vllm", "nightly") == "vllm"


def test_popular_experts_are_touched_first() -> None:
    """Even popularity is 1 - (1 - k/E)^T of them; skew touches fewer, never an expert twice by one token."""
    assert touched_experts(128, 8, 0.0, 16) == pytest.approx(128 * (1 - (1 - 8 / 128) ** 16))
    assert touched_experts(128, 8, 1.0, 16) < touched_experts(128, 8, 0.0, 16)
    assert touched_experts(8, 2, 1.0, 1e6) == pytest.approx(8)
    for skew in (0.0, 1.0, 3.0):
        q = chosen(64, 6, skew)
        assert q.sum() == pytest.approx(6)
        assert q.max() <= 1 + 1e-12


def test_the_fullest_rank_has_more_than_its_share() -> None:
    assert fullest_rank(128, 8, 0.0, 8) == 1.0
    assert fullest_rank(128, 8, 1.0, 1) == 1.0
    assert 1 < fullest_rank(128, 8, 1.0, 8) < fullest_rank(128, 8, 1.0, 64) <= 64
