"""The operators of one engine step: fused kernels over the tokens of a step, attention apart by phase.

A serving engine runs prompt and decode tokens of a step through the same GEMMs; only attention differs, a decode token
reading its sequence's cache, a prompt token the prompt so far. Norms are fused with residuals and quantisation, experts
run as one kernel, and sums over tensor ranks use the engine's own all-reduce where it beats NCCL.
"""

from __future__ import annotations

from typing import NamedTuple

from simulator.graph.dispatch import token_exchange
from simulator.graph.moe import ExpertLoad
from simulator.graph.operator import Attention, Collective, Experts, Gemm, Item, Operator, Traffic
from simulator.graph.parallel import Layout
from simulator.graph.precision import element_bytes, wide
from simulator.graph.transformer import ACTIVATION_BYTES, Shapes
from simulator.spec.hardware import Device
from simulator.spec.inference_constants import read_inference_constants
from simulator.spec.model import ModelSpec
from simulator.spec.parameters import mean_keys

WEIGHT_ONLY = frozenset({"int4"})
"""Formats of weights alone: served with 16-bit activations."""
FUSED_NORM_BYTES = 7.0
"""Per element of norm and residual in one kernel: reads two bf16, writes the residual and the (often quantised)
result."""
ROPE_BYTES = 8.0
"""Per element of query and key: reads and writes bf16 around the rotation, writes the cache."""
TOP_K_BYTES = 8.0
"""Per token and expert: logits in fp32, softmax and top-k passes."""
ROW_INDEX_BYTES = 12.0
"""Per row, to bring rows into the order of experts."""
FINALIZE_BYTES = 4.0
"""Per row and hidden element of the weighted sum of a token's experts."""
LOW_LATENCY_TOKENS = 128
"""Most tokens a rank sends at once through DeepEP's low-latency kernels (num_max_dispatch_tokens_per_rank, README)."""


class Widths(NamedTuple):
    """(precision computed in, precision stored in) of the experts and of all other matrices."""

    experts: tuple[str, str]
    dense: tuple[str, str]


def widths_of(model: ModelSpec, precision: str, device: Device) -> Widths:
    """How a checkpoint in that precision is stored and computed.

    Where the device lacks the arithmetic, weights expand to 16 bits on the way in. Four-bit checkpoints of MoE models
    quantise the experts alone. Those in fp8 have a scale for each tensor or, where the authors chose so, each block.
    """
    if precision == "fp8" and model.weight_block_size is not None:
        precision = "fp8_block"
    native = precision not in WEIGHT_ONLY and device.supports(precision)
    half = "bf16" if device.supports("bf16") else "fp16"
    compute = precision if native else half
    experts_only = model.is_moe and element_bytes(precision) < 1.0
    return Widths((compute, precision), (half, half) if experts_only else (compute, precision))


def gemm(name: str, item: Item, rows: float, n: float, k: float, widths: tuple[str, str]) -> Operator:
    """y = x W with W (k, n) as stored, x quantised by the kernel before."""
    compute, stored = widths
    work = Gemm(rows, n, k, compute, 1.0, element_bytes(stored), element_bytes(compute), ACTIVATION_BYTES)
    return Operator(name, item, work)


def kernel(name: str, bytes_moved: float) -> Operator:
    """A small fused kernel."""
    return Operator(name, "elementwise", Traffic(bytes_moved, served=True))


def rank_sum(s: Shapes, name: str, size: float) -> list[Operator]:
    """The sum over tensor ranks of `size` bytes."""
    if size == 0 or s.layout.tp == 1:
        return []
    return [Operator(name, "tensor_parallel", Collective("all_reduce", size, s.layout.tensor_group, direct=True))]


def attention_projections(s: Shapes, widths: Widths) -> tuple[list[Operator], list[Operator]]:
    """(before the attention core, after it): norm, projections and rotation; output projection and sum."""
    model, tp, rows = s.model, s.layout.tp, s.tokens
    hidden = model.hidden_size
    before = [kernel("norm and residual", rows * hidden * FUSED_NORM_BYTES)]
    if model.is_mla:
        before += _latent_projections(s, widths)
    else:
        kv = max(model.kv_dim / tp, model.head_dim)
        width = model.q_dim / tp + 2 * kv
        before.append(gemm("attention qkv", "attention_projection", rows, width, hidden, widths.dense))
        before.append(kernel("rotation and cache write", rows * (model.q_dim / tp + 2 * kv) * ROPE_BYTES))
    out = model.num_attention_heads * (model.v_head_dim if model.is_mla else model.head_dim) / tp
    after = [gemm("attention output", "attention_projection", rows, hidden, out, widths.dense)]
    return before, after + rank_sum(s, "attention all-reduce", rows * hidden * ACTIVATION_BYTES)


