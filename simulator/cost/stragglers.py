"""How slow the slowest of many GPUs is expected to be, where each is drawn on its own.

A fraction f of slow ones by s: 1 + s (1 - (1 - f)^n). Log-normal: the integral of e^(sigma z) over the density
n Phi(z)^(n-1) phi(z) of the largest of n standard normals (David and Nagaraja, Order Statistics, section 2.1).
"""

from __future__ import annotations

from functools import lru_cache
from math import erfc, exp, log, log1p, pi, sqrt

from simulator.spec.faults import Stragglers

REACH, STEPS = 12.0, 2400
"""The integral runs from -REACH to REACH standard deviations in so many steps: exact to nine digits up to millions."""


def expected_slowest(stragglers: Stragglers, ranks: int) -> float:
    """Expected compute time of the slowest of `ranks` GPUs over that of an ordinary one."""
    if stragglers.fraction is not None and stragglers.slowdown is not None:
        return 1 + stragglers.slowdown * (1 - (1 - stragglers.fraction) ** ranks)
    assert stragglers.sigma is not None
    return _largest_log_normal(stragglers.sigma, ranks)


def slow_time(stragglers: Stragglers, ranks: int) -> float:
    """Compute time of a slow GPU over that of an ordinary one; of a continuous distribution the expected slowest of
    `ranks`."""
    return expected_slowest(stragglers, ranks) if stragglers.slowdown is None else 1 + stragglers.slowdown


def share_below(stragglers: Stragglers, time: float) -> float:
    """Share of GPUs that take at most `time` for what an ordinary one does in 1."""
    if stragglers.fraction is not None and stragglers.slowdown is not None:
        return 0.0 if time < 1 else 1 - stragglers.fraction if time < 1 + stragglers.slowdown else 1.0
    assert stragglers.sigma is not None
    return erfc(-log(time) / stragglers.sigma / sqrt(2)) / 2 if time > 0 else 0.0


@lru_cache(maxsize=256)
def _largest_log_normal(sigma: float, ranks: int) -> float:
    width, total = 2 * REACH / STEPS, 0.0
    for i in range(STEPS + 1):
        z = -REACH + i * width
        above = erfc(z / sqrt(2)) / 2
        below = log1p(-above) if above < 1 else -float("inf")
        density = ranks * exp((ranks - 1) * below if ranks > 1 else 0.0) * exp(-z * z / 2) / sqrt(2 * pi)
        total += density * exp(sigma * z) * width
    return total
