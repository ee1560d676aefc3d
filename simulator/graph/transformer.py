"""The forward pass of a transformer layer: attention and dense feed-forward, embedding and loss.

Shapes are those of one rank: t tokens of a micro-batch, heads and FFN columns divided by tp, elementwise operators
divided by tp where sequence parallelism cuts them. Byte counts follow the kernels: a norm reads and writes its input
and keeps a copy (8 B per element in bf16), a residual addition reads two and writes one, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.graph.operator import Attention, Collective, Gemm, Group, Item, Operator, Traffic
from simulator.graph.parallel import Layout
from simulator.graph.precision import element_bytes, quantise_bytes, wide
from simulator.spec.model import ModelSpec
from simulator.spec.parameters import mean_keys

ACTIVATION_BYTES = 2.0
NORM_BYTES = 4.0
"""Per element and norm: reads and writes bf16. Statistics are per row and do not count."""
RESIDUAL_BYTES = 6.0
"""Per element and residual addition: reads two, writes one (bf16)."""
ROPE_BYTES = 4.0
"""Per rotated element: reads and writes bf16."""
EAGER_RMSNORM_BYTES, EAGER_ROPE_BYTES = 36.0, 20.0
"""The same as chains of torch operators through fp32: to float (6), square (8), mean (4), scale (8), back (6), weight
(4) for an RMSNorm; to float (6), complex product (8), back (6) for a rotation. LayerNorm is one kernel in eager torch
too."""
SCORE_BYTES_FORWARD, SCORE_BYTES_BACKWARD = 10.0, 14.0
"""Per attention score without a fused kernel: scale, mask, softmax, dropout with its mask (Megatron-LM 2021). Counting
its kernels gives 9 and 13; a tenth more fits the training steps of workloads/validation/training.csv."""
EAGER_FACTOR = 1.4
"""Bytes of unfused elementwise operators over fused ones: each step of a chain goes through HBM."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """What every operator of a layer needs to know of the rank it runs on."""

    model: ModelSpec
    layout: Layout
    precision: str
    tokens: float
    """t: rows of the layer's GEMMs."""
    context: float
    """Keys a query may see: the sequence in training and prompts, the cache in decode."""
    sequences: float
    phase: str
    transposed_operands: bool
    """The device multiplies fp8 operands in either layout, so no transposed copy is written (Blackwell)."""
    loss_bytes: float = 0.0
    context_balanced: bool = True
    kv_bytes: float = 2.0
    weight_precision: str = ""

    @property
    def fusion(self) -> float:
        return 1.0 if self.layout.settings.fused else EAGER_FACTOR

    @property
    def rows(self) -> float:
        """Tokens of elementwise operators outside tensor-parallel regions."""
        return self.tokens / self.layout.sequence_split


def linear(
    s: Shapes, name: str, item: Item, n: float, k: float, *, rows: float | None = None, module: str = ""
) -> list[Operator]:
    """y = x W with W (k, n), preceded by the quantisation of x where the precision needs it."""
    m = s.tokens if rows is None else rows
    operators = []
    quantise = quantise_bytes(s.precision, transposed_operands=s.transposed_operands)
    if quantise:
        operators.append(Operator(f"{name} quantise", "elementwise", Traffic(m * k * quantise), module=module))
    size = element_bytes(s.precision)
    work = Gemm(m, n, k, s.precision, 1.0, element_bytes(s.weight_precision or s.precision), size, ACTIVATION_BYTES)
    operators.append(Operator(name, item, work, module=module))
    return operators


def elementwise(s: Shapes, name: str, bytes_moved: float, *, module: str = "") -> Operator:
    """An HBM-bound operator, more expensive where nothing is fused."""
    return Operator(name, "elementwise", Traffic(bytes_moved * s.fusion), module=module)


def norm(s: Shapes, name: str) -> Operator:
    """A norm over the hidden dimension of the rank's rows."""
    size = s.rows * s.model.hidden_size
    if not s.layout.settings.python_norms or s.model.norm != "rmsnorm":
        return elementwise(s, name, size * NORM_BYTES, module="layernorm")
    return Operator(name, "elementwise", Traffic(size * EAGER_RMSNORM_BYTES), module="layernorm")


def residual(s: Shapes, name: str) -> Operator:
    """Bias, dropout and addition to the residual stream."""
    return elementwise(s, name, s.rows * s.model.hidden_size * RESIDUAL_BYTES)


def tensor_collective(s: Shapes, name: str, kind: str) -> list[Operator]:
    """all_gather before a tensor-parallel region, reduce_scatter after it; one all_reduce without sequence
    parallelism."""
    layout = s.layout
    if layout.tp == 1:
        return []
    size = s.tokens * s.model.hidden_size * ACTIVATION_BYTES
    if layout.settings.sequence_parallel:
        return [Operator(name, "tensor_parallel", Collective(kind, size, layout.tensor_group))]  # type: ignore[arg-type]
    if kind == "reduce_scatter":
        return [Operator(name, "tensor_parallel", Collective("all_reduce", size, layout.tensor_group))]
    return []


