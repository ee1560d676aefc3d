"""Rows of bars: label, track, value. A track is measured in percent of its width, so that it scales with the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from simulator.report.numbers import MINUS, Scale, plain
from simulator.report.tables import Cell, Table, table
from simulator.result import Number

_STEPS = (1.0, 2.0, 2.5, 5.0)
# A mark narrower than this share of its track, in percent, could not be seen.
_THINNEST = 0.25


@dataclass(frozen=True)
class Axis:
    """Ticks at whole multiples of a round `step`, from `first` to `last` of them, written in `scale`."""

    first: int
    last: int
    step: float
    scale: Scale
    signed: bool = False

    @classmethod
    def covering(cls, values: Iterable[float], scale: Scale, *, intervals: int = 4, signed: bool = False) -> Axis:
        """The tightest axis with at most so many intervals that holds zero and all `values`."""
        scaled = [v / scale.divisor for v in values] + [0.0]
        low, high = min(scaled), max(scaled)
        if low == high:
            high = 1.0
        step = _round_up((high - low) / intervals)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        while last - first > intervals:
            step = _round_up(step * 1.01)
            first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(first, last, step, scale, signed)

    @property
    def intervals(self) -> int:
        return self.last - self.first

    @property
    def high(self) -> float:
        return self.last * self.step * self.scale.divisor

    def at(self, value: float) -> float:
        """Position of a value in percent of the track."""
        return 100 * (value / self.scale.divisor / self.step - self.first) / self.intervals

    def ticks(self) -> list[tuple[float, str]]:
        """Positions in percent with their labels."""
        return [(100 * (i - self.first) / self.intervals, self._label(i)) for i in range(self.first, self.last + 1)]

    def _label(self, multiple: int) -> str:
        sign = "+" if self.signed and multiple > 0 else MINUS if multiple < 0 else ""
        return sign + self.scale.before + plain(abs(multiple) * self.step) + self.scale.after


@dataclass(frozen=True)
class Segment:
    """A filled part of a track; `color` names a CSS variable, hidden parts are hatched."""

    left: float
    width: float
    color: str
    hidden: bool = False
    title: str = ""
    text: str = ""
    small: str = ""


@dataclass(frozen=True)
class Row:
    label: str
    value: str
    note: str = ""
    code: str = ""
    value_note: str = ""
    value_below: str = ""
    interval: str = ""
    segments: tuple[Segment, ...] = ()
    whisker: tuple[float, float] | None = None
    dot: float | None = None
    dot_color: str = "ink"


@dataclass(frozen=True)
class Group:
    """Rows under a heading with its own total; no heading where `label` is empty."""

    rows: tuple[Row, ...]
    label: str = ""
    total: str = ""


@dataclass(frozen=True)
class BarChart:
    """Grouped rows on one axis. `zero` is where a line stands for no change, in percent."""

    axis: Axis
    groups: tuple[Group, ...]
    zero: float | None = None
    zero_color: str = "muted"
    capacity: float | None = None
    tall: bool = False
    marks: tuple[tuple[float, str], ...] = field(default=())


def chart_table(name: str, columns: str, chart: BarChart) -> Table:
    """The rows of a chart as a table of four columns: what, value, interval, and what else the chart says."""
    rows: list[list[str | Cell]] = []
    for group in chart.groups:
        for row in group.rows:
            what = " ".join(part for part in (row.label, row.code) if part)
            rows.append([what, row.value, row.interval, "; ".join(n for n in (row.value_note, row.value_below) if n)])
    return table(name, columns, rows, min_width=460)


def bar(axis: Axis, start: float, end: float, *, color: str, hidden: bool = False, title: str = "") -> Segment:
    """A bar between two values, at least a hair wide; nothing at all is `width` 0."""
    left, right = sorted((axis.at(start), axis.at(end)))
    width = 0.0 if start == end else max(right - left, _THINNEST)
    return Segment(left=left, width=width, color=color, hidden=hidden, title=title)


def whisker(axis: Axis, number: Number) -> tuple[float, float] | None:
    """Left end and width of an interval; None where the number is exact."""
    if number.low == number.high:
        return None
    return axis.at(number.low), max(axis.at(number.high) - axis.at(number.low), _THINNEST)


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    for step in _STEPS:
        if value <= step * power * (1 + 1e-9):
            return step * power
    return 10 * power
