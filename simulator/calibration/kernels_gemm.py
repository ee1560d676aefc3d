"""Points of matrix products: plain, batched, and grouped as experts run them.

Shapes fill the space of (m, n, k) evenly in logarithms (a Halton sequence), with a neighbour m + 1 to an aligned m now
and then, since unaligned rows run other kernels. Layouts are those of a linear layer: x W^T forward (nt), g W for the
gradient of the input (nn), g^T x for that of the weights (tn).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from simulator.calibration.kernels_device import TorchDevice
from simulator.calibration.protocol import Case, Skip

Layout = Literal["nt", "nn", "tn"]
LAYOUTS: tuple[Layout, ...] = ("nt", "nn", "tn")
Grouped = Literal["loop", "grouped_mm"]
GROUPED: tuple[Grouped, ...] = ("loop", "grouped_mm")


@dataclass(frozen=True)
class GemmSizes:
    """How far the points reach on a device."""

    points: int
    """Per layout."""
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    max_flops: float
    min_flops: float
    largest: int
    """Edge of the largest square product."""
    reuse: int
    """How long ago, in bytes, the weights of all these were last used; 0 just before."""
    weights: tuple[tuple[int, int], ...]
    """(n, k) of weights multiplied by few rows."""
    few_rows: tuple[int, ...]
    reuses: tuple[int, ...]
    """How long ago their weights were last used, in bytes, beside just before."""
    batched: tuple[tuple[int, int, int, int], ...]
    """(groups, m, n, k)."""
    vectors: tuple[tuple[int, int, int], ...]
    """(groups, rows, columns) of matrices multiplied by one vector each."""
    grouped: tuple[tuple[int, int, int, int], ...]
    """(groups, rows of all groups, n, k)."""


def halton(index: int, base: int) -> float:
    """The `index`-th number of the van der Corput sequence of that base, in (0, 1)."""
    value, fraction = 0.0, 1.0
    while index:
        fraction /= base
        value += fraction * (index % base)
        index //= base
    return value


def spread(count: int, low: tuple[int, ...], high: tuple[int, ...], *, start: int = 1) -> Iterator[tuple[int, ...]]:
    """`count` shapes between `low` and `high`, even in logarithms; beyond 64 rounded to multiples of 16, 8 or 1."""
    for index in range(start, start + count):
        shape = []
        for base, a, b in zip((2, 3, 5), low, high, strict=True):
            size = round(a * (b / a) ** halton(index, base))
            grain = (16, 16, 8, 1)[index % 4] if size > 64 else 1
            shape.append(max(1, size // grain * grain))
        yield tuple(shape)


def gemm_cases(sizes: GemmSizes, dtype: str) -> Iterator[Case]:
    """Plain products in three layouts; few rows with the weights in the cache and far from it."""
    seen = set()
    for place, layout in enumerate(LAYOUTS):
        taken = 0
        for shape in spread(40 * sizes.points, sizes.low, sizes.high, start=1 + place):
            m, n, k = shape if layout != "tn" else (shape[1], shape[2], shape[0])
            if (
                taken < sizes.points
                and sizes.min_flops <= 2 * m * n * k <= sizes.max_flops
                and (layout, m, n, k) not in seen
            ):
                seen.add((layout, m, n, k))
                taken += 1
                yield gemm(layout, m, n, k, dtype=dtype, reuse=sizes.reuse)
    edge = sizes.largest
    yield gemm("nt", edge, edge, edge, dtype=dtype, reuse=sizes.reuse)
    for n, k in sizes.weights:
        for m in sizes.few_rows:
            for reuse in (0, *sizes.reuses):
                yield gemm("nt", m, n, k, dtype=dtype, reuse=reuse)
    for n, k in sizes.weights[:: max(1, len(sizes.weights) // 3)]:
        for few in sizes.few_rows[::2]:
            for reuse in (0, *sizes.reuses):
                yield gemm("nn", few, k, n, dtype=dtype, reuse=reuse)
                yield gemm("tn", n, k, few, dtype=dtype, reuse=reuse)
    for groups, m, n, k in sizes.batched:
        for layout in LAYOUTS:
            yield batched_gemm(layout, groups, m, n, k, dtype=dtype)
    for groups, rows, columns in sizes.vectors:
        for layout in LAYOUTS[:2]:
            yield batched_gemm(layout, groups, 1, columns, rows, dtype=dtype)
            yield batched_gemm(layout, groups, rows, 1, columns, dtype=dtype)
    for groups, m, n, k in sizes.grouped:
        for kernel in GROUPED:
            yield grouped_gemm(kernel, groups, m, n, k, dtype=dtype)


def gemm(layout: Layout, m: int, n: int, k: int, *, dtype: str, reuse: int = 0) -> Case:
    """One product (m, k) x (k, n), its weights last used `reuse` bytes ago.

    Weights are the second operand; in the gradient of weights (tn) they are the result.
    """

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        a = operands.hot(k, m).t() if layout[0] == "t" else operands.hot(m, k)
        across = layout[1] == "t"
        if not reuse or layout == "tn":
            b = operands.hot(n, k).t() if across else operands.hot(k, n)
            if not reuse:
                return lambda: torch.mm(a, b)
            results = operands.cold(m, n, reuse=reuse)
            return lambda: torch.mm(a, b, out=next(results))
        turn = operands.cold(*((n, k) if across else (k, n)), reuse=reuse, transposed=across)
        return lambda: torch.mm(a, next(turn))

    shape = {"m": m, "n": n, "k": k, "reuse": reuse}
    return Case("gemm", layout, dtype, shape, build)


def batched_gemm(layout: Layout, groups: int, m: int, n: int, k: int, *, dtype: str) -> Case:
    """`groups` products (m, k) x (k, n) in one kernel."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        a = operands.hot(groups, k, m).mT if layout[0] == "t" else operands.hot(groups, m, k)
        b = operands.hot(groups, n, k).mT if layout[1] == "t" else operands.hot(groups, k, n)
        return lambda: torch.bmm(a, b)

    return Case("batched_gemm", layout, dtype, {"groups": groups, "m": m, "n": n, "k": k}, build)


