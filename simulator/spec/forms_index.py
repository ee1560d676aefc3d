"""Which closed form and which features belong to an operation."""

from __future__ import annotations

import numpy as np

from simulator.spec.forms import (
    COLLECTIVES,
    Array,
    Parameters,
    Shape,
    Sheet,
    gemm_features,
    gemm_seconds,
    memory_seconds,
    moe_features,
    moe_seconds,
)
from simulator.spec.forms_attention import attention_features, decode_seconds, latent_shape, prefill_seconds
from simulator.spec.forms_communication import (
    collective_features,
    collective_seconds,
    exchange_features,
    exchange_seconds,
)


def physics(op: str, p: Parameters, x: Shape, sheet: Sheet, rate_limit: float | None = None) -> Array:
    """Seconds by the closed form of `op`. `rate_limit` is the FLOP/s power sustains; forms bound by memory ignore
    it.
    """
    match op:
        case "gemm":
            return gemm_seconds(p, x, sheet, rate_limit)
        case "moe":
            return moe_seconds(p, x, sheet, rate_limit)
        case "prefill":
            return prefill_seconds(p, x, sheet, rate_limit)
        case "decode":
            return decode_seconds(p, x, sheet)
        case "mla_prefill":
            return prefill_seconds(p, latent_shape(x, decode=False), sheet, rate_limit)
        case "mla_decode":
            return decode_seconds(p, latent_shape(x, decode=True), sheet)
        case "dispatch" | "combine":
            return exchange_seconds(p, x, sheet)
        case "memory":
            return memory_seconds(p, x, sheet)
        case _ if op in COLLECTIVES:
            return collective_seconds(op, p, x, sheet)
        case _:
            raise AssertionError(f"no form for {op}")


def features(op: str, x: Shape, sheet: Sheet) -> dict[str, Array]:
    """The features of `op` that residual tables and measured bounds are given in: log2, unless their name says else."""
    match op:
        case "gemm":
            return gemm_features(x, sheet)
        case "moe":
            return moe_features(x)
        case "prefill" | "decode":
            return attention_features(x, sheet)
        case "mla_prefill" | "mla_decode":
            return attention_features(latent_shape(x, decode=op == "mla_decode"), sheet)
        case "dispatch" | "combine":
            return exchange_features(x)
        case "memory":
            return {"bytes": np.log2(x["bytes"])}
        case _ if op in COLLECTIVES:
            return collective_features(x)
        case _:
            raise AssertionError(f"no features for {op}")


# Features whose measured extent says where predictions leave what was measured.
BOUNDED: dict[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "moe": ("tokens", "rows_per_expert", "weights", "local_experts", "tp", "ep"),
    "prefill": ("batch", "seq", "keys", "heads", "grouping", "head_dim"),
    "decode": ("batch", "seq", "keys", "heads", "grouping", "head_dim"),
    "mla_prefill": ("batch", "seq", "keys", "heads"),
    "mla_decode": ("batch", "seq", "keys", "heads"),
    "dispatch": ("tokens", "hidden", "topk", "group_size", "nodes"),
    "combine": ("tokens", "hidden", "topk", "group_size", "nodes"),
    "memory": ("bytes",),
    **dict.fromkeys(COLLECTIVES, ("bytes",)),
}
