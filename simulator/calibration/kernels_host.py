"""Points of what the host does around kernels: views, modules, automatic differentiation, and the cost of sequence.

A kernel in a loop of its own finds its code, branches and data warm; in a model it comes after others. The sequence
points time small kernels alone, in a row, and right after products of several lengths: the difference is the cost of
sequence, and does not depend on the size of the operands. Stretches of equal products tell how much longer a long step
takes, at its best, than its parts at theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import nn

from simulator.calibration.kernels_device import TorchDevice
from simulator.calibration.protocol import Case

CHAIN = 24
"""Calls whose cost is divided by their number."""
CHAINS = (12, 24, 48)
SMALL = 64 * 32
ROWS, COLUMNS = 32, 64
"""Shape of the small operands whose kernels follow others."""
WIDTH = 512
BEFORE_ROWS = (4, 32, 128, 512)
"""Rows of the product that goes before: some 30 us to several ms."""
STRETCH_ROWS = 32
STRETCHES = (1, 4, 12, 40, 120)
"""Products in a row."""
SMALL_STRETCHES = (1, 8, 30, 100, 300)
"""Rounds of the small kernels in a row."""

Chain = Literal["inference", "forward", "training", "leaves"]
MODES: tuple[Chain, ...] = ("inference", "forward", "training", "leaves")


def host_cases(dtype: str) -> Iterator[Case]:
    """All points of the host."""
    yield launch(dtype=dtype)
    yield view(dtype=dtype)
    yield module(dtype=dtype)
    for calls in CHAINS:
        for mode in MODES:
            yield autograd(mode, calls, dtype=dtype)
    for kernel in SEQUENCE:
        yield member(kernel, dtype=dtype)
        for rows in BEFORE_ROWS:
            yield following(kernel, rows, dtype=dtype)
    for rows in BEFORE_ROWS:
        yield before(rows, dtype=dtype)
    for rounds in STRETCHES:
        yield stretch(rounds, dtype=dtype)
    for rounds in SMALL_STRETCHES:
        yield small_stretch(rounds, dtype=dtype)


def launch(*, dtype: str) -> Case:
    """The smallest kernel: what the host needs to issue one."""

    def build(device: TorchDevice) -> Callable[[], object]:
        x = device.operands().hot(1)
        return lambda: torch.add(x, x)

    return Case("host", "launch", dtype, {"elements": 1}, build, clock="host")


def view(*, dtype: str) -> Case:
    """A change of shape that moves nothing, by turns a view and a transposition."""

    def build(device: TorchDevice) -> Callable[[], object]:
        x = device.operands().hot(32, 64)

        def run() -> None:
            for _ in range(CHAIN // 2):
                x.view(64, 32)
                x.transpose(0, 1)

        return run

    return Case("host", "view", dtype, {"calls": CHAIN}, build, clock="host")


def module(*, dtype: str) -> Case:
    """Calls of modules that do nothing."""

    def build(device: TorchDevice) -> Callable[[], object]:
        x, modules = device.operands().hot(1), [nn.Identity() for _ in range(CHAIN)]

        def run() -> None:
            for each in modules:
                each(x)

        return run

    return Case("host", "module", dtype, {"calls": CHAIN}, build, clock="host")


def autograd(mode: Chain, calls: int, *, dtype: str) -> Case:
    """A chain of products: with constants without a tape, with one, with its backward pass; and with parameters."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        x, factor = operands.hot(SMALL).detach(), operands.hot(SMALL)
        x.requires_grad_(mode != "inference")
        ones = torch.ones_like(x)
        leaves = [factor.clone().requires_grad_() for _ in range(calls)] if mode == "leaves" else [factor] * calls

        def step() -> None:
            y = x
            for leaf in leaves:
                y = torch.mul(y, leaf)
            y.backward(ones)
            for leaf in leaves:
                leaf.grad = None
            x.grad = None

        if mode == "leaves":
            return step

        def run() -> object:
            y = x
            for _ in range(calls):
                y = torch.mul(y, factor)
            return torch.autograd.grad(y, x, ones) if mode == "training" else y

        return run

    return Case("host", f"chain_{mode}", dtype, {"calls": calls}, build, clock="host")


def _members(device: TorchDevice) -> dict[str, Callable[[], object]]:
    """Fifteen different kernels on small operands, each as it runs alone."""
    operands, rows, columns = device.operands(), ROWS, COLUMNS
    x, y = operands.hot(rows, columns), operands.hot(rows, columns)
    row, column = operands.hot(columns), operands.hot(rows, 1)
    weight, square = operands.hot(columns, columns).t(), operands.hot(columns, columns)
    heads = operands.hot(1, 4, rows, columns // 4)
    index = torch.randint(0, rows, (rows,), device=x.device)
    large = operands.hot(LARGE_ELEMENTS)
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
        "gelu": lambda: nn.functional.gelu(y),
        "cat": lambda: torch.cat((x, y), -1),
        LARGE: lambda: large.sum(),
    }


LARGE, LARGE_ELEMENTS = "large", 2**21
"""A sum over 8 MiB (fp32): how soon others drive it from a shared cache."""
SEQUENCE = (
    "square", "mean", "rsqrt", "mul_column", "mul_row", "linear", "attention", "product", "add", "silu", "softmax",
    "top_k", "embedding", "gelu", "cat", LARGE,
)  # fmt: skip


def member(kernel: str, *, dtype: str) -> Case:
    """One kernel of the sequence alone."""

    def build(device: TorchDevice) -> Callable[[], object]:
        return _members(device)[kernel]

    return Case("sequence_member", kernel, dtype, {"rows": ROWS, "columns": COLUMNS}, build, clock="host")


def following(kernel: str, rows: int, *, dtype: str) -> Case:
    """The same right after a product of `rows` rows, which has driven its code from the caches."""

    def build(device: TorchDevice) -> Callable[[], object]:
        return _members(device)[kernel]

    def build_before(device: TorchDevice) -> Callable[[], object]:
        return _product(device, rows)

    shape = {"rows": ROWS, "columns": COLUMNS, "before": rows}
    return Case("sequence_following", kernel, dtype, shape, build, before=build_before)


def before(rows: int, *, dtype: str) -> Case:
    """The product that goes before, alone."""

    def build(device: TorchDevice) -> Callable[[], object]:
        return _product(device, rows)

    return Case("sequence_before", "product", dtype, {"before": rows}, build)


def _product(device: TorchDevice, rows: int) -> Callable[[], object]:
    operands = device.operands()
    x, weight = operands.hot(rows, WIDTH), operands.hot(2 * WIDTH, WIDTH).t()
    return lambda: torch.mm(x, weight)


def stretch(rounds: int, *, dtype: str) -> Case:
    """Products of a few hundred microseconds in a row: a long step on a shared machine finds no quiet window."""

    def build(device: TorchDevice) -> Callable[[], object]:
        run = _product(device, STRETCH_ROWS)

        def several() -> None:
            for _ in range(rounds):
                run()

        return several

    return Case("sequence_stretch", "product", dtype, {"rounds": rounds}, build)


def small_stretch(rounds: int, *, dtype: str) -> Case:
    """The small kernels in a row, again and again: they suffer more from what a shared core does beside them."""

    def build(device: TorchDevice) -> Callable[[], object]:
        members = [run for name, run in _members(device).items() if name != LARGE]

        def several() -> None:
            for _ in range(rounds):
                for run in members:
                    run()

        return several

    return Case("sequence_stretch", "small", dtype, {"rounds": rounds}, build, clock="host")
