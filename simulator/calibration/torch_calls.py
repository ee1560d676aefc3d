"""torch's operators in the words of the measured points: operator, kernel or layout, and shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from torch import Tensor

Description = tuple[str, str, dict[str, float]]

VIEWS = frozenset(
    f"aten.{name}"
    for name in (
        "view.default", "_unsafe_view.default", "t.default", "transpose.int", "expand.default", "slice.Tensor",
        "split.Tensor", "split_with_sizes.default", "select.int", "unsqueeze.default", "squeeze.dim", "squeeze.default",
        "permute.default", "alias.default", "as_strided.default", "unbind.int", "_reshape_alias.default",
        "empty.memory_format", "empty_like.default", "new_empty.default", "new_empty_strided.default",
    )
)  # fmt: skip
# Bookkeeping of the tape, of tensors without values, and of what the optimizer's point contains.
IGNORED = frozenset(
    {
        "aten.detach.default", "prim.device.default", "profiler._record_function_enter_new.default",
        "profiler._record_function_exit._RecordFunction", "aten._foreach_add_.Scalar", "aten.lift_fresh.default",
    }
)  # fmt: skip

# Elementwise operators by the measured kernel that stands for them.
_ELEMENTWISE = {
    "add.Tensor": "add", "add.Scalar": "scale", "add_.Tensor": "add_", "add_.Scalar": "scale", "sub.Tensor": "add",
    "mul.Tensor": "mul", "mul.Scalar": "scale", "mul_.Tensor": "mul", "div.Tensor": "div", "div.Scalar": "scale",
    "neg.default": "neg", "pow.Tensor_Scalar": "square", "pow.Scalar": "sigmoid", "rsqrt.default": "rsqrt",
    "silu.default": "silu", "gelu.default": "gelu", "sigmoid.default": "sigmoid", "relu.default": "relu",
    "cos.default": "sigmoid", "sin.default": "sigmoid", "silu_backward.default": "silu_backward",
    "gelu_backward.default": "gelu_backward", "floor_divide.default": "floor_divide", "remainder.Scalar": "remainder",
    "_to_copy.default": "copy_", "abs.default": "neg",
}  # fmt: skip
_ROWWISE = {
    "_softmax.default": "softmax", "_softmax_backward_data.default": "softmax_backward",
    "_log_softmax.default": "log_softmax", "_log_softmax_backward_data.default": "log_softmax_backward",
    "native_layer_norm.default": "layer_norm", "native_layer_norm_backward.default": "layer_norm_backward",
    "native_batch_norm.default": "batch_norm", "native_batch_norm_backward.default": "batch_norm_backward",
    "_fused_rms_norm.default": "rms_norm", "_fused_rms_norm_backward.default": "rms_norm_backward",
}  # fmt: skip
_FILLS = frozenset(
    {
        "zeros.default", "ones.default", "zeros_like.default", "ones_like.default", "new_zeros.default", "full.default",
        "arange.start", "arange.start_step", "arange.default", "fill_.Scalar", "zero_.default", "full_like.default",
    }
)  # fmt: skip


def describe(name: str, args: Any, kwargs: Mapping[str, Any], out: Any) -> list[Description] | None:
    """The calls an operator amounts to, or None where nothing is known of it."""
    short = name.removeprefix("aten.")
    if short in _ELEMENTWISE:
        return [_elementwise(_ELEMENTWISE[short], args, out)]
    if short in _FILLS:
        return [("fill", "zeros", {"elements": float(out.numel())})]
    if short in _ROWWISE:
        x = args[0]
        columns = x.shape[-1]
        return [("rowwise", _ROWWISE[short], {"rows": x.numel() / max(1, columns), "columns": float(columns)})]
    special = _SPECIAL.get(short)
    return special(args, kwargs, out) if special else None


def _elementwise(kernel: str, args: Any, out: Tensor) -> Description:
    """Elements, and rows where operands can't be walked as one run of memory."""
    operands = [a for a in args if isinstance(a, Tensor) and a.dim() > 0 and a.numel() > 1]
    column = any(a.stride(-1) == 0 or (a.shape[-1] == 1 and out.shape[-1] > 1) for a in operands)
    if kernel == "mul" and len(operands) == 1 and len(args) > 1:
        kernel = "scale"
    run = inner_run(out.shape, [*operands, out])
    rows = out.numel() / max(1, run)
    if column and kernel == "mul":
        kernel, rows = "mul_column", out.numel() / max(1, out.shape[-1])
    return "elementwise", kernel, {"elements": float(out.numel()), "rows": float(rows)}


