"""A sweep's table read for display: its axes, its metrics, its points, the Pareto front, and what could not be."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Union, get_args, get_origin

from simulator.report.metrics import METRICS, Metric
from simulator.result import Communication, Energy, Memory, Number, Result

if TYPE_CHECKING:
    import pandas

_RESERVED = {"status", "reason", "name", "kind"}


@dataclass(frozen=True)
class Point:
    """One feasible point: its settings by axis and its figures by metric key."""

    settings: tuple[str, ...]
    figures: dict[str, Number]


@dataclass(frozen=True)
class Refusals:
    """Points that fail alike: how many, one of their reasons, and the settings all of them share."""

    count: int
    reason: str
    shared: str


@dataclass(frozen=True)
class SweepData:
    """`axes` vary, `fixed` do not; `values` are those of each axis in order of appearance."""

    axes: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    fixed: tuple[tuple[str, str], ...]
    metrics: tuple[Metric, ...]
    points: tuple[Point, ...]
    refusals: tuple[Refusals, ...]
    total: int


def read(frame: pandas.DataFrame) -> SweepData:
    """The table of a sweep: columns of axes, then metrics with `.low` and `.high`, then `status` and `reason`.

    Raises ValueError where the table has no column of a metric that can be ranked.
    """
    plain = frame.astype(object).where(frame.notna(), None)
    records = [{str(column): value for column, value in row.items()} for row in plain.to_dict("records")]
    paths = [str(column) for column in frame.columns if _is_axis(str(column))]
    values = {path: _unique(_text(record[path]) for record in records) for path in paths}
    axes = tuple(path for path in paths if len(values[path]) > 1)
    good = [record for record in records if record.get("status", "ok") == "ok"]
    metrics = tuple(m for m in METRICS.values() if m.better and any(_finite(r.get(m.key)) for r in good))
    if not metrics and good:
        raise ValueError("the table of a sweep holds no metric to rank its points by")
    points = tuple(
        Point(
            tuple(_text(record[path]) for path in axes),
            {m.key: _number(record, m.key) for m in metrics if _finite(record.get(m.key))},
        )
        for record in good
    )
    bad = [record for record in records if record.get("status", "ok") != "ok"]
    return SweepData(
        axes=axes,
        values=tuple(values[path] for path in axes),
        fixed=tuple((path, values[path][0]) for path in paths if len(values[path]) == 1),
        metrics=metrics,
        points=points,
        refusals=_refusals(bad, axes, values),
        total=len(records),
    )


def front(points: Sequence[Point], first: Metric, second: Metric) -> list[Point]:
    """The points that no other beats in both metrics, best of the first metric first."""
    both = [p for p in points if first.key in p.figures and second.key in p.figures]
    order = sorted(both, key=lambda p: (_cost(p, first), _cost(p, second)))
    kept, best = [], math.inf
    for point in order:
        if _cost(point, second) < best:
            best = _cost(point, second)
            kept.append(point)
    return kept


def ranked(points: Sequence[Point], metric: Metric) -> list[Point]:
    """Points that have the metric, the best first."""
    return sorted((p for p in points if metric.key in p.figures), key=lambda p: _cost(p, metric))


def _cost(point: Point, metric: Metric) -> float:
    value = point.figures[metric.key].value
    return -value if metric.better == "high" else value


def _is_axis(column: str) -> bool:
    """Whether a column is a dotted path of the run: not a figure of the result, not one of the sweep's own."""
    return column not in _RESERVED and column.partition(".")[0] not in _figure_roots()


def _figure_roots() -> set[str]:
    """Names of the result's fields that hold numbers."""
    kinds = (Number, Memory, Communication, Energy)
    return {
        name
        for name, field in Result.model_fields.items()
        if field.annotation in kinds
        or (get_origin(field.annotation) in (Union, UnionType) and set(get_args(field.annotation)) & set(kinds))
    }


def _number(record: dict[str, object], key: str) -> Number:
    """A metric with its interval; exact where the table gives none."""
    value = _float(record[key])
    low, high = record.get(f"{key}.low"), record.get(f"{key}.high")
    if not (_finite(low) and _finite(high)):
        return Number.exact(value)
    return Number(value=value, low=_float(low), high=_float(high), basis="interpolated")


def _finite(value: object) -> bool:
    try:
        return value is not None and math.isfinite(_float(value))
    except (TypeError, ValueError):
        return False


def _float(value: object) -> float:
    return float(value)  # type: ignore[arg-type]


def _text(value: object) -> str:
    """A setting as a run file writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _unique(values: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))  # type: ignore[call-overload]


def _refusals(
    records: list[dict[str, object]], axes: tuple[str, ...], values: dict[str, tuple[str, ...]]
) -> tuple[Refusals, ...]:
    """Failed points by reason, the numbers in it set aside; the largest group first."""
    groups: dict[str, list[dict[str, object]]] = {}
    for record in records:
        reason = _text(record.get("reason") or "no reason given")
        groups.setdefault(re.sub(r"\d[\d.,]*", "#", reason), []).append(record)
    found = []
    for members in groups.values():
        shared = []
        for path in axes:
            here = _unique(_text(record[path]) for record in members)
            if len(here) < len(values[path]):
                shared.append(f"{path}: {', '.join(here)}")
        reason = _text(members[0].get("reason") or "no reason given")
        found.append(Refusals(len(members), reason, "; ".join(shared)))
    return tuple(sorted(found, key=lambda group: (-group.count, group.reason)))
