"""Points of what the host does around kernels: views, modules, automatic differentiation, and the cost of sequence.

A kernel in a loop of its own finds its code, branches and data warm; in a model it comes after others. The sequence
points run a row of small kernels one after another, whose times alone are points of their own; what is left over is
the cost of sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import nn

from simulator.calibration.kernels_device import TorchDevice
from simulator.calibration.protocol import Case
from simulator.units import MIB

CHAIN = 24
"""Calls whose cost is divided by their number."""
CHAINS = (12, 24, 48)
SMALL = 64 * 32
SEQUENCE_SHAPES = ((32, 64), (16, 256))
FLUSHES = (MIB // 16, MIB // 4, MIB, 8 * MIB)
"""Bytes a copy between the kernels touches: what the rest of a model does to caches."""

Chain = Literal["inference", "forward", "training"]


def host_cases(dtype: str) -> Iterator[Case]:
    """All points of the host."""
    yield launch(dtype=dtype)
    yield view(dtype=dtype)
    yield module(dtype=dtype)
    for calls in CHAINS:
        for mode in ("inference", "forward", "training"):
            yield autograd(mode, calls, dtype=dtype)  # type: ignore[arg-type]
    for rows, columns in SEQUENCE_SHAPES:
        for kernel in SEQUENCE:
            yield member(kernel, rows, columns, dtype=dtype)
    for flush in FLUSHES:
        yield flusher(flush, dtype=dtype)
        for rows, columns in SEQUENCE_SHAPES:
            yield sequence(flush, rows, columns, dtype=dtype)
    for rows, columns in SEQUENCE_SHAPES:
        yield sequence(0, rows, columns, dtype=dtype)


def launch(*, dtype: str) -> Case:
    """The smallest kernel: what the host needs to issue one."""

    def build(device: TorchDevice) -> Callable[[], object]:
        x = device.operands().hot(1)
        return lambda: torch.add(x, x)

    return Case("host", "launch", dtype, {"elements": 1}, build)


def view(*, dtype: str) -> Case:
    """A change of shape that moves nothing, by turns a view and a transposition."""

    def build(device: TorchDevice) -> Callable[[], object]:
        x = device.operands().hot(32, 64)

        def run() -> None:
            for _ in range(CHAIN // 2):
                x.view(64, 32)
                x.transpose(0, 1)

        return run

    return Case("host", "view", dtype, {"calls": CHAIN}, build)


def module(*, dtype: str) -> Case:
    """Calls of modules that do nothing."""

    def build(device: TorchDevice) -> Callable[[], object]:
        x, modules = device.operands().hot(1), [nn.Identity() for _ in range(CHAIN)]

        def run() -> None:
            for each in modules:
                each(x)

        return run

    return Case("host", "module", dtype, {"calls": CHAIN}, build)


def autograd(mode: Chain, calls: int, *, dtype: str) -> Case:
    """A chain of products with constants: without a tape, with one, and with its backward pass."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        x, factor = operands.hot(SMALL).detach(), operands.hot(SMALL)
        x.requires_grad_(mode != "inference")
        ones = torch.ones_like(x)

        def run() -> object:
            y = x
            for _ in range(calls):
                y = torch.mul(y, factor)
            return torch.autograd.grad(y, x, ones) if mode == "training" else y

        return run

    return Case("host", f"chain_{mode}", dtype, {"calls": calls}, build)


def _members(device: TorchDevice, rows: int, columns: int) -> dict[str, Callable[[], object]]:
    """Fourteen different kernels on small operands, each as it runs alone."""
    operands = device.operands()
    x, y = operands.hot(rows, columns), operands.hot(rows, columns)
    row, column = operands.hot(columns), operands.hot(rows, 1)
    weight, square = operands.hot(columns, columns).t(), operands.hot(columns, columns)
    heads = operands.hot(1, 4, rows, columns // 4)
    index = torch.randint(0, rows, (rows,), device=x.device)
    attention = nn.functional.scaled_dot_product_attention
    return {
        "square": lambda: x.pow(2),
        "mean": lambda: x.mean(-1, keepdim=True),
        "rsqrt": lambda: column.abs().rsqrt(),
        "mul_column": lambda: x * column,
        "mul_row": lambda: x * row,
        "linear": lambda: torch.mm(x, weight),
        "attention": lambda: attention(heads, heads, heads, is_causal=True),
        "product": lambda: torch.mm(y, square),
        "add": lambda: x + y,
        "silu": lambda: nn.functional.silu(y),
        "softmax": lambda: torch.softmax(x, -1),
        "top_k": lambda: torch.topk(x, 2),
        "embedding": lambda: nn.functional.embedding(index, x),
        "cat": lambda: torch.cat((x, y), -1),
    }


SEQUENCE = (
    "square", "mean", "rsqrt", "mul_column", "mul_row", "linear", "attention", "product", "add", "silu", "softmax",
    "top_k", "embedding", "cat",
)  # fmt: skip


def member(kernel: str, rows: int, columns: int, *, dtype: str) -> Case:
    """One kernel of the sequence alone."""

    def build(device: TorchDevice) -> Callable[[], object]:
        return _members(device, rows, columns)[kernel]

    return Case("sequence_member", kernel, dtype, {"rows": rows, "columns": columns}, build)


def flusher(size: int, *, dtype: str) -> Case:
    """The copy that stands between the kernels of a flushed sequence, alone."""

    def build(device: TorchDevice) -> Callable[[], object]:
        return _flush(device, size)

    return Case("sequence_member", "flush", dtype, {"bytes": size}, build)


def sequence(flush: int, rows: int, columns: int, *, dtype: str) -> Case:
    """All of them one after another, with a copy of `flush` bytes before each."""

    def build(device: TorchDevice) -> Callable[[], object]:
        members = _members(device, rows, columns)
        runs = list(members.values())
        between = _flush(device, flush) if flush else None

        def run() -> None:
            for each in runs:
                if between is not None:
                    between()
                each()

        return run

    return Case(
        "sequence", "mixed", dtype, {"calls": len(SEQUENCE), "rows": rows, "columns": columns, "bytes": flush}, build
    )


def _flush(device: TorchDevice, size: int) -> Callable[[], object]:
    """A copy that touches `size` bytes in all."""
    source = device.operands().cold(size // 2 // torch.finfo(device.dtype).bits * 8, reuse=2 * size)
    x = next(source)
    out = torch.empty_like(x)
    return lambda: out.copy_(x)
