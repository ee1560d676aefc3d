"""Which share of the requests a latency is within: one curve for each latency, with its interval and its objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simulator.report import numbers, svg
from simulator.report.numbers import Scale
from simulator.report.svg import Box
from simulator.result import Latency, Requests

_HEIGHT, _HEAD, _FOOT = 170.0, 26.0, 28.0
_MARGIN, _GAP = 52.0, 30.0
_LEVELS = (0.0, 0.5, 0.9, 1.0)
# Steps of a decade that ticks may stand at; the finest that gives few enough is taken.
_STEPS = (
    (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 2.0, 5.0),
    (1.0, 3.0),
)
_MOST_TICKS = 4


@dataclass(frozen=True)
class Curve:
    """A latency over requests; `objective` is the time they should stay within."""

    name: str
    latency: Latency
    objective: float | None = None


def curves_of(served: Requests) -> list[Curve]:
    """The latencies a reader waits for."""
    curves = [
        Curve("Time to first token", served.ttft_s, served.ttft_slo_s),
        Curve("Time per output token", served.tpot_s, served.tpot_slo_s),
        Curve("Whole answer", served.e2e_s),
    ]
    return [curve for curve in curves if curve.latency.mean.value > 0 and curve.latency.quantiles]


def curves_chart(served: Requests, *, label: str, wide: bool) -> str:
    """The curves beside each other, or on a phone below each other; empty where there is none."""
    curves = curves_of(served)
    if not curves:
        return ""
    width = 860.0 if wide else 330.0
    across = len(curves) if wide else 1
    each = (width - _MARGIN - _GAP * (across - 1) - 6) / across
    parts, panel = [], _HEAD + _HEIGHT + _FOOT
    for i, curve in enumerate(curves):
        left = _MARGIN + (i % across) * (each + _GAP)
        top = (i // across) * (panel + 14) + _HEAD
        parts.append(_panel(curve, Box(left, top, left + each, top + _HEIGHT), levels=i % across == 0))
    rows = math.ceil(len(curves) / across)
    return svg.image(width, rows * panel + (rows - 1) * 14, label, "".join(parts))


def _panel(curve: Curve, area: Box, *, levels: bool) -> str:
    low, high = _ends(curve)
    scale = numbers.seconds([curve.latency.p50.value])

    def at(seconds: float, share: float) -> tuple[float, float]:
        along = (math.log(seconds) - math.log(low)) / (math.log(high) - math.log(low))
        return area.left + along * (area.right - area.left), area.bottom - share * (area.bottom - area.top)

    parts = [svg.text(area.left, area.top - 10, curve.name)]
    for level in _LEVELS:
        y = at(low, level)[1]
        parts.append(svg.line(area.left, y, area.right, y))
        if levels:
            words = f"{round(100 * level)}{numbers.NBSP}%"
            parts.append(svg.text(area.left - 6, y + 4, words, anchor="end", muted=True))
    taken = area.left - 40.0
    for value in _ticks(low, high, scale):
        x, words = at(value, 0)[0], scale.tick(value)
        half = len(words) * svg.CHARACTER / 2
        centre = min(x, area.right + 4 - half)
        parts.append(svg.line(x, area.bottom, x, area.bottom + 5, stroke="muted"))
        if centre - half > taken:
            parts.append(svg.text(centre, area.bottom + 19, words, anchor="middle", muted=True))
            taken = centre + half
    mean = curve.latency.mean
    fast, slow = mean.low / mean.value, mean.high / mean.value
    points = [(max(seconds, 1e-9), share) for share, seconds in curve.latency.quantiles]
    band = [at(seconds * fast, share) for seconds, share in points]
    band += [at(seconds * slow, share) for seconds, share in reversed(points)]
    parts.append(svg.element("polygon", points=_path(band), fill="var(--dense)", fill_opacity=0.25))
    line = _path([at(seconds, share) for seconds, share in points])
    parts.append(svg.element("polyline", points=line, fill="none", stroke="var(--expert)", stroke_width=2))
    if curve.objective:
        words = f"within {numbers.seconds([curve.objective]).tick(curve.objective)}"
        parts.append(_objective(at(curve.objective, 0)[0], area, words))
    return "".join(parts)


def _ends(curve: Curve) -> tuple[float, float]:
    """Ends of the axis: the interval of every quantile drawn, and the objective."""
    mean = curve.latency.mean
    values = [max(seconds, 1e-9) for _, seconds in curve.latency.quantiles]
    ends = [min(values) * mean.low / mean.value, max(values) * mean.high / mean.value]
    if curve.objective:
        ends.append(curve.objective)
    return min(ends) / 1.05, max(ends) * 1.05


def _objective(x: float, area: Box, words: str) -> str:
    """A dashed line with its name beside it, on the side where there is room."""
    path = f"M{svg.number(x)} {svg.number(area.top)}V{svg.number(area.bottom)}"
    line = svg.element("path", d=path, stroke="var(--ink)", stroke_width=1.4, stroke_dasharray="5 4")
    right = x + len(words) * svg.CHARACTER < area.right
    at = x + 6 if right else x - 6
    return line + svg.text(at, area.bottom - 8, words, anchor="start" if right else "end", halo=True)


def _ticks(low: float, high: float, scale: Scale) -> list[float]:
    """Round values between the ends, few enough for their words."""
    powers = range(math.floor(math.log10(low / scale.divisor)), math.ceil(math.log10(high / scale.divisor)) + 1)
    found: list[float] = []
    for steps in _STEPS:
        values = [step * 10.0**power * scale.divisor for power in powers for step in steps]
        found = [value for value in values if low <= value <= high]
        if len(found) <= _MOST_TICKS:
            return found
    return found[:: math.ceil(len(found) / _MOST_TICKS)]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{svg.number(x)},{svg.number(y)}" for x, y in points)
