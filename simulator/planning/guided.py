"""A part of a space too large to time whole, chosen by Optuna's genetic search (NSGA-II, Deb et al. 2002).

Optuna chooses combinations of what varies, generation by generation; every legal split of those is timed.
The order depends on the seed alone: shards already there are told to Optuna again as they are read, so that a search
that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np

from simulator.errors import SpecError
from simulator.planning import ranking
from simulator.planning.bounds import breaks_a_bound
from simulator.planning.question import Question
from simulator.planning.search import evaluate_shard, space_text
from simulator.planning.space import Combinations
from simulator.shards.store import SHARD_POINTS, Store
from simulator.shards.work import HERE, Job, Progress, Workers, finish
from simulator.spec.plan import Plan

GENERATION = 25
"""Combinations between two looks at the results."""
MOST_STALE = 20
"""Generations without a combination that is new before the search ends."""

Place = tuple[int, ...]
Outcome = tuple[tuple[float, ...], float]
"""Objectives, smaller is better, and by how much limits are broken; 0 where none is."""


@dataclass
class Found:
    """What a guided search did. `names` are its shards, `tried` the combinations it looked at."""

    combinations: Combinations
    names: list[str] = field(default_factory=list)
    points: int = 0
    ruled_out: int = 0
    tried: dict[Place, Outcome] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)


def guided_search(
    plan: Plan, question: Question, *, store: Store, workers: Workers = HERE, progress: Progress | None = None
) -> Found:
    """At least as many points as the plan's `search` asks for, in shards of the store, or all there are.

    Raises as `finish` does, and SpecError where Optuna is missing.
    """
    assert plan.search is not None
    study = _study(plan.search.seed, len(question.keys))
    found, wanted, stale = Found(Combinations(plan)), plan.search.points, 0
    while found.points < wanted and len(found.tried) < found.combinations.count and stale < MOST_STALE:
        trials = [(trial, _suggested(trial, plan)) for trial in (study.ask() for _ in range(GENERATION))]
        fresh = list(dict.fromkeys(place for _, place in trials if place not in found.tried))
        stale = 0 if fresh else stale + 1
        _look_at(fresh, question, found, store, workers)
        for trial, place in trials:
            values, broken = found.tried[place]
            trial.set_constraint("limits", broken)
            study.tell(trial, values)
        if progress is not None:
            progress(min(found.points, wanted), wanted)
    return found


def _study(seed: int, objectives: int) -> Any:
    try:
        import optuna
    except ImportError:
        raise SpecError("a search of a part of the space needs Optuna: pip install 'moesim[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(population_size=GENERATION, seed=seed)
    return optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)


def _suggested(trial: Any, plan: Plan) -> Place:
    """The combination a trial stands for: a step on each axis of numbers, a choice on the others."""
    return tuple(
        trial.suggest_int(path, 0, len(values) - 1)
        if all(isinstance(value, int | float) for value in values)
        else trial.suggest_categorical(path, list(range(len(values))))
        for path, values in plan.axes.items()
    )


def _look_at(fresh: Iterable[Place], question: Question, found: Found, store: Store, workers: Workers) -> None:
    """Time every split of new combinations and note what each is worth."""
    rows: list[tuple[int, ...]] = []
    owners: list[Place] = []
    for place in fresh:
        found.tried[place] = (inf,) * len(question.keys), inf
        run = found.combinations.run(place)
        if isinstance(run, SpecError):
            found.refused[str(run)] = found.refused.get(str(run), 0) + 1
            continue
        made = found.combinations.points(place, run)
        if breaks_a_bound(run, found.combinations.plan):
            found.ruled_out += len(made)
            continue
        rows += made
        owners += [place] * len(made)
    first = found.points
    names = _timed(rows, found, store, workers)
    if names:
        found.tried.update(_outcomes(store, names, dict(enumerate(owners, start=first)), question))


def _timed(rows: Sequence[Place], found: Found, store: Store, workers: Workers) -> list[str]:
    """The names of the shards of some points, all of them in the store."""
    run = found.combinations.plan.run
    assert isinstance(run, dict)
    text = space_text(run, found.combinations.axes())
    jobs: dict[str, Job] = {}
    for start in range(0, len(rows), SHARD_POINTS):
        part = list(rows[start : start + SHARD_POINTS])
        jobs[f"points-{len(found.names) + len(jobs):05d}"] = Job((text, found.points + start, part), len(part))
    finish(evaluate_shard, jobs, store, workers=workers)
    found.names += jobs
    found.points += len(rows)
    return list(jobs)


def _outcomes(
    store: Store, names: Sequence[str], owners: dict[int, Place], question: Question
) -> Iterator[tuple[Place, Outcome]]:
    """Each combination with the objectives of its best split: within the limits, else the least strained."""
    import pandas

    table = pandas.concat([store.read(name) for name in names]).set_index("point")
    end = question.end
    bad = ranking.badness(table, question.keys, end)
    known = np.flatnonzero(np.isfinite(bad).all(axis=1))
    table, bad = table.iloc[known], bad[known]
    strains = [ranking.strain(table, limit, end) for limit in question.early]
    broken = np.max(strains, axis=0) if strains else np.zeros(len(table))
    order = np.lexsort([*(bad[:, column] for column in reversed(range(bad.shape[1]))), broken])
    best: dict[Place, Outcome] = {}
    for row in order.tolist():
        best.setdefault(owners[int(table.index[row])], (tuple(bad[row].tolist()), float(broken[row])))
    yield from best.items()
