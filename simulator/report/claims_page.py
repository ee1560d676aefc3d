"""The page of claims: how many hold, each against its published figure on one axis, the runs behind, and what can't be
tested."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt

from simulator.report import numbers
from simulator.report.bars import BarChart, Group, Row
from simulator.report.metrics import METRICS
from simulator.report.numbers import NBSP
from simulator.report.octaves import LogAxis
from simulator.report.rendering import render
from simulator.report.tables import Cell, Table, table
from simulator.verdicts import Judged, Judgement, Verdict

WORDS: dict[Judgement, str] = {
    "holds": "holds",
    "in part": "holds in part",
    "doesn't": "doesn't hold",
    "not simulated": "not simulated",
}
_COLORS: dict[Judgement, str] = {"holds": "expert", "in part": "comm", "doesn't": "a2a", "not simulated": "wait"}


_PLURAL: dict[Judgement, str] = {
    "holds": "hold",
    "in part": "hold in part",
    "doesn't": "don't hold",
    "not simulated": "could not be simulated",
}
_PARTS = {
    "memory_gib.parameters": "weights on the fullest GPU",
    "communication_s.all_to_all.total": "all-to-all, hidden or not",
    "communication_s.all_to_all.exposed": "all-to-all that nothing hides",
}
DRAWN = 30.0
"""Factors beyond this, either way, are written instead of drawn: they would flatten all others."""


def verdict(judged: Judged) -> str:
    """How many claims hold, in part and not."""
    total = len(judged.verdicts)
    return f"Of {total} claims that a simulator of machines can test, {_counts(judged.verdicts)}."


def _counts(part: Sequence[Verdict]) -> str:
    """How many hold, hold in part and don't."""
    counts = [(judgement, sum(each.judgement == judgement for each in part)) for judgement in WORDS]
    said = [f"{count} {WORDS[judgement] if count == 1 else _PLURAL[judgement]}" for judgement, count in counts if count]
    return numbers.listing(said) if len(said) > 1 else said[0]


def bare(value: float) -> str:
    """A figure without its unit; large counts as 3.14e23."""
    return numbers.significant(value) if abs(value) < 1e6 else f"{value:.3g}".replace("e+", "e").replace("e0", "e")


def amount(value: float, unit: str) -> str:
    """A figure in a claim's unit."""
    return f"{bare(value)}{NBSP}{unit}" if unit else bare(value)


def found(each: Verdict) -> str:
    """What was computed, with its interval where it has one."""
    number = each.found
    if number is None:
        return numbers.DASH
    text = amount(number.value, each.unit)
    if number.low == number.high:
        return text
    return f"{text} ({bare(number.low)}{NBSP}{numbers.DASH}{NBSP}{bare(number.high)})"


def published(each: Verdict) -> str:
    return f"{each.published}{NBSP}{each.unit}" if each.unit else each.published


def render_claims(judged: Judged) -> str:
    """One self-contained HTML page."""
    topics = list(dict.fromkeys(each.topic for each in judged.verdicts))
    return render(
        "claims.html.jinja",
        title=judged.title,
        verdict=verdict(judged),
        untested_finding=_untested_finding(judged),
        chart=_chart(judged.verdicts),
        chart_finding=_chart_finding(judged.verdicts),
        topics=[
            (f"topic-{number}", topic, f"{_counts(part)}.", _table(topic, part), _runs(topic, part))
            for number, topic in enumerate(topics)
            for part in [[each for each in judged.verdicts if each.topic == topic]]
        ],
        untested=_untested(judged) if judged.untested else None,
        version=judged.version,
    )


def _middle(each: Verdict) -> float | None:
    """The published figure as a single value: the middle of a range by ratio, the stated end of a one-sided one."""
    low, high = each.range
    if low == -inf or high == inf:
        end = high if low == -inf else low
        return end if end > 0 else None
    return sqrt(low * high) if low > 0 else None


