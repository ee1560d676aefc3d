"""What one change does to a run: figures, and the time that moved, kind by kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from simulator.answer import WhatIf
from simulator.errors import SpecError
from simulator.planning import difference
from simulator.result import Result
from simulator.simulation import simulate
from simulator.spec.base import read_document
from simulator.spec.run import apply_overrides, build_run, parse_override


def what_if(file: str | Path, settings: Sequence[str]) -> WhatIf:
    """The run in a file against the same with `path=value` settings. Raises SpecError, or InfeasibleError."""
    if not settings:
        raise SpecError("nothing changes; give --set path=value or --vary path=[values]")
    return compare(_result(file, ()), _result(file, settings), settings)


def what_ifs(file: str | Path, settings: Sequence[str], varied: str) -> Iterator[WhatIf]:
    """The run against each value of `path=[values]`, `settings` applied to both."""
    path, values = parse_override(varied)
    if not isinstance(values, list) or not values:
        raise SpecError(f"'{varied}' gives no list of values, as in parallelism.tp=[1,2,4]")
    before = _result(file, settings)
    for value in values:
        change = f"{path}={_written(value)}"
        yield compare(before, _result(file, (*settings, change)), (change,))


def compare(before: Result, after: Result, settings: Iterable[str]) -> WhatIf:
    """Two results of one run, before and after a change."""
    key = "step_time_s" if before.kind == "training" else "tpot_s"
    moved = difference.terms(before, after)
    whole = difference.total(moved, before)
    return WhatIf(
        name=before.name,
        settings=dict(parse_override(text) for text in settings),
        key=key,
        terms=tuple(moved),
        total=whole,
        figures=tuple(difference.figures(before, after, key, whole)),
        shared=difference.share_errors(before, after),
    )


def _result(file: str | Path, settings: Iterable[str]) -> Result:
    return simulate(build_run(apply_overrides(read_document(file), settings)))


def _written(value: Any) -> str:
    import json

    return json.dumps(value)
