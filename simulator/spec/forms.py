"""Closed forms of kernel time, shared by fitting and prediction: what each depends on and how.

Every form takes its parameters by name, the shape as columns and the data sheet, and returns seconds; none knows a
device. `features` are the log2 quantities that the residual tables are spanned over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simulator.units import US

Array = NDArray[np.float64]
Parameters = Mapping[str, float]
Shape = Mapping[str, Array]

Operation = Literal[
    "gemm",
    "moe",
    "prefill",
    "decode",
    "mla_prefill",
    "mla_decode",
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "send_recv",
    "dispatch",
    "combine",
    "memory",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")

_ATTENTION = ("batch", "seq", "heads", "kv_heads", "head_dim", "window")
_LATENT = ("batch", "seq", "heads")
_EXCHANGE = ("tokens", "hidden", "topk", "experts", "group_size", "nodes", "sms")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "moe": ("tokens", "hidden", "inter", "topk", "experts", "tp", "ep", "skew", "gated"),
    "prefill": _ATTENTION,
    "decode": _ATTENTION,
    "mla_prefill": _LATENT,
    "mla_decode": _LATENT,
    **dict.fromkeys(COLLECTIVES, ("bytes", "group_size")),
    "dispatch": _EXCHANGE,
    "combine": _EXCHANGE,
    "memory": ("bytes",),
}
"""Shape columns of each operation. Counts, except `bytes`.

`tokens` of moe is the batch all expert-parallel ranks share, of dispatch and combine what one rank sends; `window` 0 is
full attention, `seq` of decode (and mla_decode) the keys in the cache, `skew` the exponent of the routing's power law
(0 balanced), `bytes` of a collective what nccl-tests calls size: the full buffer of one rank.
"""

K_CAP, K_UNIT = 8192.0, 4096.0
"""A term linear in k missed k = 65536 by 160 % (p99); it's held beyond 8192."""
TILE = 128.0
TILES = ((64, 64), (128, 64), (128, 128), (256, 128), (128, 256), (64, 256))
"""Output tiles whose wave count shapes the residual of GEMMs: those CUTLASS and cuBLAS choose among."""


@dataclass(frozen=True)
class Sheet:
    """What a form needs of the data sheet: SI units; bytes are those of one element."""

    peak: float
    """FLOP/s, dense, of the compute precision."""
    bandwidth: float
    """Bytes/s of device memory."""
    sms: int = 1
    link: float = 0.0
    """Bytes/s, one direction, of the scale-up link."""
    nic: float = 0.0
    """Bytes/s, one direction, of a GPU's share of the network."""
    weight_bytes: float = 2.0
    row_bytes: float = 2.0
    """Of an activation, or of a cached key or value."""


def norm(a: Array, b: Array, p: float) -> Array:
    """(a^p + b^p)^(1/p): the longer of two overlapping times where p is large, their sum where it is 1."""
    longer = np.maximum(np.maximum(a, b), 1e-30)
    shorter = np.minimum(a, b)
    result: Array = longer * (1.0 + (shorter / longer) ** p) ** (1.0 / p)
    return result


def limited(rate: float, rate_limit: float | None) -> float:
    """The rate a kernel reaches where power sustains no more than `rate_limit`: (r^-4 + l^-4)^(-1/4)."""
    if rate_limit is None:
        return rate
    return float((rate**-4.0 + rate_limit**-4.0) ** -0.25)


def gemm_seconds(p: Parameters, x: Shape, sheet: Sheet, rate_limit: float | None = None) -> Array:
    """t0 + tk min(k, 8192)/4096 + [(F/(ec peak))^p + (B/(em bw))^p]^(1/p) (+ tq + 3mk/(eq bw) where rows are
    quantised).

    F = 2mnk, of which a share w counts whole waves of 128-wide tiles (kernels without split-K can't fill a partly used
    wave), B = bytes of both operands and a 16-bit result. The last term is the dynamic quantisation of 16-bit rows to 8
    or 4 bits: read twice the bytes, write once.
    """
    m, n, k = x["m"], x["n"], x["k"]
    computed = m * n + p["w"] * (_whole_waves(m, n, sheet.sms) - m * n)
    compute = 2.0 * computed * k / limited(p["ec"] * sheet.peak, rate_limit)
    moved = m * k * sheet.row_bytes + n * k * sheet.weight_bytes + 2.0 * m * n
    seconds = (p["t0_us"] + p["tk_us"] * np.minimum(k, K_CAP) / K_UNIT) * US
    seconds = seconds + norm(compute, moved / (p["em"] * sheet.bandwidth), p["p"])
    if "eq" in p:
        seconds = seconds + p["tq_us"] * US + 3.0 * m * k / (p["eq"] * sheet.bandwidth)
    result: Array = seconds
    return result


