"""The forward pass of a Mixture-of-Experts layer: router, permutation, all-to-all, experts, shared experts."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.graph.dispatch import Sending, token_exchange
from simulator.graph.operator import Collective, Gemm, Group, Grouping, Operator, Traffic
from simulator.graph.precision import element_bytes, quantise_bytes, wide
from simulator.graph.transformer import (
    ACTIVATION_BYTES,
    Shapes,
    elementwise,
    feed_forward_core,
    norm,
    residual,
    tensor_collective,
)
from simulator.spec.workload import Dispatcher

PERMUTE_BYTES = 10.0
"""Per row and hidden element, permute and unpermute together: read, write, read, weighted sum (bf16, fp32 weights)."""
FUSED_PERMUTE_BYTES = 4.0
"""The same where the dispatcher's kernels write rows in expert order (DeepEP, HybridEP)."""
ROUTER_BYTES = 8.0
"""Per token and expert: logits in fp32, softmax and top-k passes."""
EXPERT_BIAS_BYTES = 18.0
"""Per row and expert column where experts have biases: adding them, clamping and gating in kernels of their own, about
five passes in bf16. The number is a fit to the gpt-oss steps of workloads/validation/training.csv."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLoad:
    """What the fullest expert rank receives in one micro-batch, which sets the time of a layer."""

    rows: float
    """Rows its experts compute."""
    mean_rows: float
    """The same of the mean rank."""
    held_rows: float
    """The same by layer of the rank that computes most in all layers of a stage, whose activations wait."""
    touched: float
    """Experts of a rank that receive at least one row."""
    local_experts: float
    """Experts a rank holds, copies counted."""
    sent_rows: float
    """Rows a rank has to send: its own tokens times top-k."""
    dropped_fraction: float
    """Of all rows of all ranks."""

    @property
    def mean_share(self) -> float:
        """What the mean rank does of the fullest one's work."""
        return self.mean_rows / self.rows


def expert_load(s: Shapes, imbalance: float, capacity_factor: float | None) -> ExpertLoad:
    """Rows and touched experts of the fullest expert rank, which sets the time of computing and of the all-to-all.

    Expectation under uniform routing: an expert is touched with 1 - (1 - k/E)^T by T tokens. Of a stated imbalance only
    the fullest rank is known. With a capacity factor c, an expert takes at most c times its fair share, so that rank
    drops what exceeds c (balanced routing drops none).
    """
    model, layout = s.model, s.layout
    experts, top_k = model.num_experts or 0, model.num_experts_per_tok or 0
    tokens = s.tokens / layout.tp  # each tensor rank dispatches its share
    sent = tokens * top_k
    fair = sent * layout.etp
    fullest = min(imbalance, float(layout.ep))  # which has all rows at most
    kept = fullest if capacity_factor is None else min(fullest, capacity_factor)
    dropped = (fullest - kept) / layout.ep
    group_tokens = tokens * layout.ep * layout.etp
    touched = experts / layout.ep * (1 - (1 - top_k / experts) ** group_tokens)
    return ExpertLoad(
        rows=fair * kept,
        mean_rows=fair * (1 - dropped),
        held_rows=fair * kept,
        touched=max(1.0, touched),
        local_experts=experts / layout.ep,
        sent_rows=sent,
        dropped_fraction=dropped,
    )


SENDING: dict[Dispatcher, Sending] = {
    "alltoall": "copies",
    "allgather": "all",
    "deepep": "distinct",
    "hybridep": "distinct",
}


def all_to_all(s: Shapes, name: str, load: ExpertLoad, element: float = ACTIVATION_BYTES) -> list[Operator]:
    """Dispatch or combine between expert ranks, as the dispatcher sends tokens."""
    layout, model = s.layout, s.model
    if layout.ep == 1:
        return []
    top_k, dispatcher = model.num_experts_per_tok or 1, layout.settings.dispatcher
    tokens = load.rows / layout.etp / top_k  # what the fullest rank receives in their place
    work = token_exchange(
        layout.expert_group,
        tokens * model.hidden_size * element,
        sending=SENDING[dispatcher],
        top_k=top_k,
        reached_domains=model.topk_group,
        kernel="deepep" if dispatcher == "deepep" else "nccl",
        combines=name.startswith("combine"),
    )
    return [Operator(name, "all_to_all", work, module="moe", mean_share=load.mean_share)]


