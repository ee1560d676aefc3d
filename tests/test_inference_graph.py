"""Operators of prompts and of decode steps by hand: what they read, what they compute, and whom a rank talks to."""

from __future__ import annotations

from math import hypot
from typing import Any

import pytest
import toy

from simulator.assembly.totals import mean_sums
from simulator.errors import InfeasibleError
from simulator.graph.builder import Build
from simulator.graph.graph import Phase
from simulator.graph.inference import Pass, build_inference, prepare_inference, serving_split
from simulator.graph.inference_layers import widths_of
from simulator.graph.operator import Attention, Collective, Gemm, Operator
from simulator.simulation import inference_batch, simulate
from simulator.spec import parameters as counts
from simulator.spec.hardware import load_device
from simulator.spec.model import resolve_model

HIDDEN, BATCH, ISL = 128, 8, 64


def prepared(phase: Phase, context: float = 100, **run: Any) -> Build:
    return prepare_inference(toy.inference(**run), phase, context)


def layer(b: Build) -> dict[str, Operator]:
    """The operators of the first layer by name."""
    program = next(p for p in build_inference(b).programs if "layer" in p.name)
    return {o.name: o for o in program.serial}


def test_a_decode_step_has_one_row_a_sequence_and_a_prompt_has_all_of_its_tokens() -> None:
    step, prompt = (layer(prepared(phase))["attention qkv"].work for phase in ("decode", "prefill"))
    assert isinstance(step, Gemm)
    assert isinstance(prompt, Gemm)
    assert (step.m, step.n, step.k) == (BATCH, 3 * HIDDEN, HIDDEN)
    assert prompt == step._replace(m=BATCH * ISL)


def test_decode_attention_reads_the_cache_once() -> None:
    work = layer(prepared("decode", 100))["decode attention"].work
    assert isinstance(work, Attention)
    assert work.decode
    assert work.bytes == BATCH * 100 * 2 * HIDDEN * 2
    assert work.flops == BATCH * 100 * 4 * HIDDEN


@pytest.mark.parametrize(("window", "keys"), [(10, 10), (1000, 100)])
def test_a_window_bounds_what_decode_reads(window: int, keys: int) -> None:
    work = layer(prepared("decode", 100, model={**toy.MODEL, "sliding_window": window}))["decode attention"].work
    assert isinstance(work, Attention)
    assert work.bytes == BATCH * keys * 2 * HIDDEN * 2


@pytest.mark.parametrize("name", ["llama3.1-8b", "qwen3-30b-a3b", "falcon-40b", "deepseek-v2-lite"])
def test_a_prompt_does_the_forward_flops_of_the_parameters(name: str) -> None:
    """But for norms, and for the head, which only the last token of a prompt meets; experts' tiles are padded."""
    model = resolve_model(name)
    work = {"isl": 512, "osl": 16, "concurrency": 2}
    b = prepared("prefill", 512, model=name, work=work)
    found = mean_sums(build_inference(b)).flops
    tokens, head = 1024, 2 * model.vocab_size * model.hidden_size
    expected = tokens * (counts.sequence_flops_per_token(model, 512) - head) + 2 * head
    if b.load is not None:
        tiles = b.load.touched * (model.num_moe_layers or 0) * 2 * counts.expert_parameters(model)
        assert expected * (1 - 1e-3) < found < expected + 64 * tiles
    else:
        assert found == pytest.approx(expected, rel=1e-3)


def test_a_decode_step_reads_every_weight_once() -> None:
    """But the embedding, of which it looks up a row."""
    b = prepared("decode", 1)
    gemms = [
        (o.work, count)
        for chunk in build_inference(b).forward[0]
        for program, count in chunk.programs
        for o in program.serial
        if isinstance(o.work, Gemm)
    ]
    weights = sum(work.groups * work.n * work.k * count for work, count in gemms)
    norms = counts.norm_parameters_per_layer(b.run.model) * 4 + HIDDEN
    assert weights == b.run.model.parameters - norms - 1024 * HIDDEN


def test_latent_attention_reads_the_matrices_it_absorbs_for_every_head() -> None:
    """DeepSeek-V3 on eight ranks: 16 heads, a latent of 512, 128 columns a head (arXiv 2405.04434, section 2.1)."""
    ops = layer(prepared("decode", 100, gpus=8, model="deepseek-v3", parallelism={"tp": 8}))
    into, out, core = (ops[name].work for name in ("absorb query", "absorb value", "decode attention"))
    assert isinstance(into, Gemm)
    assert isinstance(out, Gemm)
    assert isinstance(core, Attention)
    assert (into.groups, into.m, into.n, into.k) == (16, BATCH * 16, 512, 128)
    assert (out.groups, out.m, out.n, out.k) == (16, BATCH * 16, 128, 512)
    assert core.bytes == BATCH * 100 * (512 + 64) * 2  # the latent and the rotary key, whole on every rank
    assert core.flops == 2 * BATCH * 100 * 16 * (2 * 512 + 64)


def test_tensor_ranks_sum_twice_a_layer() -> None:
    sums = {
        name: o.work
        for name, o in layer(prepared("decode", gpus=2, parallelism={"tp": 2})).items()
        if isinstance(o.work, Collective)
    }
    assert list(sums) == ["attention all-reduce", "ffn all-reduce"]
    assert {(work.kind, work.bytes) for work in sums.values()} == {("all_reduce", BATCH * HIDDEN * 2)}


def test_one_rank_talks_to_nobody() -> None:
    for program in build_inference(prepared("decode")).programs:
        assert not [o for o in program.serial if o.is_communication]


