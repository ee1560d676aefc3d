"""Points of operators that move bytes: elementwise, row by row, reductions, copies, fills, loss and optimizer; and of
copies between host and device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from simulator.calibration.kernels_device import TorchDevice
from simulator.calibration.protocol import Case, Skip

aten = torch.ops.aten
MAX_OPTIMIZERS = 256
INDEX_SETS = 16
HEADS = 4
"""Of the copy that brings heads beside each other."""
TRANSFERS = ("host_to_device", "device_to_host", "pageable_to_device", "within_device")
"""Copies from and to page-locked memory of the host, from its ordinary memory, and from one place of the device to
another.
"""
Unary = Callable[[torch.Tensor], object]
Binary = Callable[[torch.Tensor, torch.Tensor], object]

# What each kernel computes; x and y have one shape.
UNARY: Mapping[str, Unary] = {
    "neg": torch.neg,
    "square": lambda x: aten.pow.Tensor_Scalar(x, 2),
    "rsqrt": lambda x: torch.rsqrt(x),
    "scale": lambda x: aten.mul.Scalar(x, 0.5),
    "silu": functional.silu,
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}
BINARY: Mapping[str, Binary] = {
    "add": torch.add,
    "add_": lambda x, y: x.add_(y, alpha=1e-6),
    "mul": torch.mul,
    "div": torch.div,
    "silu_backward": aten.silu_backward.default,
    "gelu_backward": aten.gelu_backward.default,
    "copy_": lambda x, y: x.copy_(y),
}
INDEX: Mapping[str, Unary] = {
    "floor_divide": lambda x: x // 3,
    "remainder": lambda x: x % 3,
}
ROWWISE: Mapping[str, Unary] = {
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "layer_norm": lambda x: functional.layer_norm(x, x.shape[-1:]),
    "rms_norm": lambda x: aten._fused_rms_norm.default(x, [x.shape[-1]], x[0], 1e-6),
    "batch_norm": lambda x: aten.native_batch_norm.default(x, x[0], x[0], None, None, True, 0.1, 1e-5),
}
ROWWISE_BACKWARD = (
    "softmax_backward", "log_softmax_backward", "layer_norm_backward", "batch_norm_backward", "rms_norm_backward",
)  # fmt: skip
REDUCTIONS: Mapping[str, Unary] = {
    "mean": lambda x: x.mean(-1, keepdim=True),
    "sum": lambda x: x.sum(-1, keepdim=True),
    "sum_rows": lambda x: x.sum(0),
}


@dataclass(frozen=True)
class MemorySizes:
    """How far the points reach on a device."""

    elements: tuple[int, ...]
    few_elements: tuple[int, ...]
    """Sizes for the kernels that behave like others."""
    rows: tuple[tuple[int, int], ...]
    cold: tuple[int, ...]
    reuses: tuple[int, ...]
    """How long ago, in bytes, the input of a streaming kernel was last used: the reach of every cache shows in them."""
    state_reuses: tuple[int, ...]
    """How long ago an optimizer last used its states."""
    parameters: tuple[tuple[int, int], ...]
    """(tensors, elements of each) of an optimizer step."""
    transfers: tuple[int, ...]
    """Bytes copied between host and device, and within the device."""


def memory_cases(sizes: MemorySizes, dtype: str) -> Iterator[Case]:
    """All points of operators bound by memory."""
    main = ("add", "mul", "silu", "copy_", "square")
    for kernel in (*UNARY, *BINARY, *INDEX):
        for elements in sizes.elements if kernel in main else sizes.few_elements:
            yield elementwise(kernel, elements, dtype=dtype)
    for elements in sizes.cold:
        for kernel in ("add", "mul", "copy_", "silu"):
            for reuse in sizes.reuses:
                yield elementwise(kernel, elements, dtype=dtype, reuse=reuse)
    for rows, columns in sizes.rows:
        for kernel in ("mul", "mul_column"):
            yield broadcast(kernel, rows, columns, dtype=dtype)
        for kernel in ROWWISE:
            yield rowwise(kernel, rows, columns, dtype=dtype)
        for kernel in ROWWISE_BACKWARD:
            yield rowwise_backward(kernel, rows, columns, dtype=dtype)
        for kernel in REDUCTIONS:
            yield reduction(kernel, rows, columns, dtype=dtype)
        yield copy("cat", rows, columns, dtype=dtype)
        yield copy("contiguous", HEADS * rows, max(16, columns // HEADS), dtype=dtype)
        yield loss("nll", rows, columns, dtype=dtype)
        yield loss("nll_backward", rows, columns, dtype=dtype)
    for elements in sizes.few_elements:
        yield fill(elements, dtype=dtype)
    for tensors, elements in sizes.parameters:
        for reuse in (0, *sizes.state_reuses):
            yield optimizer(tensors, elements, dtype=dtype, reuse=reuse)
    for size in sizes.transfers:
        for way in TRANSFERS:
            yield transfer(way, size, dtype=dtype)


def elementwise(kernel: str, elements: int, *, dtype: str, reuse: int = 0) -> Case:
    """One elementwise kernel, its (last) input last used `reuse` bytes ago."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        if kernel in INDEX:
            # A remainder branches on its values, and a branch predictor learns those of one small tensor.
            shape, where = (INDEX_SETS, elements), device.torch_device
            whole = itertools.cycle(torch.randint(0, 1000, shape, device=where).unbind(0))
            return lambda: INDEX[kernel](next(whole))
        if kernel in UNARY:
            unary = UNARY[kernel]
            if reuse:
                turn = operands.cold(elements, reuse=reuse)
                return lambda: unary(next(turn))
            x = operands.hot(elements)
            if kernel == "rsqrt":
                x = x.abs().add_(1.0)
            return lambda: unary(x)
        binary = BINARY[kernel]
        x = operands.hot(elements)
        if kernel in ("add_", "copy_"):
            x = x.clone()  # the arena keeps its values
        if reuse:
            turn = operands.cold(elements, reuse=reuse)
            return lambda: binary(x, next(turn))
        y = operands.hot(elements)
        return lambda: binary(x, y)

    return Case("elementwise", kernel, dtype, {"elements": elements, "rows": 1, "reuse": reuse}, build)


