"""Calls: what one operator does, in the words that measured points and traced models share.

A call names its operator, the kernel (or layout) and its shape, as a row of a measured table does, and says which bytes
it touches and how long ago each was last used, in bytes touched since: that decides from which cache it is served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from simulator.errors import CalibrationError, nearest

FAR = 1e12
"""Reuse distance of memory never used before, bytes."""

ELEMENT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
INDEX_BYTES = 8.0

Shape = Mapping[str, float]


class Touch(NamedTuple):
    """Bytes read or written, and bytes touched since their last use."""

    bytes: float
    reuse: float


class Call(NamedTuple):
    """One operator call."""

    op: str
    kernel: str
    shape: Shape
    touches: tuple[Touch, ...]
    backward: bool = False
    """Called by a backward pass: another way to the same kernel, whose code is warm or cold by itself."""

    @property
    def flops(self) -> float:
        """Multiply-adds of matrix products and attention, times two; 0 for all else."""
        s = self.shape
        match self.op:
            case "gemm" | "grouped_gemm":
                return 2.0 * s["m"] * s["n"] * s["k"]
            case "batched_gemm":
                return 2.0 * s["groups"] * s["m"] * s["n"] * s["k"]
            case "attention" | "attention_backward":
                share = 0.5 if s["causal"] else 1.0
                products = 2.0 if self.op == "attention" else 5.0
                return share * products * 2.0 * s["batch"] * s["heads"] * s["queries"] * s["keys"] * s["head_dim"]
            case _:
                return 0.0


@dataclass
class Trace:
    """What one step issues, and what the host does around it."""

    calls: list[Call] = field(default_factory=list)
    views: int = 0
    modules: int = 0
    forward_on_tape: int = 0
    """Operators of the forward pass recorded for the backward pass."""
    backward: int = 0
    """Operators of the backward pass."""

    @property
    def flops(self) -> float:
        """FLOPs of all matrix products and attention."""
        return sum(call.flops for call in self.calls)


class _Footprint(NamedTuple):
    """Elements a call touches: in place at every repetition, and in operands last used `reuse` bytes ago."""

    near: float
    far: float = 0.0
    spread: float = 0.0
    """Elements of a table whose rows are touched at random; they come back after about the whole table."""
    spread_over: float = 0.0


def looped(op: str, kernel: str, shape: Shape, dtype: str) -> Call:
    """The call of a point measured in a loop, its operands touched one repetition or `reuse` bytes ago."""
    size = ELEMENT_BYTES[dtype]
    if op not in _FOOTPRINTS:
        raise CalibrationError(f"prices know no operator '{op}'.{nearest(op, _FOOTPRINTS)}")
    footprint = _FOOTPRINTS[op](kernel, shape)
    reuse = shape.get("reuse", 0.0)
    near, far = footprint.near * size, footprint.far * size
    if op == "optimizer" and reuse:
        near, far = 0.0, near
    if not reuse:
        near, far = near + far, 0.0
    touches = [Touch(near, near + far)]
    if far:
        touches.append(Touch(far, reuse))
    if footprint.spread:
        touches.append(Touch(footprint.spread * size, footprint.spread_over * size + near))
    plain = {name: value for name, value in shape.items() if name != "reuse"}
    return Call(op, kernel, plain, tuple(touches))


def _gemm(kernel: str, s: Shape) -> _Footprint:
    if kernel == "tn":  # the gradient of weights: they are its result
        return _Footprint(s["k"] * (s["m"] + s["n"]), s["m"] * s["n"])
    return _Footprint(s["m"] * (s["k"] + s["n"]), s["n"] * s["k"])


def _batched(_: str, s: Shape) -> _Footprint:
    return _Footprint(s["groups"] * (s["m"] * (s["k"] + s["n"]) + s["n"] * s["k"]))


def _grouped(_: str, s: Shape) -> _Footprint:
    return _Footprint(s["m"] * (s["k"] + s["n"]) + s["groups"] * s["n"] * s["k"])


def _attention(_: str, s: Shape) -> _Footprint:
    rows = s["batch"] * s["queries"] * s["heads"] * s["head_dim"]
    return _Footprint(2 * rows, 2 * s["batch"] * s["keys"] * s["kv_heads"] * s["head_dim"])


def _attention_backward(_: str, s: Shape) -> _Footprint:
    rows = s["batch"] * s["queries"] * s["heads"] * s["head_dim"]
    return _Footprint(4 * rows + 4 * s["batch"] * s["keys"] * s["kv_heads"] * s["head_dim"])


def _elementwise(kernel: str, s: Shape) -> _Footprint:
    operands = 3.0 if kernel in TWO_INPUTS else 2.0
    rows = s.get("rows", 1.0)
    if rows > 1:  # the other factor is a row or a column
        operands = 2.0
    if kernel in ON_INDICES:
        operands *= 2  # int64
    return _Footprint((operands - 1) * s["elements"], s["elements"])


def _rows(kernel: str, s: Shape) -> _Footprint:
    operands = 3.0 if kernel.endswith("backward") else 2.0
    return _Footprint(operands * s["rows"] * s["columns"])


def _read_once(_: str, s: Shape) -> _Footprint:
    return _Footprint(s["rows"] * s["columns"])


def _loss(kernel: str, s: Shape) -> _Footprint:
    return _Footprint(s["rows"] * s["columns"] if kernel.endswith("backward") else s["rows"] * 16)


def _fill(_: str, s: Shape) -> _Footprint:
    return _Footprint(s["elements"])


def _optimizer(_: str, s: Shape) -> _Footprint:
    return _Footprint(7 * s["elements"])


def _gather(_: str, s: Shape) -> _Footprint:
    taken = s["rows"] * s["columns"]
    return _Footprint(taken + 2 * s["rows"], 0.0, taken, s["table"] * s["columns"])


def _scatter(kernel: str, s: Shape) -> _Footprint:
    taken, table = s["rows"] * s["columns"], s["table"] * s["columns"]
    zeroed = table if kernel == "embedding_backward" else 0.0
    return _Footprint(taken + 2 * s["rows"] + zeroed, 0.0, 2 * taken, table)


def _top_k(_: str, s: Shape) -> _Footprint:
    return _Footprint(s["rows"] * (s["columns"] + 3 * s["k"]))


def _sort(_: str, s: Shape) -> _Footprint:
    return _Footprint(6 * s["elements"])


def _none(_: str, s: Shape) -> _Footprint:
    return _Footprint(0.0)


TWO_INPUTS = frozenset({"add", "add_", "mul", "div", "silu_backward", "gelu_backward"})
ON_INDICES = frozenset({"floor_divide", "remainder"})
_FOOTPRINTS: Mapping[str, Callable[[str, Shape], _Footprint]] = {
    "gemm": _gemm,
    "batched_gemm": _batched,
    "grouped_gemm": _grouped,
    "attention": _attention,
    "attention_backward": _attention_backward,
    "elementwise": _elementwise,
    "rowwise": _rows,
    "reduction": _read_once,
    "copy": _rows,
    "loss": _loss,
    "fill": _fill,
    "optimizer": _optimizer,
    "gather": _gather,
    "scatter": _scatter,
    "top_k": _top_k,
    "pick": _top_k,
    "sort": _sort,
    "retrieval": _none,
    "moe": _none,
    "sustained": _none,
    "transfer": _none,
    **dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"), _none),
    "host": _none,
    "sequence_member": _none,
    "sequence_following": _none,
    "sequence_before": _none,
    "sequence_stretch": _none,
}
