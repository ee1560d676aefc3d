"""Points and curves over logarithmic axes, as SVG in a wide and a narrow drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from simulator.report import svg
from simulator.report.svg import Box

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LEGEND_ROW = 20.0
_COLORS = ("dense", "a2a", "mem", "expert", "comm", "ink")


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, logarithmic unless it says otherwise; `divisor` turns values into its unit."""

    title: str
    low: float
    high: float
    divisor: float = 1.0
    logarithmic: bool = True

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1; values beyond are drawn at the end."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return (at - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Values of grid lines, and how they are written."""
        if not self.logarithmic:
            middle = (self.low + self.high) / 2
            return [(v, _plain(v / self.divisor)) for v in (self.low, middle, self.high)]
        first = math.ceil(math.log10(self.low / self.divisor) - 1e-9)
        last = math.floor(math.log10(self.high / self.divisor) + 1e-9)
        step = max(1, math.ceil((last - first) / 5))
        return [(10.0**power * self.divisor, _power(power)) for power in range(first, last + 1, step)]


def axis_over(title: str, values: Sequence[float], *, divisor: float = 1.0) -> Axis:
    """A logarithmic axis that holds all values, with room at both ends."""
    return Axis(title, min(values) / 1.4, max(values) * 1.4, divisor)


@dataclass(frozen=True)
class Series:
    """Points of one colour, joined where they are a curve, which may do without dots."""

    name: str
    points: Sequence[tuple[float, float, str]]
    """x, y, and what a reader who points at it is told."""
    joined: bool = False
    dots: bool = True


def scatter_chart(
    series: Sequence[Series], x: Axis, y: Axis, *, label: str, wide: bool, zero: float | None = None
) -> str:
    """The drawing, named `label` for screen readers; `zero` is a value of y to draw a line at."""
    width, height = (860.0, 360.0) if wide else (330.0, 300.0)
    area = Box(54, 30, width - 12, height - 64)
    places = _legend_places(series, area)
    height += LEGEND_ROW * max((row for _, row in places), default=0)
    content = [*_grid(area, x, y, width, height)]
    if zero is not None:
        level = _place(area, x, y, x.low, zero)[1]
        content.append(svg.line(area.left, level, area.right, level, stroke="ink", width=1.4))
    for index, each in enumerate(series):
        color = _COLORS[index % len(_COLORS)]
        marks = [(*_place(area, x, y, px, py), words) for px, py, words in each.points]
        if each.joined:
            path = " ".join(f"{svg.number(px)},{svg.number(py)}" for px, py, _ in marks)
            content.append(
                svg.element("polyline", points=path, fill="none", stroke=f"var(--{color})", stroke_width=1.6)
            )
        for px, py, words in marks if each.dots else ():
            title = svg.element("title", escape(words)) if words else ""
            content.append(svg.element("circle", title, cx=px, cy=py, r=2.6, fill=f"var(--{color})", fill_opacity=0.7))
    content += _legend(series, places, area.bottom + 55)
    return svg.image(width, height, label, "".join(content))


def _place(area: Box, x: Axis, y: Axis, px: float, py: float) -> tuple[float, float]:
    across, up = x.share(px), y.share(py)
    return area.left + across * (area.right - area.left), area.bottom - up * (area.bottom - area.top)


def _grid(area: Box, x: Axis, y: Axis, width: float, height: float) -> list[str]:
    parts = []
    for value, words in x.ticks():
        at = _place(area, x, y, value, y.low)[0]
        parts.append(svg.line(at, area.top, at, area.bottom))
        parts.append(svg.text(at, area.bottom + 18, words, anchor="middle", muted=True))
    for value, words in y.ticks():
        at = _place(area, x, y, x.low, value)[1]
        parts.append(svg.line(area.left, at, area.right, at))
        parts.append(svg.text(area.left - 6, at + 4, words, anchor="end", muted=True))
    parts.append(svg.text((area.left + area.right) / 2, area.bottom + 38, x.title, anchor="middle", muted=True))
    parts.append(svg.text(0, 14, y.title, muted=True))
    return parts


def _legend_places(series: Sequence[Series], area: Box) -> list[tuple[float, int]]:
    """Where each name of a legend begins, and in which of its rows; none for points of a single colour."""
    places, left, row = [], area.left, 0
    for each in series if len(series) > 1 or series[0].joined else ():
        taken = 9 + len(each.name) * svg.CHARACTER + 12
        if left > area.left and left + taken > area.right:
            left, row = area.left, row + 1
        places.append((left, row))
        left += taken
    return places


def _legend(series: Sequence[Series], places: Sequence[tuple[float, int]], top: float) -> list[str]:
    parts = []
    for index, (each, (left, row)) in enumerate(zip(series, places, strict=False)):
        color, at = _COLORS[index % len(_COLORS)], top + row * LEGEND_ROW
        parts.append(svg.element("circle", cx=left, cy=at, r=4, fill=f"var(--{color})"))
        parts.append(svg.text(left + 9, at + 5, each.name))
    return parts


def _power(power: int) -> str:
    return _plain(10.0**power) if -2 <= power <= 3 else "10" + str(power).translate(_RAISED)


def _plain(value: float) -> str:
    return f"{value:,.4g}".replace("-", "\u2212")