def broadcast(kernel: str, rows: int, columns: int, *, dtype: str) -> Case:
    """A product with one row or one column of factors, as norms do."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        x = operands.hot(rows, columns)
        factor = operands.hot(columns) if kernel == "mul" else operands.hot(rows, 1)
        return lambda: torch.mul(x, factor)

    return Case("elementwise", kernel, dtype, {"elements": rows * columns, "rows": rows}, build)


def rowwise(kernel: str, rows: int, columns: int, *, dtype: str) -> Case:
    """Softmax and norms over the last dimension."""

    def build(device: TorchDevice) -> Callable[[], object]:
        _fused(kernel, device)
        x, run = device.operands().hot(rows, columns), ROWWISE[kernel]
        return lambda: run(x)

    return Case("rowwise", kernel, dtype, {"rows": rows, "columns": columns}, build)


def rowwise_backward(kernel: str, rows: int, columns: int, *, dtype: str) -> Case:
    """Their gradients."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        x, grad = operands.hot(rows, columns), operands.hot(rows, columns)
        if kernel == "softmax_backward":
            y = torch.softmax(x, -1)
            return lambda: aten._softmax_backward_data.default(grad, y, -1, y.dtype)
        if kernel == "log_softmax_backward":
            y = torch.log_softmax(x, -1)
            return lambda: aten._log_softmax_backward_data.default(grad, y, -1, y.dtype)
        weight = operands.hot(columns)
        if kernel == "rms_norm_backward":
            _fused(kernel, device)
            _, rstd = aten._fused_rms_norm.default(x, [columns], weight, 1e-6)
            return lambda: aten._fused_rms_norm_backward.default(grad, x, [columns], rstd, weight, [True, True])
        if kernel == "batch_norm_backward":
            _, mean, rstd = aten.native_batch_norm.default(x, weight, weight, None, None, True, 0.1, 1e-5)
            run, wanted = aten.native_batch_norm_backward.default, [True, True, True]
            return lambda: run(grad, x, weight, None, None, mean, rstd, True, 1e-5, wanted)
        _, mean, rstd = aten.native_layer_norm.default(x, [columns], weight, None, 1e-5)
        mask = [True, True, False]
        return lambda: aten.native_layer_norm_backward.default(grad, x, [columns], mean, rstd, weight, None, mask)

    return Case("rowwise", kernel, dtype, {"rows": rows, "columns": columns}, build)


def _fused(kernel: str, device: TorchDevice) -> None:
    """Skip what is one kernel on a GPU, and on a CPU many."""
    if kernel.startswith("rms_norm") and device.kind == "cpu":
        raise Skip("torch runs it as separate operators on a CPU")


