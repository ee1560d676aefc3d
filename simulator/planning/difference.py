"""Two results term by term: how much time moved from where to where, with the interval of the difference.

On one device both runs rest on the same curves, so what is wrong with a kind of operator is wrong in both and cancels
where nothing moves: sd = e |b - a|. On two devices the curves are unrelated: sd^2 = (e_a a)^2 + (e_b b)^2. The model's
own error, shared as well, scales with the whole difference. Kinds add in squares.
"""

from __future__ import annotations

from math import log, sqrt

from simulator.answer import Change, Term
from simulator.assembly.uncertainty import MEMORY_ERROR, MODEL_ERROR, Z90
from simulator.result import BreakdownItem, Number, Result

# Figures that follow from the time of a run, and which way.
_WITH_TIME = (
    "step_time_s", "tpot_s", "days", "cost_usd", "usd_per_million_output_tokens", "energy_total_j", "carbon_kg",
    "joules_per_output_token",
)  # fmt: skip
_AGAINST_TIME = ("tokens_per_s", "tokens_per_s_per_gpu", "output_tokens_per_s", "mfu")
_OTHERS = ("ttft_s", "peak_memory_gib", "max_concurrency", "average_power_w_per_gpu")


def share_errors(before: Result, after: Result) -> bool:
    """Whether both results rest on the same curves."""
    a, b = before.summary, after.summary
    return (a.device, a.precision, before.provenance.profile) == (b.device, b.precision, after.provenance.profile)


def terms(before: Result, after: Result, scales: tuple[float, float] = (1.0, 1.0)) -> list[Term]:
    """The change of each item of the breakdown, the largest first, in seconds times a scale for each result."""
    first = {item.key: item for item in before.breakdown}
    second = {item.key: item for item in after.breakdown}
    shared = share_errors(before, after)
    out = []
    for key in dict.fromkeys((*first, *second)):
        one, two = first.get(key), second.get(key)
        look = one or two
        assert look is not None
        a = one.seconds.value * scales[0] if one else 0.0
        b = two.seconds.value * scales[1] if two else 0.0
        if a == b == 0.0:
            continue
        e, f = (_error(item) if item else 0.0 for item in (one, two))
        sd = max(e, f) * abs(b - a) if shared else sqrt((e * a) ** 2 + (f * b) ** 2)
        out.append(Term(look.label, look.color, a, b, _around(b - a, sd, before)))
    return sorted(out, key=lambda term: -abs(term.change.value))


def total(changes: list[Term], before: Result) -> Number:
    """The sum of the terms. The model's own error moves with it."""
    value = sum(term.change.value for term in changes)
    sparse = before.summary.active_parameters < before.summary.parameters
    model = MODEL_ERROR["moe" if sparse else "dense"] * value
    sd = sqrt(sum(((term.change.high - term.change.low) / 2 / Z90) ** 2 for term in changes) + model**2)
    return _around(value, sd, before)


def figures(before: Result, after: Result, key: str, change: Number) -> list[Change]:
    """The leading figures of both, with their differences; `change` is that of `key`, the time that others follow."""
    a, b = before.numbers(), after.numbers()
    base, shared = a[key].value, share_errors(before, after)
    ratios = [(base + end) / base for end in (change.low, change.high)]
    out = []
    for name in (*_WITH_TIME, *_AGAINST_TIME, *_OTHERS):
        one, two = a.get(name), b.get(name)
        if one is None or two is None:
            continue
        out.append(Change(name, one, two, _figure(name, one, two, ratios, b[key].value / base, shared)))
    return out


def _figure(name: str, one: Number, two: Number, ratios: list[float], ratio: float, shared: bool) -> Number:
    """The difference of a figure: what follows time has time's interval, the rest has its own error on what moves."""
    value = two.value - one.value
    if name in _WITH_TIME or name in _AGAINST_TIME:
        power = 1 if name in _WITH_TIME else -1
        beside = two.value / (one.value * ratio**power) if one.value else 1.0
        ends = [one.value * (beside * end**power - 1) if end > 0 else value for end in ratios]
        return Number(value=value, low=min(*ends, value), high=max(*ends, value), basis=two.basis)
    own = MEMORY_ERROR if name == "peak_memory_gib" else _relative(two)
    moved = abs(value) if shared or name == "peak_memory_gib" else sqrt(one.value**2 + two.value**2)
    return _around_basis(value, own * moved, two)


def _error(item: BreakdownItem) -> float:
    return _relative(item.seconds)


def _relative(number: Number) -> float:
    """Standard deviation of the logarithm, from the 90 % interval."""
    return log(number.high / number.value) / Z90 if number.value > 0 and number.high > number.value else 0.0


def _around(value: float, sd: float, result: Result) -> Number:
    basis = result.step_time_s or result.tpot_s or Number.exact(0.0)
    return _around_basis(value, sd, basis)


def _around_basis(value: float, sd: float, like: Number) -> Number:
    return Number(value=value, low=value - Z90 * sd, high=value + Z90 * sd, basis=like.basis)