def _factors(each: Verdict) -> tuple[float, float, float] | None:
    """Low, value and high of the computed figure over the published one; None where they can't or shan't be drawn."""
    middle = _middle(each)
    if each.found is None or middle is None or each.found.low <= 0:
        return None
    ends = (each.found.low / middle, each.found.value / middle, each.found.high / middle)
    return ends if ends[0] >= 1 / DRAWN and ends[2] <= DRAWN else None


def _chart(verdicts: Sequence[Verdict]) -> BarChart:
    """Computed over published, with the interval; a bar from 1 shows how far off."""
    drawn = [ends for each in verdicts if (ends := _factors(each))]
    axis = LogAxis.over(end for ends in drawn for end in ends)
    rows = []
    for each in verdicts:
        ends = _factors(each)
        if ends is None or each.found is None:
            off = (
                f", {numbers.significant(each.found.value / middle)}×"
                if each.found and (middle := _middle(each))
                else ""
            )
            rows.append(Row(each.id, WORDS[each.judgement] + off))
            continue
        low, value, high = ends
        exact = each.found.low == each.found.high
        rows.append(
            Row(
                each.id,
                WORDS[each.judgement],
                whisker=None if exact else (axis.at(low), max(axis.at(high) - axis.at(low), 0.25)),
                dot=axis.at(value),
                dot_color=_COLORS[each.judgement],
            )
        )
    return BarChart(axis, (Group(tuple(rows)),), zero=axis.at(1.0))


def _chart_finding(verdicts: Sequence[Verdict]) -> str:
    """How many figures are counted, how many have an interval, and how often it holds the published one."""
    counted = [each for each in verdicts if each.found and each.found.low == each.found.high]
    timed = [each for each in verdicts if each.found and each.found.low < each.found.high]
    inside = sum(each.judgement == "holds" for each in timed)
    return (
        f"{len(counted)} figures are counted exactly; of {len(timed)} with an interval, "
        f"{inside} have the published figure in it."
    )


def _figure(each: Verdict) -> str:
    """What was computed, in words."""
    what = _named(each.figure) + (f" over {_named(each.per)}" if each.per else "")
    return f"{what}: the first run over the second" if each.ratio else what


def _named(key: str) -> str:
    return numbers.inside(METRICS[key].label) if key in METRICS else _PARTS.get(key, key)


def _table(topic: str, part: Sequence[Verdict]) -> Table:
    rows: list[list[str | Cell]] = [
        [
            Cell(each.claim, note=each.source),
            published(each),
            Cell(found(each), note=each.reason or _figure(each)),
            Cell(WORDS[each.judgement], swatch=_COLORS[each.judgement], note=each.note),
        ]
        for each in part
    ]
    return table(
        f"claims: {topic}", "Claim and source | Published | Computed, 90 % interval | Verdict", rows, min_width=860
    )


def _runs(topic: str, part: Sequence[Verdict]) -> Table:
    """The figure of each run behind the claims."""
    rows: list[list[str | Cell]] = [
        [each.id, Cell(name, code=True), bare(number.value), _range(number.low, number.high)]
        for each in part
        for name, number in each.sides
    ]
    return table(f"runs behind the claims: {topic}", "Claim | Run | >Figure | >90 % interval", rows, min_width=760)


def _range(low: float, high: float) -> str:
    return "" if low == high else f"{bare(low)}{NBSP}{numbers.DASH}{NBSP}{bare(high)}"


def _untested_finding(judged: Judged) -> str:
    count = len(judged.untested)
    return f"{count} more claims are not judged here, each for a reason." if count else "None was left out."


def _untested(judged: Judged) -> Table:
    rows: list[list[str | Cell]] = [[Cell(claim, note=source), why] for claim, source, why in judged.untested]
    return table("claims that can't be tested", "Claim and source | Why it can't be tested here", rows, min_width=620)
