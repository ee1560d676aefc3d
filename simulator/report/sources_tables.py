"""What the figures rest on: assumptions, basis by kind of operator, and the record against published runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.report import numbers
from simulator.report.bars import Axis, BarChart, Group, Row, whisker
from simulator.report.kinds import BASIS_MEANINGS, WEAK, work_unit
from simulator.report.numbers import NBSP
from simulator.report.tables import Cell, Table, table
from simulator.result import Number, Precedent, Result

NEAREST = 8
_LONGEST_VALUE = 120


def assumptions_table(result: Result) -> Table | None:
    """What the result takes for granted, those whose influence is known first."""
    if not result.assumptions:
        return None
    ordered = sorted(result.assumptions, key=lambda item: item.influence is None)
    rows: list[list[str | Cell]] = [
        [f"{item.name}: {item.value}", item.influence or "not tried", item.stated_by] for item in ordered
    ]
    return table("assumptions", "Assumed | If it were otherwise | Set by", rows, min_width=520)


def assumption_sources(result: Result) -> list[str]:
    """Who says so, each source once: 'framework: NVIDIA/Megatron-LM'."""
    told = (f"{item.stated_by}: {item.source}" for item in result.assumptions if item.source)
    return list(dict.fromkeys(told))


def basis_table(result: Result) -> Table | None:
    """How each kind of operator was costed, with its error on held-out timings."""
    if not result.basis:
        return None
    rows: list[list[str | Cell]] = []
    for row in sorted(result.basis, key=lambda r: -r.share_of_step):
        timings = f"{row.measurements:,}"
        error = numbers.share(row.relative_error)
        rows.append([row.kind, numbers.share(row.share_of_step), Cell(basis=row.basis), timings, error, row.source])
    columns = "Operator kind | >Share of time | Basis | >Timings | >Held-out error | Source"
    return table("basis by kind of operator", columns, rows, min_width=680)


def labels_table() -> Table:
    """What each basis label means."""
    rows: list[list[str | Cell]] = [[Cell(basis=basis), meaning] for basis, meaning in BASIS_MEANINGS.items()]
    return table("basis labels", "Label | What the number rests on", rows)


def sources_finding(result: Result) -> str:
    """How much of the step rests on timings of this device, and what the weakest large part rests on."""
    if not result.basis:
        return "No record was kept of what the figures rest on."
    unit = work_unit(result)
    timed = sum(r.share_of_step for r in result.basis if r.basis in ("measured", "interpolated"))
    lead = f"{numbers.sentence(numbers.round_share(timed))} of the {unit} rests on timings of this very device"
    if timed == 0:
        lead = f"Nothing of the {unit} rests on timings of this very device"
    weak = [r for r in result.basis if r.basis in WEAK]
    if not weak:
        return f"{lead}."
    worst = max(weak, key=lambda r: r.share_of_step)
    how = {"extrapolated": "extrapolated", "transferred": "transferred from published timings"}
    end = how.get(worst.basis, "taken from a data sheet")
    part = numbers.round_share(worst.share_of_step)
    return f"{lead}. The largest {'other ' if timed else ''}part, {worst.kind} ({part}), is {end}."


def nearest(result: Result) -> list[Precedent]:
    return sorted(result.precedents, key=lambda p: (p.distance, p.name))


def mean_error(precedents: list[Precedent]) -> float:
    """Mean absolute error of the predictions, as a fraction of what was measured."""
    return sum(abs(p.ratio - 1) for p in precedents) / len(precedents)


def precedents_chart(result: Result) -> BarChart | None:
    """Predicted over measured of the nearest published runs, with the interval of the prediction."""
    shown = nearest(result)[:NEAREST]
    if not shown:
        return None
    ends = [end for p in shown for end in (p.low - 1, p.high - 1, p.ratio - 1)]
    reach = max(map(abs, ends))
    axis = Axis.covering([-reach, reach], numbers.percent([]), signed=True)
    rows = []
    for p in shown:
        off = Number(value=p.ratio - 1, low=p.low - 1, high=p.high - 1, basis="exact")
        outside = not p.low <= 1 <= p.high
        rows.append(
            Row(
                label=p.name,
                note=p.source,
                value=f"{100 * off.value:+.0f}{NBSP}%".replace("-", numbers.MINUS),
                value_below="outside its interval" if outside else "",
                whisker=whisker(axis, off),
                interval=f"{numbers.signed_share(off.low)} to {numbers.signed_share(off.high)}",
                dot=axis.at(off.value),
            )
        )
    return BarChart(axis, (Group(tuple(rows)),), zero=axis.at(0), zero_color="ink")


def precedents_finding(result: Result) -> str:
    """The error over the published runs near this one, and how many intervals held."""
    runs = result.precedents
    if not runs:
        return "No published run near this one."
    inside = sum(p.low <= 1 <= p.high for p in runs)
    error = numbers.short_share(mean_error(runs))
    if len(runs) == 1:
        where = "inside" if inside else "outside"
        run = f"The published run most like this one was predicted to within {error}"
        return f"{run}; it lies {where} its 90{NBSP}% interval."
    lie = "lies inside its" if inside == 1 else "lie inside their"
    return (
        f"Over the {len(runs)} published runs most like this one the mean absolute error is {error}, "
        f"and {inside if inside else 'none'} {lie} 90{NBSP}% interval."
    )


def fields_table(result: Result) -> Table:
    """Every field of the run after defaults, by its dotted path."""
    setters = {item.path: item.stated_by for item in result.assumptions if item.path}
    rows: list[list[str | Cell]] = [
        [Cell(path, code=True), Cell(value, code=True), setters.get(path, "")] for path, value in flatten(result.run)
    ]
    return table("fields of the run", "Field | Value | Set by", rows, min_width=420)


def flatten(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted paths and values as text; long lists are cut."""
    found: list[tuple[str, str]] = []
    for key, value in data.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found += flatten(value, f"{path}.")
        else:
            found.append((path, _shown(value)))
    return found


def _shown(value: object) -> str:
    text = (
        {True: "true", False: "false", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)
    )
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