def reduction(kernel: str, rows: int, columns: int, *, dtype: str) -> Case:
    """Sums along rows, and of rows (gradients of norms and biases)."""

    def build(device: TorchDevice) -> Callable[[], object]:
        x, run = device.operands().hot(rows, columns), REDUCTIONS[kernel]
        return lambda: run(x)

    return Case("reduction", kernel, dtype, {"rows": rows, "columns": columns}, build)


def copy(kernel: str, rows: int, columns: int, *, dtype: str) -> Case:
    """Copies that change the layout: heads brought back beside each other, and two halves joined (rotary positions)."""

    def build(device: TorchDevice) -> Callable[[], object]:
        operands = device.operands()
        if kernel == "contiguous":  # (heads, rows, head_dim) brought into the order of rows
            x = operands.hot(HEADS, rows // HEADS, columns).transpose(0, 1)
            return lambda: x.contiguous()
        half = max(1, columns // 2)
        left, right = operands.hot(rows, half), operands.hot(rows, half)
        return lambda: torch.cat((left, right), -1)

    return Case("copy", kernel, dtype, {"rows": rows, "columns": columns}, build)


def loss(kernel: str, rows: int, columns: int, *, dtype: str) -> Case:
    """Picking the target's log-probability, and its gradient over the vocabulary."""

    def build(device: TorchDevice) -> Callable[[], object]:
        x = device.operands().hot(rows, columns)
        targets = torch.randint(0, columns, (rows,), device=x.device)
        if kernel == "nll":
            return lambda: aten.nll_loss_forward.default(x, targets, None, 1, -100)
        value, weight = aten.nll_loss_forward.default(x, targets, None, 1, -100)
        return lambda: aten.nll_loss_backward.default(value, x, targets, None, 1, -100, weight)

    return Case("loss", kernel, dtype, {"rows": rows, "columns": columns}, build)


def fill(elements: int, *, dtype: str) -> Case:
    """A tensor of zeros."""

    def build(device: TorchDevice) -> Callable[[], object]:
        return lambda: torch.zeros(elements, device=device.torch_device, dtype=device.dtype)

    return Case("fill", "zeros", dtype, {"elements": elements}, build)


def optimizer(tensors: int, elements: int, *, dtype: str, reuse: int = 0) -> Case:
    """One fused AdamW step over parameters whose gradients are there, all last used `reuse` bytes ago."""

    def build(device: TorchDevice) -> Callable[[], object]:
        ones = torch.ones(elements, device=device.torch_device, dtype=device.dtype)
        states = 4 * tensors * elements * ones.element_size()
        if reuse and not 2 * states <= reuse <= MAX_OPTIMIZERS * states:
            raise Skip("too large or too small for states that far apart")

        def one() -> torch.optim.Optimizer:
            parameters = [torch.nn.Parameter(ones.clone()) for _ in range(tensors)]
            for parameter in parameters:
                parameter.grad = ones.clone()
            # In a CUDA graph only a step that keeps its count on the device can be captured.
            return torch.optim.AdamW(parameters, fused=True, foreach=False, capturable=device.kind == "cuda")

        turn = itertools.cycle([one() for _ in range(max(1, reuse // states))])
        return lambda: next(turn).step()

    shape = {"tensors": tensors, "elements": tensors * elements, "reuse": reuse}
    return Case("optimizer", "adamw", dtype, shape, build)


def transfer(way: str, size: int, *, dtype: str) -> Case:
    """A copy of `size` bytes between the host's memory and the device's, or within the device's."""

    def build(device: TorchDevice) -> Callable[[], object]:
        if way != "within_device" and device.kind == "cpu":
            raise Skip("a CPU's memory is the host's")
        here = torch.empty(size, dtype=torch.uint8, device=device.torch_device)
        if way == "within_device":
            there = torch.zeros_like(here)
        else:
            there = torch.zeros(size, dtype=torch.uint8, pin_memory=way != "pageable_to_device")
        target, source = (there, here) if way == "device_to_host" else (here, there)
        return lambda: target.copy_(source, non_blocking=True)

    # From ordinary memory the host copies first, page by page: it can't run ahead of the device.
    return Case(
        "transfer", way, dtype, {"bytes": size}, build, clock="host" if way == "pageable_to_device" else "device"
    )
