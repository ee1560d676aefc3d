"""The first screen: one sentence, its interval, three facts; chosen by rule from the result, before any jargon."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.report import numbers
from simulator.report.kinds import WEAK, chip, seconds_by_color, total_seconds, work_unit
from simulator.report.levers_chart import base_time, lever_name, ranked, saved, saving
from simulator.report.numbers import NBSP
from simulator.report.sources_tables import mean_error
from simulator.result import Basis, Color, Infeasible, Number, Result

_FRACTIONS = (
    (0.05, "a twentieth"),
    (0.1, "a tenth"),
    (0.2, "a fifth"),
    (0.25, "a quarter"),
    (1 / 3, "a third"),
    (0.5, "half"),
    (2 / 3, "two thirds"),
    (0.75, "three quarters"),
    (0.9, "nine tenths"),
)
# What can limit a run: its name, the kinds of time it shows in, and how a second place is said.
_LIMITS: tuple[tuple[str, tuple[Color, ...], str], ...] = (
    ("Matrix arithmetic", ("expert", "dense"), "Matrix arithmetic fills {}"),
    ("Memory bandwidth", ("mem",), "Reading and writing memory takes {}"),
    ("The network", ("a2a", "comm"), "The network holds it up for {}"),
    ("Waiting", ("wait",), "Waiting takes {}"),
    ("The host", ("host",), "The host holds it up for {}"),
)


@dataclass(frozen=True)
class Fact:
    lead: str
    rest: str


@dataclass(frozen=True)
class Verdict:
    """`caution` stands with the verdict where most of the time rests on weak ground."""

    sentence: str
    interval: str
    caution: str
    facts: tuple[Fact, ...]


def title(result: Result) -> str:
    """Mixtral 8x7B training on 64 H100."""
    summary = result.summary
    return f"{summary.model} {result.kind} on {summary.gpus:,} {summary.device}"


def verdict(result: Result) -> Verdict:
    """The first screen of a run that can be."""
    sentence, interval = _training(result) if result.kind == "training" else _inference(result)
    if result.precedents:
        error = numbers.short_share(mean_error(result.precedents))
        interval += f" Published runs most like this one were predicted to within {error} on average."
    else:
        interval += " No published run near this one was found to check against."
    facts = [_fit(result), _limit(result), _best_change(result)]
    return Verdict(sentence, interval.strip(), _caution(result), tuple(f for f in facts if f is not None))


def refusal(result: Result, problem: Infeasible) -> str:
    """Why a run cannot be, and the nearest change that would make it one."""
    if problem.needed_gib is not None and problem.available_gib is not None:
        needed, available = numbers.significant(problem.needed_gib), numbers.brief(problem.available_gib)
        text = f"It doesn't fit: the fullest {chip(result)} needs {needed} of {available}{NBSP}GiB."
    else:
        text = f"This run is infeasible: {problem.reason.rstrip('.')}."
    if problem.suggestion:
        text += f" Nearest change that fits: {problem.suggestion}."
    return text


def machines(result: Result) -> str:
    gpus = result.summary.gpus
    return f"this one {chip(result)}" if gpus == 1 else f"these {gpus:,} {chip(result)}s"


def _training(result: Result) -> tuple[str, str]:
    model, tokens = result.summary.model, result.summary.tokens
    if result.days is None or not tokens:
        return _one_step(result)
    cost = result.cost_usd
    money = f" and costs about {numbers.dollars([cost.value]).text(cost.value)}" if cost else ""
    failures = "if nothing interrupts it" if result.goodput is None else "failures and restarts included"
    sentence = (
        f"Training {model} on {numbers.in_words(tokens)} tokens with {machines(result)} takes about "
        f"{numbers.about_days(result.days.value)}{money}, {failures}."
    )
    known = [_between(result.days)]
    if cost:
        scale = numbers.dollars([cost.value])
        known.append(f"{scale.text(cost.low)} and {scale.text(cost.high)}")
    return sentence, f"We are 90{NBSP}% sure that the true figures lie between {', and '.join(known)}."


def _one_step(result: Result) -> tuple[str, str]:
    step, rate = result.step_time_s, result.tokens_per_s
    if step is None:
        return f"{title(result)}.", ""
    scale = numbers.seconds([step.value])
    sentence = (
        f"One step of training {result.summary.model} with {machines(result)} takes about {scale.text(step.value)}"
    )
    if rate is not None:
        sentence += f", which is {numbers.tokens_per_second([rate.value]).text(rate.value)}"
    return (
        f"{sentence}.",
        f"We are 90{NBSP}% sure that it lies between {scale.text(step.low)} and {scale.text(step.high)}.",
    )


def _inference(result: Result) -> tuple[str, str]:
    """Users served, time to first token, price; as far as each is known."""
    users = _users(result)
    first, each, price = result.ttft_s, result.tpot_s, result.usd_per_million_output_tokens
    parts, known = [], []
    if first is not None:
        scale = numbers.seconds([first.value])
        parts.append(f"shows the first token after about {scale.text(first.value)}")
        known.append(f"the first token comes between {scale.text(first.low)} and {scale.text(first.high)}")
    if each is not None:
        scale = numbers.tokens_per_second([1 / each.value])
        parts.append(f"writes {scale.text(1 / each.value)}{' for each of them' if users else ''}")
        known.append(f"the speed lies between {scale.text(1 / each.high)} and {scale.text(1 / each.low)}")
    if price is not None:
        scale = numbers.dollars([price.value])
        parts.append(f"costs about {scale.text(price.value)} per million output tokens")
        known.append(f"the price lies between {scale.text(price.low)} and {scale.text(price.high)}")
    lead = f"Serving {result.summary.model} with {machines(result)}{users}"
    sentence = f"{lead} {numbers.listing(parts)}." if parts else f"{title(result)}."
    return sentence, f"We are 90{NBSP}% sure that {numbers.listing(known)}." if known else ""


def _users(result: Result) -> str:
    """Whom it serves: so many at once, or so many requests a second."""
    work = result.run.get("inference")
    asked, served = (work if isinstance(work, dict) else {}), result.serving
    if served is not None and ("request_rate" in asked or _has_trace(result)):
        rate = numbers.significant(served.requests_per_s.value, 2)
        return f" to {rate} requests a second"
    if "request_rate" in asked or not isinstance(asked.get("concurrency"), int):
        return ""
    users = asked["concurrency"]
    return " to one user" if users == 1 else f" to {users:,} users at once"


def _has_trace(result: Result) -> bool:
    asked = result.run.get("serving")
    return isinstance(asked, dict) and "trace" in asked


def _between(days: Number) -> str:
    """Both ends in the unit of the value: 60 and 71 days."""
    unit = numbers.about_days(days.value).partition(NBSP)[2].rstrip("s")
    size = {"day": 1.0, "hour": 24.0, "minute": 1440.0}[unit]
    low, high = numbers.whole(days.low * size), numbers.whole(days.high * size)
    if low == high:
        low, high = numbers.significant(days.low * size), numbers.significant(days.high * size)
    return f"{low} and {high}{NBSP}{unit}s"


def _caution(result: Result) -> str:
    """A warning where more than half of the time rests on extrapolation, another device or a data sheet."""
    base = base_time(result)
    if base is None or base.value == 0:
        return ""
    weak: dict[Basis, float] = {}
    for row in result.basis:
        if row.basis in WEAK:
            weak[row.basis] = weak.get(row.basis, 0.0) + row.share_of_step
    if sum(weak.values()) <= 0.5:
        return ""
    words = {"extrapolated": "extrapolated", "transferred": "transferred from published timings"}
    main = max(weak, key=lambda basis: weak[basis])
    how = words.get(main, "taken from data sheets")
    return f"Most of this figure is {how}; treat it as {numbers.plus_minus(base)}."


def _fit(result: Result) -> Fact | None:
    peak, capacity = result.peak_memory_gib, result.summary.capacity_gib
    if peak is None:
        return None
    used = f"The fullest {chip(result)} needs {numbers.significant(peak.value)} of {numbers.brief(capacity)}{NBSP}GiB"
    if peak.high > capacity:
        return Fact(
            "It fits, but narrowly.", f"{used}; the interval reaches {numbers.significant(peak.high)}{NBSP}GiB."
        )
    free = 1 - peak.value / capacity
    if free < 0.03:
        return Fact("It fits.", f"{used}, so almost nothing stays free.")
    if free > 0.95:
        return Fact("It fits.", f"{used}, so nearly all of it stays free.")
    words = min(_FRACTIONS, key=lambda pair: abs(pair[0] - free))[1]
    return Fact("It fits.", f"{used}, so about {words} stays free.")


def _limit(result: Result) -> Fact | None:
    total = total_seconds(result)
    if not total:
        return None
    spent = _spent(result, total)
    part, name, _ = max(spent, key=lambda entry: entry[0])
    verb = "fills" if name == "Matrix arithmetic" else "takes"
    fills = f"It {verb} {numbers.round_share(part)} of the {work_unit(result)}."
    if name in ("Matrix arithmetic", "Memory bandwidth"):
        others = [entry for entry in spent[2:] if entry[0] > 0]
        if others:
            second = max(others, key=lambda entry: entry[0])
            fills += f" {second[2].format(numbers.round_share(second[0]))}."
    else:
        computing = spent[0][0] + spent[1][0]
        fills = f"It takes {numbers.round_share(part)} of the {work_unit(result)}"
        fills += f"; computing fills {numbers.round_share(computing)}."
    return Fact(f"{name} is the limit.", fills)


def _spent(result: Result, total: float) -> list[tuple[float, str, str]]:
    """Share of the time by what limits it; matrix operators that wait for memory count as memory."""
    colors = seconds_by_color(result.breakdown)
    gemms = [row for row in result.operators if row.color in ("expert", "dense")]
    slow = sum(row.seconds for row in gemms if row.bound == "memory")
    moved = slow / sum(row.seconds for row in gemms) if slow else 0.0
    shares = [sum(colors.get(c, 0.0) for c in kinds) / total for _, kinds, _ in _LIMITS]
    shares[1] += moved * shares[0]
    shares[0] *= 1 - moved
    return [(part, name, words) for part, (name, _, words) in zip(shares, _LIMITS, strict=True)]


def _best_change(result: Result) -> Fact | None:
    tried = ranked(result, "run")
    base = base_time(result)
    if not tried or base is None:
        return None
    best = saving(result)
    if best is None:
        return Fact("No change tried helps.", f"None of {len(tried)} saves more than the error of the difference.")
    unit = work_unit(result)
    share = f"{numbers.short_share(-best.step_time_s.value / base.value)} of the {unit}"
    rest = f"Saves about {numbers.listing(saved(best, result) or [share])}."
    part = next((lever for lever in ranked(result, "hardware") if lever.step_time_s.high < 0), None)
    if part is not None:
        rest += f" {lever_name(part)} saves {numbers.short_share(-part.step_time_s.value / base.value)} of the {unit}."
    return Fact(f"Best change to try: {best.label}.", rest)
