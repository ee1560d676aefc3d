"""The page of claims: how many hold, each against its published figure on one axis, the runs behind, and what can't be
tested."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite, sqrt

from simulator.report import numbers
from simulator.report.bars import BarChart, Group, Row
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


def verdict(judged: Judged) -> str:
    """How many claims hold, in part and not."""
    total = len(judged.verdicts)
    parts = [f"{judged.count('holds')} hold", f"{judged.count('in part')} hold in part"]
    wrong = judged.count("doesn't")
    parts.append(f"{wrong} {'does' if wrong == 1 else 'do'} not")
    if refused := judged.count("not simulated"):
        parts.append(f"{refused} could not be simulated")
    return f"Of {total} claims that a simulator of machines can test, {numbers.listing(parts)}."


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
            (f"topic-{number}", topic, _finding(part), _table(topic, part), _runs(topic, part))
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


def _chart(verdicts: Sequence[Verdict]) -> BarChart:
    """Computed over published, with the interval; a bar from 1 shows how far off."""
    rows, factors = [], []
    for each in verdicts:
        middle = _middle(each)
        if each.found is None or middle is None or each.found.low <= 0:
            continue
        factors += [each.found.low / middle, each.found.high / middle]
    axis = LogAxis.over(factors)
    for each in verdicts:
        middle = _middle(each)
        if each.found is None or middle is None or each.found.low <= 0:
            rows.append(Row(each.id, WORDS[each.judgement]))
            continue
        low, value, high = (end / middle for end in (each.found.low, each.found.value, each.found.high))
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
    ratios = [(each.found.value / middle, each) for each in verdicts if each.found and (middle := _middle(each))]
    farthest, each = max(ratios, key=lambda pair: max(pair[0], 1 / pair[0]) if isfinite(pair[0]) and pair[0] > 0 else 0)
    return (
        f"The farthest from its published figure is {each.id}: computed {amount(each.found.value, each.unit)}, "
        f"published {published(each)}, {numbers.significant(farthest)} times it."
        if each.found
        else ""
    )


def _finding(part: Sequence[Verdict]) -> str:
    """How the claims of a topic fare."""
    counts = [(word, sum(each.judgement == judgement for each in part)) for judgement, word in WORDS.items()]
    said = [f"{count} {'hold' if word == 'holds' and count > 1 else word}" for word, count in counts if count]
    return f"{numbers.sentence(numbers.listing(said))} of {len(part)}."


def _table(topic: str, part: Sequence[Verdict]) -> Table:
    rows: list[list[str | Cell]] = [
        [
            Cell(each.claim, note=each.source),
            published(each),
            Cell(found(each), note=each.figure if not each.reason else each.reason),
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
    return f"{count} claims are listed that no simulator of machines can judge." if count else "None was left out."


def _untested(judged: Judged) -> Table:
    rows: list[list[str | Cell]] = [[Cell(claim, note=source), why] for claim, source, why in judged.untested]
    return table("claims that can't be tested", "Claim and source | Why it can't be tested here", rows, min_width=620)
