"""Predicted over measured against measured, both axes logarithmic: a mark for each row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simulator.report import numbers, svg
from simulator.report.metrics import Metric
from simulator.report.svg import Box
from simulator.report.validation_data import ReplayedRow

NEAR = 0.1
"""Predictions this near to the measurement lie in the band."""
SHAPES = ("circle", "triangle", "square", "diamond")
# Grid lines of the ratio, for axes of at most so many decades.
_RATIOS = (
    (0.25, (0.8, 0.9, 1.0, 1.1, 1.2)),
    (0.9, (0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)),
    (1.5, (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)),
    (2.5, (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)),
    (5.0, tuple(10.0**power for power in range(-5, 6))),
    (math.inf, tuple(1000.0**power for power in range(-5, 6))),
)
_STEPS = ((1, 2, 5), (1, 3), (1,))


@dataclass(frozen=True)
class _Frame:
    """The drawing area and its two axes, in decades."""

    width: float
    height: float
    area: Box
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        share = (math.log10(value) - self.x[0]) / (self.x[1] - self.x[0])
        return self.area.left + share * (self.area.right - self.area.left)

    def up(self, ratio: float) -> float:
        share = (math.log10(ratio) - self.y[0]) / (self.y[1] - self.y[0])
        return self.area.bottom - share * (self.area.bottom - self.area.top)


@dataclass(frozen=True)
class Scatter:
    """The two drawings. In each, a ratio stands at `zero - decade * log10(ratio)`: whiskers are drawn by script."""

    wide: str
    narrow: str


def scatter(rows: Sequence[tuple[int, ReplayedRow]], metric: Metric, qualities: Sequence[str], finding: str) -> Scatter:
    """The chart of the rows that were measured in a metric, each with its place in the page's data."""
    return Scatter(
        _drawing(rows, metric, qualities, finding, wide=True), _drawing(rows, metric, qualities, finding, wide=False)
    )


def shape_of(quality: str, qualities: Sequence[str]) -> str:
    """The shape of a quality's marks; those after the fourth share the last."""
    return SHAPES[min(qualities.index(quality), len(SHAPES) - 1)]


def _drawing(
    rows: Sequence[tuple[int, ReplayedRow]], metric: Metric, qualities: Sequence[str], finding: str, *, wide: bool
) -> str:
    frame = _frame([row for _, row in rows], metric.key, wide=wide)
    parts = [*_band(frame), *_ratio_lines(frame), *_value_ticks(frame, rows, metric, wide=wide)]
    for arch in ("dense", "MoE", ""):
        # The best quality last, so that it lies on top.
        for quality in reversed(qualities):
            marks = [pair for pair in rows if (pair[1].arch, pair[1].quality) == (arch, quality)]
            if marks:
                parts.append(_marks(frame, marks, metric.key, quality, shape_of(quality, qualities)))
    label = (
        f"Predicted over measured {numbers.inside(metric.label)}. {finding} The table of all rows holds every value."
    )
    area = frame.area
    decade = (area.bottom - area.top) / (frame.y[1] - frame.y[0])
    box = f"0 0 {svg.number(frame.width)} {svg.number(frame.height)}"
    return svg.element(
        "svg",
        "".join(parts),
        viewBox=box,
        role="img",
        aria_label=label,
        data_zero=f"{frame.up(1):.2f}",
        data_decade=f"{decade:.2f}",
    )


def _frame(rows: Sequence[ReplayedRow], metric: str, *, wide: bool) -> _Frame:
    compared = [row.metrics[metric] for row in rows]
    values = [math.log10(c.measured) for c in compared]
    ends = [math.log10(end / c.measured) for c in compared for end in (c.low, c.high, c.predicted) if end > 0]
    room = max(0.05, 0.03 * (max(values) - min(values)))
    width, height = (860.0, 440.0) if wide else (330.0, 330.0)
    limits = math.log10(0.85), math.log10(1 / 0.85)
    return _Frame(
        width,
        height,
        Box(44, 30, width - 12, height - 44),
        (min(values) - room, max(values) + room),
        (min(*ends, limits[0]) - 0.02, max(*ends, limits[1]) + 0.02),
    )


def _band(frame: _Frame) -> list[str]:
    top, bottom = frame.up(1 + NEAR), frame.up(1 - NEAR)
    width = frame.area.right - frame.area.left
    return [svg.element("rect", x=frame.area.left, y=top, width=width, height=bottom - top, fill="var(--waitbg)")]


def _ratio_lines(frame: _Frame) -> list[str]:
    low, high = (10.0**end for end in frame.y)
    ratios = next(lines for decades, lines in _RATIOS if frame.y[1] - frame.y[0] <= decades)
    inside = [ratio for ratio in ratios if low <= ratio <= high]
    area, parts = frame.area, [svg.text(0, 12, "Predicted / measured", muted=True)]
    for ratio in inside:
        y = frame.up(ratio)
        parts.append(svg.line(area.left, y, area.right, y, stroke="ink" if ratio == 1 else "rule"))
        parts.append(svg.text(area.left - 6, y + 4, numbers.plain(ratio), anchor="end", muted=True))
    return parts


def _value_ticks(frame: _Frame, rows: Sequence[tuple[int, ReplayedRow]], metric: Metric, *, wide: bool) -> list[str]:
    scale = metric.scale([row.metrics[metric.key].measured for _, row in rows])
    area, parts = frame.area, []
    for value in _ticks(frame.x, scale.divisor, 8 if wide else 4):
        x = frame.across(value)
        parts.append(svg.line(x, area.bottom, x, area.bottom + 4, stroke="muted"))
        anchor = "end" if x > area.right - 24 else "middle"
        parts.append(svg.text(x, area.bottom + 18, scale.tick(value), anchor=anchor, muted=True))
    words = f"Measured {numbers.inside(metric.label)}{' (log scale)' if wide else ''}"
    parts.append(svg.text((area.left + area.right) / 2, frame.height - 4, words, anchor="middle", muted=True))
    return parts


def _ticks(decades: tuple[float, float], divisor: float, most: int) -> list[float]:
    """Round values inside the axis, in the unit that `divisor` stands for: as many kinds as leave at most so many."""
    low, high = (10.0**end / divisor for end in decades)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for steps in _STEPS:
        inside = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(inside) <= most:
            break
    every = math.ceil(len(inside) / most) if inside else 1
    return [value * divisor for value in inside[::every]]


def _marks(frame: _Frame, rows: Sequence[tuple[int, ReplayedRow]], metric: str, quality: str, shape: str) -> str:
    """Marks of one colour and shape; `data-i` is a row's place in the page's data."""
    arch = rows[0][1].arch.lower() or "other"
    uses = []
    for index, row in rows:
        compared = row.metrics[metric]
        x, y = frame.across(compared.measured), frame.up(compared.predicted / compared.measured)
        uses.append(svg.element("use", href=f"#mark-{shape}", x=x, y=y, data_i=str(index)))
    return svg.element("g", "".join(uses), class_=f"marks {arch}", data_q=quality)