def attention(s: Shapes, window: int | None, *, causal: bool = True) -> list[Operator]:
    """Norm, projections, rotation, the attention core, output projection and residual.

    A query sees what came before it within `window`, or where not `causal` (encoders, cross attention) everything.
    """
    parts = [norm(s, "input norm"), *tensor_collective(s, "attention all-gather", "all_gather")]
    parts += _attention_block(s, window, causal=causal)
    parts += tensor_collective(s, "attention reduce-scatter", "reduce_scatter")
    return [*parts, residual(s, "attention residual")]


def _attention_block(s: Shapes, window: int | None, *, causal: bool) -> list[Operator]:
    parts = _mla_projections(s) if s.model.is_mla else _projections(s)
    parts += _context_exchange(s)
    parts += _core(s, window, causal=causal)
    width = s.model.num_attention_heads * s.model.v_dim / s.layout.tp
    return parts + linear(s, "attention output", "attention_projection", s.model.hidden_size, width)


def parallel_layer(s: Shapes, window: int | None) -> list[Operator]:
    """Attention and a dense FFN that read one norm and are summed together (PaLM, arXiv 2204.02311, section 2)."""
    parts = [norm(s, "input norm"), *tensor_collective(s, "layer all-gather", "all_gather")]
    parts += _attention_block(s, window, causal=True)
    parts += feed_forward_core(s, float(s.model.intermediate_size), "ffn", gated=s.model.gated_ffn)
    parts += tensor_collective(s, "layer reduce-scatter", "reduce_scatter")
    return [*parts, residual(s, "layer residual")]


def _projections(s: Shapes) -> list[Operator]:
    model, tp = s.model, s.layout.tp
    kv = max(model.kv_dim / tp, model.head_dim)  # ranks beyond the key-value heads hold copies
    width = model.q_dim / tp + 2 * kv
    parts = linear(s, "attention qkv", "attention_projection", width, model.hidden_size)
    if not model.learned_positions:
        rope = EAGER_ROPE_BYTES / s.fusion if s.layout.settings.python_norms else ROPE_BYTES
        parts.append(elementwise(s, "rotary embedding", s.tokens * (model.q_dim / tp + kv) * rope))
    if model.qk_norm:
        parts.append(elementwise(s, "query and key norm", s.tokens * (model.q_dim / tp + kv) * NORM_BYTES))
    return parts


def _mla_projections(s: Shapes) -> list[Operator]:
    """Multi-head latent attention (arXiv 2405.04434 section 2.1): low-rank queries, keys and values."""
    model, tp = s.model, s.layout.tp
    assert model.kv_lora_rank
    assert model.qk_nope_head_dim
    assert model.qk_rope_head_dim
    assert model.v_head_dim
    heads = model.num_attention_heads / tp
    query = model.qk_nope_head_dim + model.qk_rope_head_dim
    latent = model.kv_lora_rank + model.qk_rope_head_dim
    hidden, ranks = model.hidden_size, (model.q_lora_rank or 0) + model.kv_lora_rank
    parts: list[Operator] = []
    if model.q_lora_rank:
        parts += linear(s, "query down", "attention_projection", model.q_lora_rank, hidden, rows=s.rows)
        parts += linear(s, "query up", "attention_projection", heads * query, model.q_lora_rank, module="mla_up_proj")
    else:
        parts += linear(s, "query", "attention_projection", heads * query, hidden)
    parts += linear(s, "key-value down", "attention_projection", latent, hidden, rows=s.rows)
    width = heads * (model.qk_nope_head_dim + model.v_head_dim)
    parts += linear(s, "key-value up", "attention_projection", width, model.kv_lora_rank, module="mla_up_proj")
    copies = s.tokens * heads * query * ROPE_BYTES + s.rows * ranks * 3 * NORM_BYTES
    return [*parts, elementwise(s, "latent norms and rotary embedding", copies)]


def _core(s: Shapes, window: int | None, *, causal: bool) -> list[Operator]:
    model, layout = s.model, s.layout
    heads = model.num_attention_heads / layout.tp
    if layout.settings.attention == "unfused":
        return _unfused_core(s, heads)
    query_dim, value_dim = float(model.qk_dim), float(model.v_dim)
    keys = mean_keys(s.context, window) if causal else s.context
    if causal and not s.context_balanced:
        keys *= 2 - 1 / layout.cp  # the last rank's queries see almost the whole sequence
    flops = 2.0 * s.tokens * heads * keys * (query_dim + value_dim)
    moved = s.tokens * (heads * (query_dim + value_dim) + _key_value_width(s)) * ACTIVATION_BYTES
    seen = s.context if window is None else min(window, s.context)
    head_dim = (query_dim + value_dim) / 2
    work = Attention(
        flops,
        moved,
        seen,
        head_dim,
        "forward",
        layout.settings.attention,
        wide(s.precision),
        sequences=s.tokens / s.context,
        length=s.context,
        heads=heads,
        kv_heads=max(model.num_key_value_heads / layout.tp, 1.0),
        window=float(window or 0),
        latent=model.is_mla,
    )
    return [Operator("attention core", "attention_core", work, module="core_attn")]


