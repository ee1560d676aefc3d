"""Points of what sparse models add: gathers and scatters of rows, top-k, sorting by expert, product-key retrieval, and
whole layers of routed experts.

Indices and scores rotate through several random sets: a branch predictor learns one that is repeated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isqrt

import torch
from torch.nn import functional

from simulator.calibration.kernels_device import TorchDevice
from simulator.calibration.kernels_gemm import GROUPED, Grouped, grouped_product
from simulator.calibration.protocol import Case

SETS = 16


@dataclass(frozen=True)
class RoutingSizes:
    """How far the points reach on a device."""

    gathers: tuple[tuple[int, int, int], ...]
    """(rows taken, columns, rows of the table)."""
    top_k: tuple[tuple[int, int, int], ...]
    """(rows, columns, k)."""
    sums: tuple[tuple[int, int], ...]
    """(rows, k) of a top-k over the sums of two sorted lists of k scores."""
    sorts: tuple[tuple[int, int], ...]
    """(elements, experts)."""
    retrievals: tuple[tuple[int, int, int, int, int], ...]
    """(tokens, heads, experts, k, query_dim)."""
    layers: tuple[tuple[int, int, int, int, int], ...]
    """(tokens, hidden, intermediate size, experts a token, experts)."""


def routing_cases(sizes: RoutingSizes, dtype: str) -> Iterator[Case]:
    """All points of routing and retrieval."""
    for rows, columns, table in sizes.gathers:
        for kernel in ("embedding", "embedding_backward", "index_add"):
            yield gather(kernel, rows, columns, table, dtype=dtype)
    for rows, columns, k in sizes.top_k:
        yield top_k(rows, columns, k, dtype=dtype)
        yield pick(rows, columns, k, dtype=dtype)
    for rows, k in sizes.sums:
        yield top_k_of_sums(rows, k, dtype=dtype)
    for elements, experts in sizes.sorts:
        yield sort("sort", elements, experts, dtype=dtype)
        yield sort("histc", elements, experts, dtype=dtype)
    for tokens, heads, experts, k, query_dim in sizes.retrievals:
        yield product_keys(tokens, heads, experts, k, query_dim, dtype=dtype)
    for tokens, hidden, inter, k, experts in sizes.layers:
        for kernel in GROUPED:
            yield expert_layer(kernel, tokens, hidden, inter, k, experts, dtype=dtype)


def gather(kernel: str, rows: int, columns: int, table: int, *, dtype: str) -> Case:
    """Rows of a table taken (embeddings, PEER experts, permutation) or added into one (their gradients, combine)."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        where = device.torch_device
        turn = itertools.cycle([torch.randint(0, table, (rows,), device=where) for _ in range(SETS)])
        if kernel == "embedding":
            weights = operands.hot(table, columns)
            return lambda: functional.embedding(next(turn), weights)
        grads = operands.hot(rows, columns)
        if kernel == "embedding_backward":
            backward = torch.ops.aten.embedding_dense_backward.default
            return lambda: backward(grads, next(turn), table, -1, False)
        out = torch.zeros(table, columns, device=where, dtype=device.dtype)
        return lambda: out.index_add_(0, next(turn), grads)

    op = "gather" if kernel == "embedding" else "scatter"
    return Case(op, kernel, dtype, {"rows": rows, "columns": columns, "table": table}, build)


