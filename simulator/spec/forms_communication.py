"""Closed forms of collectives and of the token exchange of expert parallelism."""

from __future__ import annotations

import numpy as np

from simulator.spec.forms import Array, Parameters, Shape, Sheet, norm
from simulator.units import US

ROUTING_NODES = 4.0
"""Nodes a token of DeepSeek-V3's node-limited routing reaches at most (arXiv:2412.19437), as DeepEP was measured."""
LOW_LATENCY, THROUGHPUT = "low_latency", "throughput"


def wire_bytes(op: str, x: Shape) -> Array:
    """Bytes through each rank's link: 2(p-1)/p of the buffer for all_reduce, (p-1)/p for the others, all of it point to
    point.
    """
    if op == "send_recv":
        return x["bytes"]
    passes = 2.0 if op == "all_reduce" else 1.0
    share: Array = passes * (x["group_size"] - 1.0) / x["group_size"] * x["bytes"]
    return share


def collective_seconds(op: str, p: Parameters, x: Shape, sheet: Sheet) -> Array:
    """(a^q + (wire bytes / (b link))^q)^(1/q): latency and bandwidth with a transition as soft as q is small."""
    return norm(np.full_like(x["bytes"], p["a_us"] * US), wire_bytes(op, x) / (p["b"] * sheet.link), p["q"])


def collective_features(x: Shape) -> dict[str, Array]:
    return {"bytes": np.log2(x["bytes"]), "group_size": np.log2(x["group_size"])}


def exchange_bytes(x: Shape, sheet: Sheet, copies: bool) -> tuple[Array, Array]:
    """Bytes one rank sends to others inside its node, and to other nodes.

    A dispatcher for throughput sends a token once to each distinct rank that needs it, and once to each distinct node;
    one for low latency (`copies`) sends one copy an expert. Experts are drawn evenly.
    """
    ranks, nodes, topk = x["group_size"], x["nodes"], x["topk"]
    token = x["tokens"] * x["hidden"] * sheet.row_bytes
    if copies:
        inside = topk * (ranks / nodes - 1.0) / ranks
        outside = topk * (1.0 - 1.0 / nodes)
        return token * inside, token * outside
    reached = np.minimum(nodes, ROUTING_NODES)
    local = ranks / nodes
    per_node = topk / reached
    inside = reached * local * (1.0 - (1.0 - 1.0 / local) ** per_node) * (local - 1.0) / local
    outside = np.where(nodes > 1, reached * (nodes - 1.0) / nodes, 0.0)
    return token * inside, token * outside


def exchange_seconds(p: Parameters, x: Shape, sheet: Sheet) -> Array:
    """a + an (nodes - 1) + [(inside/(e link) + inside/(sms r))^p + (outside/(en nic))^p]^(1/p).

    r is what one SM moves, where the kernel was given a number of them (sms > 0); a kernel that never crossed nodes has
    no network terms, and then none is predicted.
    """
    inside, outside = exchange_bytes(x, sheet, copies="copies" in p)
    moving = inside / (p["e"] * sheet.link)
    if "r_gb" in p:
        moving = moving + np.where(x["sms"] > 0, inside / (np.maximum(x["sms"], 1.0) * p["r_gb"] * 1e9), 0.0)
    seconds = np.full_like(inside, p["a_us"] * US)
    if "en" not in p:
        return seconds + moving
    crossing = outside / (p["en"] * sheet.nic)
    if "rn_gb" in p:
        crossing = crossing + np.where(x["sms"] > 0, outside / (np.maximum(x["sms"], 1.0) * p["rn_gb"] * 1e9), 0.0)
    return seconds + p["an_us"] * US * (x["nodes"] - 1.0) + norm(moving, crossing, p["p"])


def exchange_features(x: Shape) -> dict[str, Array]:
    return {
        "tokens": np.log2(x["tokens"]),
        "hidden": np.log2(x["hidden"]),
        "topk": np.log2(x["topk"]),
        "experts": np.log2(x["experts"]),
        "group_size": np.log2(x["group_size"]),
        "nodes": np.log2(x["nodes"]),
        "sms": np.log2(np.maximum(x["sms"], 1.0)),
    }
