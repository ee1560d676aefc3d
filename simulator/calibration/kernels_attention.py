"""Points of fused attention: prefill, its backward pass, and decode against a cache.

Queries, keys and values lie as a model leaves them: (batch, sequence, heads, head_dim) in memory, seen transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from simulator.calibration.kernels_device import Operands, TorchDevice
from simulator.calibration.protocol import Case


@dataclass(frozen=True)
class AttentionSizes:
    """How far the points reach on a device."""

    prefill: tuple[tuple[int, int, int, int, int], ...]
    """(batch, heads, kv_heads, sequence, head_dim)."""
    decode: tuple[tuple[int, int, int, int, int], ...]
    reuses: tuple[int, ...]


def attention_cases(sizes: AttentionSizes, dtype: str) -> Iterator[Case]:
    """Prefill, backward and decode points."""
    for batch, heads, kv_heads, sequence, head_dim in sizes.prefill:
        yield prefill(batch, heads, kv_heads, sequence, head_dim, dtype=dtype)
        yield backward(batch, heads, kv_heads, sequence, head_dim, dtype=dtype)
    for batch, heads, kv_heads, keys, head_dim in sizes.decode:
        for reuse in (0, *sizes.reuses):
            yield decode(batch, heads, kv_heads, keys, head_dim, dtype=dtype, reuse=reuse)


def prefill(batch: int, heads: int, kv_heads: int, sequence: int, head_dim: int, *, dtype: str) -> Case:
    """Causal attention of whole sequences."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        q = _tensor(operands, batch, sequence, heads, head_dim)
        k, v = (_tensor(operands, batch, sequence, kv_heads, head_dim) for _ in range(2))
        grouped = heads != kv_heads
        return lambda: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

    shape = _shape(batch, heads, kv_heads, sequence, sequence, head_dim, causal=True)
    return Case("attention", "sdpa", dtype, shape, build)


def backward(batch: int, heads: int, kv_heads: int, sequence: int, head_dim: int, *, dtype: str) -> Case:
    """Gradients of queries, keys and values of the same."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        q = _tensor(operands, batch, sequence, heads, head_dim).detach().requires_grad_()
        k, v = (_tensor(operands, batch, sequence, kv_heads, head_dim).detach().requires_grad_() for _ in range(2))
        out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)
        grad = _tensor(operands, batch, sequence, heads, head_dim)
        return lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)

    shape = _shape(batch, heads, kv_heads, sequence, sequence, head_dim, causal=True)
    return Case("attention_backward", "sdpa", dtype, shape, build)


def decode(batch: int, heads: int, kv_heads: int, keys: int, head_dim: int, *, dtype: str, reuse: int = 0) -> Case:
    """One query a sequence against a cache of `keys`, last used `reuse` bytes ago."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        q = _tensor(operands, batch, 1, heads, head_dim)
        grouped = heads != kv_heads
        if not reuse:
            k, v = (operands.hot(batch, kv_heads, keys, head_dim) for _ in range(2))
            return lambda: scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
        turn = operands.cold(2, batch, kv_heads, keys, head_dim, reuse=reuse)

        def run() -> object:
            cache = next(turn)
            return scaled_dot_product_attention(q, cache[0], cache[1], enable_gqa=grouped)

        return run

    shape = _shape(batch, heads, kv_heads, 1, keys, head_dim, causal=False)
    return Case("attention", "sdpa", dtype, {**shape, "reuse": reuse}, build)


def _tensor(operands: Operands, batch: int, sequence: int, heads: int, head_dim: int) -> torch.Tensor:
    return operands.hot(batch, sequence, heads, head_dim).transpose(1, 2)


def _shape(
    batch: int, heads: int, kv_heads: int, queries: int, keys: int, head_dim: int, *, causal: bool
) -> dict[str, float]:
    return {
        "batch": batch,
        "heads": heads,
        "kv_heads": kv_heads,
        "queries": queries,
        "keys": keys,
        "head_dim": head_dim,
        "causal": float(causal),
    }
