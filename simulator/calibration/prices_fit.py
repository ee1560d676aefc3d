"""Fits prices to a measured table: memory levels first, then every family by itself, then links and the host's work.

Parameters are found in logarithms by robust least squares on log(predicted / measured), pulled weakly towards what a
non-negative linear fit finds. Deterministic. The error of a family is that of points held out of its fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Literal

import numpy as np

from simulator.calibration.calls import Call, looped
from simulator.calibration.prices import (
    Array,
    Family,
    Features,
    MemoryLevels,
    Prices,
    Saturating,
    family_of,
    features_of,
    physics,
    residual,
)
from simulator.calibration.prices_host import fit_host
from simulator.calibration.table import shape_columns
from simulator.errors import CalibrationError

if TYPE_CHECKING:
    import pandas as pd

HOST_OPS = frozenset({"host", "sequence_member", "sequence_following", "sequence_before", "sequence_stretch"})
WHOLE_OPS = frozenset({"retrieval", "moe", "sustained"})
"""Several kernels at once: measured for the profile and the report, not for the price of a single call."""
LINK_OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "transfer")
"""What moves bytes between ranks, or between host and device."""
UNPRICED = frozenset({*HOST_OPS, *WHOLE_OPS, *LINK_OPS})
PRIOR_Q = (0.0, 0.4)
"""Mean and deviation of the logarithm of a collective's exponent."""
LEAST_SIZES = 4
"""Sizes a collective is fitted to at least."""
ROBUST = 0.1
"""Log error beyond which a point counts linearly."""
PRIOR_E, PRIOR_P = (0.0, 0.7), (log(1.5), 0.3)
"""Mean and deviation of the logarithm: memory multiplier and sharpness of the transition."""
PRIOR_C, PRIOR_T0 = 1.5, 0.7
"""Deviations of term costs and overhead around the linear fit."""
FOLDS = 5
MIN_ERROR = 0.02
STREAMING = ("copy_", "add", "mul", "square", "scale", "neg")
"""Kernels that do nothing but move bytes: memory levels are read off them."""
SHRINKS = (0.3, 3.0, 30.0)


def fit_prices(table: pd.DataFrame, *, statistic: Literal["minimum", "median"]) -> Prices:
    """Prices fitted to a live-measured table. Raises CalibrationError where it is too small or of several devices."""
    first = table.iloc[0] if len(table) else None
    if first is None or table[["device", "dtype"]].drop_duplicates().shape[0] != 1:
        raise CalibrationError("prices are fitted to the table of one device and one dtype")
    rows = _rows(table[table["group_size"] == 1])
    kernels = [(call, seconds) for call, seconds in rows if call.op not in UNPRICED]
    memory = fit_memory(kernels)
    families: dict[str, Family] = {}
    for name in sorted({family_of(call) for call, _ in kernels}):
        members = [(call, seconds) for call, seconds in kernels if family_of(call) == name]
        families[name] = fit_family([c for c, _ in members], np.array([s for _, s in members]), memory)
    families = _share_runs(families)
    return Prices(
        device=first["device"],
        dtype=first["dtype"],
        library=first["library"],
        version=first["version"],
        date=first["date"],
        statistic=statistic,
        memory=memory,
        families=families,
        host=fit_host(rows, memory),
        links=fit_links(table),
    )


def _share_runs(families: dict[str, Family]) -> dict[str, Family]:
    """Walking operands in many short runs costs every elementwise kernel what it costs a product."""
    known = families.get("elementwise mul")
    if known is None:
        return families
    shared = {"c_runs": known.parameters["c_runs"]}
    return {
        name: family.model_copy(
            update={
                "parameters": {**family.parameters, **shared},
                "high": {**family.high, "rows": known.high["rows"]},
            }
        )
        if name.startswith("elementwise") and family.high["rows"] == 1
        else family
        for name, family in families.items()
    }


def _rows(table: pd.DataFrame) -> list[tuple[Call, float]]:
    columns = shape_columns(table)
    found = []
    for row in table.to_dict("records"):
        shape = {name: float(row[name]) for name in columns if row[name] == row[name]}
        found.append((looped(row["op"], row["kernel"], shape, row["dtype"]), float(row["latency_s"])))
    return found


