"""Closed forms of fused attention: causal prefill of whole sequences, and decode of one token against a cache."""

from __future__ import annotations

import numpy as np

from simulator.spec.forms import Array, Parameters, Shape, Sheet, limited, norm
from simulator.units import US

QUERY_TILE = 128.0
"""Query rows of one block in FlashAttention-2 and -3 at head dimension 128."""
HEAD_REFERENCE = 128.0
MOST_PADDING = 50.0
"""Cap of the ratio of whole to filled waves: below a fiftieth of a wave latency rules anyway."""


def keys_seen(x: Shape) -> Array:
    """Keys the last query attends to: the window where there is one."""
    return np.where(x["window"] > 0, np.minimum(x["window"], x["seq"]), x["seq"])


def prefill_seconds(p: Parameters, x: Shape, sheet: Sheet, rate_limit: float | None = None) -> Array:
    """t0 + tb b + [(F w/(ec peak s/(s+s0) d/(d+h0)))^p + (B/(em bw))^p]^(1/p).

    F = 4 b h d x pairs of query and key under the causal mask and window, each counted once; w how much longer the
    last, partly filled wave of blocks makes it; B = queries, keys, values and output.
    """
    b, s, d, seen = x["batch"], x["seq"], x["head_dim"], keys_seen(x)
    pairs = seen * (seen + 1.0) / 2.0 + (s - seen) * seen
    flops = 4.0 * b * x["heads"] * d * pairs
    waves = b * x["heads"] * np.ceil(s / QUERY_TILE) / sheet.sms
    padding = 1.0 + p["w"] * (np.minimum(np.ceil(waves) / waves, MOST_PADDING) - 1.0)
    share = seen / (seen + p["s0"]) * d / (d + p["h0"]) * (HEAD_REFERENCE + p["h0"]) / HEAD_REFERENCE
    compute = flops * padding / (share * limited(p["ec"] * sheet.peak, rate_limit))
    moved = b * s * d * (4.0 * x["heads"] + 2.0 * x["kv_heads"] * sheet.row_bytes)
    seconds: Array = (p["t0_us"] + p["tb_us"] * b) * US + norm(compute, moved / (p["em"] * sheet.bandwidth), p["p"])
    return seconds


def decode_seconds(p: Parameters, x: Shape, sheet: Sheet) -> Array:
    """t0 + tb b h/64 + ts log2(1+s) + [(KV/(em bw))^p + (F/(ec peak))^p]^(1/p), KV = bytes of keys and values in
    reach.
    """
    b, d, seen = x["batch"], x["head_dim"], keys_seen(x)
    cache = 2.0 * b * seen * x["kv_heads"] * d * sheet.row_bytes + 4.0 * b * x["heads"] * d
    flops = 4.0 * b * x.get("computed_heads", x["heads"]) * d * seen
    overhead = p["t0_us"] + p["tb_us"] * b * x["heads"] / 64.0 + p["ts_us"] * np.log2(1.0 + seen)
    body = norm(cache / (p["em"] * sheet.bandwidth), flops / (p["ec"] * sheet.peak), p["p"])
    seconds: Array = overhead * US + body
    return seconds


QUERY_WIDTH, VALUE_WIDTH, LATENT_WIDTH = 192.0, 128.0, 576.0
"""Elements of a query or key, of a value, and of a cached latent with its rotary key in multi-head latent attention as
DeepSeek-V2, -V3 and Kimi K2 have it (arXiv 2405.04434 section 2.1), the only one that was measured."""

HEAD_TILE = 64.0
"""Heads that one block of a latent decode kernel computes together; fewer take as long (all kernels measured)."""


def latent_shape(x: Shape, *, decode: bool) -> Shape:
    """Multi-head latent attention as plain attention of the same bytes: expanded in prefill, where a head has keys of
    192 and values of 128; in decode all heads share one cache of latents, which are keys and values at once.
    """
    zeros = np.zeros_like(x["heads"])
    if not decode:
        return {**x, "kv_heads": x["heads"], "head_dim": zeros + (QUERY_WIDTH + VALUE_WIDTH) / 2, "window": zeros}
    padded = np.ceil(x["heads"] / HEAD_TILE) * HEAD_TILE
    width = zeros + LATENT_WIDTH / 2
    return {**x, "computed_heads": padded, "kv_heads": zeros + 1.0, "head_dim": width, "window": zeros}


def attention_features(x: Shape, sheet: Sheet) -> dict[str, Array]:
    """log2 of batch, sequence, keys in reach, heads, grouping, head dimension; waves of query blocks and of caches.

    A window is a feature of its own: decode kernels that compute the query heads of a group together may not do so
    under one, and then read the cache once a head (FlashAttention-2 on L40S).
    """
    seen = keys_seen(x)
    blocks = x["batch"] * x["heads"] * np.ceil(x["seq"] / QUERY_TILE) / sheet.sms
    waves = np.ceil(blocks)
    caches = x["batch"] * x["kv_heads"] / sheet.sms
    cache_waves = np.ceil(caches)
    return {
        "batch": np.log2(x["batch"]),
        "seq": np.log2(x["seq"]),
        "seen": np.log2(seen),
        "cut": np.log2(x["seq"] / seen),
        "heads": np.log2(x["heads"]),
        "kv_heads": np.log2(x["kv_heads"]),
        "grouping": np.log2(x["heads"] / x["kv_heads"]),
        "head_dim": np.log2(x["head_dim"]),
        "rows": np.log2(x["batch"] * x["heads"]),
        "kv_rows": np.log2(x["batch"] * x["kv_heads"]),
        "keys": np.log2(x["batch"] * x["seq"]),
        "waves": np.minimum(np.log2(waves), 5.0),
        "full": blocks / waves,
        "cache_waves": np.minimum(np.log2(cache_waves), 5.0),
        "cache_full": caches / cache_waves,
        "windowed": (x["window"] > 0).astype(np.float64),
    }
