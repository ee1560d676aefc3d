"""What a plan found, in sentences; the same on the terminal and on the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import ceil, floor, log10
from typing import Any

from simulator.answer import Answer, ConstraintCost, Limit, Option, Relaxation
from simulator.report import numbers
from simulator.report.metrics import METRICS, Metric
from simulator.report.numbers import NBSP, Scale

EXTRA = {
    "gpus": Metric("gpus", "GPUs", numbers.wholes, "low"),
    "headroom_gib": Metric("headroom_gib", "Free memory, fullest GPU", numbers.gibibytes, "high"),
    "power_w": Metric("power_w", "Mean power at the meter", lambda values: numbers.si(values, "W", smallest=0), "low"),
    "goodput_requests_per_s": Metric(
        "goodput_requests_per_s", "Goodput", lambda values: numbers.si(values, "requests/s", smallest=0), "high"
    ),
    "ttft_p99_s": Metric("ttft_p99_s", "Time to first token, 99 %", numbers.seconds, "low"),
    "tpot_p99_s": Metric("tpot_p99_s", "Time per output token, 99 %", numbers.seconds, "low"),
}
FIGURES = METRICS | EXTRA
LIMITS = {
    "deadline": "Deadline",
    "budget": "Budget",
    "price": "Price per million output tokens",
    "memory_headroom": "Memory headroom",
    "power": "Power",
    "carbon": "Carbon",
    "gpus": "GPUs at most",
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "throughput": "Throughput at least",
    "goodput": "Goodput at least",
    "ttft_p99": "Time to first token, 99 %",
    "tpot_p99": "Time per output token, 99 %",
}
_BEST = {
    "days": "the fastest", "step_time_s": "the fastest", "tpot_s": "the fastest", "ttft_s": "the quickest to answer",
    "cost_usd": "the cheapest", "usd_per_million_output_tokens": "the cheapest",
    "energy_total_j": "needs the least energy", "joules_per_output_token": "needs the least energy",
    "carbon_kg": "emits the least", "gpus": "needs the fewest GPUs",
    "tokens_per_s": "has the most throughput", "output_tokens_per_s": "has the most throughput",
}  # fmt: skip
ENDS = {"value": "estimate", "pessimistic": "pessimistic end", "optimistic": "optimistic end"}


def figure(key: str, value: float) -> str:
    """A figure by itself, with its unit."""
    return FIGURES[key].scale([value]).text(value)


def scale_of(key: str, values: Iterable[float]) -> Scale:
    return FIGURES[key].scale(list(values))


def superlative(key: str) -> str:
    """What the first by a figure is: "is the cheapest", "needs the least energy"."""
    words = _BEST[key]
    return f"is {words}" if words.startswith("the ") else words


def machine(option: Option) -> str:
    """The cluster: 512 h100-sxm."""
    return f"{option.gpus:,} {option.device}"


def split(settings: Mapping[str, Any]) -> str:
    """What is set besides cluster and rent: tp2 pp4 ep8, micro_batch 1."""
    words = []
    for path, value in settings.items():
        if path in ("hardware.device", "hardware.gpus", "hardware", "economics.gpu_hour", "model"):
            continue
        if path == "parallelism" and isinstance(value, Mapping):
            words.append(" ".join(f"{key}{size}" for key, size in value.items() if size != 1) or "no split")
        else:
            words.append(f"{path.rpartition('.')[2]} {value if isinstance(value, int | str) else json.dumps(value)}")
    return ", ".join(words)


def amount_of(a: Limit) -> str:
    """A limit's amount: three digits, rounded to the easy side, without zeros that say nothing."""
    scale = scale_of(a.key, [a.value])
    size = a.value / scale.divisor
    step = 10.0 ** (floor(log10(abs(size))) - 2) if size else 1.0
    rounded = (floor if a.at_least else ceil)(size / step * (1 + (1e-9 if a.at_least else -1e-9))) * step
    text = scale.tick(float(f"{rounded:.12g}") * scale.divisor)
    return text.removesuffix("s") if text == f"1{NBSP}days" else text


def limit(a: Limit) -> str:
    """A limit in a sentence: a deadline of 30 days."""
    name = numbers.inside(LIMITS[a.name])
    amount = amount_of(a)
    if a.name == "gpus":
        return f"at most {amount} GPUs"
    if a.name in ("throughput", "goodput"):
        return f"at least {amount}"
    article = "" if a.name in ("memory_headroom", "power", "carbon", "ttft", "tpot", "ttft_p99", "tpot_p99") else "a "
    return f"{article}{name} of {amount}"