def fit_memory(rows: Sequence[tuple[Call, float]]) -> MemoryLevels:
    """Seconds per byte of three levels and the two knees between them, from kernels that only move bytes."""
    from scipy.optimize import least_squares

    used = [(c, s) for c, s in rows if c.op == "elementwise" and c.kernel in STREAMING and c.shape["rows"] == 1]
    if len(used) < 12:
        raise CalibrationError(f"{len(used)} streaming points measured; memory levels need 12")
    kernels = sorted({call.kernel for call, _ in used})
    which = np.array([kernels.index(call.kernel) for call, _ in used])
    measured = np.log([seconds for _, seconds in used])
    owner = np.repeat(np.arange(len(used)), [len(call.touches) for call, _ in used])
    sizes = np.array([t.bytes for call, _ in used for t in call.touches])
    reuse = np.array([t.reuse for call, _ in used for t in call.touches])
    elements = np.array([call.shape["elements"] for call, _ in used])

    def levels(wide: Array) -> MemoryLevels:
        x = np.clip(wide, -40.0, [20.0] * 4 + [3.0] + [20.0] * (len(wide) - 5))  # the search strays
        rates = np.cumsum(np.exp(x[:3]))
        return MemoryLevels(
            seconds_per_byte=tuple(rates), knees=(float(np.exp(x[3])), float(np.exp(x[3] + np.exp(x[4]))))
        )

    def error(x: Array) -> Array:
        base, per_element = np.exp(x[5 : 5 + len(kernels)]), np.exp(x[5 + len(kernels)])
        moved = np.bincount(owner, levels(x).seconds(sizes, reuse), minlength=len(used))
        prior = np.clip(x - start, -50.0, 50.0) / 2.0
        return np.concatenate([np.log(base[which] + np.hypot(moved, per_element * elements)) - measured, 0.05 * prior])

    start = np.log([1 / 100e9, 1 / 100e9, 1 / 40e9, 0.7e6, 2.3, *[1e-6] * len(kernels), 3e-11])
    found = least_squares(error, start, loss="soft_l1", f_scale=ROBUST).x
    return levels(found)


def fit_family(calls: Sequence[Call], seconds: Array, memory: MemoryLevels) -> Family:
    """The parameters of one family, its residual where that helps points held out, and its error on them."""
    features = features_of(calls, memory)
    parameters = _fit_physics(features, seconds)
    measured = np.log(seconds)
    logs = measured - np.log(physics(parameters, features))
    held, shrink = _held_out(features, seconds)
    anchors: tuple[tuple[float, ...], ...] = ()
    if shrink is not None:
        anchors = tuple(
            tuple(float(v) for v in (*place, r)) for place, r in zip(features.coordinates, logs, strict=True)
        )
    columns = list(calls[0].shape)
    values = {name: [call.shape[name] for call in calls] for name in columns}
    return Family(
        parameters=parameters,
        low={name: min(v) for name, v in values.items()},
        high={name: max(v) for name, v in values.items()},
        anchors=anchors,
        shrink=shrink or 0.0,
        relative_error=max(MIN_ERROR, held),
        points=len(calls),
    )


def _fit_physics(features: Features, seconds: Array) -> dict[str, float]:
    from scipy.optimize import least_squares, nnls

    names = list(features.terms)
    levels = range(features.memory.shape[1])
    columns = [np.ones_like(seconds), *features.terms.values(), features.memory.sum(axis=1)]
    linear, _ = nnls(np.array([c / seconds for c in columns]).T, np.ones_like(seconds))
    least = [
        0.02 * float(np.median(seconds / c)) if c.all() else 0.02 * float(seconds.min()) / max(1.0, float(c.max()))
        for c in columns
    ]
    begin = np.log(np.maximum(linear[:-1], least[:-1]))
    begin[0] = log(max(linear[0], 0.3 * float(seconds.min())))
    start = np.concatenate([begin, [PRIOR_E[0] for _ in levels], [PRIOR_P[0]]])
    spread = np.array([PRIOR_T0, *[PRIOR_C] * len(names), *[PRIOR_E[1]] * len(levels), PRIOR_P[1]])

    def unpack(x: Array) -> dict[str, float]:
        values = np.exp(x)
        keys = ["t0", *(f"c_{name}" for name in names), *(f"e_{level}" for level in levels)]
        found = dict(zip(keys, values[:-1].tolist(), strict=True))
        return {**found, "p": min(4.0, max(1.0, float(values[-1])))}

    def error(x: Array) -> Array:
        gap = np.log(physics(unpack(x), features) / seconds)
        robust = np.sign(gap) * np.sqrt(2 * ROBUST**2 * (np.sqrt(1 + (gap / ROBUST) ** 2) - 1))
        return np.concatenate([robust, ROBUST * (x - start) / spread])

    return unpack(least_squares(error, start).x)


