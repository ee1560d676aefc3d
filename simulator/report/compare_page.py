"""The page that puts results side by side: which is faster, which is cheaper, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.report import numbers
from simulator.report.bars import chart_table
from simulator.report.compare_tables import (
    Named,
    changes_chart,
    difference,
    figures_table,
    memory_chart,
    memory_table,
    named,
    same_tokens,
    settings_table,
    sources_table,
    time_chart,
    time_table,
)
from simulator.report.energy_factors import energy_factors, factors_chart, factors_finding, factors_table
from simulator.report.metrics import METRICS
from simulator.report.rendering import render
from simulator.report.verdict import refusal
from simulator.result import Number, Result

# What runs are ranked by: the first of each that all of them have, and what its winner is called.
_SPEED = (("days", "output_tokens_per_s", "tokens_per_s", "step_time_s"), "fastest")
_MONEY = (("usd_per_million_output_tokens", "cost_usd"), "cheapest")


def render_compare(results: Sequence[Result]) -> str:
    """One self-contained HTML page; raises ValueError where there is nothing to compare."""
    if not results:
        raise ValueError("nothing to compare: give at least one result")
    runs = named(results)
    possible = [run for run in runs if run.result.infeasible is None]
    timed = [run for run in possible if run.result.breakdown]
    changes = changes_chart(timed[0], timed[1]) if len(timed) == 2 else None
    settings = settings_table(runs)
    factors = energy_factors(possible[0].result, possible[1].result) if len(possible) == 2 else []
    two = (possible[0].name, possible[1].name) if factors else ("", "")
    return render(
        "compare.html.jinja",
        title=f"{numbers.listing(run.name for run in runs)}" if len(runs) <= 2 else f"{len(runs)} runs compared",
        sentences=_answers(possible),
        refusals=[
            (run.name, refusal(run.result, run.result.infeasible)) for run in runs if run.result.infeasible is not None
        ],
        figures=figures_table(possible) if possible else None,
        figures_finding=_figures_finding(possible),
        time=time_chart(possible),
        time_table=time_table(possible),
        time_finding=_time_finding(timed),
        changes=changes,
        changes_table=chart_table("difference by kind", "Kind | >Difference | >90 % interval | Note", changes)
        if changes
        else None,
        changes_names=(timed[0].name, timed[1].name) if changes else ("", ""),
        memory=memory_chart(possible),
        memory_table=memory_table(possible),
        memory_finding=_memory_finding(possible),
        factors=factors_chart(factors) if factors else None,
        factors_table=factors_table(factors, two) if factors else None,
        factors_finding=factors_finding(factors, two) if factors else "",
        settings=settings,
        settings_finding=_settings_finding(len(settings.rows), len(runs)),
        sources=sources_table(runs),
        version=results[0].provenance.version,
    )


def _answers(runs: list[Named]) -> list[str]:
    """Who is fastest and who is cheapest, in a sentence each."""
    if not runs:
        return ["None of these runs is feasible."]
    if len(runs) == 1:
        return [f"Only {runs[0].name} is feasible; there is nothing to compare it with."]
    shared = set.intersection(*(set(run.result.numbers()) for run in runs))
    if not same_tokens(runs):
        shared -= {"days", "cost_usd"}  # of different amounts of work
    keys = [(next((key for key in keys if key in shared), ""), word) for keys, word in (_SPEED, _MONEY)]
    found = [_rank(runs, key, word) for key, word in keys if key]
    if not found:
        return ["These runs have no figure in common."]
    if len({(r.first, r.second, r.tells) for r in found}) == 1:
        joined = _Rank(found[0].first, found[0].second, found[0].tells, " and the ".join(r.word for r in found))
        return [_sentence(joined, numbers.listing(r.figures for r in found))]
    return [_sentence(rank, rank.figures) for rank in found]


@dataclass(frozen=True)
class _Rank:
    """The best two of a ranking, and whether they can be told apart."""

    first: str
    second: str
    tells: bool
    word: str
    figures: str = ""


def _rank(runs: list[Named], key: str, word: str) -> _Rank:
    metric = METRICS[key]
    sign = -1 if metric.better == "high" else 1
    order = sorted(runs, key=lambda run: (sign * run.result.numbers()[key].value, run.name))
    first, second = (run.result.numbers()[key] for run in order[:2])
    scale = metric.scale([first.value])
    figures = f"{scale.text(first.value)} against {scale.text(second.value)}"
    return _Rank(order[0].name, order[1].name, _tells(first, second), word, figures)


def _sentence(rank: _Rank, figures: str) -> str:
    if rank.tells:
        return f"{rank.first} is the {rank.word}: {figures} for {rank.second}."
    return f"{rank.first} and {rank.second} can't be told apart as the {rank.word}: {figures}."


def _tells(a: Number, b: Number) -> bool:
    """Whether the interval of the difference leaves out zero."""
    gap = difference(a, b)
    return gap.low > 0 or gap.high < 0


def _figures_finding(runs: list[Named]) -> str:
    wide = {
        run.name: spread
        for run in runs
        for number in [run.result.numbers().get("step_time_s") or run.result.numbers().get("tpot_s")]
        if number is not None and number.value
        for spread in [(number.high - number.low) / number.value]
    }
    if len(wide) < 2:
        return "The figures of the feasible runs."
    surest = min(wide, key=lambda name: (wide[name], name))
    if max(wide.values()) - min(wide.values()) < 0.005:
        return "All runs are known equally well."
    return f"{surest} is known best."


def _time_finding(runs: list[Named]) -> str:
    if len(runs) < 2:
        return "Where the time goes."
    parts = {}
    for run in runs:
        total = sum(item.seconds.value for item in run.result.breakdown)
        busy = sum(item.seconds.value for item in run.result.breakdown if item.group == "computing")
        parts[run.name] = busy / total
    best, worst = max(parts, key=lambda n: parts[n]), min(parts, key=lambda n: parts[n])
    if numbers.round_share(parts[best]) == numbers.round_share(parts[worst]):
        return f"All of them compute for {numbers.round_share(parts[best])} of the time."
    high, low = numbers.round_share(parts[best]), numbers.round_share(parts[worst])
    return f"{best} computes for {high} of its time, {worst} for {low}."


def _memory_finding(runs: list[Named]) -> str:
    peaks = {
        run.name: run.result.peak_memory_gib.value / run.result.summary.capacity_gib
        for run in runs
        if run.result.peak_memory_gib is not None
    }
    if not peaks:
        return "Memory was not counted."
    fullest = max(peaks, key=lambda name: peaks[name])
    return f"{fullest} fills its GPUs most, to {numbers.round_share(peaks[fullest])}."


def _settings_finding(differing: int, runs: int) -> str:
    if runs < 2 or not differing:
        return "All settings are the same."
    return f"{differing} {'setting differs' if differing == 1 else 'settings differ'}; all others are the same."
