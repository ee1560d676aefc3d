"""The page of a plan: the answer, every point to filter and rank again offline, the ranked list with its run files,
the first against the surest, what each limit costs, and how it was searched.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulator.answer import Answer, Comparison, Option
from simulator.report import numbers
from simulator.report import plan_grounds as grounds
from simulator.report import plan_words as words
from simulator.report.bars import Axis, BarChart, Group, Row, bar, whisker
from simulator.report.plan_data import payload, rankable, shown_points
from simulator.report.rendering import file_name, render
from simulator.report.tables import Cell, Table, table
from simulator.result import Number

MOST_TERMS = 8


def render_plan(answer: Answer, run_file: str) -> str:
    """One self-contained HTML page; `run_file` is that of the best option, empty where there is none."""
    data = payload(answer)
    return render(
        "plan.html.jinja",
        title=answer.title,
        name=answer.name,
        verdict=words.verdict(answer),
        interval=words.interval(answer) or words.way_out(answer),
        facts=_facts(answer) if answer.best else [],
        explore_finding=_explore_finding(answer),
        limits=data["limits"],
        filters=[{**data["axes"][i], "texts": [_text(v) for v in data["axes"][i]["values"]]} for i in data["filters"]],
        rank_by=[(key, words.FIGURES[key].label) for key in rankable(list(data["figures"]))],
        objective=answer.objectives[0],
        ends=words.ENDS,
        end=answer.decide_on,
        amounts=[_amount(limit) for limit in data["limits"]],
        listing=_listing(answer, answer.listed, "ranked options"),
        firsts=_listing(answer, answer.firsts, "the best of each") if len(answer.firsts) > 1 else None,
        listing_finding=words.ties(answer) if answer.best else "No point to list.",
        comparison=_comparison_chart(answer, answer.comparison) if answer.comparison else None,
        comparison_finding=_comparison_finding(answer),
        costs=_costs(answer) if answer.costs else None,
        costs_finding=words.relaxing(answer) if answer.best else words.way_out(answer),
        sensitivity=grounds.sensitivity_table(answer) if answer.sensitivity else None,
        sensitivity_finding=grounds.sensitive(answer) or "There is no answer to change.",
        checked=grounds.checked(answer),
        steps=_steps(answer),
        steps_finding=_steps_finding(answer),
        held_back=len(answer.table) - len(shown_points(answer)),
        notes=answer.notes,
        errors=_error_note(answer),
        run_file=run_file,
        run_file_name=file_name(answer.name, ".yaml"),
        version=answer.version,
        payload=data,
    )


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def _amount(limit: dict[str, object]) -> str:
    """What the slider says before the script runs."""
    stops, start = limit["stops"], limit["start"]
    assert isinstance(stops, list)
    assert isinstance(start, int)
    return words.figure(str(limit["key"]), stops[start])


def _facts(answer: Answer) -> list[tuple[str, str]]:
    """The three facts under the verdict, each a lead and what it means."""
    best, surest = answer.best, answer.surest
    assert best is not None
    count = len(answer.tied) + 1
    label = numbers.inside(words.FIGURES[answer.objectives[0]].label)
    tied = (
        (f"{count:,} options can't be told apart.", f"Their {label} differs by less than the error of the difference.")
        if count > 1
        else ("The first is clearly ahead.", f"Its {label} is lower by more than the error of the difference.")
    )
    sure = (
        ("The answer is also the surest option.", "No other device's interval is narrower.")
        if surest is None or surest.number == best.number
        else (f"The surest option: {words.machine(surest)}.", words.surest(answer))
    )
    saves = [cost for cost in answer.costs if cost.saving > 0]
    lead = f"{len(saves)} limits are worth relaxing." if len(saves) > 1 else "One limit is worth relaxing."
    return [tied, sure, (lead if saves else "No limit is worth relaxing.", words.relaxing(answer))]


def _explore_finding(answer: Answer) -> str:
    total = len(answer.table)
    if answer.best is None:
        return f"None of {total:,} points keeps all limits."
    return (
        f"{len(answer.ranked):,} of {total:,} points keep the limits; {words.machine(answer.best)} "
        f"{words.superlative(answer.objectives[0])}."
    )


def _listing(answer: Answer, options: Sequence[Option], name: str) -> Table | None:
    """Options in their order; the script replaces the ranked rows when a reader moves something."""
    if not options:
        return None
    first, second = answer.objectives[:2]
    rows: list[list[str | Cell]] = []
    scales = {key: words.scale_of(key, (o.figures[key].value for o in options)) for key in (first, second)}
    for option in options:
        rank = answer.ranked.index(option.number) + 1
        near = " ≈" if option.number in answer.tied else ""
        rows.append(
            [
                f"{rank:,}{near}",
                _cluster(answer, option),
                Cell(words.split(option.settings), code=True),
                scales[first].text(option.figures[first].value),
                scales[first].interval(option.figures[first]),
                scales[second].text(option.figures[second].value),
                words.figure("headroom_gib", option.figures["headroom_gib"].value),
            ]
        )
    heads = [words.FIGURES[key].label for key in (first, second)]
    columns = f"Rank | Cluster | Settings | >{heads[0]} | >90 % interval | >{heads[1]} | >Free memory"
    return table(name, columns, rows, min_width=820)


def _cluster(answer: Answer, option: Option) -> str:
    return words.machine(option) if len(answer.models) == 1 else f"{option.model}, {words.machine(option)}"


def _comparison_finding(answer: Answer) -> str:
    found = answer.comparison
    if found is None:
        return "The answer is also the surest option." if answer.best else "There is no answer to compare."
    scale = words.scale_of(found.key, [max(abs(found.total.low), abs(found.total.high))])
    apart = found.total.high < 0 or found.total.low > 0
    end = "" if apart else "; they can't be told apart"
    most = found.terms[0].label if found.terms else ""
    low, high = sorted((abs(found.total.low), abs(found.total.high)))
    sure = (
        f"{scale.text(low)} to {scale.text(high)}"
        if apart
        else (f"{numbers.signed(scale, found.total.low)} to {numbers.signed(scale, found.total.high)}")
    )
    verb = "saves" if found.total.value < 0 else "adds"
    return (
        f"Against {words.machine(found.other)}, the first choice {verb} {scale.text(abs(found.total.value))} "
        f"(90{numbers.NBSP}% interval {sure}), most of it in {numbers.inside(most)}{end}."
    )


def _comparison_chart(answer: Answer, found: Comparison) -> BarChart:
    """The answer less the surest option, kind by kind; the rows sum to the total."""
    shown = [(term.label, str(term.color), term.change) for term in found.terms[:MOST_TERMS]]
    rest = [term.change for term in found.terms[MOST_TERMS:]]
    if rest:
        shown.append(("Everything else", "host", _sum(rest)))
    ends = [end for _, _, n in shown for end in (n.low, n.high)] + [found.total.low, found.total.high]
    scale = words.scale_of(found.key, [max(abs(end) for end in ends)])
    axis = Axis.covering(ends, scale, signed=True)
    rows = [
        Row(
            label,
            numbers.signed(scale, n.value),
            segments=(bar(axis, 0, n.value, color=color),) if n.value else (),
            whisker=whisker(axis, n),
            interval=f"{numbers.signed(scale, n.low)} to {numbers.signed(scale, n.high)}",
        )
        for label, color, n in shown
    ]
    total = found.total
    rows.append(
        Row("Total", numbers.signed(scale, total.value), whisker=whisker(axis, total), dot=axis.at(total.value))
    )
    return BarChart(axis, (Group(tuple(rows)),), zero=axis.at(0))


def _sum(parts: list[Number]) -> Number:
    value = sum(n.value for n in parts)
    half = sum(((n.high - n.low) / 2) ** 2 for n in parts) ** 0.5
    return Number(value=value, low=value - half, high=value + half, basis=parts[0].basis)


def _costs(answer: Answer) -> Table:
    key = answer.objectives[0]
    rows: list[list[str | Cell]] = []
    assert answer.best is not None
    for cost in answer.costs:
        change = "no change"
        if cost.saving > 0:
            better, at = words.figure(key, cost.saving), words.amount_of(cost.relaxed)
            change = f"{better} better, with {words.machine(cost.best)} at {at}"
        rows.append(
            [
                words.LIMITS[cost.limit.name],
                words.amount_of(cost.limit),
                words.figure(cost.limit.key, answer.best.figures[cost.limit.key].value),
                "yes" if cost.binds else "no",
                change,
            ]
        )
    return table(
        "what each limit costs", "Limit | >At | >First choice | Binds | If relaxed by a tenth", rows, min_width=560
    )


def _steps(answer: Answer) -> Table:
    rows: list[list[str | Cell]] = [[label, f"{count:,}"] for label, count in answer.steps]
    return table("how it was searched", "Step | >Points", rows)


def _steps_finding(answer: Answer) -> str:
    if answer.proof is not None:
        return grounds.proved(answer)
    counts = dict(answer.steps)
    legal, timed = counts["Legal points, splits included"], counts["Timed"]
    return f"{legal:,} points are legal; {timed:,} could be timed, and all of those were."


def _error_note(answer: Answer) -> str:
    errors = answer.pair_errors
    return (
        f"Two options can't be told apart where their ratio is within the error that ratios of published runs show: "
        f"{numbers.share(errors.same_device)} on one device ({errors.same_pairs} pairs), "
        f"{numbers.share(errors.other_device)} on two ({errors.other_pairs} pairs), one standard deviation."
    )
