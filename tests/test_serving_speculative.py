"""Speculative decoding: tokens a step, what checking and drafting cost, and what the draft holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import toy
from test_serving_queue import BUDGET, engine

from simulator.cost.capacity import inference_memory
from simulator.errors import InfeasibleError, SpecError
from simulator.graph.drafting import draft_of, prediction_module
from simulator.graph.inference import prepare_inference, serving_split
from simulator.serving.acceptance import Acceptance
from simulator.serving.requests import Request
from simulator.serving.served import serve_work
from simulator.serving.simulation import serve
from simulator.serving.steps import StepCost
from simulator.simulation import inference_batch, simulate
from simulator.spec.model import resolve_model
from simulator.spec.run import Run, run_from_mapping
from simulator.spec.speculative import Speculative


def spec(tokens: int, acceptance: float) -> Speculative:
    return Speculative.model_validate({"tokens": tokens, "acceptance": acceptance})


def run(*, speculative: dict[str, Any] | None, model: str = "llama3-70b", gpus: int = 4, **inference: Any) -> Run:
    return run_from_mapping(
        {
            "name": "drafted",
            "kind": "inference",
            "model": model,
            "hardware": {"device": "h200-sxm", "gpus": gpus},
            "parallelism": {"tp": gpus},
            "inference": {
                "isl": 500, "osl": 200, "precision": "fp8", "framework": "vllm", "speculative": speculative, **inference
            },
        }
    )  # fmt: skip


SMALL = {"tokens": 3, "acceptance": 0.8, "draft_model": "llama3.2-1b"}


@pytest.mark.parametrize(
    ("tokens", "acceptance", "gain"),
    [(1, 0.85, 1.85), (2, 0.5, 1.75), (3, 0.0, 1.0), (3, 1.0, 4.0), (4, 0.8, (1 - 0.8**5) / 0.2)],
)
def test_tokens_of_a_step(tokens: int, acceptance: float, gain: float) -> None:
    """1 + a + a^2 + ...: 0.85 of the second tokens hold in DeepSeek-V3, so 1.85 a step."""
    assert spec(tokens, acceptance).tokens_per_step == pytest.approx(gain)


@pytest.mark.parametrize(("tokens", "acceptance"), [(1, 0.85), (4, 0.6), (2, 0.0), (2, 1.0)])
def test_steps_drawn_for_a_sequence(tokens: int, acceptance: float) -> None:
    """On average tokens / gain, and never fewer than if all held; the last step may hold more than is left."""
    asked = spec(tokens, acceptance)
    drawn = Acceptance(asked, seed=1)
    steps = [drawn.steps(300) for _ in range(2000)]
    assert min(steps) >= 300 / (1 + tokens)
    assert max(steps) <= 300
    assert sum(steps) / len(steps) == pytest.approx(300 / asked.tokens_per_step, rel=0.01)
    assert Acceptance(asked, seed=1).steps(10**6) == pytest.approx(10**6 / asked.tokens_per_step, rel=0.01)


def test_a_draft_that_always_holds_halves_the_steps() -> None:
    """10 tokens read in 10 ms, then 20 more in ten steps of a millisecond."""
    outcome = serve(engine(speculative=spec(1, 1.0)), BUDGET, arrivals=iter([Request(0, 0.0, 10, 21)]))
    assert outcome.lives[0].end == pytest.approx(0.010 + 0.010)
    assert outcome.tpot.mean == pytest.approx(0.0005)


@pytest.mark.parametrize("reserves", [True, False])
def test_the_cache_is_given_back(reserves: bool) -> None:
    cost = engine(speculative=spec(2, 0.7), reserves_output=reserves)
    requests: Iterator[Request] = (Request(i, i / 1000, 40, 100) for i in range(60))
    outcome = serve(cost, replace(BUDGET, kv_tokens=700.0, sequences=10), arrivals=requests)
    assert outcome.requests == 60
    assert outcome.output_tokens == 6000
    assert (outcome.preemptions > 0) == (not reserves)
    assert max(sample.cache for sample in outcome.samples) <= 1 + 1e-9


def test_checking_reads_weights_and_cache_once() -> None:
    """One sequence of a dense model is bound by memory: four tokens cost nearly what one does, less the draft."""
    plain, drafted = (StepCost(run(speculative=asked)) for asked in (None, SMALL))
    once, checked = plain.gpu(1, 2000), drafted.gpu(1, 2000)
    drafts = drafted.drafts(1, 2000)
    assert checked - drafts == pytest.approx(once, rel=0.05)
    assert drafts == pytest.approx(3 * StepCost(run(speculative=None, model="llama3.2-1b")).gpu(1, 2000), rel=1e-6)


def test_checking_at_a_large_batch_costs_what_that_many_tokens_cost() -> None:
    plain, drafted = (StepCost(run(speculative=asked)) for asked in (None, {**SMALL, "tokens": 1}))
    read = plain.linear.at(2 * 4096) + plain.head.at(2 * 4096)
    assert drafted.gpu(4096, 0) - drafted.drafts(4096, 0) == pytest.approx(read + plain.decode.at(2 * 4096), rel=1e-6)


def test_touched_experts_are_those_of_all_checked_tokens() -> None:
    """Sixteen sequences of two tokens touch further experts, which takes away more than it does from a single one."""
    plain, drafted = (
        StepCost(run(speculative=asked, model="deepseek-v3", gpus=8, framework="sglang"))
        for asked in (None, {"acceptance": 0.85})
    )

    def speedup(batch: int) -> float:
        keys = batch * 1000.0
        return drafted.tokens_per_step * plain.gpu(batch, keys) / drafted.gpu(batch, keys)

    assert 1.2 < speedup(16) < speedup(1) < 1.85


def test_published_gains_lie_between_those_of_one_and_of_two_drafted_tokens() -> None:
    """SGLang's documentation of DeepSeek-V3 on eight H200: 1.8 for one sequence, 1.5 for 32; tokens not stated."""

    def tpot(batch: int, speculative: dict[str, Any] | None) -> float:
        asked = run(
            speculative=speculative, model="deepseek-v3", gpus=8, framework="sglang", isl=1000, osl=500,
            concurrency=batch, batching="static",
        )  # fmt: skip
        return serve_work(asked).steady.tpot

    for batch, published in ((1, 1.8), (32, 1.5)):
        alone = tpot(batch, None)
        one, two = (alone / tpot(batch, {"tokens": k, "acceptance": a}) for k, a in ((1, 0.85), (2, 0.80)))
        assert one < published < two
        assert one > 0.9 * published


