"""What the plan page's script works on: every point's settings, figures and times as columns, and the sliders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.answer import HIGHER_IS_BETTER, LATE, Answer
from simulator.report.kinds import COLORS, KIND_NAMES
from simulator.report.numbers import Scale
from simulator.report.plan_words import ENDS, FIGURES, LIMITS, superlative

if TYPE_CHECKING:
    import pandas

MOST_POINTS = 20_000
"""Points a page holds; beyond, the best by the first objective."""
STOPS = 120
"""Positions of a slider."""
MOST_CHOICES = 8
# Limits a reader can move in any plan that has their figure: name and figure.
_SLIDERS = (
    ("deadline", "days"),
    ("budget", "cost_usd"),
    ("price", "usd_per_million_output_tokens"),
    ("tpot", "tpot_s"),
    ("ttft", "ttft_s"),
    ("memory_headroom", "headroom_gib"),
    ("gpus", "gpus"),
)
_ALWAYS = ("days", "cost_usd", "energy_total_j", "headroom_gib", "gpus", "mfu")


def shown_points(answer: Answer) -> pandas.DataFrame:
    """The points a page holds: all, or the best by the first objective and the front."""
    table, key = answer.table, answer.objectives[0]
    if len(table) <= MOST_POINTS:
        return table
    order = table[key].sort_values(ascending=key not in HIGHER_IS_BETTER, kind="stable").index[:MOST_POINTS]
    return table.loc[sorted(set(order) | set(answer.front) | set(answer.ranked[:MOST_POINTS]))[: 2 * MOST_POINTS]]


def payload(answer: Answer) -> dict[str, Any]:
    """Plain data for a script element."""
    table = shown_points(answer)
    keys = list(dict.fromkeys((*answer.objectives, *(a.key for a in answer.limits), *_ALWAYS)))
    keys += [key for _, key in _SLIDERS if key not in keys]
    keys = [key for key in keys if key in FIGURES and key in table and table[key].notna().all()]
    axes = [_axis(table, path) for path in answer.axes]
    facts = [_axis(table, column) for column in ("option.device", "option.model")]
    return {
        "name": answer.name,
        "base": answer.base,
        "axes": axes,
        "device": facts[0],
        "model": facts[1],
        "numbers": [int(number) for number in table.index],
        "figures": {key: _figure(table, key, answer.ranked[:10]) for key in keys},
        "seconds": [[_short(v) for v in table[f"seconds.{kind}"]] for kind in COLORS],
        "kinds": [{"key": kind, "label": KIND_NAMES[kind]} for kind in COLORS],
        "limits": _limits(answer, table, keys),
        "objectives": list(answer.objectives),
        "best": {key: superlative(key) for key in rankable(keys)},
        "end": answer.decide_on,
        "ends": ENDS,
        "errors": {"same": answer.pair_errors.same_device, "other": answer.pair_errors.other_device},
        "filters": [i for i, axis in enumerate(axes) if _is_choice(axis)],
    }


def rankable(keys: Sequence[str]) -> list[str]:
    """The figures a reader may rank by."""
    return [key for key in keys if key not in ("headroom_gib", "mfu", "power_w", *LATE)]


def _is_choice(axis: dict[str, Any]) -> bool:
    path = axis["path"]
    return (
        path not in ("hardware.gpus", "economics.gpu_hour", "parallelism") and 1 < len(axis["values"]) <= MOST_CHOICES
    )


def _axis(table: pandas.DataFrame, column: str) -> dict[str, Any]:
    """The different values of a column, and which of them each point has."""
    codes, values = table[column].factorize()
    return {"path": column, "values": [_plain(value) for value in values], "at": codes.tolist()}


def _plain(value: object) -> object:
    if isinstance(value, str) and value[:1] in "[{":
        return json.loads(value)
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _figure(table: pandas.DataFrame, key: str, first: Sequence[int]) -> dict[str, Any]:
    """A figure's column; its interval as one factor where it is even in the logarithm, else as both ends.

    Lists write it in the unit that suits the `first` points, axes in one that suits all.
    """
    metric = FIGURES[key]
    value, low, high = (table[f"{key}{end}"].to_numpy(dtype=float) for end in ("", ".low", ".high"))
    out: dict[str, Any] = {
        "label": metric.label,
        "high": key in HIGHER_IS_BETTER or metric.better == "high",
        **_written(metric.scale(table.loc[list(first), key].tolist() or value.tolist())),
        "axis": _written(metric.scale(value.tolist())),
        "value": [_short(v) for v in value],
    }
    if np.array_equal(low, high):
        return out
    if (value > 0).all() and np.allclose(low * high, value**2, rtol=1e-3):
        return {**out, "factor": [_short(v, 4) for v in high / value]}
    return {**out, "low": [_short(v) for v in low], "high_end": [_short(v) for v in high]}


def _written(scale: Scale) -> dict[str, Any]:
    return {"divisor": scale.divisor, "before": scale.before, "after": scale.after, "whole": scale.whole}


def _short(value: float, digits: int = 5) -> float:
    return float(f"{value:.{digits}g}")


def _limits(answer: Answer, table: pandas.DataFrame, keys: Sequence[str]) -> list[dict[str, Any]]:
    """A slider for each limit stated and for those a reader always may set, with the values it stops at."""
    stated = {a.name: a for a in answer.limits}
    names = [(a.name, a.key) for a in answer.limits] + [pair for pair in _SLIDERS if pair[0] not in stated]
    out = []
    for name, key in names:
        if key not in keys or (name not in stated and table[key].nunique() < 2):
            continue
        limit = stated.get(name)
        at_least = key in HIGHER_IS_BETTER
        stops = _stops(table[key].to_numpy(dtype=float), limit.value if limit else None, at_least)
        start = stops.index(limit.value) if limit else (0 if at_least else len(stops) - 1)
        out.append(
            {
                "name": name,
                "key": key,
                "label": LIMITS[name],
                "at_least": at_least,
                "stops": stops,
                "start": start,
                "stated": limit is not None,
            }
        )
    return out


def _stops(values: np.ndarray[Any, Any], limit: float | None, at_least: bool) -> list[float]:
    """Ascending values a slider stops at: what there is if it is little, else even steps; the limit always."""
    different = np.unique(values)
    if len(different) <= STOPS and (different == different.round()).all():
        found = {float(v) for v in different}
    else:
        low, high = float(different[0]), float(different[-1])
        even = np.linspace(max(0.0, low), high, STOPS) if low <= 0 or at_least else np.geomspace(low, high, STOPS)
        found = {_outward(float(v), floor if at_least else ceil) for v in even}
    if limit is not None:
        found.add(limit)
    return sorted(found)


def _outward(value: float, rounding: Any) -> float:
    """Three significant digits, to the side that lets more pass."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (floor(log10(value)) - 2)
    return float(f"{rounding(value / step - (1e-9 if rounding is ceil else -1e-9)) * step:.6g}")
