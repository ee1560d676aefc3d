"""The page of a calibration: predicted against measured per operator, where the fit errs, what is covered and refused.

One page serves devices measured here and published measurements; it draws what `calibration.report_data` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log2, log10
from statistics import fmean, median
from typing import Any

from simulator.report import numbers
from simulator.report.rendering import render
from simulator.report.scatter_chart import Axis, Series, axis_over, scatter_chart
from simulator.report.tables import Cell, Table, table

Data = Mapping[str, Any]

# Operators that share a chart.
_KINDS = {
    "Matrix products": ("gemm", "batched_gemm", "grouped_gemm"),
    "Expert layers": ("moe",),
    "Attention": ("attention", "attention_backward", "prefill", "decode", "mla_prefill", "mla_decode"),
    "Memory": ("elementwise", "rowwise", "reduction", "copy", "fill", "loss", "optimizer", "memory"),
    "Routing and gathers": ("gather", "scatter", "top_k", "pick", "sort", "dispatch", "combine"),
}
_SHOWN, _WORST = 12, 12
_LIMIT = 0.6
"""Errors beyond this are drawn at the edge, and at full colour."""
MOST_FILL = 45
"""Percent of colour in a cell: words stay readable on it."""
_DECADES = ((-7, "1 µs"), (-6, "10 µs"), (-5, "100 µs"), (-4, "1 ms"), (-3, "10 ms"))
"""Powers of ten of seconds at which a column of the map ends, exclusive, and how it is written."""


@dataclass(frozen=True)
class MapCell:
    """Mean error of the points of one cell, and how strongly it is coloured, in percent; without text if empty."""

    text: str = ""
    fill: int = 0
    over: bool = False
    title: str = ""


@dataclass(frozen=True)
class ResidualMap:
    """Mean signed errors over two properties of points."""

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[MapCell, ...]], ...]


def render_calibration(data: Data) -> str:
    """One self-contained HTML page; the same data gives the same bytes."""
    points = data["points"]
    kinds = [(name, part) for name in _KINDS if (part := [p for p in points if _kind(p) == name])]
    roofline = len(_working(points)) > 1
    ordered = sorted(data["families"], key=lambda f: (-f["points"], f["name"]))
    return render(
        "calibration.html.jinja",
        title=f"Calibration of {data['device']}",
        device=data["device"],
        facts=table("what was measured", "What | Value", [["Device", data["device"]], *data["facts"]]),
        finding=_finding(data),
        families=_families("operators with the most points", ordered[:_SHOWN]),
        other_families=_families("other operators", ordered[_SHOWN:]) if len(ordered) > _SHOWN else None,
        charts=[(name, *(_errors(name, part, wide=wide) for wide in (True, False))) for name, part in kinds],
        residual_finding=_residual_finding(points),
        maps=[chart for chart in (_by_time(points), _by_shape(points)) if chart is not None],
        worst=_worst(points),
        held_out=_held_out(data["held_out"]),
        roofline=[_roofline(points, data["roofs"], wide=wide) for wide in (True, False)] if roofline else [],
        roofline_finding=_roofline_finding(points) if roofline else "",
        links=_links(data["links"]),
        bus_finding=_bus_finding(data["links"]),
        power=_power(data),
        power_finding=_power_finding(data),
        refused=_refused(data),
        refused_finding=_refused_finding(data),
    )


def _kind(point: Data) -> str:
    return next((name for name, operators in _KINDS.items() if point["kind"] in operators), "")


def _error(point: Data) -> float:
    return float(point["predicted"] / point["measured"] - 1)


def _finding(data: Data) -> str:
    middle = median(abs(_error(p)) for p in data["points"])
    held = median(f["error"] for f in data["families"] if f["error"] is not None)
    return (
        f"{len(data['points']):,} points of {len(data['families'])} operators: the fit is off by "
        f"{numbers.share(middle)} at the median, and by {numbers.share(held)} on points held out of it."
    )


def _families(name: str, families: Sequence[Data]) -> Table:
    rows: list[list[str | Cell]] = [
        [f["name"], f"{f['points']:,}", _share(f["error"]), _share(f["inside"]), Cell(f["range"], code=True)]
        for f in families
    ]
    columns = "Operator | >Points | >Error held out | >In 90 % interval | Measured range"
    return table(name, columns, rows, min_width=760)


def _share(value: float | None) -> str:
    return "–" if value is None else numbers.share(value)


def _errors(name: str, points: Sequence[Data], *, wide: bool) -> str:
    marks = [
        (p["measured"], _error(p), f"{p['family']} {p['shape']}: {numbers.signed_share(_error(p))}") for p in points
    ]
    x = axis_over("Measured, µs", [p["measured"] for p in points], divisor=1e-6)
    y = Axis("Predicted over measured, less one, %", -_LIMIT, _LIMIT, 0.01, logarithmic=False)
    label = f"{name}: error of the fit against measured time."
    return scatter_chart([Series(name, marks)], x, y, label=label, wide=wide, zero=0.0)


def _residual_finding(points: Sequence[Data]) -> str:
    near = sum(abs(_error(p)) <= 0.1 for p in points) / len(points)
    worst = max(points, key=lambda p: abs(_error(p)))
    return (
        f"{numbers.round_share(near)} of the points lie within 10{numbers.NBSP}% of the fit; "
        f"the farthest is {worst['family']} at {worst['shape']}, {numbers.signed_share(_error(worst))}."
    )


def _by_time(points: Sequence[Data]) -> ResidualMap:
    """Mean errors by operator and decade of measured time."""

    def column(point: Data) -> int:
        place = floor(log10(point["measured"])) - _DECADES[0][0]
        return max(0, min(len(_DECADES), place))

    rows = [(name, [p for p in points if p["family"] == name]) for name in dict.fromkeys(p["family"] for p in points)]
    labels = (*(f"< {words}" for _, words in _DECADES), f"> {_DECADES[-1][1]}")
    return ResidualMap("Mean error by measured time", "operator", labels, _cells(rows, len(labels), column))


def _by_shape(points: Sequence[Data]) -> ResidualMap | None:
    """Mean errors of matrix products by rows and by elements of their weights."""
    products = [p for p in points if p["size"] is not None]
    if not products:
        return None

    def step(value: float) -> int:
        return int(log2(max(value, 1.0)) // 2)

    heights, weights = ([step(p["size"][side]) for p in products] for side in (0, 1))
    columns = tuple(f"≥ {numbers.short_count(4.0**place)}" for place in range(min(weights), max(weights) + 1))
    rows = [
        (f"m ≥ {numbers.short_count(4.0**place)}", [p for p in products if step(p["size"][0]) == place])
        for place in range(min(heights), max(heights) + 1)
    ]
    cells = _cells(rows, len(columns), lambda p: step(p["size"][1]) - min(weights))
    return ResidualMap("Mean error of matrix products", "rows; columns: n × k", columns, cells)


def _cells(
    rows: Sequence[tuple[str, Sequence[Data]]], count: int, column: Callable[[Data], int]
) -> tuple[tuple[str, tuple[MapCell, ...]], ...]:
    found = []
    for name, members in rows:
        groups: list[list[float]] = [[] for _ in range(count)]
        for point in members:
            groups[column(point)].append(_error(point))
        found.append((name, tuple(_cell(group) for group in groups)))
    return tuple(found)


def _cell(errors: Sequence[float]) -> MapCell:
    if not errors:
        return MapCell()
    mean = fmean(errors)
    fill = round(MOST_FILL * min(abs(mean), _LIMIT) / _LIMIT)
    points = f"{len(errors)} point{'s' * (len(errors) > 1)}"
    words = f"{mean:+.0%}".replace("-", "−") if abs(mean) >= 0.005 else "0%"
    return MapCell(words, fill, mean > 0, points)


def _worst(points: Sequence[Data]) -> Table:
    chosen = sorted(points, key=lambda p: -abs(_error(p)))[:_WORST]
    scale = numbers.seconds([p["measured"] for p in chosen])
    rows: list[list[str | Cell]] = [
        [p["family"], Cell(p["shape"], code=True), scale.text(p["measured"]), scale.text(p["predicted"]),
         numbers.signed_share(_error(p))]
        for p in chosen
    ]  # fmt: skip
    return table(
        "points farthest from the fit", "Operator | Shape | >Measured | >Predicted | >Error", rows, min_width=620
    )


def _held_out(tests: Sequence[Data]) -> Table | None:
    if not tests:
        return None
    rows: list[list[str | Cell]] = [
        [t["name"], t["what"], f"{t['rows']:,}", numbers.share(t["mean_absolute"]), numbers.signed_share(t["bias"]),
         numbers.share(t["p90"]), _share(t["covered"])]
        for t in tests
    ]  # fmt: skip
    columns = "Operator | Held out | >Rows | >Mean error | >Bias | >90th percentile | >In 90 % interval"
    return table("errors on shapes held out", columns, rows, min_width=820)


def _working(points: Sequence[Data]) -> list[Data]:
    return [p for p in points if p["flops"] > 0 and p["bytes"] > 0]


def _roofline(points: Sequence[Data], roofs: Sequence[Data], *, wide: bool) -> str:
    chosen = _working(points)
    work = [p["flops"] / p["bytes"] for p in chosen]
    series = [
        Series(
            name, [(p["flops"] / p["bytes"], p["flops"] / p["measured"], f"{p['family']} {p['shape']}") for p in part]
        )
        for name in _KINDS
        if (part := [p for p in chosen if _kind(p) == name])
    ]
    series += [Series(roof["name"], _ceiling(roof, min(work), max(work)), joined=True, dots=False) for roof in roofs]
    rates = [rate for each in series for _, rate, _ in each.points]
    x, y = axis_over("FLOP per byte of its operands", work), axis_over("GFLOP/s", rates, divisor=1e9)
    return scatter_chart(series, x, y, label=_roofline_finding(points), wide=wide)


def _ceiling(roof: Data, low: float, high: float) -> list[tuple[float, float, str]]:
    """What memory allows, up to the peak, over the work a byte from `low` to `high`."""
    peak, bandwidth = roof["flops_per_second"], roof["bytes_per_second"]
    corners = sorted([low, min(high, max(low, peak / bandwidth)), high])
    return [(at, min(peak, at * bandwidth), "") for at in corners]


def _roofline_finding(points: Sequence[Data]) -> str:
    best = max(_working(points), key=lambda p: p["flops"] / p["measured"])
    rate = numbers.si([best["flops"] / best["measured"]], "FLOP/s").text(best["flops"] / best["measured"])
    return f"The highest rate is {rate}: {best['family']} at {best['shape']}."


def _links(links: Sequence[Data]) -> list[tuple[str, str, str]]:
    """A chart an operation: its name, and its drawings wide and narrow, all over the same axes."""
    if not links:
        return []
    x = axis_over("Buffer, bytes", [s for link in links for s, _ in link["measured"]])
    y = axis_over("MB/s", [rate for link in links for _, rate in link["measured"]], divisor=1e6)
    found = []
    for operation in dict.fromkeys(link["operation"] for link in links):
        series = [
            Series(
                link["name"], [(s, rate, f"{link['name']}, {s:,.0f} B") for s, rate in link["measured"]], joined=True
            )
            for link in links
            if link["operation"] == operation
        ]
        label = f"{operation}: bandwidth against the size of the buffer."
        wide, narrow = (scatter_chart(series, x, y, label=label, wide=each) for each in (True, False))
        found.append((operation, wide, narrow))
    return found


def _bus_finding(links: Sequence[Data]) -> str:
    if not links:
        return "No collective and no copy was measured."
    first = max(links, key=lambda link: max(rate for _, rate in link["measured"]))
    most = max(rate for _, rate in first["measured"])
    rate, name = numbers.si([most], "B/s").text(most), f"{first['operation']} by {first['name']}"
    return f"Bus bandwidth as nccl-tests define it, and bytes over time of copies: {name} reaches {rate}."


def _power(data: Data) -> Table | None:
    rows: list[list[str | Cell]] = [
        [
            f"product, second {w['second'] + 1:g}",
            f"{w['clock_hz'] / 1e6:,.0f} MHz",
            numbers.seconds([w["seconds"]]).text(w["seconds"]),
            f"{w['watts']:,.0f} W",
        ]
        for w in data["sustained"]
    ]
    rows += [
        [
            p["name"],
            Cell(p["shape"], code=True),
            numbers.seconds([p["seconds"]]).text(p["seconds"]),
            f"{p['watts']:,.0f} W",
        ]
        for p in data["power"]
    ]
    return (
        table("power and clocks", "Operator | Shape or clock | >Time | >Power", rows, min_width=560) if rows else None
    )


def _power_finding(data: Data) -> str:
    windows = data["sustained"]
    if not windows:
        return "Power was not measured."
    first, last = windows[0], windows[-1]
    slower = last["seconds"] / first["seconds"] - 1
    return (
        f"After {len(windows)} seconds of one product its time has changed by {numbers.signed_share(slower)}, "
        f"at {last['watts']:,.0f} W and {last['clock_hz'] / 1e6:,.0f} MHz."
    )


def _refused(data: Data) -> Table | None:
    rows: list[list[str | Cell]] = [[Cell(what, code=True), why] for what, why in (*data["refused"], *data["skipped"])]
    return table("points not used", "Point | Why", rows, min_width=620) if rows else None


def _refused_finding(data: Data) -> str:
    refused, skipped = len(data["refused"]), len(data["skipped"])
    if not refused + skipped:
        return "Nothing was left out."
    return f"{refused} points were too unstable to use, {skipped} could not be measured or have no form."
