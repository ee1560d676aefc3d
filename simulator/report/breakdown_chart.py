"""Where the step goes: one stacked bar by kind, then ranked bars whose solid parts sum to the step."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.report import numbers
from simulator.report.bars import Axis, BarChart, Group, Row, Segment, bar, whisker
from simulator.report.kinds import GROUP_NAMES, kind_name, seconds_by_color, total_seconds, work_unit
from simulator.report.numbers import Scale
from simulator.result import BreakdownItem, Result

# Narrowest stacked bars that show the long and the short labels, and the width of a character at 13 px, px.
_WIDE_PX, _NARROW_PX, _CHARACTER_PX = 780, 560, 7.4
# Share of the step below which a time is what was left of subtracting equal ones.
_RESIDUE = 1e-12


@dataclass(frozen=True)
class Stack:
    """Parts of a whole in one bar, widths in percent; `computing` is the part that is no loss."""

    segments: tuple[Segment, ...]
    label: str
    computing: float
    computing_text: str
    rest_text: str


def stack(result: Result) -> Stack:
    """The step by kind of time."""
    colors = seconds_by_color(result.breakdown)
    total = total_seconds(result)
    scale = numbers.seconds(colors.values())
    segments, left = [], 0.0
    for color, value in colors.items():
        part = value / total
        name = kind_name(color, colors)
        short = f"{kind_name(color, colors, short=True)} {numbers.round_share(part)}"
        title = f"{name}: {scale.text(value)}, {numbers.share(part)}"
        texts = (short, numbers.round_share(part))
        wide, narrow = _fitting(part * _WIDE_PX, *texts), _fitting(part * _NARROW_PX, *texts)
        segments.append(Segment(left, 100 * part, color, title=title, text=wide, small=narrow))
        left += 100 * part
    computing = sum(i.seconds.value for i in result.breakdown if i.group == "computing") / total
    parts = ", ".join(f"{kind_name(c, colors).lower()} {numbers.share(v / total)}" for c, v in colors.items())
    return Stack(
        segments=tuple(segments),
        label=f"One {work_unit(result)} of {numbers.seconds([total]).text(total)}: {parts}.",
        computing=100 * computing,
        computing_text=f"Computing {numbers.round_share(computing)}",
        rest_text=numbers.round_share(1 - computing),
    )


def breakdown_chart(result: Result) -> BarChart:
    """Bars by kind within their groups, the longest first; hidden communication is hatched and not summed."""
    total = total_seconds(result)
    items = [i for i in result.breakdown if i.seconds.value + i.hidden_s > _RESIDUE * total]
    axis_scale = numbers.seconds([max(i.seconds.high + i.hidden_s for i in items)])
    axis = Axis.covering((_reach(item) for item in items), axis_scale)
    scale = numbers.seconds(i.seconds.value for i in items)
    groups = []
    for key, name in GROUP_NAMES.items():
        members = sorted((i for i in items if i.group == key), key=lambda i: (-i.seconds.value, i.key))
        if members:
            rows = tuple(_row(item, axis, scale, total) for item in members)
            spent = sum(i.seconds.value for i in members)
            heading = f"{numbers.seconds([spent]).text(spent)}, {numbers.share(spent / total)}"
            groups.append(Group(rows, name, heading))
    return BarChart(axis, tuple(groups))


def _row(item: BreakdownItem, axis: Axis, scale: Scale, total: float) -> Row:
    value = item.seconds.value
    segments = [bar(axis, 0, value, color=item.color)]
    if item.hidden_s > 0:
        segments.append(bar(axis, value, value + item.hidden_s, color=item.color, hidden=True))
    return Row(
        label=item.label,
        value=scale.text(value),
        value_note=numbers.share(value / total),
        value_below=f"+ {scale.text(item.hidden_s)} hidden" if item.hidden_s > 0 else "",
        segments=tuple(s for s in segments if s.width),
        whisker=whisker(axis, item.seconds),
        interval=scale.interval(item.seconds),
    )


def _reach(item: BreakdownItem) -> float:
    return max(item.seconds.high, item.seconds.value + item.hidden_s)


def _fitting(room: float, *texts: str) -> str:
    """The first text that fits so many px."""
    return next((text for text in texts if len(text) * _CHARACTER_PX + 4 <= room), "")
