"""A calibration as plain data for its page: of a device measured here, or of published ones. Times in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.calibration.calls import looped
from simulator.calibration.prices import Family, MemoryLevels, call_seconds, family_of
from simulator.calibration.prices_fit import LINK_OPS, UNPRICED
from simulator.calibration.representatives import spread_out
from simulator.calibration.table import shape_columns
from simulator.spec.forms import COLLECTIVES, COLUMNS, Sheet
from simulator.spec.forms_communication import wire_bytes

if TYPE_CHECKING:
    import pandas as pd

    from simulator.calibration.calibration import CalibrationReport
    from simulator.calibration.fit import Fitted
    from simulator.calibration.session import SessionReport

Z90 = 1.645
POINTS_A_SERIES = 120
"""Points of a large table that are drawn, spread over its shapes."""
Data = dict[str, Any]


def measured_here(report: SessionReport) -> Data:
    """A session: every point with its prediction, families, links, power, and what was not used."""
    table, prices, measured = report.table, report.prices, report.measured
    kernels = table[~table["op"].isin(UNPRICED)]
    shapes = _shapes(kernels)
    named = zip(kernels["op"], kernels["kernel"], shapes, kernels["dtype"], strict=True)
    calls = [looped(op, kernel, shape, dtype) for op, kernel, shape, dtype in named]
    predicted = call_seconds(prices, calls)
    points = [
        {
            "family": family_of(call),
            "kind": call.op,
            "shape": _words(shape),
            "size": (shape.get("m"), shape.get("n", 0.0) * shape.get("k", 0.0)) if call.op == "gemm" else None,
            "measured": float(seconds),
            "predicted": float(guess),
            "flops": call.flops,
            "bytes": float(np.sum([touch.bytes for touch in call.touches])),
        }
        for call, shape, seconds, guess in zip(calls, shapes, kernels["latency_s"], predicted, strict=True)
    ]
    words = "smallest" if prices.statistic == "minimum" else "median"
    return {
        "device": prices.device,
        "facts": [
            ["Library", f"{prices.library} {prices.version}"],
            ["Number format", prices.dtype],
            ["Predicted time", f"the {words} of a point's trials"],
            ["Measured", prices.date],
            ["Points", f"{len(points):,} fitted, {measured.rounds:,} rounds"],
            *([["Not measured", remark] for remark in report.remarks]),
        ],
        "points": points,
        "families": [_family(name, family, points) for name, family in prices.families.items()],
        "held_out": _held_out(report.fitted.fitted) if report.fitted else [],
        "links": _links(table),
        "roofs": _roofs(report.fitted.fitted) if report.fitted else [_measured_roof(points, prices.memory)],
        "power": _power(table),
        "sustained": _sustained(table),
        "refused": [[p.case.key, f"smallest trials {p.spread:.0%} apart"] for p in measured.unstable],
        "skipped": [[key, reason] for key, reason in measured.skipped.items()],
    }


def imported(report: CalibrationReport) -> Data:
    """Published measurements: of every series a hundred points with their predictions, and all held-out errors."""
    kernels = [one for one in report.fitted if one.series.op not in COLLECTIVES]
    profile = report.profile
    return {
        "device": profile.device,
        "facts": [["Source", profile.source], ["Fitted", profile.date], ["Fits", f"{len(report.fitted):,}"]],
        "points": [point for one in kernels for point in _series_points(one)],
        "families": [_series_family(one) for one in report.fitted],
        "held_out": _held_out(report.fitted),
        "links": _series_links(report.fitted),
        "roofs": _roofs(report.fitted),
        "power": [],
        "sustained": [],
        "refused": [],
        "skipped": [reason.split(": ", 1) if ": " in reason else [reason, ""] for reason in report.refused],
    }


def _shapes(table: pd.DataFrame) -> list[dict[str, float]]:
    columns = shape_columns(table)
    return [{name: float(row[name]) for name in columns if row[name] == row[name]} for row in table.to_dict("records")]


def _words(shape: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:g}" for name, value in shape.items() if value)


def _family(name: str, family: Family, points: Sequence[Data]) -> Data:
    gaps = [abs(log(p["predicted"] / p["measured"])) for p in points if p["family"] == name]
    inside = sum(gap <= Z90 * family.relative_error for gap in gaps) / len(gaps) if gaps else None
    reach = ", ".join(f"{column} {low:g}..{family.high[column]:g}" for column, low in family.low.items())
    return {"name": name, "points": family.points, "error": family.relative_error, "inside": inside, "range": reach}


def _links(table: pd.DataFrame) -> list[Data]:
    rows = table[table["op"].isin(LINK_OPS)]
    found = []
    for (op, kernel, size), part in rows.groupby(["op", "kernel", "group_size"]):
        name = str(kernel).replace("_", " ") + ("" if size == 1 else f", {size} processes")
        measured = sorted(zip(part["bytes"], _rates(str(op), part), strict=True))
        found.append({"operation": _title(str(op)), "name": name, "measured": measured})
    return found


def _title(op: str) -> str:
    return op.replace("_", " ").capitalize()


def _rates(op: str, rows: pd.DataFrame) -> list[float]:
    """Bus bandwidth of collectives, nccl-tests' meaning: bytes through each rank's link over time; of copies, bytes."""
    columns = {name: rows[name].to_numpy(dtype=np.float64) for name in ("bytes", "group_size")}
    moved = wire_bytes(op, columns) if op in COLLECTIVES else columns["bytes"]
    rates: list[float] = (moved / rows["latency_s"].to_numpy()).tolist()
    return rates


def _power(table: pd.DataFrame) -> list[Data]:
    rows = table[table["power_w"].notna() & (table["op"] != "sustained")]
    shapes = _shapes(rows)
    return [
        {"name": f"{op} {kernel}", "shape": _words(shape), "seconds": float(seconds), "watts": float(watts)}
        for op, kernel, shape, seconds, watts in zip(
            rows["op"], rows["kernel"], shapes, rows["latency_s"], rows["power_w"], strict=True
        )
    ]


def _sustained(table: pd.DataFrame) -> list[Data]:
    rows = table[table["op"] == "sustained"]
    if rows.empty:
        return []
    return [
        {"second": second, "clock_hz": clock, "seconds": seconds, "watts": watts}
        for second, clock, seconds, watts in sorted(
            zip(*(rows[name].tolist() for name in ("second", "clock_hz", "latency_s", "power_w")), strict=True)
        )
    ]


def _measured_roof(points: Sequence[Data], memory: MemoryLevels) -> Data:
    """The highest rate seen, and the bandwidth of the farthest memory."""
    best = max(p["flops"] / p["measured"] for p in points)
    return {"name": "roof: measured", "flops_per_second": best, "bytes_per_second": 1.0 / memory.seconds_per_byte[-1]}


def _series_name(one: Fitted) -> str:
    series = one.series
    return f"{series.op} {series.dtype}, {series.kernel}" + (f", {series.group_size} ranks" * (series.group_size > 1))


def _series_points(one: Fitted) -> list[Data]:
    series = one.series
    chosen = spread_out(series, POINTS_A_SERIES)
    shape = {name: column[chosen] for name, column in series.shape.items()}
    predicted = one.model.predict(shape).seconds
    rows = [dict(zip(COLUMNS[series.op], row, strict=True)) for row in zip(*shape.values(), strict=True)]
    return [
        {
            "family": _series_name(one),
            "kind": series.op,
            "shape": _words(row),
            "size": (row["m"], row["n"] * row["k"]) if series.op == "gemm" else None,
            "measured": float(seconds),
            "predicted": float(guess),
            **_work(series.op, row, series.sheet),
        }
        for row, seconds, guess in zip(rows, series.seconds[chosen], predicted, strict=True)
    ]


def _work(op: str, row: Mapping[str, float], sheet: Sheet) -> Data:
    """FLOPs and bytes of operands, for the roofline; none where a form counts them in ways of its own."""
    if op == "gemm":
        m, n, k = row["m"], row["n"], row["k"]
        moved = m * k * sheet.row_bytes + n * k * sheet.weight_bytes + 2 * m * n
        return {"flops": 2 * m * n * k, "bytes": float(moved)}
    return {"flops": 0.0, "bytes": 0.0}


def _series_family(one: Fitted) -> Data:
    columns = {name: column for name, column in one.series.shape.items() if column.max() > column.min()}
    reach = ", ".join(f"{name} {column.min():g}..{column.max():g}" for name, column in columns.items())
    inside = [test for name, test in one.held_out.items() if not name.startswith("beyond")]
    error = sum(t.mean_absolute * t.rows for t in inside) / sum(t.rows for t in inside) if inside else None
    covered = [test.covered for test in inside if test.covered is not None]
    share = sum(covered) / len(covered) if covered else None
    return {
        "name": _series_name(one),
        "points": len(one.series.seconds),
        "error": error,
        "inside": share,
        "range": reach,
    }


def _held_out(fitted: Sequence[Fitted]) -> list[Data]:
    return [
        {"name": _series_name(one), "what": what, **test.model_dump()}
        for one in fitted
        for what, test in one.held_out.items()
    ]


def _series_links(fitted: Sequence[Fitted]) -> list[Data]:
    found = []
    for one in fitted:
        series = one.series
        if series.op in COLLECTIVES:
            rates = wire_bytes(series.op, series.shape) / series.seconds
            measured = sorted(zip(series.shape["bytes"].tolist(), rates.tolist(), strict=True))
            name = f"{series.kernel.replace('_', ' ')}, {series.group_size} ranks"
            found.append({"operation": _title(series.op), "name": name, "measured": measured})
    return found


def _roofs(fitted: Sequence[Fitted]) -> list[Data]:
    """The data sheet's peaks of the formats products were measured in, and its memory bandwidth."""
    peaks = {one.series.sheet.peak: one.series for one in reversed(fitted) if one.series.op == "gemm"}
    return [
        {
            "name": f"roof: data sheet, {series.dtype}",
            "flops_per_second": peak,
            "bytes_per_second": series.sheet.bandwidth,
        }
        for peak, series in sorted(peaks.items())
    ]
