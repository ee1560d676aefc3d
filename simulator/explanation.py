"""A result with what a reader asks next: what would help, and whether runs like it were predicted well."""

from __future__ import annotations

from simulator.levers import find_levers
from simulator.precedents import nearest_precedents
from simulator.result import Result
from simulator.spec.run import Run


def explain(run: Run, result: Result) -> Result:
    """`result` with its levers and precedents; a dozen more simulations."""
    return result.model_copy(update={"levers": find_levers(run, result), "precedents": nearest_precedents(run)})
