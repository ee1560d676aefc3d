"""A result with what a reader asks next: what would help, what if an assumption is wrong, were runs like it predicted
well."""

from __future__ import annotations

from simulator.explanation.influence import with_influence
from simulator.explanation.levers import find_levers
from simulator.explanation.objectives import with_objectives
from simulator.explanation.precedents import nearest_precedents
from simulator.result import Result
from simulator.spec.run import Run


def explain(run: Run, result: Result) -> Result:
    """`result` with its levers, precedents and the influence of its assumptions; two dozen more simulations."""
    result = with_objectives(run, with_influence(run, result))
    return result.model_copy(update={"levers": find_levers(run, result), "precedents": nearest_precedents(run)})
