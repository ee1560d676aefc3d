"""The calls of a model step, found by running it on tensors without values: nothing is computed, nothing is measured.

Every operator torch dispatches becomes a `Call`; each storage remembers when it was last touched, and freed memory is
handed out again as an allocator would, so that every operand has a reuse distance.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from simulator.calibration.calls import FAR, Call, Touch, Trace
from simulator.calibration.torch_calls import IGNORED, VIEWS, Description, describe
from simulator.errors import CalibrationError


@contextmanager
def without_values(dtype: torch.dtype, kind: str = "cpu") -> Iterator[None]:
    """Within, tensors have shapes and no values, `dtype` and that kind of device where none is said, and models of any
    size cost nothing. Operators are those torch chooses for the device.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode(), torch.device(kind):
            yield
    finally:
        torch.set_default_dtype(before)


def trace(step: Callable[[], object]) -> Trace:
    """The calls of the second of two equal steps, so that what one step leaves in the caches counts for the next.

    Raises CalibrationError for an operator nothing is known of.
    """
    memory, result = _Memory(), Trace()
    for _ in range(2):
        result = Trace()
        hook = torch.nn.modules.module.register_module_forward_pre_hook(_counter(result))
        try:
            with _Tracer(memory, result):
                step()
        finally:
            hook.remove()
    return result


def _counter(result: Trace) -> Callable[[torch.nn.Module, Any], None]:
    def count(module: torch.nn.Module, arguments: Any) -> None:
        result.modules += 1

    return count


class _Tracer(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped to mypy
    """Turns dispatched operators into calls."""

    def __init__(self, memory: _Memory, result: Trace) -> None:
        super().__init__()
        self.memory, self.result = memory, result

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operator(*args, **(kwargs or {}))
        name = str(operator)
        if name in IGNORED:
            return out
        if name in VIEWS:
            self.result.views += 1
            return out
        shapes = describe(name, args, kwargs or {}, out)
        if shapes is None:
            raise CalibrationError(f"the trace met {name}, which is not among the measured operators")
        in_backward = torch._C._current_graph_task_id() != -1
        if in_backward:
            self.result.backward += 1
        elif torch.is_grad_enabled():
            self.result.forward_on_tape += 1
        inputs = [*_tensors(args), *_tensors(kwargs or {})]
        shapes = self._in_order(shapes, inputs, out)
        table = inputs.pop(0) if shapes[0][0] == "gather" else None
        touches = self.memory.touch(inputs, list(_tensors(out)))
        if table is not None:  # rows here and there, each of which comes back after about the whole table
            touches = (*touches, self.memory.touch_rows(table, unique_bytes(out)))
        for place, (op, kernel, shape) in enumerate(shapes):
            if place:  # what an operator does beside its own work: it copies what it then changes
                size = sum(unique_bytes(tensor) for tensor in _tensors(out))
                touches = (Touch(2 * size, 2 * size),)
            self.result.calls.append(Call(op, kernel, shape, touches, in_backward))
        return out

    def _in_order(self, shapes: list[Description], inputs: list[Tensor], out: Any) -> list[Description]:
        """The same; a top-k of sums of sorted scores, as product keys take it, is known as one: it has less to do."""
        memory = self.memory
        sums = any(tensor.untyped_storage()._cdata in memory.ordered for tensor in inputs)
        chooses, (_, kernel, _) = shapes[0][0] == "top_k", shapes[0]
        if chooses or (sums and kernel == "add"):
            memory.ordered |= {tensor.untyped_storage()._cdata for tensor in _tensors(out)}
        return [("top_k", "topk_of_sums", shape) for _, _, shape in shapes] if chooses and sums else shapes


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from _tensors(part)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


class _Memory:
    """When each storage was last touched, on a clock of bytes touched."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.last: dict[int, float] = {}
        self.free: list[tuple[int, float]] = []
        """Size and last touch of freed blocks, the latest freed at the end."""
        self.known: set[int] = set()
        self.ordered: set[int] = set()
        """Storages whose values came sorted out of a top-k, or are sums of such."""

    def touch(self, inputs: list[Tensor], outputs: list[Tensor]) -> tuple[Touch, ...]:
        """The touches of a call; an operand named twice counts once."""
        touches, seen = [], set()
        for tensor in (*inputs, *outputs):
            storage = tensor.untyped_storage()
            key = storage._cdata
            place = (key, tensor.storage_offset())
            size = unique_bytes(tensor)
            if place in seen or not size:
                continue
            seen.add(place)
            if key not in self.known:
                self._meet(storage, key, fresh=any(tensor is out for out in outputs))
            touches.append((key, size, self.clock - self.last.get(key, -FAR), storage.nbytes()))
        total = sum(size for _, size, _, _ in touches)
        self.clock += total
        for key, size, _, whole in touches:
            if 2 * size >= whole:  # a small slice does not bring the rest of its storage into a cache
                self.last[key] = self.clock
        return tuple(Touch(size, reuse + total) for _, size, reuse, _ in touches)

    def touch_rows(self, table: Tensor, size: float) -> Touch:
        """The touch of some rows of a table, as many bytes as `size`."""
        storage = table.untyped_storage()
        key, whole = storage._cdata, unique_bytes(table)
        if key not in self.known:
            self._meet(storage, key, fresh=False)
        since = self.clock - self.last.get(key, -FAR)
        self.clock += size
        self.last[key] = self.clock
        return Touch(size, max(since, whole))

    def _meet(self, storage: Any, key: int, *, fresh: bool) -> None:
        """A new storage; one just allocated takes the latest freed block that fits."""
        self.known.add(key)
        weakref.finalize(storage, self._drop, key, storage.nbytes())
        if not fresh:
            return
        size = storage.nbytes()
        for place in range(len(self.free) - 1, -1, -1):
            block, last = self.free[place]
            if size <= block <= 2 * size + 4096:
                del self.free[place]
                self.last[key] = last
                return

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.ordered.discard(key)
        self.free.append((size, self.last.pop(key, -FAR)))
        if len(self.free) > 256:
            del self.free[0]


def unique_bytes(tensor: Tensor) -> float:
    """Bytes of distinct elements: a dimension that is broadcast counts once."""
    count = 1.0
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * float(tensor.element_size())