@pytest.mark.parametrize(
    ("split", "tp", "etp"),
    [({"tp": 4}, 4, 4), ({"tp": 4, "ep": 4}, 4, 1), ({"tp": 8, "ep": 2}, 8, 4), ({"tp": 8, "dp_attention": 4}, 2, 8)],
)
def test_an_instance_is_cut_by_attention_and_by_experts(split: dict[str, int], tp: int, etp: int) -> None:
    run = serving_split(toy.inference(gpus=8, model=toy.MOE_MODEL, parallelism=split))
    assert (run.parallelism.tp, run.parallelism.etp) == (tp, etp)


@pytest.mark.parametrize(
    ("dispatcher", "kind", "kernel", "tokens"),
    [
        ("allgather", "all_gather", "nccl", 8),  # nccl-tests' bytes: those of all ranks
        ("deepep", "all_to_all", "deepep_ll", 2 * 7 / 8),  # a copy for each of two experts, of which 7 in 8 are remote
        ("alltoall", "all_to_all", "two_sided", 8 * (1 - (7 / 8) ** 2) * 7 / 8),  # one for each distinct rank
    ],
)
def test_a_dispatcher_sends_the_tokens_of_attention_ranks_to_their_experts(
    dispatcher: str, kind: str, kernel: str, tokens: float
) -> None:
    """Eight ranks of one sequence each; two of eight experts a token."""
    split = {"tp": 8, "ep": 8, "dp_attention": 8}
    b = prepared("decode", gpus=8, model=toy.MOE_MODEL, parallelism=split, execution={"moe_dispatcher": dispatcher})
    dispatch, combine = layer(b)["dispatch"].work, layer(b)["combine"].work
    assert isinstance(dispatch, Collective)
    assert isinstance(combine, Collective)
    assert (dispatch.kind, dispatch.kernel) == (kind, kernel)
    assert dispatch.bytes == combine.bytes == pytest.approx(tokens * HIDDEN * 2)
    assert (dispatch.combines, combine.combines) == (False, kind == "all_to_all")


def test_attention_ranks_that_do_not_divide_an_instance_are_refused() -> None:
    with pytest.raises(InfeasibleError) as caught:
        serving_split(toy.inference(gpus=8, parallelism={"tp": 8, "dp_attention": 3}))
    assert str(caught.value) == "parallelism.dp_attention: dp_attention 3 must divide the 8 GPUs of an instance"


@pytest.mark.parametrize(
    ("model", "device", "precision", "experts", "dense"),
    [
        ("llama3.1-8b", "h100-sxm", "fp8", "fp8", "fp8"),
        ("llama3.1-8b", "a100-sxm-80gb", "fp8", "bf16", "bf16"),  # weights alone
        ("llama3.1-8b", "v100-sxm2-32gb", "int8", "fp16", "fp16"),
        ("llama3.1-8b", "b200-sxm", "nvfp4", "nvfp4", "nvfp4"),
        ("gpt-oss-120b", "h100-sxm", "mxfp4", "bf16", "bf16"),
        ("qwen3-30b-a3b", "b200-sxm", "nvfp4", "nvfp4", "bf16"),  # four-bit checkpoints quantise experts alone
    ],
)
def test_precision_that_a_checkpoint_is_computed_in(
    model: str, device: str, precision: str, experts: str, dense: str
) -> None:
    widths = widths_of(resolve_model(model), precision, load_device(device))
    assert (widths.experts[0], widths.dense[0]) == (experts, dense)
    assert widths.experts[1] == precision


@pytest.mark.parametrize("name", ["llama3.1-8b", "qwen3-30b-a3b", "deepseek-v2-lite"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_device_without_bf16_serves_in_fp16(name: str, precision: str) -> None:
    work = {"isl": 64, "osl": 8, "concurrency": 2, "precision": precision}
    run = toy.inference(model=name, work=work, parallelism={"tp": 4}, hardware={"device": "v100-sxm2-32gb", "gpus": 4})
    result = simulate(run)
    assert result.summary.peak_flops_per_s == 125e12


def test_a_pass_counts_decodes_and_prompts() -> None:
    assert Pass(decodes=8, context=100, prompts=2, length=64).tokens == 8 + 2 * 64


def test_latencies_of_a_batch() -> None:
    """Prefill, in parallel with the host that launches its layers; then a step for each further token."""
    run = toy.inference(work={"osl": 33, "concurrency": 8})
    batch, result, engine = inference_batch(run), simulate(run), run.defaults
    host = (engine.engine_step_us + 8 * engine.sequence_us) * 1e-6
    ttft = hypot(batch.prefill[2].duration, 4 * engine.prompt_layer_us * 1e-6) + host
    tpot = batch.decode[2].duration + host
    assert result.ttft_s is not None
    assert result.tpot_s is not None
    assert result.output_tokens_per_s is not None
    assert (result.ttft_s.value, result.tpot_s.value) == pytest.approx((ttft, tpot), rel=0.01)  # a table, interpolated
    assert result.output_tokens_per_s.value == pytest.approx(8 * 33 / (ttft + 32 * tpot), rel=0.01)


def test_stages_follow_one_another() -> None:
    one, two = (inference_batch(toy.inference(gpus=pp, parallelism={"pp": pp})).decode for pp in (1, 2))
    assert two[2].duration == pytest.approx(one[2].duration + two[1].send, rel=1e-9)
    assert two[2].spent.exposed["send_recv"] == two[1].send > 0