def _whole_waves(m: Array, n: Array, sms: int) -> Array:
    """Outputs of the waves that m x n takes, in tiles 128 wide and 16 to 128 high."""
    height = np.clip(2.0 ** np.ceil(np.log2(m)), 16.0, TILE)
    waves = np.ceil(np.ceil(m / height) * np.ceil(n / TILE) / sms)
    outputs: Array = waves * sms * height * TILE
    return outputs


def gemm_features(x: Shape, sheet: Sheet) -> dict[str, Array]:
    """log2 of m, n, k; whether m is off the tile's alignment; per tile the waves and how full the last one is."""
    m, n, k = x["m"], x["n"], x["k"]
    found = {"m": np.log2(m), "n": np.log2(n), "k": np.log2(k), "ragged": ((m % 8 != 0) & (m > 8)).astype(np.float64)}
    for rows, columns in TILES:
        tiles = np.ceil(m / rows) * np.ceil(n / columns) / sheet.sms
        waves = np.ceil(tiles)
        found[f"waves_{rows}x{columns}"] = np.log2(waves)
        found[f"full_{rows}x{columns}"] = tiles / waves
    return found


def moe_seconds(p: Parameters, x: Shape, sheet: Sheet, rate_limit: float | None = None) -> Array:
    """A whole expert layer on the busiest rank: permute, two grouped GEMMs with their activation, unpermute.

    t0 + tm log2(1+T) + [(F/(ec peak))^p + ((W+A)/(em bw))^p]^(1/p) + ti 4 rows H/bw + tg 4 T k (1-1/ep)(H+2I)/bw

    rows = T k / ep x ep^(b skew), the load of the busiest rank; W = weight bytes of the experts that get any token;
    F counts the rows a tile pads to (m0) and the share c of remote rows that kernels compute all the same; tg is
    the memory traffic that rows of other ranks still cause.
    """
    rows = _busiest_rows(p["b"], x)
    local = x["experts"] / x["ep"]
    inter = x["inter"] / x["tp"]
    matrices = np.where(x["gated"] > 0, 3.0, 2.0)
    active = local * (1.0 - np.exp(-p["u"] * (1.0 - p["us"] * x["skew"]) * rows / local))
    padding = active * p["m0"] * (1.0 - np.exp(-rows / np.maximum(active, 1e-9) / p["m0"]))
    every = x["tokens"] * x["topk"]
    computed = rows + p["c"] * np.maximum(every - rows, 0.0) + padding
    compute = 2.0 * matrices * computed * x["hidden"] * inter / limited(p["ec"] * sheet.peak, rate_limit)
    weights = active * matrices * x["hidden"] * inter * sheet.weight_bytes
    moved = weights + rows * 4.0 * (x["hidden"] + inter)
    remote = 4.0 * every * (1.0 - 1.0 / x["ep"]) * (x["hidden"] + 2.0 * inter)
    seconds: Array = (
        (p["t0_us"] + p["tm_us"] * np.log2(1.0 + x["tokens"])) * US
        + norm(compute, moved / (p["em"] * sheet.bandwidth), p["p"])
        + (p["ti"] * 4.0 * rows * x["hidden"] + p["tg"] * remote) / sheet.bandwidth
    )
    return seconds


def _busiest_rows(exponent: float, x: Shape) -> Array:
    rows: Array = x["tokens"] * x["topk"] / x["ep"] * np.minimum(x["ep"] ** (exponent * x["skew"]), x["ep"])
    return rows


SKEW_LOW, SKEW_HIGH = 1.01, 1.2
"""Power-law exponents that were measured, besides balanced routing."""


def moe_features(x: Shape) -> dict[str, Array]:
    """log2 of tokens, rows, rows an expert, experts here, weights, splits; the skew as steps 0, 1, 2."""
    inter, local = x["inter"] / x["tp"], x["experts"] / x["ep"]
    low = np.minimum(x["skew"], SKEW_LOW) / SKEW_LOW
    high = np.maximum(x["skew"] - SKEW_LOW, 0.0) / (SKEW_HIGH - SKEW_LOW)
    return {
        "tokens": np.log2(x["tokens"]),
        "rows": np.log2(x["tokens"] * x["topk"] / x["ep"]),
        "rows_per_expert": np.log2(x["tokens"] * x["topk"] / x["experts"]),
        "local_experts": np.log2(local),
        "weights": np.log2(x["hidden"] * inter),
        "inter": np.log2(inter),
        "tp": np.log2(x["tp"]),
        "ep": np.log2(x["ep"]),
        "spread": np.clip(np.log2(x["ep"] / x["topk"]), -5.0, 6.0),
        "skew": np.minimum(low + high, 2.0),
        "hidden_is": x["hidden"],
        "inter_is": x["inter"],
        "topk_is": x["topk"],
        "experts_is": x["experts"],
    }


def memory_seconds(p: Parameters, x: Shape, sheet: Sheet) -> Array:
    """t0 + bytes / (em bw): kernels bound by memory bandwidth."""
    seconds: Array = p["t0_us"] * US + x["bytes"] / (p["em"] * sheet.bandwidth)
    return seconds