def _latent_projections(s: Shapes, widths: Widths) -> list[Operator]:
    """Low-rank queries and the latent of MLA; the down projections are whole on every rank (arXiv 2405.04434)."""
    model, rows = s.model, s.tokens
    heads = model.num_attention_heads / s.layout.tp
    query = (model.qk_nope_head_dim or 0) + (model.qk_rope_head_dim or 0)
    latent = (model.kv_lora_rank or 0) + (model.qk_rope_head_dim or 0)
    down = latent + (model.q_lora_rank or 0)
    parts = [gemm("query and key-value down", "attention_projection", rows, down, model.hidden_size, widths.dense)]
    parts.append(kernel("latent norms", rows * down * ACTIVATION_BYTES * 2))
    source = model.q_lora_rank or model.hidden_size
    parts.append(gemm("query up", "attention_projection", rows, heads * query, source, widths.dense))
    parts.append(kernel("rotation and cache write", rows * (heads * query + latent) * ROPE_BYTES))
    return parts


def cache_reads(model: ModelSpec, groups: tuple[int, ...] | None) -> float:
    """How often decode attention reads the cache: once a query head where its kernel can't share keys in a group."""
    group = model.num_attention_heads // model.num_key_value_heads
    return 1.0 if groups is None or model.is_mla or group in groups else float(group)


def decode_core(
    s: Shapes, window: int | None, sequences: float, context: float, *, reads: float = 1.0, queries: float = 1.0
) -> list[Operator]:
    """`queries` tokens of each sequence against its cache of `context` tokens, read `reads` times for all of them.

    MLA works in the latent space (absorbed form).
    """
    if sequences == 0:
        return []
    model, tp, rows = s.model, s.layout.tp, sequences * queries
    heads = model.num_attention_heads / tp
    keys = context if window is None else min(window, context)
    parts: list[Operator] = []
    if model.is_mla:
        rank, nope, value = model.kv_lora_rank or 0, model.qk_nope_head_dim or 0, model.v_head_dim or 0
        width = float(rank + (model.qk_rope_head_dim or 0))
        flops = 2.0 * rows * heads * keys * (2 * rank + (model.qk_rope_head_dim or 0))
        into = Gemm(rows * heads, rank, nope, wide(s.precision), heads)
        out = Gemm(rows * heads, value, rank, wide(s.precision), heads)
        parts = [
            Operator("absorb query", "attention_projection", into),
            Operator("absorb value", "attention_projection", out),
        ]
        head_dim = float(rank)
    else:
        width = 2.0 * max(model.kv_dim / tp, model.head_dim)
        head_dim = float(model.head_dim)
        flops = 4.0 * rows * heads * keys * head_dim
    work = Attention(
        flops,
        sequences * keys * width * s.kv_bytes * reads,
        keys,
        head_dim,
        "forward",
        s.layout.settings.attention,
        wide(s.precision),
        decode=True,
        sequences=sequences,
        length=context,
        heads=heads,
        kv_heads=1.0 if model.is_mla else max(model.num_key_value_heads / tp, 1.0),
        window=float(window or 0),
        cache_bytes=s.kv_bytes,
        latent=model.is_mla,
    )
    return [*parts, Operator("decode attention", "attention_core", work)]


def prompt_core(s: Shapes, window: int | None, widths: Widths, prompts: float, length: float) -> list[Operator]:
    """Causal attention of `prompts` whole prompts of `length` tokens; MLA expands keys and values."""
    if prompts == 0:
        return []
    model, tp = s.model, s.layout.tp
    heads = model.num_attention_heads / tp
    tokens = prompts * length
    parts: list[Operator] = []
    if model.is_mla:
        nope, value = model.qk_nope_head_dim or 0, float(model.v_head_dim or 0)
        query = float(nope + (model.qk_rope_head_dim or 0))
        up = gemm(
            "key-value up",
            "attention_projection",
            tokens,
            heads * (nope + value),
            model.kv_lora_rank or 0,
            widths.dense,
        )
        parts.append(up)
        kv_width = heads * (query + value)
    else:
        query = value = float(model.head_dim)
        kv_width = 2.0 * max(model.kv_dim / tp, model.head_dim)
    flops = 2.0 * tokens * heads * mean_keys(length, window) * (query + value)
    moved = tokens * (heads * (query + value) + kv_width) * ACTIVATION_BYTES
    seen = length if window is None else min(window, length)
    kernel_name, head_dim = s.layout.settings.attention, (query + value) / 2
    work = Attention(
        flops,
        moved,
        seen,
        head_dim,
        "forward",
        kernel_name,
        wide(s.precision),
        sequences=prompts,
        length=length,
        heads=heads,
        kv_heads=heads if model.is_mla else max(model.num_key_value_heads / tp, 1.0),
        window=float(window or 0),
        cache_bytes=s.kv_bytes,
        latent=model.is_mla,
    )
    return [*parts, Operator("prompt attention", "attention_core", work)]