def inner_run(shape: Any, tensors: list[Tensor]) -> int:
    """How many elements, from the last dimension on, every tensor holds one after another (or at one place)."""
    run, expected = 1, 1
    for dim in range(len(shape) - 1, -1, -1):
        size = shape[dim]
        if size == 1:
            continue
        for tensor in tensors:
            own = dim - (len(shape) - tensor.dim())
            there = own >= 0 and tensor.shape[own] == size
            if not there or tensor.stride(own) != expected:
                if run == 1 and there and tensor.stride(own) == 0:
                    continue
                return run
        run *= size
        expected *= size
    return run


def _layout(a: Tensor, b: Tensor) -> str:
    return _side(a) + _side(b)


def _side(x: Tensor) -> str:
    """t where a matrix lies transposed; batched kernels look at the strides even of a single column."""
    return "n" if x.stride(-1) == 1 else "t"


def _mm(a: Tensor, b: Tensor) -> list[Description]:
    (m, k), n = a.shape, b.shape[1]
    return [("gemm", _layout(a, b), {"m": float(m), "n": float(n), "k": float(k)})]


def _bmm(args: Any, kwargs: Any, out: Any) -> list[Description]:
    a, b = args[0], args[1]
    groups, m, k = a.shape
    shape = {"groups": float(groups), "m": float(m), "n": float(b.shape[2]), "k": float(k)}
    return [("batched_gemm", _layout(a, b), shape)]


def _attention(op: str, q: Tensor, k: Tensor, causal: bool) -> list[Description]:
    batch, heads, queries, head_dim = q.shape
    shape = {
        "batch": batch, "heads": heads, "kv_heads": k.shape[1], "queries": queries, "keys": k.shape[2],
        "head_dim": head_dim, "causal": float(causal),
    }  # fmt: skip
    return [(op, "sdpa", {name: float(value) for name, value in shape.items()})]


def _attention_forward(place: int) -> Callable[[Any, Any, Any], list[Description]]:
    """Fused attention whose argument number `place` says whether it is causal."""

    def describe_attention(args: Any, kwargs: Any, out: Any) -> list[Description]:
        causal = args[place] if len(args) > place else kwargs.get("is_causal", False)
        return _attention("attention", args[0], args[1], causal)

    return describe_attention


def _attention_backward(args: Any, kwargs: Any, out: Any) -> list[Description]:
    q = args[1]
    return _attention("attention_backward", q, args[2], q.shape[2] > 1)


def _reduction(kernel: str) -> Callable[[Any, Any, Any], list[Description]]:
    def describe_reduction(args: Any, kwargs: Any, out: Tensor) -> list[Description]:
        x = args[0]
        dims = {d % x.dim() for d in args[1]} if len(args) > 1 and args[1] is not None else set(range(x.dim()))
        kept = [size for d, size in enumerate(x.shape) if d not in dims]
        if (x.dim() - 1) in dims or not kept:
            rows = prod(kept)
            return [("reduction", kernel, {"rows": float(rows), "columns": x.numel() / max(1, rows)})]
        return [("reduction", "sum_rows", {"rows": x.numel() / max(1, prod(kept)), "columns": float(prod(kept))})]

    return describe_reduction


def _copy(kernel: str) -> Callable[[Any, Any, Any], list[Description]]:
    def describe_copy(args: Any, kwargs: Any, out: Tensor) -> list[Description]:
        source = args[1] if kernel == "copy_" else args[0]
        run = inner_run(out.shape, [out, source])
        if run == out.numel():
            return [("elementwise", "copy_", {"elements": float(out.numel()), "rows": 1.0})]
        return [("copy", "contiguous", {"rows": out.numel() / max(1, run), "columns": float(run)})]

    return describe_copy


