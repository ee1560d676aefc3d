"""The predicted time of an eager step: its calls, what the host does around them, and how sure that is.

On a CPU calls and host work follow one another. On a GPU kernels queue behind the host, so the longer of both decides.
Errors of one family are common to all its calls, errors of different families independent. On a shared machine a long
step is stretched: no window is quiet for so long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from typing import Literal

import numpy as np

from simulator.calibration.calls import Call, Touch, Trace
from simulator.calibration.prices import Array, Prices, along, call_seconds, family_of
from simulator.errors import CalibrationError

Z90 = 1.645
LARGE_S = 100e-6
"""Calls at least this long are stretched as long products are, the others as small kernels."""
MARGIN_OCTAVES = 0.3
"""A shape this little outside the measured ones still counts as inside."""
OUTSIDE_FACTOR = 2.0
"""Errors are this much larger outside the measured shapes (range-blocked holds of large kernel databases)."""
OUTSIDE_SHARE = 0.1
"""A step counts as outside when this share of its time goes into such calls."""
ROUNDS = 3
"""A slower step leaves others more time in the shared cache, which makes it slower: three rounds settle it."""
HOST_ERROR = 0.3
"""Of the host's work: sequence costs of two machines differed by as much between repetitions."""
STATE_ERROR = 0.05
"""Of a whole step: how well the same step repeats on a quiet machine."""
_FREE = frozenset({"causal", "heads", "kv_heads", "head_dim"})
"""Shape columns that were measured at a few values, between and around which nothing changes abruptly."""


@dataclass(frozen=True)
class Priced:
    """The predicted seconds of a step and where they go."""

    seconds: float
    low: float
    high: float
    """The 90 % interval."""
    by_family: Mapping[str, float]
    host: float
    communication: float
    side: Literal["inside", "below", "above"]
    """Where its shapes lie relative to the measured ones."""


def price_step(prices: Prices, trace: Trace, *, kind: str, communication: float = 0.0) -> Priced:
    """The time of a traced step on a device of that kind. Raises CalibrationError for calls that were not measured."""
    seconds = call_seconds(prices, trace.calls)
    for _ in range(ROUNDS if prices.host.traffic and kind == "cpu" else 0):
        whole = float(seconds.sum()) + host_seconds(prices, trace, seconds)
        seconds = call_seconds(prices, disturbed(trace.calls, whole, prices.host.traffic))
    names = [family_of(call) for call in trace.calls]
    by_family: dict[str, float] = {}
    sides = np.array([outside_of(prices, call) for call in trace.calls])
    variance = 0.0
    for name in dict.fromkeys(names):
        mine = np.array([other == name for other in names])
        by_family[name] = float(seconds[mine].sum())
        spread = np.where(sides[mine] == 0, 1.0, OUTSIDE_FACTOR) * seconds[mine]
        variance += (prices.families[name].relative_error * float(spread.sum())) ** 2
    host = host_seconds(prices, trace, seconds)
    compute = float(seconds.sum())
    own = compute + host if kind == "cpu" else max(compute, host)
    large = min(own, float(seconds[seconds >= LARGE_S].sum()))
    factors = along(prices.host.stretch, own), along(prices.host.small_stretch, own)
    total = large * float(factors[0]) + (own - large) * float(factors[1]) + communication
    worst = max((fit.relative_error for fit in prices.links.values()), default=0.0) if communication else 0.0
    variance += (HOST_ERROR * host) ** 2 + (STATE_ERROR * total) ** 2 + (worst * communication) ** 2
    width = Z90 * sqrt(variance) / total
    away = float(seconds[sides != 0].sum())
    side: Literal["inside", "below", "above"] = "inside"
    if away > OUTSIDE_SHARE * compute:
        side = "below" if float((seconds * sides).sum()) < 0 else "above"
    return Priced(total, total * exp(-width), total * exp(width), by_family, host, communication, side)


def disturbed(calls: Sequence[Call], seconds: float, traffic: float) -> list[Call]:
    """The calls with reuse distances grown by what others move through the shared cache meanwhile.

    A step touches S bytes in T seconds, so an operand last used R bytes ago was used R T / S seconds ago.
    """
    touched = sum(touch.bytes for call in calls for touch in call.touches)
    growth = 1 + traffic * seconds / max(touched, 1.0)
    return [call._replace(touches=tuple(Touch(t.bytes, t.reuse * growth) for t in call.touches)) for call in calls]


def host_seconds(prices: Prices, trace: Trace, seconds: Array) -> float:
    """Seconds the host spends around the calls of a step that take `seconds`."""
    host = prices.host
    tape = trace.forward_on_tape * host.forward_on_tape + trace.backward * host.backward
    leaves = host.leaf * sum(call.shape["tensors"] for call in trace.calls if call.op == "optimizer")
    return (
        sequence_seconds(prices, trace.calls, seconds)
        + leaves
        + trace.views * host.view
        + trace.modules * host.module
        + tape
    )


def sequence_seconds(prices: Prices, calls: Sequence[Call], seconds: Array) -> float:
    """What calls pay for those between them and the last call of their kernel: by the time since, as far as more was
    moved than the nearest cache holds.
    """
    host, names = prices.host, [(family_of(call), call.backward) for call in calls]
    paid = along(host.sequence, since_last(names, seconds))
    if not prices.memory.knees:
        return float(paid.sum())
    moved = since_last(names, np.array([sum(touch.bytes for touch in call.touches) for call in calls]))
    cold = prices.memory.beyond(0, moved)
    return float((host.in_a_row + cold * np.maximum(0.0, paid - host.in_a_row)).sum())


def since_last(names: Sequence[object], amounts: Array) -> Array:
    """The sum of what lies between each entry and the last one of its name, where equal steps follow one another."""
    ends = np.cumsum(amounts)
    total = float(ends[-1])
    last = {name: float(end) - total for name, end in zip(names, ends, strict=True)}
    found = np.empty(len(names))
    for i, name in enumerate(names):
        found[i] = float(ends[i] - amounts[i]) - last[name]
        last[name] = float(ends[i])
    return found


def outside_of(prices: Prices, call: Call) -> int:
    """-1 below the measured shapes, 1 above them, 0 inside."""
    family = prices.families[family_of(call)]
    for name, value in call.shape.items():
        if name in _FREE:
            continue
        if value > family.high[name] * 2**MARGIN_OCTAVES:
            return 1
        if value < family.low[name] / 2**MARGIN_OCTAVES:
            return -1
    return 0


def collective_seconds(prices: Prices, op: str, kernel: str, group_size: int, sizes: Sequence[float]) -> float:
    """Seconds of several collectives one after another. Raises CalibrationError where they were not measured."""
    name = f"{op} {kernel} {group_size}"
    if name not in prices.links:
        raise CalibrationError(f"the profile of {prices.device} has no measured '{name}'")
    return sum(prices.links[name].seconds(size) for size in sizes)
