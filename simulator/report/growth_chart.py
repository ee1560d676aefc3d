"""Months from left to right: columns of GPUs with their intervals, and curves of money, wide and narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.report import svg
from simulator.report.bars import Axis
from simulator.report.numbers import Scale
from simulator.report.svg import Box

_TALL = 300.0


@dataclass(frozen=True)
class Frame:
    """The drawing's area, its months and its axis of values."""

    area: Box
    months: tuple[str, ...]
    axis: Axis
    width: float

    def across(self, index: float) -> float:
        """Where a month begins."""
        return self.area.left + (self.area.right - self.area.left) * index / len(self.months)

    def up(self, value: float) -> float:
        return self.area.bottom - (self.area.bottom - self.area.top) * self.axis.at(value) / 100

    def grid(self) -> list[str]:
        """Lines and labels of both axes."""
        parts = []
        for percent, words in self.axis.ticks():
            at = self.area.bottom - (self.area.bottom - self.area.top) * percent / 100
            parts += [svg.line(self.area.left, at, self.area.right, at)]
            parts += [svg.text(self.area.left - 6, at + 4, words, anchor="end", muted=True)]
        room = 8 * svg.CHARACTER
        every = max(1, round(room * len(self.months) / (self.area.right - self.area.left) + 0.49))
        for index in range(0, len(self.months), every):
            middle = self.across(index + 0.5)
            parts.append(svg.text(middle, self.area.bottom + 18, self.months[index], anchor="middle", muted=True))
        return parts


def _frame(months: Sequence[str], highest: float, scale: Scale, wide: bool) -> Frame:
    width = 860.0 if wide else 330.0
    axis = Axis.covering([highest], scale)
    left = max(len(words) for _, words in axis.ticks()) * svg.CHARACTER + 8
    return Frame(Box(left, 26, width - 8, _TALL - 34), tuple(months), axis, width)


@dataclass(frozen=True)
class Column:
    """A month: its value, the ends of its interval, and what a reader who points at it is told."""

    month: str
    value: float
    low: float
    high: float
    words: str


def columns_chart(columns: Sequence[Column], level: tuple[float, str], scale: Scale, *, label: str, wide: bool) -> str:
    """A column a month with its whisker; `level` is a line across, named above."""
    frame = _frame(
        [column.month for column in columns], max(level[0], *(column.high for column in columns)), scale, wide
    )
    content = frame.grid()
    for index, column in enumerate(columns):
        left, right = frame.across(index + 0.15), frame.across(index + 0.85)
        top = frame.up(column.value)
        size = {"x": left, "y": top, "width": right - left, "height": frame.area.bottom - top}
        content.append(svg.element("rect", svg.element("title", column.words), fill="var(--dense)", **size))
        if column.low != column.high:
            content += _whisker((left + right) / 2, frame.up(column.low), frame.up(column.high), (right - left) / 4)
    at = frame.up(level[0])
    content.append(svg.line(frame.area.left, at, frame.area.right, at, stroke="ink", width=1.4))
    content.append(svg.line(frame.area.left, 8, frame.area.left + 14, 8, stroke="ink", width=1.4))
    content.append(svg.text(frame.area.left + 20, 12, level[1]))
    return svg.image(frame.width, _TALL, label, "".join(content))


def _whisker(x: float, low: float, high: float, half: float) -> list[str]:
    ends = [(x, low, x, high), (x - half, low, x + half, low), (x - half, high, x + half, high)]
    return [svg.line(*end, stroke=stroke, width=width) for stroke, width in (("bg", 4), ("ink", 2)) for end in ends]


def curves_chart(
    months: Sequence[str],
    curves: Sequence[tuple[str, str, Sequence[float]]],
    scale: Scale,
    *,
    label: str,
    wide: bool,
) -> str:
    """Of each curve (name, colour, value at the end of every month); the names stand above."""
    highest = max(value for _, _, values in curves for value in values)
    frame = _frame(months, highest, scale, wide)
    content, names = frame.grid(), []
    for name, color, values in curves:
        places = [(frame.across(index + 1), frame.up(value)) for index, value in enumerate(values)]
        path = " ".join(f"{svg.number(x)},{svg.number(y)}" for x, y in places)
        content.append(svg.element("polyline", points=path, fill="none", stroke=f"var(--{color})", stroke_width=2.2))
        names.append((name, color))
    left = frame.area.left
    for name, color in names:
        content.append(svg.element("rect", x=left, y=4, width=14, height=4, fill=f"var(--{color})"))
        content.append(svg.text(left + 20, 12, name))
        left += 32 + len(name) * svg.CHARACTER
    return svg.image(frame.width, _TALL, label, "".join(content))