def dense_ffn(
    s: Shapes, widths: tuple[str, str], width: float, *, gated: bool, split: int, name: str = "ffn"
) -> list[Operator]:
    """Up (and gate), activation, down: columns divided by `split`."""
    gates, local, hidden = (2 if gated else 1), width / split, s.model.hidden_size
    return [
        gemm(f"{name} up", "ffn_gemm", s.tokens, gates * local, hidden, widths),
        kernel(f"{name} activation", s.tokens * local * (2 * gates + 1)),
        gemm(f"{name} down", "ffn_gemm", s.tokens, hidden, local, widths),
    ]


def expert_ffn(
    s: Shapes, widths: Widths, load: ExpertLoad, *, reached: float, small_kernels: float, whole: float | None = None
) -> list[Operator]:
    """Router, top-k, the two expert GEMMs with their activation, the weighted sum, and shared experts.

    `whole` makes one operator of permutation, experts and sum, as they are measured, with routing of that skew.
    """
    model, layout, rows = s.model, s.layout, s.tokens
    hidden, count = model.hidden_size, model.num_experts or 0
    gates = 2 if model.expert_gated_ffn else 1
    width = (model.moe_intermediate_size or 0) / layout.etp
    compute, stored = widths.experts
    padded = load.rows + load.touched * read_inference_constants().expert_tile_rows / 2

    def grouped(name: str, n: float, k: float) -> Operator:
        size, act = element_bytes(stored), element_bytes(compute)
        work = Gemm(padded, n, k, compute, load.touched, size, act, ACTIVATION_BYTES, reached=reached)
        return Operator(name, "expert_gemm", work)

    parts = [
        gemm("router", "elementwise", rows, count, hidden, (wide(compute), wide(compute))),
        kernel("top-k", rows * count * TOP_K_BYTES),
    ]
    kernels = [
        Operator(
            "sort and align", "elementwise", Traffic(load.rows * ROW_INDEX_BYTES, served=True), calls=small_kernels
        ),
        grouped("expert up", gates * width, hidden),
        kernel("expert activation", load.rows * width * (2 * gates + 1)),
        grouped("expert down", hidden, width),
        kernel("weighted sum", (load.rows + rows) * hidden * FINALIZE_BYTES / 2),
    ]
    parts += kernels if whole is None else [_whole_experts(s, widths.experts, whole, kernels)]
    shared = model.shared_expert_intermediate_size
    if shared:
        parts += dense_ffn(s, widths.dense, shared, gated=model.expert_gated_ffn, split=layout.tp, name="shared expert")
    dispatched = element_bytes(compute)
    return [*_exchange(s, "dispatch", dispatched), *parts, *_exchange(s, "combine", ACTIVATION_BYTES)]


def _whole_experts(s: Shapes, widths: tuple[str, str], skew: float, kernels: list[Operator]) -> Operator:
    model, layout = s.model, s.layout
    work = Experts(
        s.tokens * data_ranks(layout),
        float(model.hidden_size),
        float(model.moe_intermediate_size or 0),
        float(model.num_experts_per_tok or 1),
        float(model.num_experts or 0),
        float(layout.etp),
        float(layout.ep),
        skew,
        model.expert_gated_ffn,
        widths[1],
        widths[0],
        tuple((kernel.work, kernel.calls) for kernel in kernels),  # type: ignore[misc]
    )
    return Operator("experts", "expert_gemm", work)


def _exchange(s: Shapes, name: str, element: float) -> list[Operator]:
    """Tokens of data-parallel attention ranks on their way to the experts and back, `element` bytes each number.

    They are gathered whole and scattered, or sent where their experts are, as the engine's dispatcher does it; DeepEP
    has kernels of low latency for steps of few tokens.
    """
    ranks, dispatcher, combines = data_ranks(s.layout), s.layout.settings.dispatcher, name == "combine"
    if ranks == 1:
        return []
    group, size = s.layout.group(ranks, s.layout.tp), s.tokens * s.model.hidden_size * element
    if dispatcher == "allgather":
        work = Collective("reduce_scatter" if combines else "all_gather", size * ranks, group)
        return [Operator(name, "all_to_all", work)]
    fast = dispatcher == "deepep" and s.tokens <= LOW_LATENCY_TOKENS
    work = token_exchange(
        group,
        size,
        sending="copies" if fast else "distinct",
        top_k=s.model.num_experts_per_tok or 1,
        reached_domains=None if fast else s.model.topk_group,
        kernel="two_sided" if dispatcher == "alltoall" else "deepep_ll" if fast else "deepep",
        combines=combines,
    )
    return [Operator(name, "all_to_all", work)]


def data_ranks(layout: Layout) -> int:
    """Data-parallel attention ranks that share one set of experts."""
    return max(1, layout.ep * layout.etp // layout.tp)
