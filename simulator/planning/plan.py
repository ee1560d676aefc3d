"""From a plan to its answer: the space, its search, and what is said of the points found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

from simulator.answer import Answer
from simulator.errors import InfeasibleError, SpecError
from simulator.planning import ranking
from simulator.planning.answering import Searched, answer_of
from simulator.planning.guided import guided_search
from simulator.planning.proof import prove
from simulator.planning.question import question_of
from simulator.planning.search import search
from simulator.planning.space import Combinations, Space, build_space
from simulator.planning.table import timed_points
from simulator.shards.store import Store, open_store
from simulator.shards.work import HERE, Progress, Workers
from simulator.spec.plan import Plan

Announce = Callable[[str], None]


def solve(
    plan: Plan,
    *,
    out: Path | None = None,
    workers: Workers = HERE,
    resume: bool = False,
    force: bool = False,
    announce: Announce | None = None,
    progress: Progress | None = None,
) -> Answer:
    """The answer to a plan as `read_plan` gives it.

    With `out` the search leaves its shards below it, and `resume` goes on with those. `announce` is told the size of
    the space before anything is timed. Raises SpecError for an empty space, one too large, a search that can't be
    resumed, a full disk or a scheduler that can't be reached; InfeasibleError where no point fits at all.
    """
    tell = announce or (lambda words: None)
    with _folder(out) as folder:
        if plan.search is not None and not force:
            return _guided(plan, folder, workers, resume, tell, progress)
        space = build_space(plan, force=force)
        tell(_size(space))
        points = len(space.points) + len(space.ruled_out)
        store = open_store(folder, {"points": points, "plan": plan.model_dump(mode="json")}, resume=resume)
        return _exhaustive(plan, space, store, workers, progress)


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Where shards are left: below `out`, or in a folder that goes away."""
    if out is not None:
        yield out
        return
    with TemporaryDirectory(prefix="moesim-") as folder:
        yield Path(folder)


def _size(space: Space) -> str:
    ruled = f", {len(space.ruled_out):,} of them ruled out by bounds" if len(space.ruled_out) else ""
    total = len(space.points) + len(space.ruled_out)
    return f"{total:,} legal points in {space.combinations:,} combinations{ruled}."


def _exhaustive(plan: Plan, space: Space, store: Store, workers: Workers, progress: Progress | None) -> Answer:
    """The answer of all points timed. What bounds rule out is looked at only where nothing else keeps the limits, to
    say what would have to give."""
    base = space.grid().base
    question = question_of(plan, base)
    names = search(space, store=store, workers=workers, progress=progress)
    table = timed_points(store, names) if names else None
    steps = [("Combinations of what varies", space.combinations)]
    if space.refused:
        steps.append(("Combinations that can't be", sum(count for _, count in space.refused)))
    steps.append(("Legal points, splits included", len(space.points) + len(space.ruled_out)))
    steps.append(("Ruled out by a bound before timing", len(space.ruled_out)))
    points = len(space.points)
    if len(space.ruled_out) and (table is None or not ranking.keeps(table, question.early, plan.decide_on).any()):
        names += search(space, "ruled_out", store=store, workers=workers, progress=progress)
        table, points = timed_points(store, names), points + len(space.ruled_out)
        steps[-1] = ("Ruled out by a bound, then timed to say what would have to give", len(space.ruled_out))
    assert table is not None
    if table.empty:
        raise _nothing_fits(store, names)
    steps += [("Don't fit in memory, or break a rule", points - len(table)), ("Timed", len(table))]
    return answer_of(plan, base, question, Searched(table, space.axes, tuple(steps), space.refused))


def _guided(
    plan: Plan, folder: Path, workers: Workers, resume: bool, tell: Announce, progress: Progress | None
) -> Answer:
    """The answer of a part of the points, with what is proved of the rest."""
    assert plan.search is not None
    combinations = Combinations(plan)
    base, count, part = combinations.base, combinations.count, plan.search
    tell(f"{count:,} combinations; {part.points:,} points are searched, seed {part.seed}.")
    question = question_of(plan, base)
    store = open_store(folder, {"combinations": count, "plan": plan.model_dump(mode="json")}, resume=resume)
    found = guided_search(plan, question, store=store, workers=workers, progress=progress)
    if not found.names:
        reasons = "; ".join(f"{number:,} of them: {reason}" for reason, number in found.refused.items())
        raise SpecError(f"none of {len(found.tried):,} combinations tried can be. {reasons}", path="vary")
    table = timed_points(store, found.names)
    if table.empty:
        raise _nothing_fits(store, found.names)
    steps = (
        ("Combinations of what varies", count),
        ("Combinations looked at", len(found.tried)),
        ("Ruled out by a bound before timing", found.ruled_out),
        ("Legal points, splits included", found.points + found.ruled_out),
        ("Don't fit in memory, or break a rule", found.points - len(table)),
        ("Timed", len(table)),
    )
    refused = tuple(found.refused.items())
    proof = prove(plan, question.keys[0], found.tried)
    searched = Searched(table, found.combinations.axes(), steps, refused, proof)
    return answer_of(plan, base, question, searched)


def _nothing_fits(store: Store, names: list[str]) -> InfeasibleError:
    frame = store.table(names)
    if "peak_memory_gib" in frame:
        nearest = frame["reason"].iloc[int(frame["peak_memory_gib"].fillna(inf).to_numpy().argmin())]
        return InfeasibleError(f"none of {len(frame):,} points fits; the nearest: {nearest}")
    return InfeasibleError(f"none of {len(frame):,} points can be; the first: {frame['reason'].iloc[0]}")
