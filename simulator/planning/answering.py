"""What is said of the points of a search: the first, the front, what can't be told apart, and what each limit costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from simulator import __version__
from simulator.answer import Answer, Comparison, ConstraintCost, Limit, Option, PairErrors, Proof, Relaxation
from simulator.assembly.uncertainty import Z90
from simulator.planning import difference, ranking
from simulator.planning.bounds import RELAXED
from simulator.planning.checks import check_first
from simulator.planning.pair_errors import pair_errors
from simulator.planning.question import Question, kind_of
from simulator.planning.sensitivity import Asked, sensitivity
from simulator.planning.space import run_of
from simulator.planning.table import option
from simulator.result import Number
from simulator.simulation import simulate
from simulator.spec.plan import Plan, devices_of
from simulator.spec.price_table import read_prices
from simulator.spec.run import Run

if TYPE_CHECKING:
    import pandas

LISTED = 10
SURER = 0.04
"""How much narrower, of its value, an interval must be for its option to be called surer."""


@dataclass(frozen=True)
class Searched:
    """What a search found: the points that could be timed, how many there were at each step, which combinations can't
    be, and what is proved of points left out."""

    table: pandas.DataFrame
    axes: dict[str, list[Any]]
    steps: tuple[tuple[str, int], ...]
    refused: tuple[tuple[str, int], ...]
    proof: Proof | None = None


def answer_of(plan: Plan, base: Run, question: Question, searched: Searched) -> Answer:
    """The answer to a plan from the points found."""
    work, axes = base.training, tuple(searched.axes)
    limits, keys, end, errors = question.limits, question.keys, question.end, pair_errors()
    assert isinstance(plan.run, dict)
    table, checks, settled = check_first(_rankable(searched.table, keys), question, plan.run, axes)
    mask = ranking.keeps(table, limits, end)
    order = ranking.ranked(table, mask, keys, end)
    best = option(table, order[0], axes) if order else None
    answer = Answer(
        name=plan.name,
        title=plan.title or plan.name,
        kind=kind_of(base),
        models=tuple(sorted(set(table["option.model"]))),
        tokens=float(work.tokens) if work is not None and work.tokens else None,
        objectives=keys,
        decide_on=end,
        limits=limits,
        table=table,
        axes=axes,
        base=plan.run,
        ranked=tuple(order),
        front=tuple(ranking.front(table, mask, keys, end)),
        tied=tuple(ranking.tied(table, order, keys[0], errors)),
        best=best,
        listed=tuple(option(table, number, axes) for number in order[:LISTED]),
        firsts=_firsts(table, order, axes),
        surest=_surest(table, order, keys[0], axes) if order else None,
        comparison=None,
        costs=_costs(table, question, best, axes) if best else (),
        relaxations=() if best else _relaxations(table, question, axes),
        conflicts=() if best else tuple(ranking.conflicts(table, limits, end)),
        steps=(*searched.steps, ("Within all limits", len(order))),
        pair_errors=errors,
        version=__version__,
        notes=_notes(plan, searched.refused),
        checks=checks,
        settled=settled,
        proof=searched.proof,
        sensitivity=sensitivity(Asked(table, limits, keys, end, plan.run, axes, best)) if best else (),
    )
    if best is None or answer.surest is None or answer.surest.number == best.number:
        return answer
    return replace(answer, comparison=comparison(answer, best, answer.surest))


def _rankable(table: pandas.DataFrame, keys: Sequence[str]) -> pandas.DataFrame:
    """The points that have every objective."""
    known = table[list(keys)].notna().all(axis=1)
    return table if known.all() else table[known]


def _surest(table: pandas.DataFrame, order: Sequence[int], key: str, axes: Sequence[str]) -> Option:
    """Of the first option of each device, the one whose interval is narrowest for its size."""
    firsts = table.loc[_first_of_each(table, order, ["option.device"]), [key, f"{key}.low", f"{key}.high"]]
    widths = ((firsts[f"{key}.high"] - firsts[f"{key}.low"]) / firsts[key].abs()).to_numpy(dtype=float)
    place = int(widths.argmin()) if widths.min() < widths[0] - SURER else 0
    return option(table, int(firsts.index[place]), axes)


def _firsts(table: pandas.DataFrame, order: Sequence[int], axes: Sequence[str]) -> tuple[Option, ...]:
    """The best option of every model on every device that has one, best first."""
    numbers = _first_of_each(table, order, ["option.model", "option.device"])
    return tuple(option(table, number, axes) for number in numbers)


def _first_of_each(table: pandas.DataFrame, order: Sequence[int], facts: list[str]) -> list[int]:
    """The first number of each combination of facts, in order."""
    return [int(number) for number in table.loc[list(order), facts].drop_duplicates().index]


def _costs(
    table: pandas.DataFrame, question: Question, best: Option, axes: Sequence[str]
) -> tuple[ConstraintCost, ...]:
    """What each limit costs: the answer with it relaxed by a tenth, and with it gone."""
    limits, keys, end, out = question.limits, question.keys, question.end, []
    sign = -1.0 if ranking.badness(table.loc[[best.number]], keys[:1], end)[0, 0] < 0 else 1.0

    def first(chosen: Sequence[Limit]) -> Option:
        number = ranking.first(table, ranking.keeps(table, chosen, end), keys, end)
        assert number is not None  # the answer itself keeps them
        return option(table, number, axes)

    for limit in limits:
        others = [other for other in limits if other is not limit]
        relaxed = limit.relaxed(RELAXED)
        found = first([*others, relaxed])
        saving = sign * (best.figures[keys[0]].value - found.figures[keys[0]].value)
        out.append(ConstraintCost(limit, first(others).number != best.number, relaxed, found, max(saving, 0.0)))
    return tuple(out)


def _relaxations(table: pandas.DataFrame, question: Question, axes: Sequence[str]) -> tuple[Relaxation, ...]:
    found = ranking.least_relaxations(table, question.limits, question.keys, question.end)
    return tuple(Relaxation(needed, option(table, number, axes)) for needed, number in found)


def comparison(answer: Answer, best: Option, other: Option) -> Comparison:
    """The answer less another option, by kind of time, in the unit of the first objective.

    The total's interval is that of the ratio of two runs as published runs show it; a kind's is that of its curves.
    """
    key = answer.objectives[0]
    results = [simulate(run_of(answer.base, each.settings)) for each in (other, best)]
    sizes = [each.figures[key].value for each in (other, best)]
    seconds = [sum(item.seconds.value for item in result.breakdown) for result in results]
    terms = difference.terms(results[0], results[1], (sizes[0] / seconds[0], sizes[1] / seconds[1]))
    sigma = _pair_error(answer.pair_errors, best, other)
    half = Z90 * sigma * (sizes[0] + sizes[1]) / 2
    change = sizes[1] - sizes[0]
    total = Number(value=change, low=change - half, high=change + half, basis=best.basis)
    return Comparison(other, key, tuple(terms), total)


def _pair_error(errors: PairErrors, one: Option, other: Option) -> float:
    alike = (one.device, one.model) == (other.device, other.model)
    return errors.same_device if alike else errors.other_device


def _notes(plan: Plan, refused: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    notes = []
    if isinstance(plan.prices, str):
        table = read_prices(plan.prices)
        notes.append(f"Rents: table {plan.prices} of {table.date}.")
        for device in dict.fromkeys(devices_of(plan)):
            rent = table.prices[device]
            if rent.standing != "list":
                notes.append(f"Rent of {device} ({rent.standing}): {rent.source.rstrip('.')}.")
    notes += [f"{count:,} combinations can't be: {reason}" for reason, count in refused]
    return tuple(notes)
