"""Peak memory of one GPU of each pipeline stage in training, bytes by component.

Parameters, gradients and optimizer states follow from what a rank holds and how ZeRO shards it; activations from what
each module keeps for its backward pass, times the micro-batches in flight; buffers from the largest transient tensors.
Without fused attention the counts are those of Korthikanti et al. (arXiv 2205.05198, equations 1-4); with it, those of
the modules as Megatron Core and FSDP2 keep them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulator.graph import parameters_held as held
from simulator.graph.backward import backward_of, halves
from simulator.graph.builder import Build, forward_layer
from simulator.graph.layers import Layer, Portion, stack_of
from simulator.graph.operator import WeightGrad
from simulator.graph.order import CUTTING, fullest
from simulator.units import GIB

BF16, FP32 = 2.0, 4.0
FP8, E5M6 = 1.0, 1.5
"""Where activations are kept in 8 bits, what the attention kernel yields keeps 12, since its own backward pass reads it
too (arXiv 2412.19437 section 3.3.3)."""
WORKSPACE_BYTES = 0.3 * GIB
"""cuBLAS workspaces and small persistent buffers inside the allocator (SimuMax's measured B200 runs)."""
CONTEXT_BYTES = 1.5 * GIB
"""CUDA context, NCCL channels and kernel images outside the allocator: what nvidia-smi shows beyond it on 8 H100."""
FRAGMENTATION = 0.03
"""Of activations and buffers: blocks the caching allocator can't reuse (assumed, expandable segments on)."""


@dataclass(frozen=True, slots=True)
class StageBytes:
    """Bytes of one GPU of a stage at its peak; `moment` says when that is."""

    parameters: float
    gradients: float
    optimizer_states: float
    activations: float
    buffers: float
    kv_cache: float
    framework: float
    moment: str

    @property
    def total(self) -> float:
        """Everything the device must hold."""
        return self.allocated + self.framework

    @property
    def allocated(self) -> float:
        """What the framework's allocator reports as its peak."""
        states = self.parameters + self.gradients + self.optimizer_states
        return states + self.activations + self.buffers + self.kv_cache

    def parts(self) -> dict[str, float]:
        """GiB by component, as `Memory` names them."""
        names = ("parameters", "gradients", "optimizer_states", "activations", "buffers", "kv_cache", "framework")
        return {name: getattr(self, name) / GIB for name in names}


def training_memory(b: Build) -> list[StageBytes]:
    """Peak bytes of every stage of a training run."""
    layout, parts = b.layout, b.layout.parts_held
    stack = stack_of(b.run.model, layout.pp, layout.vpp, b.run.defaults.pads_uneven_pipeline)
    stored = {layer: stored_bytes(b, layer) for layer in stack.layers}
    extra = {layer: live_bytes(b, layer) - stored[layer] for layer in stack.layers}
    cuts = layout.schedule in CUTTING
    late = {layer: deferred_bytes(b, layer) if cuts else 0.0 for layer in stack.layers}
    portions = [dict(portion) for portion in stack.stages]
    states: dict[tuple[Portion, bool, bool], tuple[float, float, float, float]] = {}
    stages = []
    for stage, portion in enumerate(stack.stages):
        key = (portion, stage == 0, stage == layout.pp - 1)
        if key not in states or parts > 1:
            states[key] = _states(b, stage, portions)
        held_layers = (*portion, *stack.stages[layout.pp - 1 - stage]) if parts > 1 else portion
        chunks = max(parts, layout.vpp)
        kept = sum([stored[layer] * count for layer, count in held_layers]) / chunks
        waiting = sum([late[layer] * count for layer, count in held_layers]) / chunks
        live = max([extra[layer] for layer, _ in held_layers], default=0.0)
        moments = fullest(layout.schedule, stage, layout.pp, chunks, layout.micro_batches // parts)
        activations = max([moment.in_flight * kept + moment.deferred * waiting for moment in moments])
        stages.append(_stage(b, stage, states[key], activations, live))
    return stages


def _stage(
    b: Build, stage: int, held_states: tuple[float, float, float, float], kept: float, live: float
) -> StageBytes:
    """Peak bytes of a stage that keeps `kept` activations, and `live` more during a backward pass."""
    parameters, gradients, states, gathered = held_states
    ends = {stage, b.layout.pp - 1 - stage} if b.layout.parts_held > 1 else {stage}
    first, last = 0 in ends, b.layout.pp - 1 in ends
    logits = _logits(b) if last else 0.0
    moment = "loss of the first micro-batch" if logits > live else "backward pass of the last layer held"
    buffers = gathered + max(logits, live) + _communication_buffers(b) + WORKSPACE_BYTES
    if first and not last:
        buffers += _vocabulary_gradient(b)
    framework = CONTEXT_BYTES + FRAGMENTATION * (kept + buffers)
    return StageBytes(parameters, gradients, states, kept, buffers, 0.0, framework, moment)


def _states(b: Build, stage: int, stages: Sequence[Mapping[Layer, int]]) -> tuple[float, float, float, float]:
    """(parameters, gradients, optimizer states, gathered parameters of ZeRO-3) in bytes."""
    layout, framework, model = b.layout, b.run.defaults, b.run.model
    assert b.run.training is not None
    dense, expert = held.rank_held(model, layout, stages, stage)
    sharding, data, expert_data = layout.settings.sharding, layout.data_group.size, layout.expert_data_group.size
    split = dense / data + expert / expert_data
    whole = dense + expert
    state_bytes = {"adam": framework.optimizer_state_bytes, "adafactor": FP32, "sgd": FP32 * 2}
    states = state_bytes[b.run.training.optimizer] * (whole if sharding == "none" else split)
    if b.run.training.offload == "optimizer":
        states = 0.0
    if sharding == "zero3":
        widest = max((sum(held.layer_held(model, layout, layer)) for layer in stages[stage]), default=0.0)
        embedding = model.vocab_size * model.hidden_size / layout.tp
        gathered = (2 * widest + embedding) * BF16
        # FSDP keeps one fp32 copy that is both master weight and parameter; Adam's moments make 12 of its 16 bytes.
        return split * FP32, split * FP32, states - split * FP32 if states else 0.0, gathered
    gradients = framework.gradient_memory_bytes * (split if sharding == "zero2" else whole)
    return BF16 * whole, gradients, states, 0.0


def stored_bytes(b: Build, layer: Layer) -> float:
    """Bytes a layer keeps from its forward to its backward pass, per micro-batch."""
    settings = b.layout.settings
    if settings.recompute == "full":
        return b.shapes.rows * b.run.model.hidden_size * BF16
    kept = _layer_bytes(b, layer, frozenset(settings.recompute_modules), b.load.held_rows if b.load else 0.0)
    return kept * b.run.defaults.recompute_kept_fraction if settings.recompute_fraction else kept


def deferred_bytes(b: Build, layer: Layer) -> float:
    """Bytes a layer holds until its weight gradients run: the input and the output gradient of every GEMM (of a dense
    layer with an FFN of 4 h the 32 b s h of arXiv 2401.10241 section 2.3)."""
    _, weights = halves(backward_of(b.shapes, forward_layer(b, layer), 0.0))
    works = [(operator.work, operator.calls) for operator in weights]
    return sum(w.m * (w.n + w.k) * w.row_bytes * calls for w, calls in works if isinstance(w, WeightGrad))


def live_bytes(b: Build, layer: Layer) -> float:
    """Bytes a layer holds while its own backward pass runs, everything recomputed."""
    return _layer_bytes(b, layer, frozenset(), b.load.rows if b.load else 0.0)


def _layer_bytes(b: Build, layer: Layer, dropped: frozenset[str], expert_rows: float) -> float:
    """Bytes of a layer without what the modules in `dropped` recompute, on a rank that holds so many expert rows."""
    attention = _attention_bytes(b, dropped) * (2 if layer.cross_attention else 1)
    match layer.kind:
        case "moe":
            return attention + _moe_bytes(b, dropped, expert_rows)
        case "peer":
            return attention + _peer_bytes(b)
        case _:
            return attention + _ffn_bytes(b, float(b.run.model.intermediate_size), dropped)


def _kept_bytes(b: Build) -> float:
    """Bytes per element of what GEMMs read and keep for their weight gradients."""
    assert b.run.training is not None
    return FP8 if b.run.training.activation_precision == "fp8" else BF16


def _attention_bytes(b: Build, dropped: frozenset[str]) -> float:
    s, model, layout, kept = b.shapes, b.run.model, b.layout, _kept_bytes(b)
    yielded = BF16 if kept == BF16 else E5M6
    tp, hidden, heads = layout.tp, model.hidden_size, model.num_attention_heads
    if layout.settings.attention == "unfused":
        # arXiv 2205.05198: 11 sbh + 5 a s^2 b for the attention block and its norm
        scores = 0.0 if "core_attn" in dropped else 5.0 * heads * s.context
        outside = 5.0 * hidden / layout.sequence_split
        return s.tokens * (outside + (8.0 * hidden + scores) / tp)
    outside = (4.0 + (0.0 if "layernorm" in dropped else kept)) * hidden / layout.sequence_split
    if model.is_mla:
        latents = (model.q_lora_rank or 0) + (model.kv_lora_rank or 0)
        per_head = 0.0 if "mla_up_proj" in dropped else 2.0 * (2 * model.qk_dim + model.v_dim)
        inside = heads * (per_head + yielded * model.v_dim + 4.0)
        return s.tokens * (outside + inside / tp + kept * latents / layout.sequence_split)
    inside = 2.0 * (model.q_dim + 2 * model.kv_dim) + yielded * model.q_dim + 4.0 * heads
    return s.tokens * (outside + inside / tp)


def _ffn_bytes(b: Build, width: float, dropped: frozenset[str]) -> float:
    s, model, layout, kept = b.shapes, b.run.model, b.layout, _kept_bytes(b)
    hidden = model.hidden_size
    if layout.settings.attention == "unfused":  # 19 sbh for the FFN, its norm and two dropout masks
        return s.tokens * (5.0 * hidden / layout.sequence_split + 4.0 * width / layout.tp)
    norms = 0.0 if "layernorm" in dropped else kept
    gates = 2 if model.gated_ffn else 1
    inside = 0.0 if "mlp" in dropped else kept * width * (gates + 1) / layout.tp
    return s.tokens * (norms * hidden / layout.sequence_split + inside)


def _moe_bytes(b: Build, dropped: frozenset[str], expert_rows: float) -> float:
    s, model, layout = b.shapes, b.run.model, b.layout
    hidden, width = model.hidden_size, model.moe_intermediate_size / layout.etp
    gates = 2 if model.expert_gated_ffn else 1
    if "moe" in dropped:  # its input is kept
        return s.rows * 2.0 * hidden
    kept = _kept_bytes(b)
    columns = gates if "moe_act" in dropped else gates + 1
    weighted = BF16 if kept == BF16 else 0.0  # what experts yield, unless its weights multiply what is recomputed
    rows = expert_rows * ((kept + weighted) * hidden + kept * width * columns)
    router = s.rows * (2.0 * hidden + 4.0 * (model.num_experts or 0))
    shared = model.shared_expert_intermediate_size
    return rows + router + (s.tokens * kept * shared * (gates + 1) / layout.tp if shared else 0.0)


def _peer_bytes(b: Build) -> float:
    """Queries, chosen scores and indices; the gathered experts are gathered again in the backward pass."""
    peer, s = b.run.model.peer, b.shapes
    assert peer is not None
    chosen = peer.num_heads * peer.top_k
    return s.rows * (2.0 * b.run.model.hidden_size + 2.0 * peer.num_heads * peer.query_dim + 16.0 * chosen)


def _vocabulary_gradient(b: Build) -> float:
    """The dense bf16 gradient of embedding or head, before it is added to the accumulated one."""
    return BF16 * b.run.model.vocab_size * b.run.model.hidden_size / b.layout.tp


def _logits(b: Build) -> float:
    """Logits with what the loss keeps beside them, and the head's fresh gradient."""
    logits = b.shapes.tokens * b.run.model.vocab_size / b.layout.tp
    return logits * b.run.defaults.logits_bytes + _vocabulary_gradient(b)


def _communication_buffers(b: Build) -> float:
    """Send and receive buffers of the pipeline."""
    return 2 * b.shapes.rows * b.run.model.hidden_size * BF16 if b.layout.pp > 1 else 0.0