def _key_value_width(s: Shapes) -> float:
    """Elements of a token's keys and values on one rank: latents expanded, copies beyond the key-value heads."""
    model, tp = s.model, s.layout.tp
    if model.is_mla:
        return model.num_attention_heads * (model.qk_dim + model.v_dim) / tp
    return 2 * max(model.kv_dim / tp, model.head_dim)


def _unfused_core(s: Shapes, heads: float) -> list[Operator]:
    """Two batched GEMMs over the whole square of scores, and softmax with dropout between them."""
    batches, m = s.sequences * heads, s.tokens * heads
    scores = Gemm(m, s.context, s.model.qk_dim, wide(s.precision), batches)
    values = Gemm(m, s.model.v_dim, s.context, wide(s.precision), batches)
    softmax = Traffic(m * s.context * SCORE_BYTES_FORWARD)
    return [
        Operator("attention scores", "attention_core", scores, module="core_attn"),
        Operator("attention softmax", "attention_core", softmax, module="core_attn"),
        Operator("attention values", "attention_core", values, module="core_attn"),
    ]


def _context_exchange(s: Shapes) -> list[Operator]:
    """Context parallelism passes keys and values around a ring: every rank receives those of all others."""
    layout = s.layout
    if layout.cp == 1:
        return []
    size = s.tokens * layout.cp * _key_value_width(s) * ACTIVATION_BYTES
    return [
        Operator(
            "key-value exchange",
            "context_parallel",
            Collective("all_gather", size, layout.context_group),
            module="ring",
        )
    ]


def feed_forward(s: Shapes, width: float) -> list[Operator]:
    """Norm, up (and gate) projection, activation, down projection, residual: a dense FFN."""
    parts = [norm(s, "ffn norm"), *tensor_collective(s, "ffn all-gather", "all_gather")]
    parts += feed_forward_core(s, width, "ffn", gated=s.model.gated_ffn)
    parts += tensor_collective(s, "ffn reduce-scatter", "reduce_scatter")
    return [*parts, residual(s, "ffn residual")]


def feed_forward_core(s: Shapes, width: float, name: str, *, gated: bool, module: str = "mlp") -> list[Operator]:
    """The two GEMMs of an FFN of `width` columns, cut by tensor parallelism, and its activation."""
    gates = 2 if gated else 1
    local = width / s.layout.tp
    parts = linear(s, f"{name} up", "ffn_gemm", gates * local, s.model.hidden_size, module=module)
    moved = s.tokens * local * (2 * gates + 2)
    parts.append(elementwise(s, f"{name} activation", moved, module=module))
    return parts + linear(s, f"{name} down", "ffn_gemm", s.model.hidden_size, local, module=module)


def embedding(s: Shapes) -> list[Operator]:
    """Rows gathered from the table; with tensor parallelism its columns of the vocabulary are summed over ranks."""
    moved = s.tokens * s.model.hidden_size * 2 * ACTIVATION_BYTES
    parts = [Operator("embedding", "elementwise", Traffic(moved, gather=True))]
    return parts + tensor_collective(s, "embedding reduce-scatter", "reduce_scatter")


def head(s: Shapes, *, tokens: float | None = None) -> list[Operator]:
    """Final norm, logits, and in training the loss; `tokens` where only some rows need logits (inference)."""
    rows = s.tokens if tokens is None else tokens
    vocab = s.model.vocab_size / s.layout.tp
    precision = wide(s.precision)
    size = element_bytes(precision)
    parts = [norm(s, "final norm"), *tensor_collective(s, "logits all-gather", "all_gather")]
    parts.append(
        Operator(
            "logits", "logits", Gemm(rows, vocab, s.model.hidden_size, precision, 1.0, size, size, ACTIVATION_BYTES)
        )
    )
    if s.phase == "forward":
        parts.append(Operator("cross-entropy", "logits", Traffic(rows * vocab * s.loss_bytes / 2)))
    elif s.layout.tp > 1:
        group = Group(s.layout.tensor_group.size, s.layout.tensor_group.per_domain)
        parts.append(
            Operator(
                "logits all-gather", "tensor_parallel", Collective("all_gather", rows * vocab * s.layout.tp * 2, group)
            )
        )
    return parts
