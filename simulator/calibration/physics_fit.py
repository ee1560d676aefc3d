"""Parameters of a closed form from measured points: maximum a posteriori, robust to outliers, deterministic."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from simulator.calibration.priors import Prior
from simulator.spec.forms import Array, Shape, Sheet
from simulator.spec.forms_index import physics

ROBUST = 0.1
"""Log error beyond which a point counts linearly (soft L1)."""
MOST_POINTS = 4000
"""More points than this leave a dozen parameters where they are."""
INDEPENDENT = 30.0
"""Points that count in full against the priors: what a form leaves out is shared by neighbours, so thousands of points
on one grid say little more. Of 30, 100 and 400, this predicted beyond the measured range best (docs/calibration.md)."""
STEP = 1e-6
MOST_STEPS = 60
ENOUGH = 1e-7
"""Relative improvement below which the search ends."""


def fit_physics(op: str, x: Shape, seconds: Array, sheet: Sheet, priors: Mapping[str, Prior]) -> dict[str, float]:
    """Parameters by name, each within its prior's bounds.

    Minimises soft-L1 of log(predicted/measured) plus squared deviations of log parameters from their priors, which stay
    outside the robust loss.
    """
    if len(seconds) > MOST_POINTS:
        chosen = np.random.default_rng(0).permutation(len(seconds))[:MOST_POINTS]
        x, seconds = {name: column[chosen] for name, column in x.items()}, seconds[chosen]
    names = list(priors)
    medians, deviations, lows, highs = np.array([priors[name] for name in names]).T
    start, low, high = np.log(medians), np.log(lows), np.log(highs)
    measured = np.log(seconds)
    weight = min(1.0, INDEPENDENT / len(seconds)) ** 0.5

    def error(theta: Array) -> Array:
        found = dict(zip(names, np.exp(theta).tolist(), strict=True))
        scaled = (np.log(physics(op, found, x, sheet)) - measured) / ROBUST
        robust = np.sign(scaled) * np.sqrt(2.0 * (np.sqrt(1.0 + scaled**2) - 1.0))
        return np.concatenate([weight * robust, (theta - start) / deviations])

    return dict(zip(names, np.exp(_least_squares(error, start, low, high)).tolist(), strict=True))


def _least_squares(error: Callable[[Array], Array], start: Array, low: Array, high: Array) -> Array:
    """Levenberg and Marquardt's method with steps cut at the bounds (thousands of points, a dozen parameters)."""
    x, damping = start, 1e-2
    now = error(x)
    for _ in range(MOST_STEPS):
        forward = np.where(x + STEP > high, -STEP, STEP)
        slope = np.stack([(error(x + step) - now) / step.sum() for step in np.diag(forward)], axis=1)
        normal, pull = slope.T @ slope, slope.T @ now
        free = ~(((x <= low) & (pull > 0)) | ((x >= high) & (pull < 0)))
        before = float(now @ now)
        while damping < 1e8:
            reach = normal[np.ix_(free, free)] + damping * np.diag(np.diag(normal)[free])
            step = np.zeros_like(x)
            step[free] = -np.linalg.solve(reach, pull[free])
            tried = np.clip(x + step, low, high)
            new = error(tried)
            if new @ new < before:
                x, now, damping = tried, new, damping / 5.0
                break
            damping *= 4.0
        if before - float(now @ now) <= ENOUGH * before:
            break
    return x