def verdict(answer: Answer) -> str:
    """The answer in a sentence, or that there is none."""
    best = answer.best
    if best is None:
        return f"Nothing keeps all limits: {_conflict(answer)}."
    lead = f"Rent {machine(best)}" if "cost_usd" in best.figures or _price(best) else f"Take {machine(best)}"
    if len(answer.models) > 1:
        lead = f"{'Train' if answer.kind == 'training' else 'Serve'} {best.model} on {machine(best)}"
    found = best.figures
    if answer.kind == "inference":
        parts = [f"a token takes {figure('tpot_s', found['tpot_s'].value)}"]
        if _price(best):
            parts.append(f"a million output tokens cost {figure(_PRICE, found[_PRICE].value)}")
        return f"{lead}: {numbers.listing(parts)}."
    if answer.tokens and "days" in found:
        parts = [f"{numbers.in_words(answer.tokens)} tokens take about {numbers.about_days(found['days'].value)}"]
        if "cost_usd" in found:
            parts.append(f"cost about {figure('cost_usd', found['cost_usd'].value)}")
        return f"{lead}: {numbers.listing(parts)}."
    return f"{lead}: a step takes about {figure('step_time_s', found['step_time_s'].value)}."


_PRICE = "usd_per_million_output_tokens"


def _price(option: Option) -> bool:
    return _PRICE in option.figures


def _conflict(answer: Answer) -> str:
    group = answer.conflicts[0] if answer.conflicts else answer.limits
    parts = [limit(one) for one in group]
    if len(parts) == 1:
        return f"{parts[0]} can't be kept by any point"
    if answer.conflicts:
        return f"{numbers.listing(parts)} can't be kept together"
    return f"{numbers.listing(parts)} can't all be kept, though any two can"


def interval(answer: Answer) -> str:
    """How sure, and which limits would break at the bad end."""
    best = answer.best
    if best is None:
        return ""
    shown = [best.figures[key] for key in answer.objectives[:2]]
    ranges = [
        f"{figure(key, n.low)} to {figure(key, n.high)}"
        for key, n in zip(answer.objectives, shown, strict=False)
        if n.low != n.high
    ]
    sure = f"We are 90{NBSP}% sure of {numbers.listing(ranges)}." if ranges else ""
    broken = [a for a in answer.limits if not _kept(a, best)]
    if not answer.limits:
        return sure
    if not broken:
        return f"{sure} Every limit holds even at the bad end."
    return f"{sure} At the bad end of the interval {numbers.listing(limit(a) for a in broken)} would be missed."


def _kept(a: Limit, option: Option) -> bool:
    number = option.figures[a.key]
    return number.low >= a.value if a.at_least else number.high <= a.value


def relaxation(a: Relaxation) -> str:
    """A change of limits that gives an answer: a deadline of 38 days (512 h100-sxm)."""
    return f"{numbers.listing(limit(one) for one in a.limits)} ({machine(a.option)})"


def way_out(answer: Answer) -> str:
    """What would have to give."""
    ways = answer.relaxations
    if not ways:
        return ""
    if len(ways) == 1 and len(ways[0].limits) > 1:
        return f"No single change is enough. The mildest change of several: {relaxation(ways[0])}."
    if len(ways) == 1:
        return f"The least change that works: {relaxation(ways[0])}."
    return f"Any one of these would do: {'; '.join(relaxation(way) for way in ways)}."


def ties(answer: Answer) -> str:
    """How many of the points that keep the limits can't be told from the first."""
    count = len(answer.tied)
    if not count:
        return "The first is ahead by more than the error of the difference."
    return (
        f"The first {count + 1:,} can't be told apart."
        if count + 1 < len(answer.ranked)
        else (f"All {count + 1:,} can't be told apart.")
    )


def surest(answer: Answer) -> str:
    """The option whose figure is known best, against the answer."""
    best, other, key = answer.best, answer.surest, answer.objectives[0]
    if best is None or other is None or other.number == best.number:
        return "The answer is also the surest option."
    a, b = best.figures[key], other.figures[key]
    return f"{figure(key, b.value)}, {numbers.plus_minus(b)} instead of {numbers.plus_minus(a)}."


def relaxing(answer: Answer) -> str:
    """Which limits are worth relaxing."""
    worth = [cost for cost in answer.costs if cost.saving > 0]
    if not answer.costs:
        return "There are no limits."
    if not worth:
        return f"No limit is worth relaxing by a tenth ({numbers.listing(limit(c.limit) for c in answer.costs)})."
    return f"{numbers.sentence(numbers.listing(_gain(answer, cost) for cost in worth))}."


def _gain(answer: Answer, cost: ConstraintCost) -> str:
    key = answer.objectives[0]
    share = numbers.short_share(cost.saving / abs(answer.best.figures[key].value)) if answer.best else ""
    return f"{limit(cost.relaxed)} saves {figure(key, cost.saving)} ({share})"
