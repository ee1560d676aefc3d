"""Names, groups and colours of what a step's time goes to."""

from __future__ import annotations

from typing import Literal, NamedTuple

from simulator.graph.operator import COLORS
from simulator.result import Color

GroupName = Literal["computing", "communicating", "waiting", "host"]


class ItemStyle(NamedTuple):
    """How a breakdown item is shown."""

    label: str
    group: GroupName
    color: Color


_LABELS: dict[str, tuple[str, GroupName]] = {
    "expert_gemm": ("Expert GEMMs", "computing"),
    "ffn_gemm": ("Dense FFN GEMMs", "computing"),
    "attention_projection": ("Attention projections", "computing"),
    "attention_core": ("Attention core", "computing"),
    "logits": ("Logits and loss", "computing"),
    "draft": ("Drafting of tokens to check", "computing"),
    "elementwise": ("Norms, router, permute, activation", "computing"),
    "gather": ("Expert gathers", "computing"),
    "optimizer": ("Optimizer", "computing"),
    "all_to_all": ("All-to-all (dispatch and combine)", "communicating"),
    "tensor_parallel": ("Tensor-parallel collectives", "communicating"),
    "expert_tensor_parallel": ("Expert-tensor-parallel collectives", "communicating"),
    "context_parallel": ("Context-parallel exchange", "communicating"),
    "send_recv": ("Pipeline send and receive", "communicating"),
    "gradient_sync": ("Gradient synchronisation", "communicating"),
    "parameter_gather": ("Parameter all-gather", "communicating"),
    "bubble": ("Pipeline fill and drain", "waiting"),
    "uneven": ("Uneven stages", "waiting"),
    "sharing": ("Waiting for shared links", "waiting"),
    "impaired": ("Slow GPUs and links", "waiting"),
    "noise": ("Noise of the slowest rank", "waiting"),
    "prompts": ("Prompts of other requests", "waiting"),
    "handover": ("KV cache on its way", "waiting"),
    "host": ("Kernel launch gaps", "host"),
    "engine": ("Scheduler and sampling", "host"),
}
ITEM_ORDER = tuple(_LABELS)


def style(item: str) -> ItemStyle:
    """Label, group and colour of an item."""
    label, group = _LABELS[item]
    color: Color = "wait" if group == "waiting" else "host" if group == "host" else COLORS.get(item, "dense")
    return ItemStyle(label, group, color)