def test_a_closed_loop_agrees_with_its_simulation() -> None:
    asked = run(speculative=SMALL, concurrency=16, batching="continuous", lengths="uniform_0.8_1", requests=400)
    formula, simulated = (serve_work(asked, closed_form=only).steady for only in (True, False))
    assert formula.tpot == pytest.approx(simulated.tpot, rel=0.06)


def test_the_breakdown_of_a_token_sums_to_it() -> None:
    result = simulate(run(speculative=SMALL, concurrency=16, batching="continuous"))
    assert result.tpot_s is not None
    assert sum(item.seconds.value for item in result.breakdown) == pytest.approx(result.tpot_s.value, rel=1e-6)
    assert any(item.key == "draft" for item in result.breakdown)
    assert result.run["inference"]["speculative"] == SMALL
    (drafts,) = (row for row in result.assumptions if row.name == "Drafted tokens that hold")
    assert drafts.value == "80% of 3 a step, drafted by llama3.2-1b"
    assert sum(row.share_of_step for row in result.operators) < 1  # of a step, which yields three tokens


def test_a_static_batch_gains_by_tokens_over_steps() -> None:
    plain, drafted = (inference_batch(run(speculative=asked)).served.steady for asked in (None, SMALL))
    gain = spec(3, 0.8).tokens_per_step
    assert plain.tpot / gain < drafted.tpot < plain.tpot


def test_a_prediction_module_is_a_layer_between_the_models_own_embedding_and_head() -> None:
    """DeepSeek-V3's module: 11.5 billion parameters without embedding and head, in eight-bit weights over 8 GPUs."""
    asked = run(speculative={"acceptance": 0.85}, model="deepseek-v3", gpus=8)
    draft = draft_of(serving_split(asked))
    assert draft is not None
    assert (draft.modules, draft.passes) == (1, 1)
    assert draft.run.model.layer_kinds == ("moe",)
    base = run(speculative=None, model="deepseek-v3", gpus=8)
    with_draft, without = (inference_memory(prepare_inference(r, "decode", 1.0))[0] for r in (asked, base))
    added = with_draft.parameters - without.parameters
    assert added * 8 == pytest.approx(11.5e9, rel=0.1)
    # One layer more than 61 caches a token.
    assert with_draft.kv_cache / without.kv_cache == pytest.approx(62 / 61)


def test_a_draft_model_is_held_whole_with_its_own_cache() -> None:
    small = {**toy.MODEL, "num_hidden_layers": 1}
    work = {"speculative": {"acceptance": 0.5, "draft_model": small}}
    with_draft, without = (
        inference_memory(prepare_inference(toy.inference(work=w), "decode", 1.0))[0] for w in (work, {})
    )
    assert with_draft.parameters - without.parameters == 2 * resolve_model(small).parameters
    assert with_draft.kv_cache - without.kv_cache == 8 * 96 * 2 * 128 * 2


def test_a_draft_with_fewer_heads_than_ranks_is_cut_less() -> None:
    asked = run(speculative={**SMALL, "draft_model": "qwen2.5-0.5b"}, gpus=4)  # 14 heads
    draft = draft_of(serving_split(asked))
    assert draft is not None
    assert draft.run.parallelism.tp == 2


def test_what_is_refused() -> None:
    with pytest.raises(
        SpecError, match=r"inference\.speculative: llama3-70b has no multi-token prediction modules; name a draft_model"
    ):
        run(speculative={"acceptance": 0.8})
    with pytest.raises(SpecError, match=r"inference\.speculative\.draft_model: unknown model 'llama3\.2-1c'"):
        run(speculative={**SMALL, "draft_model": "llama3.2-1c"})
    with pytest.raises(SpecError, match=r"inference\.speculative\.acceptance: .*less than or equal to 1, got 1\.2"):
        run(speculative={**SMALL, "acceptance": 1.2})
    with pytest.raises(SpecError, match=r"inference\.speculative\.acceptance: missing"):
        run(speculative={"draft_model": "llama3.2-1b"})
    staged = run(speculative=SMALL).model_copy(
        update={"parallelism": run(speculative=None).parallelism.model_copy(update={"tp": 2, "pp": 2})}
    )
    with pytest.raises(InfeasibleError, match=r"speculative decoding needs pp: 1") as refused:
        simulate(staged)
    assert refused.value.suggestion == "parallelism.pp: 1"


def test_a_module_keeps_the_width_of_its_model() -> None:
    model = resolve_model("deepseek-v3")
    module = prediction_module(model)
    assert module.num_hidden_layers == 1
    assert module.hidden_size == model.hidden_size
    assert module.num_experts == model.num_experts