def grouped_gemm(kernel: Grouped, groups: int, m: int, n: int, k: int, *, dtype: str) -> Case:
    """`groups` experts of (k, n) on m rows in all, split unevenly; as a loop of products or as one kernel."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        rows = operands.hot(m, k)
        product = grouped_product(kernel, operands.hot(groups, n, k), uneven(m, groups))
        return lambda: product(rows)

    return Case("grouped_gemm", kernel, dtype, {"groups": groups, "m": m, "n": n, "k": k}, build)


def grouped_product(
    kernel: Grouped, weights: torch.Tensor, counts: Sequence[int]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What multiplies rows, sorted by group, with their group's weights (groups, n, k); `counts` are rows by group."""
    if kernel == "grouped_mm":
        if not hasattr(torch, "_grouped_mm"):
            raise Skip(f"torch {torch.__version__} has no grouped product")
        ends = torch.tensor(counts, device=weights.device).cumsum(0).to(torch.int32)
        transposed = weights.mT
        return lambda rows: torch._grouped_mm(rows, transposed, offs=ends)
    busy = [(weight.t(), count) for weight, count in zip(weights, counts, strict=True) if count]
    sizes = [count for _, count in busy]
    return lambda rows: torch.cat(
        [torch.mm(part, weight) for part, (weight, _) in zip(rows.split(sizes), busy, strict=True)]
    )


def uneven(rows: int, groups: int) -> list[int]:
    """`rows` split over groups in proportion to 2, 3, 2, 3, ...; multiples of 16 where that many are there."""
    grain = 16 if rows >= 32 * groups else 1
    parts = [2 + group % 2 for group in range(groups)]
    counts = [rows * part // sum(parts) // grain * grain for part in parts]
    counts[-1] += rows - sum(counts)
    return counts