def _cat(args: Any, kwargs: Any, out: Tensor) -> list[Description]:
    parts = args[0]
    dim = (args[1] if len(args) > 1 else 0) % out.dim()
    rows = prod(out.shape[:dim]) if dim else max(1, len(parts) // 2)
    return [("copy", "cat", {"rows": float(rows), "columns": out.numel() / max(1, rows)})]


def _gather(args: Any, kwargs: Any, out: Tensor) -> list[Description]:
    table = args[0]
    columns = table.shape[1] if table.dim() > 1 else 1
    return [("gather", "embedding", _table_shape(out.numel() / max(1, columns), columns, table.shape[0]))]


def _table_shape(rows: float, columns: float, table: float) -> dict[str, float]:
    return {"rows": float(rows), "columns": float(columns), "table": float(table)}


def _index_add(args: Any, kwargs: Any, out: Tensor) -> list[Description]:
    source = args[3]
    columns = source.shape[1] if source.dim() > 1 else 1
    added = ("scatter", "index_add", _table_shape(source.shape[0], columns, out.shape[0]))
    return [added, ("elementwise", "copy_", {"elements": float(out.numel()), "rows": 1.0})]


def _embedding_backward(args: Any, kwargs: Any, out: Tensor) -> list[Description]:
    return [("scatter", "embedding_backward", _table_shape(args[1].numel(), out.shape[1], out.shape[0]))]


def _top_k(args: Any, kwargs: Any, out: Any) -> list[Description]:
    x = args[0]
    columns = x.shape[-1]
    return [("top_k", "topk", {"rows": x.numel() / columns, "columns": float(columns), "k": float(args[1])})]


def _pick(args: Any, kwargs: Any, out: Tensor) -> list[Description]:
    x, index = args[0], args[2]
    k = index.shape[-1]
    shape = {"rows": index.numel() / max(1, k), "columns": float(x.shape[-1]), "k": float(k)}
    return [("pick", "gather", shape)]


def _scatter(args: Any, kwargs: Any, out: Tensor) -> list[Description]:
    copied = ("elementwise", "copy_", {"elements": float(out.numel()), "rows": 1.0})
    return [*_pick(args, kwargs, out), copied]


def _sorted(kernel: str) -> Callable[[Any, Any, Any], list[Description]]:
    return lambda args, kwargs, out: [("sort", kernel, {"elements": float(args[0].numel())})]


def _loss(kernel: str, place: int) -> Callable[[Any, Any, Any], list[Description]]:
    def describe_loss(args: Any, kwargs: Any, out: Any) -> list[Description]:
        rows, columns = args[place].shape
        return [("loss", kernel, {"rows": float(rows), "columns": float(columns)})]

    return describe_loss


def _optimizer(args: Any, kwargs: Any, out: Any) -> list[Description]:
    shape = {"tensors": float(len(args[0])), "elements": float(sum(p.numel() for p in args[0]))}
    return [("optimizer", "adamw", shape)]


_SPECIAL: Mapping[str, Callable[[Any, Any, Any], list[Description]]] = {
    "mm.default": lambda args, kwargs, out: _mm(args[0], args[1]),
    "mm.out": lambda args, kwargs, out: _mm(args[0], args[1]),
    "addmm.default": lambda args, kwargs, out: _mm(args[1], args[2]),
    "bmm.default": _bmm,
    "_scaled_dot_product_flash_attention_for_cpu.default": _attention_forward(4),
    "_scaled_dot_product_flash_attention.default": _attention_forward(4),
    "_scaled_dot_product_efficient_attention.default": _attention_forward(6),
    "_scaled_dot_product_cudnn_attention.default": _attention_forward(6),
    "_scaled_dot_product_flash_attention_for_cpu_backward.default": _attention_backward,
    "_scaled_dot_product_flash_attention_backward.default": _attention_backward,
    "_scaled_dot_product_efficient_attention_backward.default": _attention_backward,
    "_scaled_dot_product_cudnn_attention_backward.default": _attention_backward,
    "sum.default": _reduction("sum"),
    "sum.dim_IntList": _reduction("sum"),
    "mean.default": _reduction("mean"),
    "mean.dim": _reduction("mean"),
    "clone.default": _copy("clone"),
    "copy_.default": _copy("copy_"),
    "cat.default": _cat,
    "embedding.default": _gather,
    "index_select.default": _gather,
    "index_add.default": _index_add,
    "index_add_.default": lambda args, kwargs, out: _index_add(args, kwargs, out)[:1],
    "embedding_dense_backward.default": _embedding_backward,
    "topk.default": _top_k,
    "gather.default": _pick,
    "scatter.src": _scatter,
    "scatter_add.default": _scatter,
    "sort.stable": _sorted("sort"),
    "sort.default": _sorted("sort"),
    "histc.default": _sorted("histc"),
    "nll_loss_forward.default": _loss("nll", 0),
    "nll_loss_backward.default": _loss("nll_backward", 1),
    "_fused_adamw_.default": _optimizer,
}
