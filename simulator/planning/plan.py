"""From a plan to its answer: the space, its search, what keeps the limits, what is best and how surely."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simulator import __version__
from simulator.answer import Answer, Comparison, ConstraintCost, Limit, Option, PairErrors, Relaxation
from simulator.assembly.uncertainty import Z90
from simulator.errors import InfeasibleError
from simulator.planning import difference, ranking
from simulator.planning.pair_errors import pair_errors
from simulator.planning.search import search
from simulator.planning.shards import Shards, open_shards
from simulator.planning.space import RELAXED, Space, build_space
from simulator.planning.table import complete, option
from simulator.result import Number
from simulator.simulation import simulate
from simulator.spec.plan import Plan
from simulator.spec.price_table import read_prices
from simulator.spec.run import Run
from simulator.units import DAY, GIB

if TYPE_CHECKING:
    import pandas

LISTED = 10
SURER = 0.04
"""How much narrower, of its value, an interval must be for its option to be called surer."""
Progress = Callable[[int, int], None]

# Name of a constraint -> the figure it limits by kind of run, and by what its SI value is divided.
_LIMITS: dict[str, tuple[str, float]] = {
    "deadline": ("days", DAY),
    "budget": ("cost_usd", 1.0),
    "price": ("usd_per_million_output_tokens", 1.0),
    "memory_headroom": ("headroom_gib", GIB),
    "power": ("power_w", 1.0),
    "carbon": ("carbon_kg", 1e3),
    "gpus": ("gpus", 1.0),
    "ttft": ("ttft_s", 1.0),
    "tpot": ("tpot_s", 1.0),
    "throughput": ("tokens_per_s", 1.0),
}
_TOKENS_OF_REQUESTS = "output_tokens_per_s"
_OBJECTIVES = {
    "training": {"money": "cost_usd", "energy": "energy_total_j", "throughput": "tokens_per_s"},
    "inference": {
        "time": "tpot_s",
        "ttft": "ttft_s",
        "money": "usd_per_million_output_tokens",
        "energy": "joules_per_output_token",
        "throughput": "output_tokens_per_s",
    },
}


def kind_of(run: Run) -> Literal["training", "inference"]:
    """What is asked of the machines; serving counts as inference."""
    return "training" if run.kind == "training" else "inference"


def limits_of(plan: Plan, kind: str) -> tuple[Limit, ...]:
    """The constraints of a plan of that kind of run as limits of figures."""
    limits = []
    for name, value in plan.constraints.stated().items():
        key, unit = _LIMITS[name]
        limits.append(
            Limit(name, _TOKENS_OF_REQUESTS if (name, kind) == ("throughput", "inference") else key, value / unit)
        )
    return tuple(limits)


def objectives_of(plan: Plan, kind: str, *, has_length: bool) -> tuple[str, ...]:
    """The figures that rank, the first first; a second one is added where the plan names only one."""
    known = {"gpus": "gpus", "carbon": "carbon_kg", "time": "days" if has_length else "step_time_s"}
    known |= _OBJECTIVES[kind]
    keys = [known[name] for name in plan.objectives]
    if len(keys) == 1:
        keys += [known["time"] if keys[0] != known["time"] else known["throughput"]]
    return tuple(keys)


def solve(
    plan: Plan,
    *,
    out: Path | None = None,
    workers: int = 1,
    resume: bool = False,
    force: bool = False,
    announce: Callable[[Space], None] | None = None,
    progress: Progress | None = None,
) -> Answer:
    """The answer to a plan as `read_plan` gives it.

    With `out` the search leaves its shards below it, and `resume` goes on with those. `announce` is told the space
    before anything is timed. Raises SpecError for an empty space, one too large, or a search that can't be resumed;
    InfeasibleError where no point fits at all.
    """
    space = build_space(plan, force=force)
    if announce is not None:
        announce(space)
    size = len(space.points) + len(space.ruled_out)
    shards = None if out is None else open_shards(out, plan, points=size, resume=resume)
    limits = limits_of(plan, kind_of(space.grid().base))
    table, steps = _searched(plan, space, limits, shards, workers, progress)
    return _answer(plan, space, limits, table, steps)


def _searched(
    plan: Plan, space: Space, limits: Sequence[Limit], shards: Shards | None, workers: int, progress: Progress | None
) -> tuple[pandas.DataFrame, tuple[tuple[str, int], ...]]:
    """All points that could be timed, and how many there were at each step. What bounds rule out is looked at only
    where nothing else keeps the limits, to say what would have to give."""
    import pandas

    frame = search(space, shards=shards, workers=workers, progress=progress)
    table = complete(frame, space, space.points)
    steps = [("Combinations of what varies", space.combinations)]
    if space.refused:
        steps.append(("Combinations that can't be", sum(count for _, count in space.refused)))
    steps.append(("Legal points, splits included", len(space.points) + len(space.ruled_out)))
    steps.append(("Ruled out by a bound before timing", len(space.ruled_out)))
    if len(space.ruled_out) and (table.empty or not ranking.keeps(table, limits, plan.decide_on).any()):
        wide = search(space, "ruled_out", shards=shards, workers=workers, progress=progress)
        beyond = complete(wide, space, space.ruled_out)
        beyond.index += len(frame)
        table, frame = pandas.concat([table, beyond]), pandas.concat([frame, wide])
        steps[-1] = ("Ruled out by a bound, then timed to say what would have to give", len(space.ruled_out))
    if not len(table):
        raise _nothing_fits(frame)
    steps += [("Don't fit in memory, or break a rule", len(frame) - len(table)), ("Timed", len(table))]
    return table, tuple(steps)


def _nothing_fits(frame: pandas.DataFrame) -> InfeasibleError:
    needed = frame["peak_memory_gib"].min()
    first = str(frame["reason"].iloc[0])
    if needed == needed:
        worst = frame["reason"].iloc[int(frame["peak_memory_gib"].to_numpy(dtype=float, na_value=inf).argmin())]
        return InfeasibleError(f"none of {len(frame):,} points fits; the nearest: {worst}")
    return InfeasibleError(f"none of {len(frame):,} points can be; the first: {first}")


def _answer(
    plan: Plan, space: Space, limits: tuple[Limit, ...], table: pandas.DataFrame, steps: tuple[tuple[str, int], ...]
) -> Answer:
    base = space.grid().base
    work = base.training
    has_length = bool(table["days"].notna().any())
    keys, end, errors = objectives_of(plan, kind_of(base), has_length=has_length), plan.decide_on, pair_errors()
    axes = tuple(space.axes)
    table = table[table[list(keys)].notna().all(axis=1)]
    mask = ranking.keeps(table, limits, end)
    order = ranking.ranked(table, mask, keys, end)
    best = option(table, order[0], axes) if order else None
    near = ranking.tied(table, order, keys[0], errors)
    surest = _surest(table, order, keys[0], axes) if order else None
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
        base=space.base,
        ranked=tuple(order),
        front=tuple(ranking.front(table, mask, keys, end)),
        tied=tuple(near),
        best=best,
        listed=tuple(option(table, number, axes) for number in order[:LISTED]),
        firsts=_firsts(table, order, axes),
        surest=surest,
        comparison=None,
        costs=_costs(table, limits, keys, plan, best, axes) if best else (),
        relaxations=() if best else _relaxations(table, limits, keys, plan, axes),
        conflicts=() if best else tuple(ranking.conflicts(table, limits, end)),
        steps=(*steps, ("Within all limits", len(order))),
        pair_errors=errors,
        version=__version__,
        notes=_notes(plan, space),
    )
    if best is None or surest is None or surest.number == best.number:
        return answer
    return replace(answer, comparison=comparison(answer, best, surest))


def _surest(table: pandas.DataFrame, order: Sequence[int], key: str, axes: Sequence[str]) -> Option:
    """Of the first option of each device, the one whose interval is narrowest for its size."""
    rows = table.loc[list(order)]
    firsts = rows.drop_duplicates("option.device")
    width = (firsts[f"{key}.high"] - firsts[f"{key}.low"]) / firsts[key].abs()
    widths = width.to_numpy(dtype=float)
    place = int(widths.argmin()) if widths.min() < widths[0] - SURER else 0
    return option(table, int(firsts.index.to_numpy()[place]), axes)


def _firsts(table: pandas.DataFrame, order: Sequence[int], axes: Sequence[str]) -> tuple[Option, ...]:
    """The best option of every model on every device that has one, best first."""
    rows = table.loc[list(order), ["option.model", "option.device"]].drop_duplicates()
    return tuple(option(table, int(number), axes) for number in rows.index.to_numpy())


def _costs(
    table: pandas.DataFrame,
    limits: Sequence[Limit],
    keys: Sequence[str],
    plan: Plan,
    best: Option,
    axes: Sequence[str],
) -> tuple[ConstraintCost, ...]:
    """What each limit costs: the answer with it relaxed by a tenth, and with it gone."""
    end, out = plan.decide_on, []
    sign = -1.0 if ranking.badness(table.loc[[best.number]], keys[:1], end)[0, 0] < 0 else 1.0

    def first(chosen: Sequence[Limit]) -> Option:
        return option(table, ranking.ranked(table, ranking.keeps(table, chosen, end), keys, end)[0], axes)

    for limit in limits:
        others = [other for other in limits if other is not limit]
        relaxed = limit.relaxed(RELAXED)
        found = first([*others, relaxed])
        saving = sign * (best.figures[keys[0]].value - found.figures[keys[0]].value)
        out.append(ConstraintCost(limit, first(others).number != best.number, relaxed, found, max(saving, 0.0)))
    return tuple(out)


def _relaxations(
    table: pandas.DataFrame, limits: Sequence[Limit], keys: Sequence[str], plan: Plan, axes: Sequence[str]
) -> tuple[Relaxation, ...]:
    found = ranking.least_relaxations(table, limits, keys, plan.decide_on)
    return tuple(Relaxation(needed, option(table, number, axes)) for needed, number in found)


def run_of(base: Mapping[str, Any], settings: Mapping[str, Any]) -> Run:
    """The run of an option, alone."""
    from simulator.planning.space import make_grid

    axes = {path: [value] for path, value in settings.items()}
    run = make_grid(dict(base), axes).run([0] * len(axes))
    assert isinstance(run, Run)
    return run


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


def _notes(plan: Plan, space: Space) -> tuple[str, ...]:
    notes = []
    if isinstance(plan.prices, str):
        notes.append(f"Rents: table {plan.prices} of {read_prices(plan.prices).date}.")
    notes += [f"{count:,} combinations can't be: {reason}" for reason, count in space.refused]
    return tuple(notes)
