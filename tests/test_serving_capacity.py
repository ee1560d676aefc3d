"""What an engine may take of a GPU and sequences of that: one count for a batch and for requests that come and go."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import toy
from test_serving_queue import engine

from simulator.cost.capacity import cache_room, inference_memory
from simulator.errors import InfeasibleError
from simulator.graph.inference import prepare_inference, serving_split
from simulator.graph.kv_cache import CacheShape, cache_shape
from simulator.serving.capacity import Budget, budget
from simulator.serving.requests import Request
from simulator.serving.served import serve_work
from simulator.serving.simulation import serve
from simulator.simulation import inference_batch
from simulator.spec.run import Run, run_from_mapping

TOKEN = 2 * 128 * 2  # a token of the toy in one layer: keys and values of 128 elements of two bytes


def shape(model: dict[str, Any] | str, **split: int) -> CacheShape:
    b = prepare_inference(toy.inference(gpus=8, model=model, parallelism=split), "decode", 1.0)
    return cache_shape(b.run, b.layout)


@pytest.mark.parametrize(
    ("layers", "tokens", "held"),
    [
        ({}, 300, 4 * 300),
        ({"sliding_window": 100}, 300, 4 * 100),
        ({"sliding_window": 100}, 60, 4 * 60),
        ({"sliding_window": 100, "sliding_window_every": 2}, 300, 2 * 300 + 2 * 100),  # Gemma 2, gpt-oss: every other
        ({"sliding_window": 100, "full_attention_every": 4}, 300, 1 * 300 + 3 * 100),  # Gemma 3: all but every k-th
    ],
)
def test_layers_that_slide_keep_their_window_only(layers: dict[str, int], tokens: int, held: int) -> None:
    assert shape({**toy.MODEL, **layers}).bytes(tokens) == held * TOKEN


@pytest.mark.parametrize(
    ("model", "long"),
    [
        ("gemma-2-9b", (21 * 8192 + 21 * 4096) * 2 * 8 * 256 * 2),
        ("gemma-3-27b", (10 * 8192 + 52 * 1024) * 2 * 16 * 128 * 2),
        ("gpt-oss-120b", (18 * 8192 + 18 * 128) * 2 * 8 * 64 * 2),
    ],
)
def test_published_models_that_alternate(model: str, long: int) -> None:
    """A sequence of 8,192 tokens in 16 bits: full layers hold all of it, sliding ones their window."""
    assert shape(model).bytes(8192) == long


def test_a_stage_caches_its_own_layers() -> None:
    """Four layers of which the first three slide, over two stages: the second holds the one that sees all."""
    model = {**toy.MODEL, "sliding_window": 100, "full_attention_every": 4}
    b = prepare_inference(toy.inference(gpus=2, model=model, parallelism={"pp": 2}), "decode", 1.0)
    first, second = (cache_shape(b.run, b.layout, stage).bytes(300) for stage in (0, 1))
    assert (first, second) == (2 * 100 * TOKEN, (300 + 100) * TOKEN)


def test_sequences_of_a_budget_with_windows() -> None:
    """Half of the layers keep 100 tokens: 300 tokens take what 200 take without windows; the longest follows."""
    limits = Budget(kv_tokens=1000.0, sequences=9, step_tokens=99, instances=1, data_ranks=1, window=100.0, sliding=0.5)
    assert [limits.held(tokens) for tokens in (60, 100, 300)] == [60, 100, 200]
    assert limits.longest == 1900
    assert limits.held(limits.longest) == 1000
    no_limit = Budget(1000.0, 9, 99, 1, 1, window=100.0, sliding=1.0)
    assert no_limit.longest == inf
    assert Budget(50.0, 9, 99, 1, 1, window=100.0, sliding=0.5).longest == 50


@pytest.mark.parametrize("reserves", [True, False])
def test_windows_let_more_run_at_once_and_are_given_back(reserves: bool) -> None:
    """Three requests of 200 + 100 tokens in a cache of 600: with windows all three fit, without two."""
    most = {}
    for sliding in (0.0, 0.5):
        limits = Budget(600.0, 9, 10**9, 1, 1, window=100.0, sliding=sliding)
        cost = engine(reserves_output=reserves)
        outcome = serve(cost, limits, arrivals=(Request(i, 0.0, 200, 100) for i in range(3)))
        most[sliding] = max(sample.running for sample in outcome.samples)
        assert max(sample.cache for sample in outcome.samples) <= 1 + 1e-9
        assert outcome.requests == 3
    assert most == {0.0: 2, 0.5: 3}


def batch(concurrency: int, framework: str) -> Run:
    return run_from_mapping(
        {
            "name": "full",
            "kind": "inference",
            "model": "llama3-8b",
            "hardware": {"device": "h100-sxm", "gpus": 1},
            "inference": {"isl": 1024, "osl": 1024, "concurrency": concurrency, "framework": framework},
        }
    )


@pytest.mark.parametrize("framework", ["vllm", "trtllm", "sglang"])
def test_the_largest_batch_that_fits_is_the_largest_that_is_not_refused(framework: str) -> None:
    """A batch and requests that come and go are held to the same share of the device."""
    most = inference_batch(batch(16, framework)).served.fits
    run = batch(most, framework)
    (stage,) = inference_memory(prepare_inference(run, "decode", 1.0))
    assert stage.kv_cache <= cache_room(run, stage)
    assert inference_batch(run).served.fits == pytest.approx(most, abs=1)
    with pytest.raises(InfeasibleError, match=rf"GiB that {framework} uses") as refused:
        inference_batch(batch(most + 2, framework))
    assert refused.value.suggestion == f"inference.concurrency: {(most + 2) // 2}"


def test_the_room_is_what_the_fraction_leaves() -> None:
    """vLLM: 0.9 of the device less weights and work space. TensorRT-LLM: 0.93 of what these leave."""
    gib = 2**30
    for framework, room in (("vllm", lambda c, f, w: 0.9 * c - f), ("trtllm", lambda c, f, w: 0.93 * (c - f - w))):
        run = batch(16, framework)
        (stage,) = inference_memory(prepare_inference(run, "decode", 1.0))
        fixed = stage.parameters + stage.activations + stage.buffers
        capacity = 81559 / 1024 * gib
        assert cache_room(run, stage) == pytest.approx(room(capacity, fixed, stage.framework))
        held = 2 * 8 * 128 * 32 * 2
        assert budget(run).kv_tokens == pytest.approx(cache_room(run, stage) / held)


def test_context_parallelism_and_encoders_are_refused() -> None:
    with pytest.raises(
        InfeasibleError, match=r"parallelism\.cp: cp 2: serving cuts a context over no ranks"
    ) as refused:
        serving_split(toy.inference(gpus=8, parallelism={"cp": 2}))
    assert refused.value.suggestion == "parallelism.cp: 1"
    with pytest.raises(InfeasibleError, match="model: switch-base has an encoder; only decoders are served"):
        serve_work(toy.inference(model="switch-base"))
