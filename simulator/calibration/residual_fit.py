"""Residual tables: which ones each operation gets, and their values from log errors.

Penalised least squares on the knots, solved by conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.spec.forms import COLLECTIVES, TILES, Array
from simulator.spec.residual import Axis, Features, Table

FEWEST_POINTS = 8
"""Below this a residual learns noise."""
TOLERANCE, MOST_STEPS = 1e-4, 300


@dataclass(frozen=True)
class Layout:
    """A table to fit: (feature, step in its unit) per axis.

    `smooth` penalises squared second differences along the axes, `ridge` squared values; both in units of one measured
    point.
    """

    axes: tuple[tuple[str, float], ...]
    smooth: float
    ridge: float
    gate: str | None = None


def layouts(op: str) -> tuple[Layout, ...]:
    """The tables of an operation, fitted together."""
    match op:
        case "gemm":
            tiles = tuple(
                Layout(((f"waves_{a}x{b}", 1.0), (f"full_{a}x{b}", 0.2), ("k", 2.0)), 0.1, 0.01) for a, b in TILES
            )
            shape = Layout((("m", 1.0), ("n", 1.0), ("k", 1.0)), 0.1, 0.01)
            ragged = Layout((("m", 1.0), ("n", 3.0), ("k", 3.0)), 0.1, 0.01, gate="ragged")
            return (shape, ragged, *tiles)
        case "moe":
            return (
                _moe(("tokens", 1.0), ("rows_per_expert", 1.0), ("skew", 1.0)),
                _moe(("rows", 1.0), ("local_experts", 1.0), ("weights", 2.0)),
                _moe(("tokens", 1.0), ("ep", 1.0), ("skew", 1.0)),
                _moe(("spread", 1.0), ("tokens", 2.0), ("skew", 1.0)),
                _moe(("tp", 1.0), ("rows_per_expert", 1.0), ("inter", 1.0)),
            )
        case "prefill" | "mla_prefill":
            return (*_attention(), Layout((("waves", 1.0), ("full", 0.2), ("seq", 1.0)), 0.1, 0.1))
        case "decode" | "mla_decode":
            caches = (("cache_waves", 1.0), ("cache_full", 0.1), ("seen", 1.0), ("grouping", 1.0))
            windowed = Layout((("grouping", 1.0), ("rows", 1.0), ("seen", 1.0)), 0.1, 0.1, gate="windowed")
            return (*_attention(), Layout(caches, 0.1, 0.1), windowed)
        case "dispatch" | "combine":
            return (
                Layout((("tokens", 1.0), ("sms", 1.0), ("nodes", 1.0)), 0.3, 0.1),
                Layout((("tokens", 1.0), ("topk", 1.0)), 0.3, 1.0),
                Layout((("tokens", 1.0), ("hidden", 1.0)), 0.3, 1.0),
                Layout((("tokens", 1.0), ("group_size", 1.0)), 0.3, 0.3),
            )
        case _:
            assert op in (*COLLECTIVES, "memory"), op
            return (Layout((("bytes", 1.0),), 0.02, 0.02),)


def _moe(*axes: tuple[str, float]) -> Layout:
    return Layout(axes, 10.0, 30.0)


def _attention() -> tuple[Layout, ...]:
    return (
        Layout((("kv_rows", 1.0), ("seen", 1.0), ("grouping", 1.0), ("head_dim", 1.0)), 0.1, 0.1),
        Layout((("cut", 1.0), ("head_dim", 1.0), ("rows", 1.0)), 0.1, 0.1),
        Layout((("batch", 1.0), ("seq", 1.0), ("heads", 1.0)), 0.1, 0.1),
    )


MODEL_COLUMNS = ("hidden", "inter", "topk", "experts")
"""What makes two expert layers the same model."""
MODEL_LAYOUT = Layout((("tokens", 1.0), ("tp", 1.0), ("ep", 1.0), ("skew", 1.0)), 0.3, 0.05)
"""The table each measured model gets besides: measured models are the ones people ask for."""


def fit_residual(op: str, features: Features, logs: Array) -> tuple[Table, ...]:
    """Tables whose sum follows `logs` = log(measured/physics); none for a handful of points."""
    if len(logs) < FEWEST_POINTS:
        return ()
    general = _fit_tables(layouts(op), features, logs)
    if op != "moe":
        return general
    left = logs - np.sum([table.evaluate(features) for table in general], axis=0)
    return (*general, *_fit_models(features, left))


def _fit_models(features: Features, left: Array) -> list[Table]:
    keys = np.stack([features[f"{name}_is"] for name in MODEL_COLUMNS], axis=1)
    models, owner = np.unique(keys, axis=0, return_inverse=True)
    found = []
    for place, model in enumerate(models):
        mine = owner == place
        part = {name: values[mine] for name, values in features.items()}
        (table,) = _fit_tables((MODEL_LAYOUT,), part, left[mine], only_first_axis=True)
        only = {f"{name}_is": float(value) for name, value in zip(MODEL_COLUMNS, model, strict=True)}
        found.append(Table(table.axes, table.values, only=only))
    return found


def _fit_tables(
    wanted: Sequence[Layout], features: Features, logs: Array, only_first_axis: bool = False
) -> tuple[Table, ...]:
    from scipy import sparse

    grids = [tuple(_axis(name, step, features[name]) for name, step in layout.axes) for layout in wanted]
    design = sparse.hstack(
        [_design(axes, layout.gate, features) for axes, layout in zip(grids, wanted, strict=True)], format="csr"
    )
    penalty = sparse.block_diag(
        [_penalty(axes, layout, only_first_axis) for axes, layout in zip(grids, wanted, strict=True)], format="csr"
    )
    values = _solve(design, penalty, logs)
    tables, start = [], 0
    for axes, layout in zip(grids, wanted, strict=True):
        size = int(np.prod([axis.count for axis in axes]))
        shaped = values[start : start + size].reshape([axis.count for axis in axes]).astype(np.float32)
        tables.append(Table(axes, shaped, gate=layout.gate))
        start += size
    return tuple(tables)


def _axis(name: str, step: float, values: Array) -> Axis:
    """Knots on multiples of the step that cover the values; a twentieth of a step beyond the last knot is let go."""
    first = float(np.floor(values.min() / step + 0.05))
    last = max(float(np.ceil(values.max() / step - 0.05)), first)
    return Axis(name, first * step, step, int(last - first) + 1)


def _design(axes: tuple[Axis, ...], gate: str | None, features: Features) -> Any:
    """Rows of interpolation weights: one row a point, one column a knot."""
    from scipy import sparse

    places = [axis.place(features[axis.feature]) for axis in axes]
    points = np.arange(len(places[0][0]))
    rows, columns, weights = [], [], []
    for corner in range(2 ** len(axes)):
        index, weight = np.zeros(len(points), dtype=np.intp), np.ones(len(points))
        for bit, (axis, (left, share)) in enumerate(zip(axes, places, strict=True)):
            up = (corner >> bit) & 1
            index = index * axis.count + np.minimum(left + up, axis.count - 1)
            weight = weight * (share if up else 1.0 - share)
        used = weight > 0
        rows.append(points[used])
        columns.append(index[used])
        weights.append(weight[used])
    data = np.concatenate(weights)
    if gate is not None:
        data = data * features[gate][np.concatenate(rows)]
    size = int(np.prod([axis.count for axis in axes]))
    return sparse.csr_matrix((data, (np.concatenate(rows), np.concatenate(columns))), shape=(len(points), size))


def _penalty(axes: tuple[Axis, ...], layout: Layout, only_first_axis: bool) -> Any:
    """Ridge plus squared second differences along each axis (along the first only for sparse grids of one model)."""
    from scipy import sparse

    counts = [axis.count for axis in axes]
    total = layout.ridge * sparse.identity(int(np.prod(counts)), format="csr")
    for place, count in enumerate(counts[:1] if only_first_axis else counts):
        if count < 3:
            continue
        bend = sparse.diags_array([np.ones(count - 2), -2.0 * np.ones(count - 2), np.ones(count - 2)],
                                  offsets=[0, 1, 2], shape=(count - 2, count))  # fmt: skip
        along = sparse.identity(1)
        for other, size in enumerate(counts):
            along = sparse.kron(along, bend if other == place else sparse.identity(size))
        total = total + layout.smooth * (along.T @ along)
    return total.tocsr()


def _solve(design: Any, penalty: Any, logs: Array) -> Array:
    """(A'A + P)^-1 A'r by conjugate gradients with a diagonal preconditioner."""
    transposed = design.T.tocsr()
    squared = design.copy()
    squared.data = squared.data**2
    diagonal = np.asarray(squared.sum(axis=0)).ravel() + penalty.diagonal()
    x = np.zeros(design.shape[1])
    rest = transposed @ logs
    scaled = rest / diagonal
    direction, size = scaled.copy(), float(rest @ scaled)
    enough = TOLERANCE**2 * size
    for _ in range(MOST_STEPS):
        if size <= enough:
            break
        moved = transposed @ (design @ direction) + penalty @ direction
        step = size / float(direction @ moved)
        x += step * direction
        rest -= step * moved
        scaled = rest / diagonal
        before, size = size, float(rest @ scaled)
        direction = scaled + (size / before) * direction
    return x
