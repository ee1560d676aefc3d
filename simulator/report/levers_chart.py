"""What one change would do: diverging bars, parts of the machine and settings of the run each on their own scale."""

from __future__ import annotations

from simulator.report import numbers
from simulator.report.bars import Axis, BarChart, Group, Row, bar, whisker
from simulator.report.kinds import work_unit
from simulator.report.metrics import time_metric
from simulator.result import Lever, Number, Result

MOST_ROWS = 16


def base_time(result: Result) -> Number | None:
    """The time that levers are measured against."""
    return result.numbers().get(time_metric(result))


def levers_chart(result: Result, kind: str) -> BarChart | None:
    """Feasible changes of one kind, the one that saves most first; None where none was tried."""
    base = base_time(result)
    tried = ranked(result, kind)[:MOST_ROWS]
    if not tried or base is None:
        return None
    scale = numbers.percent([])
    parts = {lever.label: _part(lever, base) for lever in tried}
    axis = Axis.covering((end for n in parts.values() for end in (n.low, n.high)), scale, signed=True)
    rows = [_row(lever, _part(lever, base), axis, result) for lever in tried]
    return BarChart(axis, (Group(tuple(rows)),), zero=axis.at(0), tall=True)


def ranked(result: Result, kind: str) -> list[Lever]:
    """Feasible changes of one kind, largest saving first."""
    found = [lever for lever in result.levers if lever.kind == kind and lever.feasible]
    return sorted(found, key=lambda lever: (lever.step_time_s.value, lever.label))


def refused(result: Result) -> list[str]:
    """Changes that cannot be, with the reason."""
    return [f"{lever.label}: {lever.reason or 'infeasible'}" for lever in result.levers if not lever.feasible]


def lever_name(lever: Lever) -> str:
    """What a sentence calls a change: a part of the machine with how much better it is made."""
    if lever.kind == "hardware" and lever.change.startswith(("+", numbers.MINUS, "-")):
        return f"{lever.label} {lever.change}"
    return lever.label


def tells(lever: Lever) -> bool:
    """Whether the change can be told from none: the interval of the difference leaves out zero."""
    return lever.step_time_s.low > 0 or lever.step_time_s.high < 0


def saving(result: Result) -> Lever | None:
    """The change of the run that saves most, if it can be told from none."""
    return next((lever for lever in ranked(result, "run") if lever.step_time_s.high < 0), None)


def levers_finding(result: Result) -> str:
    """The best part to improve, and the best setting to change."""
    base = base_time(result)
    if not result.levers or base is None:
        return "No change was tried on this run."
    unit = work_unit(result)
    sentences = []
    part = next((lever for lever in ranked(result, "hardware") if lever.step_time_s.high < 0), None)
    if part is not None:
        size = numbers.short_share(-part.step_time_s.value / base.value)
        sentences.append(f"{lever_name(part)} saves {size} of the {unit}")
    change = saving(result)
    if change is not None:
        size = numbers.short_share(-change.step_time_s.value / base.value)
        sentences.append(f"the best change of the run, {change.label}, saves {size}")
    if not sentences:
        return "No change tried can be told from none."
    text = "; ".join(sentences)
    return text[0].upper() + text[1:] + "."


def saved(lever: Lever, result: Result) -> list[str]:
    """What a change saves over all tokens, in days and money, without signs; the change is a saving."""
    base = base_time(result)
    parts = []
    if base is not None and result.days is not None:
        parts.append(numbers.about_days(-lever.step_time_s.value / base.value * result.days.value))
    if lever.cost_usd is not None and lever.cost_usd.value < 0:
        parts.append(numbers.dollars([lever.cost_usd.value]).text(-lever.cost_usd.value))
    return parts


def _part(lever: Lever, base: Number) -> Number:
    delta = lever.step_time_s
    return Number(
        value=delta.value / base.value, low=delta.low / base.value, high=delta.high / base.value, basis=delta.basis
    )


def _row(lever: Lever, part: Number, axis: Axis, result: Result) -> Row:
    if not tells(lever):
        below = "can't be told from 0"
    elif result.days is not None:
        below = numbers.signed(numbers.days([result.days.value]), part.value * result.days.value)
    elif lever.cost_usd is not None:
        below = numbers.signed(numbers.dollars([lever.cost_usd.value]), lever.cost_usd.value)
    else:
        below = ""
    setting = lever.kind == "run"
    return Row(
        label=lever.label,
        note="" if setting else lever.change,
        code=f"{lever.path}: {lever.change}" if setting else "",
        value=numbers.signed_share(part.value),
        value_below=below,
        segments=(bar(axis, 0, part.value, color=lever.color or "m5"),) if part.value else (),
        whisker=whisker(axis, part),
        interval=f"{numbers.signed_share(part.low)} to {numbers.signed_share(part.high)}",
    )
