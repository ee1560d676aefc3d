"""Fits collectives measured here: t = (a^q + (S/b)^q)^(1/q), latency a and bandwidth b of one operation and group size.

The saturating form of published NVLink measurements (exponents near 0.6 there); it holds for gloo as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulator.calibration.prices import Array, Saturating

if TYPE_CHECKING:
    import pandas as pd

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
PRIOR_Q, SPREAD_Q = 1.0, 0.4
ROBUST = 0.1
LEAST_POINTS = 4


def fit_collectives(table: pd.DataFrame) -> dict[str, Saturating]:
    """The fits of all collectives in a table, by operation, kernel and group size; too few points are left out."""
    found = {}
    rows = table[table["op"].isin(OPS)]
    for key, part in rows.groupby(["op", "kernel", "group_size"]):
        if len(part) >= LEAST_POINTS:
            op, kernel, size = key
            found[f"{op} {kernel} {size}"] = fit_saturating(part["bytes"].to_numpy(), part["latency_s"].to_numpy())
    return found


def fit_saturating(sizes: Array, seconds: Array) -> Saturating:
    """The curve through measured points; its error is that of every other size held out."""
    whole = _fit(sizes, seconds)
    gaps = []
    for first in (0, 1):
        out = np.arange(len(sizes)) % 2 == first
        out[[int(np.argmin(sizes)), int(np.argmax(sizes))]] = False  # inside the range
        held = _fit(sizes[~out], seconds[~out])
        gaps += [np.log(held.seconds(size) / took) for size, took in zip(sizes[out], seconds[out], strict=True)]
    error = float(np.sqrt(np.mean(np.square(gaps))))
    return whole.model_copy(update={"relative_error": max(0.02, error), "points": len(sizes)})


def _fit(sizes: Array, seconds: Array) -> Saturating:
    from scipy.optimize import least_squares

    start = np.log([seconds.min(), sizes.max() / seconds.max(), PRIOR_Q])

    def curve(x: Array) -> Saturating:
        a, b, q = np.exp(np.clip(x, [-30, 0, -3], [5, 40, 3]))
        return Saturating(a=float(a), b=float(b), q=float(q), relative_error=1.0, points=len(sizes))

    def error(x: Array) -> Array:
        found = curve(x)
        gaps = np.array([np.log(found.seconds(size) / took) for size, took in zip(sizes, seconds, strict=True)])
        return np.append(gaps, ROBUST * (x[2] - start[2]) / SPREAD_Q)

    return curve(least_squares(error, start, loss="soft_l1", f_scale=ROBUST).x)