def experts(s: Shapes, load: ExpertLoad) -> list[Operator]:
    """Two grouped GEMMs over the experts of a rank, their quantisation and activation."""
    model, layout = s.model, s.layout
    gates = 2 if model.expert_gated_ffn else 1
    width = (model.moe_intermediate_size or 0) / layout.etp
    hidden, rows = model.hidden_size, load.rows
    size = element_bytes(s.precision)
    stored = element_bytes(s.weight_precision or s.precision)
    quantise = quantise_bytes(s.precision, transposed_operands=s.transposed_operands)

    by_device = layout.settings.cuda_graph == "full_iteration"
    scheduler: Grouping = "" if load.local_experts <= 1 else "device" if by_device else "host"

    def grouped(name: str, n: float, k: float) -> list[Operator]:
        passes = (
            [Operator(f"{name} quantise", "elementwise", Traffic(rows * k * quantise), module="moe")]
            if quantise
            else []
        )
        work = Gemm(rows, n, k, s.precision, load.touched, stored, size, ACTIVATION_BYTES, scheduler)
        return [*passes, Operator(name, "expert_gemm", work, module="moe")]

    bias = rows * (gates * width + hidden) * EXPERT_BIAS_BYTES if model.expert_bias else 0.0
    activation = elementwise(s, "expert activation", rows * width * (2 * gates + 2) + bias, module="moe_act")
    parts = [*grouped("expert up", gates * width, hidden), activation, *grouped("expert down", hidden, width)]
    return [part._replace(mean_share=load.mean_share) for part in parts]


def moe_feed_forward(s: Shapes, load: ExpertLoad) -> list[Operator]:
    """The MoE layer that stands in the place of the FFN."""
    model, layout = s.model, s.layout
    tokens = s.tokens / layout.tp
    hidden, count = model.hidden_size, model.num_experts or 0
    fused = layout.settings.dispatcher in ("deepep", "hybridep")
    permute = load.sent_rows * hidden * (FUSED_PERMUTE_BYTES if fused else PERMUTE_BYTES) / 2
    router = Gemm(s.rows, count, hidden, wide(s.precision), 1.0, 2.0, 2.0, 4.0)
    parts = [norm(s, "ffn norm")]
    if not layout.settings.sequence_parallel:
        tokens = s.tokens
    if model.routing != "fixed":
        parts.append(Operator("router", "elementwise", router, module="moe"))
        parts.append(elementwise(s, "top-k", tokens * count * ROUTER_BYTES, module="moe"))
    parts.append(elementwise(s, "permute", permute, module="moe"))
    parts += all_to_all(s, "dispatch", load)
    parts += _expert_tensor(s, load, "all_gather")
    parts += experts(s, load)
    parts += _expert_tensor(s, load, "reduce_scatter")
    parts += all_to_all(s, "combine", load)
    parts.append(elementwise(s, "unpermute", permute, module="moe"))
    shared = model.shared_expert_intermediate_size
    if shared:
        parts += tensor_collective(s, "shared expert all-gather", "all_gather")
        parts += feed_forward_core(s, shared, "shared expert", gated=model.expert_gated_ffn, module="moe")
        parts += tensor_collective(s, "shared expert reduce-scatter", "reduce_scatter")
    return [*parts, residual(s, "ffn residual")]


def _expert_tensor(s: Shapes, load: ExpertLoad, kind: str) -> list[Operator]:
    """Ranks that cut one expert gather each other's rows, and sum their partial results."""
    group: Group = s.layout.expert_tensor_group
    if group.size == 1:
        return []
    size = load.rows * s.model.hidden_size * ACTIVATION_BYTES
    work = Collective(kind, size, group)  # type: ignore[arg-type]
    return [Operator(f"expert {kind.replace('_', '-')}", "expert_tensor_parallel", work, 1.0, "moe", load.mean_share)]
