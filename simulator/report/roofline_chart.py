"""Roofline: achieved rate against arithmetic intensity, log-log, area = share of the step.

Williams, Waterman, Patterson, "Roofline", Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from simulator.report import numbers, svg
from simulator.report.kinds import work_unit
from simulator.report.svg import Box, Mark
from simulator.report.tables import Cell, Table, table
from simulator.result import OperatorRow, Result

# Operators below these shares are named in the table only, and judged not to matter.
_NAMED, _MATTERS = 0.01, 0.03
_FAR = 0.5
_BOUNDS = {"compute": "matrix units", "memory": "HBM", "network": "network", "latency": "latency"}


@dataclass(frozen=True)
class _Frame:
    """The drawing area and its two logarithmic axes, in decades."""

    width: float
    height: float
    area: Box
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, intensity: float, rate: float) -> tuple[float, float]:
        a = self.area
        across = (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(rate) - self.y[0]) / (self.y[1] - self.y[0])
        return a.left + across * (a.right - a.left), a.bottom - up * (a.bottom - a.top)


def roofline_chart(result: Result, *, wide: bool) -> str:
    """The chart as SVG, for a page or for a phone; empty where no operator both computes and reads memory."""
    rows = drawn(result)
    if not rows:
        return ""
    frame = _frame(rows, result, wide=wide)
    dots, marks = [], []
    for row in sorted(rows, key=lambda r: -r.share_of_step):
        x, y = frame.at(row.flops / row.bytes, row.flops / row.seconds)
        radius = max(3.2, (20 if wide else 15) * math.sqrt(row.share_of_step))
        dots.append(_dot(frame, row, x, y, radius, work_unit(result)))
        if row.share_of_step >= _NAMED:
            marks.append(Mark(x, y, radius, f"{numbers.sentence(row.name)} {numbers.round_share(row.share_of_step)}"))
    roof, taken = _roof(frame, result, wide=wide, marks=marks)
    labels = []
    for spot in svg.place(marks, frame.area, taken, [_stroke(frame, row) for row in rows]):
        if spot.leader:
            labels.append(svg.line(spot.mark.x, spot.mark.y, *spot.joint, stroke="muted"))
        labels.append(svg.text(spot.x, spot.y, spot.mark.words, anchor=spot.anchor, halo=True))
    leaders = [part for part in labels if part.startswith("<path")]
    words = [part for part in labels if not part.startswith("<path")]
    content = "".join([*_grid(frame, wide=wide), *roof, *leaders, *dots, *words])
    return svg.image(frame.width, frame.height, f"Roofline. {roofline_finding(result)}", content)


def drawn(result: Result) -> list[OperatorRow]:
    return [r for r in result.operators if r.flops > 0 and r.bytes > 0 and r.seconds > 0 and r.bound != "network"]


def of_roof(row: OperatorRow, result: Result) -> float:
    """Achieved rate over what the nearer of the two roofs allows at this intensity."""
    slope = row.flops / row.bytes * result.summary.memory_bandwidth_bytes_per_s
    return row.flops / row.seconds / min(result.summary.peak_flops_per_s, slope)


def roofline_finding(result: Result) -> str:
    """How near the heaviest operator is to its roof, and which operator that matters is far from it."""
    rows = sorted(drawn(result), key=lambda r: -r.share_of_step)
    if not rows:
        return "No operator of this run both computes and reads memory."
    first = rows[0]
    roof = "the matrix units' peak" if first.bound == "compute" else "its roof"
    verb = "run" if first.name.endswith("s") else "runs"
    lead = f"{numbers.sentence(first.name)} {verb} at {numbers.round_share(of_roof(first, result))} of {roof}"
    far = [r for r in rows if r.share_of_step >= _MATTERS and of_roof(r, result) < _FAR]
    if not far:
        return f"{lead}. No operator that matters is below half of its roof."
    worst = max(far, key=lambda r: r.share_of_step * (1 - of_roof(r, result)))
    gain = numbers.round_share(worst.share_of_step * (1 - of_roof(worst, result)))
    if worst is first:
        return f"{lead}; at the roof {gain} of the {work_unit(result)} would be saved."
    reach = numbers.round_share(of_roof(worst, result))
    name = numbers.sentence(worst.name)
    return f"{lead}. {name}, at {reach} of the roof, would save {gain} of the {work_unit(result)} there."


def roofline_table(result: Result) -> Table:
    """Every operator, the longest first, those of the network too."""
    plotted = drawn(result)
    rate = numbers.si([r.flops / r.seconds for r in plotted], "FLOP/s", smallest=0)
    rows: list[list[str | Cell]] = []
    for row in sorted(result.operators, key=lambda r: -r.share_of_step):
        known = row in plotted
        rows.append(
            [
                Cell(numbers.sentence(row.name), swatch=row.color),
                f"{row.calls:,}",
                numbers.significant(row.flops / row.bytes) if known else numbers.DASH,
                rate.text(row.flops / row.seconds) if known else numbers.DASH,
                _BOUNDS[row.bound],
                numbers.round_share(of_roof(row, result)) if known else numbers.DASH,
                numbers.share(row.share_of_step),
                Cell(basis=row.basis),
            ]
        )
    columns = "Operator | >Calls | >FLOP/byte | >Achieved | Bound by | >Of its roof | >Share | Basis"
    return table("operators", columns, rows, min_width=680)


def _frame(rows: list[OperatorRow], result: Result, *, wide: bool) -> _Frame:
    peak, bandwidth = result.summary.peak_flops_per_s, result.summary.memory_bandwidth_bytes_per_s
    ridge = peak / bandwidth
    xs = [r.flops / r.bytes for r in rows] + [ridge]
    ys = [r.flops / r.seconds / (1 + r.relative_error) for r in rows]
    tops = [r.flops / r.seconds * (1 + r.relative_error) for r in rows] + [peak]
    x = (math.floor(math.log10(min(xs)) - 0.05), math.ceil(math.log10(max(xs)) + 0.05))
    y = (math.log10(min(*ys, peak / 10)) - 0.3, math.log10(max(tops)) + 0.25)
    width, height = (860.0, 430.0) if wide else (330.0, 320.0)
    return _Frame(width, height, Box(50, 30, width - 12, height - 44), x, y)


def _grid(frame: _Frame, *, wide: bool) -> list[str]:
    a, parts = frame.area, []
    for power in _decades(*frame.x):
        x, _ = frame.at(10.0**power, 10.0 ** frame.y[0])
        parts += [
            svg.line(x, a.top, x, a.bottom),
            svg.text(x, a.bottom + 18, _power(power), anchor="middle", muted=True),
        ]
    for power in _decades(*frame.y):
        _, y = frame.at(10.0 ** frame.x[0], 10.0**power)
        label = _power(power - 12)
        parts += [svg.line(a.left, y, a.right, y), svg.text(a.left - 6, y + 4, label, anchor="end", muted=True)]
    words = "Arithmetic intensity, FLOP per byte of HBM traffic" if wide else "FLOP per byte of HBM traffic"
    middle = (a.left + a.right) / 2
    parts.append(svg.text(middle, frame.height - 4, words, anchor="middle", muted=True))
    parts.append(svg.text(0, 11, "TFLOP/s", muted=True))
    return parts


def _decades(first: float, last: float) -> range:
    """Powers of ten for at most five grid lines and the ends."""
    low, high = math.ceil(first), math.floor(last)
    return range(low, high + 1, max(1, math.ceil((high - low) / 5)))


def _power(power: int) -> str:
    return numbers.plain(10.0**power) if -3 <= power <= 3 else "10" + str(power).translate(_RAISED)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _roof(frame: _Frame, result: Result, *, wide: bool, marks: list[Mark]) -> tuple[list[str], list[Box]]:
    """Slope and ceiling, each with its name, and what labels must not touch; the slope starts where it enters."""
    peak, bandwidth = result.summary.peak_flops_per_s, result.summary.memory_bandwidth_bytes_per_s
    start = max(10.0 ** frame.x[0], 10.0 ** frame.y[0] / bandwidth)
    x0, y0 = frame.at(start, start * bandwidth)
    x1, y1 = frame.at(peak / bandwidth, peak)
    a = frame.area
    points = " ".join(f"{svg.number(x)},{svg.number(y)}" for x, y in ((x0, y0), (x1, y1), (a.right, y1)))
    drawing = svg.element("polyline", points=points, fill="none", stroke="var(--ink)", stroke_width=1.8)
    tilt = math.degrees(math.atan2(y1 - y0, x1 - x0))
    turn = f"translate({svg.number((x0 + x1) / 2 - 4)} {svg.number((y0 + y1) / 2 - 6)}) rotate({svg.number(tilt)})"
    slope = svg.element("text", escape(f"HBM: {_rate(bandwidth, 'B/s')}"), transform=turn, text_anchor="middle")
    words = _ceiling(result, wide=wide)
    name = Box(a.right - len(words) * svg.CHARACTER, y1 - 20, a.right, y1 - 2)
    while any(name.touches(svg.disc(mark)) for mark in marks) and name.top > 14:
        name = Box(name.left, name.top - 4, name.right, name.bottom - 4)
    ceiling = svg.text(a.right, name.bottom - 4, words, anchor="end")
    steps = [(i / 200, x0 + (x1 - x0) * i / 200, y0 + (y1 - y0) * i / 200) for i in range(201)]
    line = [Box(x - 3, y - (22 if 0.3 < t < 0.7 else 3), x + 3, y + 3) for t, x, y in steps]
    return [drawing, slope, ceiling], [Box(x1, y1 - 2, a.right, y1 + 2), name, *line]


def _ceiling(result: Result, *, wide: bool) -> str:
    rate = _rate(result.summary.peak_flops_per_s, "FLOP/s")
    return f"Matrix units, dense {result.summary.precision}: {rate}" if wide else rate


def _rate(value: float, unit: str) -> str:
    return numbers.si([value], unit, smallest=0).text(value)


def _stroke(frame: _Frame, row: OperatorRow) -> Box:
    """Where the interval of the achieved rate is drawn."""
    rate = row.flops / row.seconds
    x, top = frame.at(row.flops / row.bytes, rate * (1 + row.relative_error))
    _, bottom = frame.at(1, rate / (1 + row.relative_error))
    return Box(x - 1, top, x + 1, bottom)


def _dot(frame: _Frame, row: OperatorRow, x: float, y: float, radius: float, unit: str) -> str:
    """A dot with its interval through it; the title names what the table holds."""
    rate, stroke = row.flops / row.seconds, _stroke(frame, row)
    title = (
        f"{numbers.sentence(row.name)}: {numbers.significant(row.flops / row.bytes)} FLOP/byte, "
        f"{_rate(rate, 'FLOP/s')}, {numbers.share(row.share_of_step)} of the {unit}"
    )
    circle = svg.element(
        "circle",
        svg.element("title", escape(title)),
        cx=x,
        cy=y,
        r=radius,
        fill=f"var(--{row.color})",
        stroke="var(--bg)",
        stroke_width=1,
    )
    return circle + svg.line(x, stroke.top, x, stroke.bottom, stroke="ink", width=1.2)
