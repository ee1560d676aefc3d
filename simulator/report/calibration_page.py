"""The report of a calibration: predicted against measured per operator, what is covered, and what was refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from simulator.report import numbers
from simulator.report.rendering import render
from simulator.report.scatter_chart import Axis, Series, axis_over, scatter_chart
from simulator.report.tables import Cell, Table, table

# Kinds of operators that share a chart, by the first word of their family.
_KINDS = {
    "Matrix products": ("gemm", "batched", "grouped_gemm"),
    "Attention": ("attention", "decode"),
    "Memory": ("elementwise", "rowwise", "reduction", "copy", "fill", "loss", "optimizer"),
    "Routing and gathers": ("gather", "scatter", "top", "pick", "sort"),
}
_WORST = 12
_LIMIT = 0.6
"""Errors beyond this are drawn at the edge."""


def render_calibration(data: Mapping[str, Any]) -> str:
    """One self-contained HTML page of what `CalibrationReport.page()` holds; the same data gives the same bytes."""
    points = data["points"]
    kinds = [(name, part) for name in _KINDS if (part := [p for p in points if _kind(p["family"]) == name])]
    return render(
        "calibration.html.jinja",
        title=f"Calibration of {data['device']}",
        device=data["device"],
        facts=_facts(data),
        finding=_finding(data),
        families=_families(data["families"]),
        charts=[(name, *(_residuals(name, part, wide=wide) for wide in (True, False))) for name, part in kinds],
        residual_finding=_residual_finding(points),
        worst=_worst(points),
        roofline=[_roofline(points, wide=wide) for wide in (True, False)],
        roofline_finding=_roofline_finding(points),
        bus=[_bus(data["collectives"], wide=wide) for wide in (True, False)] if data["collectives"] else [],
        bus_finding=_bus_finding(data["collectives"]),
        refused=_refused(data),
        refused_finding=_refused_finding(data),
    )


def _kind(family: str) -> str:
    first = family.split(" ")[0]
    return next((name for name, words in _KINDS.items() if first in words), "")


def _error(point: Mapping[str, Any]) -> float:
    return float(point["predicted"] / point["measured"] - 1)


def _facts(data: Mapping[str, Any]) -> Table:
    words = "smallest" if data["statistic"] == "minimum" else "median"
    rows: list[list[str | Cell]] = [
        ["Device", data["device"]],
        ["Library", f"{data['library']} {data['version']}"],
        ["Number format", data["dtype"]],
        ["Predicted time", f"the {words} of its trials"],
        ["Measured", data["date"]],
        ["Points", f"{len(data['points']):,} fitted, {data['rounds']:,} rounds"],
    ]
    return table("what was measured", "What | Value", rows)


def _finding(data: Mapping[str, Any]) -> str:
    middle = median(abs(_error(p)) for p in data["points"])
    held = median(f["error"] for f in data["families"])
    return (
        f"{len(data['points']):,} points of {len(data['families'])} operators: the fit is off by "
        f"{numbers.share(middle)} at the median, and by {numbers.share(held)} on points held out of it."
    )


def _families(families: Sequence[Mapping[str, Any]]) -> Table:
    rows: list[list[str | Cell]] = [
        [f["name"], f"{f['points']:,}", numbers.share(f["error"]), Cell(f["range"], code=True)]
        for f in sorted(families, key=lambda f: (-f["points"], f["name"]))
    ]
    return table("operators", "Operator | >Points | >Error held out | Measured range", rows, min_width=680)


def _residuals(name: str, points: Sequence[Mapping[str, Any]], *, wide: bool) -> str:
    marks = [
        (p["measured"], _error(p), f"{p['family']} {p['shape']}: {numbers.signed_share(_error(p))}") for p in points
    ]
    x = axis_over("Measured, µs", [p["measured"] for p in points], divisor=1e-6)
    y = Axis("Predicted over measured, less one, %", -_LIMIT, _LIMIT, 0.01, logarithmic=False)
    label = f"{name}: error of the fit against measured time."
    return scatter_chart([Series(name, marks)], x, y, label=label, wide=wide, zero=0.0)


def _residual_finding(points: Sequence[Mapping[str, Any]]) -> str:
    near = sum(abs(_error(p)) <= 0.1 for p in points) / len(points)
    worst = max(points, key=lambda p: abs(_error(p)))
    return (
        f"{numbers.round_share(near)} of the points lie within 10{numbers.NBSP}% of the fit; "
        f"the farthest is {worst['family']} at {worst['shape']}, {numbers.signed_share(_error(worst))}."
    )


def _worst(points: Sequence[Mapping[str, Any]]) -> Table:
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


def _working(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [p for p in points if p["flops"] > 0 and p["bytes"] > 0]


def _roofline(points: Sequence[Mapping[str, Any]], *, wide: bool) -> str:
    chosen = _working(points)
    series = [
        Series(
            name, [(p["flops"] / p["bytes"], p["flops"] / p["measured"], f"{p['family']} {p['shape']}") for p in part]
        )
        for name in ("Matrix products", "Attention")
        if (part := [p for p in chosen if _kind(p["family"]) == name])
    ]
    rates = [p["flops"] / p["measured"] for p in chosen]
    x = axis_over("FLOP per byte of its operands", [p["flops"] / p["bytes"] for p in chosen])
    return scatter_chart(
        series, x, axis_over("GFLOP/s", rates, divisor=1e9), label=_roofline_finding(points), wide=wide
    )


def _roofline_finding(points: Sequence[Mapping[str, Any]]) -> str:
    best = max(_working(points), key=lambda p: p["flops"] / p["measured"])
    rate = numbers.si([best["flops"] / best["measured"]], "FLOP/s").text(best["flops"] / best["measured"])
    return f"The highest rate is {rate}: {best['family']} at {best['shape']}."


def _bus(collectives: Sequence[Mapping[str, Any]], *, wide: bool) -> str:
    series = [
        Series(c["name"], [(s, s / t, f"{c['name']}, {s:,.0f} B") for s, t in c["measured"]], joined=True)
        for c in collectives
    ]
    sizes = [s for c in collectives for s, _ in c["measured"]]
    rates = [s / t for c in collectives for s, t in c["measured"]]
    x = axis_over("Buffer of one process, bytes", sizes)
    return scatter_chart(series, x, axis_over("MB/s", rates, divisor=1e6), label=_bus_finding(collectives), wide=wide)


def _bus_finding(collectives: Sequence[Mapping[str, Any]]) -> str:
    if not collectives:
        return "No collective was measured: there was one process."
    rates = {c["name"]: max(s / t for s, t in c["measured"]) for c in collectives}
    first = max(rates, key=lambda name: rates[name])
    rate = numbers.si([rates[first]], "B/s").text(rates[first])
    return f"Buffer over time, not bus bandwidth: {first} reaches {rate}."


def _refused(data: Mapping[str, Any]) -> Table | None:
    rows: list[list[str | Cell]] = [
        [Cell(r["point"], code=True), f"smallest trials {numbers.round_share(r['spread'])} apart"]
        for r in data["refused"]
    ]
    rows += [[Cell(s["point"], code=True), s["reason"]] for s in data["skipped"]]
    return table("points not used", "Point | Why", rows, min_width=620) if rows else None


def _refused_finding(data: Mapping[str, Any]) -> str:
    refused, skipped = len(data["refused"]), len(data["skipped"])
    if not refused + skipped:
        return "Every point was measured, and every one was stable."
    return f"{refused} points were too unstable to use, {skipped} could not be measured here."