def _held_out(features: Features, seconds: Array) -> tuple[float, float | None]:
    """Deviation of log errors over points held out in folds, and the residual's shrinkage that makes it smallest.

    None where the residual does not help.
    """
    count = len(seconds)
    if count < 2 * FOLDS:
        return float(
            np.sqrt(np.mean(np.log(physics(_fit_physics(features, seconds), features) / seconds) ** 2))
        ) * 1.5, None
    options: dict[float | None, list[Array]] = {None: [], **{shrink: [] for shrink in SHRINKS}}
    for fold in range(FOLDS):
        out = np.arange(count) % FOLDS == fold
        parameters = _fit_physics(_pick(features, ~out), seconds[~out])
        gap = np.log(seconds / physics(parameters, features))
        options[None].append(gap[out])
        for shrink in SHRINKS:
            guess = residual(features.coordinates[~out], gap[~out], shrink, features.coordinates[out])
            options[shrink].append(gap[out] - guess)
    errors = {option: _deviation(np.concatenate(parts)) for option, parts in options.items()}
    best = min(errors, key=lambda option: errors[option] * (1.03 if option is not None else 1.0))
    return errors[best], best


def _deviation(gaps: Array) -> float:
    """Root mean square, single wild points cut at half an order of magnitude."""
    return float(np.sqrt(np.mean(np.clip(gaps, -1.2, 1.2) ** 2)))


def _pick(features: Features, which: Array) -> Features:
    terms = {name: values[which] for name, values in features.terms.items()}
    return Features(terms, features.memory[which], features.coordinates[which])


def fit_links(table: pd.DataFrame) -> dict[str, Saturating]:
    """The curves of collectives and transfers, by operation, kernel and group size; too few points are left out."""
    found = {}
    rows = table[table["op"].isin(LINK_OPS)]
    for key, part in rows.groupby(["op", "kernel", "group_size"]):
        if len(part) >= LEAST_SIZES:
            op, kernel, size = key
            found[f"{op} {kernel} {size}"] = fit_saturating(part["bytes"].to_numpy(), part["latency_s"].to_numpy())
    return found


def fit_saturating(sizes: Array, seconds: Array) -> Saturating:
    """The curve t = (a^q + (S/b)^q)^(1/q) through measured points; its error is that of every other size held out.

    The saturating form of published NVLink measurements (exponents near 0.6 there); it holds for gloo as well.
    """
    whole = _fit_saturating(sizes, seconds)
    gaps = []
    for first in (0, 1):
        out = np.arange(len(sizes)) % 2 == first
        out[[int(np.argmin(sizes)), int(np.argmax(sizes))]] = False  # inside the range
        held = _fit_saturating(sizes[~out], seconds[~out])
        gaps += [np.log(held.seconds(size) / took) for size, took in zip(sizes[out], seconds[out], strict=True)]
    error = float(np.sqrt(np.mean(np.square(gaps))))
    return whole.model_copy(update={"relative_error": max(MIN_ERROR, error), "points": len(sizes)})


def _fit_saturating(sizes: Array, seconds: Array) -> Saturating:
    from scipy.optimize import least_squares

    start = np.array([log(seconds.min()), log(sizes.max() / seconds.max()), PRIOR_Q[0]])

    def curve(x: Array) -> Saturating:
        a, b, q = np.exp(np.clip(x, [-30, 0, -3], [5, 40, 3]))
        return Saturating(a=float(a), b=float(b), q=float(q), relative_error=1.0, points=len(sizes))

    def error(x: Array) -> Array:
        found = curve(x)
        gaps = np.array([np.log(found.seconds(size) / took) for size, took in zip(sizes, seconds, strict=True)])
        return np.append(gaps, ROBUST * (x[2] - PRIOR_Q[0]) / PRIOR_Q[1])

    return curve(least_squares(error, start, loss="soft_l1", f_scale=ROBUST).x)