def top_k(rows: int, columns: int, k: int, *, dtype: str) -> Case:
    """The k largest of every row, with their places."""

    def build(device: TorchDevice) -> Callable[[], object]:
        sets = max(2, min(SETS, 2**22 // (rows * columns)))
        scores = device.operands().hot(sets, rows, columns).unbind(0)
        turn = itertools.cycle(scores)
        return lambda: torch.topk(next(turn), k)

    return Case("top_k", "topk", dtype, {"rows": rows, "columns": columns, "k": k}, build)


def top_k_of_sums(rows: int, k: int, *, dtype: str) -> Case:
    """The k largest of the k^2 sums of two sorted lists: what product keys choose among, most of it in order."""

    def build(device: TorchDevice) -> Callable[[], object]:
        sets = max(2, min(SETS, 2**22 // (rows * k * k)))
        halves = device.operands().hot(2 * sets, rows, 4 * k).topk(k).values
        turn = itertools.cycle((halves[:sets, :, :, None] + halves[sets:, :, None, :]).flatten(2).unbind(0))
        return lambda: torch.topk(next(turn), k)

    return Case("top_k", "topk_of_sums", dtype, {"rows": rows, "columns": k * k, "k": k}, build)


def pick(rows: int, columns: int, k: int, *, dtype: str) -> Case:
    """Values at k places of every row."""

    def build(device: TorchDevice) -> Callable[[], object]:
        x = device.operands().hot(rows, columns)
        places = [torch.randint(0, columns, (rows, k), device=x.device) for _ in range(SETS)]
        turn = itertools.cycle(places)
        return lambda: torch.gather(x, 1, next(turn))

    return Case("pick", "gather", dtype, {"rows": rows, "columns": columns, "k": k}, build)


def sort(kernel: str, elements: int, experts: int, *, dtype: str) -> Case:
    """Tokens brought into the order of their experts, and counted."""

    def build(device: TorchDevice) -> Callable[[], object]:
        sets = [torch.randint(0, experts, (elements,), device=device.torch_device) for _ in range(SETS)]
        turn = itertools.cycle(sets)
        if kernel == "sort":
            return lambda: torch.sort(next(turn), stable=True)
        counted = itertools.cycle([each.to(device.dtype) for each in sets])
        return lambda: torch.histc(next(counted), bins=experts, min=0, max=experts - 1)

    return Case("sort", kernel, dtype, {"elements": elements}, build)


def product_keys(tokens: int, heads: int, experts: int, k: int, query_dim: int, *, dtype: str) -> Case:
    """The k of N experts a head retrieves by product keys (arXiv 2407.04153 section 2.2), queries given."""
    keys = isqrt(experts)

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        queries = operands.hot(SETS, 2, tokens * heads, query_dim // 2).unbind(0)
        sub_keys = operands.hot(2, keys, query_dim // 2).mT
        turn = itertools.cycle(queries)

        def run() -> object:
            scores, places = torch.bmm(next(turn), sub_keys).topk(k)
            sums = (scores[0, :, :, None] + scores[1, :, None, :]).flatten(1)
            best, at = sums.topk(k)
            return best, places[0].gather(1, at // k) * keys + places[1].gather(1, at % k)

        return run

    shape = {"tokens": tokens, "heads": heads, "experts": experts, "k": k, "query_dim": query_dim}
    return Case("retrieval", "product_keys", dtype, shape, build)


def expert_layer(kernel: Grouped, tokens: int, hidden: int, inter: int, k: int, experts: int, *, dtype: str) -> Case:
    """A layer of gated experts on routed tokens: rows brought into the order of their experts, both products with the
    activation between, and the weighted sum back. Experts get equal shares, as in the `moe` rows of other tables.
    """
    rows = tokens * k
    counts = [rows // experts + (expert < rows % experts) for expert in range(experts)]

    def build(device: TorchDevice) -> Callable[[], object]:
        operands, where = device.operands(), device.torch_device
        x, weights = operands.hot(tokens, hidden), operands.hot(rows, 1)
        up = grouped_product(kernel, operands.hot(experts, 2 * inter, hidden), counts)
        down = grouped_product(kernel, operands.hot(experts, hidden, inter), counts)
        turn = itertools.cycle([torch.randperm(rows, device=where) // k for _ in range(SETS)])

        def run() -> object:
            order = next(turn)
            gate, value = up(x.index_select(0, order)).chunk(2, dim=-1)
            done = down(functional.silu(gate) * value) * weights
            return torch.zeros_like(x).index_add_(0, order, done)

        return run

    shape = {"tokens": tokens, "hidden": hidden, "inter": inter, "topk": k, "experts": experts}
    return Case("moe", kernel, dtype, shape, build)
