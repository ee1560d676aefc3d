"""The options that an answer speaks of, simulated again in full, until the first of all is one of those.

The fast engine is never above the event engine, so an option that stays first with its events played can't be beaten by
one whose events were not. What only arriving requests tell (goodput, latencies of 99 of 100) is taken at its best until
it is simulated, and belongs to no option that was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf, nan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simulator.answer import HIGHER_IS_BETTER, LATE, Check, Limit
from simulator.errors import SimulatorError
from simulator.planning import ranking
from simulator.planning.bounds import RELAXED
from simulator.planning.question import Question
from simulator.planning.space import run_of
from simulator.planning.table import ENDS, option, power
from simulator.result import Number
from simulator.simulation import simulate, training_step
from simulator.spec.run import Run
from simulator.sweeps import figures_of, step_outcome

if TYPE_CHECKING:
    import pandas

MOST_STEPS, MOST_SERVICES = 16, 24
"""Options whose events are played, or whose requests are simulated, at most."""


class Checked(NamedTuple):
    """The table with what was found, the checks in their order, and whether the first option is one of those."""

    table: pandas.DataFrame
    checks: tuple[Check, ...]
    settled: bool


def check_first(table: pandas.DataFrame, question: Question, base: Mapping[str, Any], axes: Sequence[str]) -> Checked:
    """The table with the options that come first simulated again, as many as it takes or is allowed."""
    if table.empty:
        return Checked(table, (), True)
    late = [limit for limit in question.limits if limit.key in LATE]
    kind = run_of(base, option(table, int(table.index[0]), axes).settings).kind
    if kind == "inference" or (kind == "serving" and not late):
        return Checked(table, (), True)
    table = table.copy(deep=False)
    for limit in late:
        table[[f"{limit.key}{each}" for each in ENDS]] = inf if limit.key in HIGHER_IS_BETTER else 0.0
    checks: dict[int, Check] = {}
    while len(checks) < (MOST_STEPS if kind == "training" else MOST_SERVICES):
        number = next((number for number in _wanted(table, question) if number not in checks), None)
        if number is None:
            break
        run = run_of(base, option(table, number, axes).settings)
        checks[number], figures = _stepped(number, run, table) if kind == "training" else _served(number, run)
        for column in figures.keys() & set(table.columns):
            table.loc[number, column] = figures[column]
    if late:  # what was not simulated is not known to keep the limits
        return Checked(table.loc[list(checks)], tuple(checks.values()), True)
    leading = next(_wanted(table, question), None)
    return Checked(table, tuple(checks.values()), leading is None or leading in checks)


def _wanted(table: pandas.DataFrame, question: Question) -> Iterator[int]:
    """The options that an answer speaks of: the first, what would be first with a limit relaxed or gone, and the first
    of each model and device; where nothing keeps the limits, what does with the least change of them."""
    keys, end = question.keys, question.end

    def first(limits: Sequence[Limit], where: ranking.Mask | None = None) -> Iterator[int]:
        mask = ranking.keeps(table, limits, end)
        number = ranking.first(table, mask if where is None else mask & where, keys, end)
        yield from () if number is None else (number,)

    leading = list(first(question.limits))
    yield from leading
    if not leading:
        yield from (number for _, number in ranking.least_relaxations(table, question.limits, keys, end))
        return
    for limit in question.limits:
        others = [other for other in question.limits if other is not limit]
        yield from first([*others, limit.relaxed(RELAXED)])
        yield from first(others)
    for _, rows in table.groupby(["option.model", "option.device"], observed=True).indices.items():
        where = np.zeros(len(table), dtype=bool)
        where[rows] = True
        yield from first(question.limits, where)


def _stepped(number: int, run: Run, table: pandas.DataFrame) -> tuple[Check, dict[str, Any]]:
    """The option's step timed by the engine that can vouch for it."""
    step = training_step(run, engine="auto")
    if step.timeline.engine.startswith("events"):
        figures: dict[str, Any] = figures_of(step_outcome(step))
        longer = figures["step_time_s"] / table.at[number, "step_time_s"] - 1
        return Check(number, "events", longer), figures | power(figures, nan)
    if step.timeline.certificate:
        return Check(number, "refused", reason=step.timeline.certificate), {}
    return Check(number, "certified"), {}


def _served(number: int, run: Run) -> tuple[Check, dict[str, Any]]:
    """The option's requests simulated as they arrive."""
    nothing = {f"{key}{each}": nan for key in LATE for each in ENDS}
    try:
        requests = simulate(run).serving
    except SimulatorError as error:
        return Check(number, "refused", reason=str(error)), nothing
    assert requests is not None
    found = {
        "goodput_requests_per_s": requests.goodput_requests_per_s,
        "ttft_p99_s": requests.ttft_s.p99,
        "tpot_p99_s": requests.tpot_s.p99,
    }
    return Check(number, "requests"), nothing | {
        column: value for key, number in found.items() if number is not None for column, value in _ends(key, number)
    }


def _ends(key: str, number: Number) -> list[tuple[str, float]]:
    return [(key, number.value), (f"{key}.low", number.low), (f"{key}.high", number.high)]
