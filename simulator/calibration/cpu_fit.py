"""Fits prices to a measured table: memory levels first, then every family by itself, then the host's work around them.

Parameters are found in logarithms by robust least squares on log(predicted / measured), pulled weakly towards what a
non-negative linear fit finds. Deterministic. The error of a family is that of points held out of its fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Literal

import numpy as np

from simulator.calibration.calls import Call, looped
from simulator.calibration.collectives_fit import fit_collectives
from simulator.calibration.prices import (
    Array,
    Curve,
    Family,
    Features,
    HostCosts,
    MemoryLevels,
    Prices,
    family_of,
    features_of,
    physics,
    residual,
)
from simulator.calibration.table import shape_columns
from simulator.errors import CalibrationError

if TYPE_CHECKING:
    import pandas as pd

HOST_OPS = frozenset(
    {"host", "retrieval", "sequence_member", "sequence_following", "sequence_before", "sequence_stretch"}
)
LARGE, LARGE_ELEMENTS = "large", 2**21
"""The large operand of the host's points and its elements (fp32)."""
NOTHING = 1e-7
"""Seconds below which a kernel has run just before."""
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
    kernels = [(call, seconds) for call, seconds in rows if call.op not in HOST_OPS]
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
        collectives=fit_collectives(table),
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


def fit_host(rows: Sequence[tuple[Call, float]], memory: MemoryLevels) -> HostCosts:
    """Host costs from chains and sequences, less what their kernels take alone."""
    host = [call_and_seconds for call_and_seconds in rows if call_and_seconds[0].op == "host"]

    def per_call(kernel: str) -> float:
        found = [seconds / call.shape["calls"] for call, seconds in host if call.kernel == kernel]
        if not found:
            raise CalibrationError(f"no stable point of the host's '{kernel}'")
        return float(np.median(found))

    alone = per_call("chain_inference")
    forward = max(0.0, per_call("chain_forward") - alone)
    # The backward pass of a product with a constant is one product.
    backward = max(0.0, per_call("chain_training") - per_call("chain_forward") - alone)
    return HostCosts(
        view=per_call("view"),
        module=per_call("module"),
        forward_on_tape=forward,
        backward=backward,
        # A product with a parameter has two products in its backward pass.
        leaf=max(0.0, per_call("chain_leaves") - per_call("chain_training") - alone),
        sequence=fit_sequence(rows),
        traffic=fit_traffic(rows, memory),
        stretch=fit_stretch(rows, "product"),
        small_stretch=fit_stretch(rows, "small"),
    )


def fit_sequence(rows: Sequence[tuple[Call, float]]) -> Curve:
    """(seconds since a kernel last ran, seconds it pays for that), the mean over kernels that follow a product."""
    alone = {call.kernel: seconds for call, seconds in rows if call.op == "sequence_member"}
    lengths = {call.shape["before"]: seconds for call, seconds in rows if call.op == "sequence_before"}
    costs: dict[float, list[float]] = {}
    for call, seconds in rows:
        if call.op != "sequence_following" or call.kernel == LARGE:
            continue
        if call.kernel in alone and call.shape["before"] in lengths:
            costs.setdefault(lengths[call.shape["before"]], []).append(max(0.0, seconds - alone[call.kernel]))
    if not costs:
        return ((NOTHING, 0.0),)
    # Costs can only grow with time; what noise says against it is levelled.
    found = [(length, float(np.mean(each))) for length, each in sorted(costs.items())]
    rising = np.maximum.accumulate([cost for _, cost in found])
    return ((NOTHING, 0.0), *((length, float(cost)) for (length, _), cost in zip(found, rising, strict=True)))


def fit_traffic(rows: Sequence[tuple[Call, float]], memory: MemoryLevels) -> float:
    """Bytes per second that explain how much longer a sum over a large operand takes after products."""
    lengths = {call.shape["before"]: seconds for call, seconds in rows if call.op == "sequence_before"}
    alone = [seconds for call, seconds in rows if call.op == "sequence_member" and call.kernel == LARGE]
    found = [
        (lengths[call.shape["before"]], seconds)
        for call, seconds in rows
        if call.op == "sequence_following" and call.kernel == LARGE and call.shape["before"] in lengths
    ]
    if not alone or not found:
        return 0.0
    size = np.array([4.0 * LARGE_ELEMENTS])
    base = memory.seconds(size, size)
    waited, took = np.array(found).T

    def error(traffic: float) -> float:
        guess = [alone[0] + float((memory.seconds(size, size + traffic * t) - base)[0]) for t in waited]
        return float(np.sum(np.log(np.array(guess) / took) ** 2))

    choices: list[float] = [0.0, *np.geomspace(1e8, 1e11, 61).tolist()]
    return min(choices, key=error)


def fit_stretch(rows: Sequence[tuple[Call, float]], kernel: str) -> Curve:
    """(seconds of a step by its parts, factor on it): how stretches of equal rounds grow against one round."""
    chosen = [(c, seconds) for c, seconds in rows if c.op == "sequence_stretch" and c.kernel == kernel]
    times = {call.shape["rounds"]: seconds for call, seconds in chosen}
    if 1.0 not in times:
        return ((NOTHING, 1.0),)
    found = [(rounds * times[1.0], seconds / (rounds * times[1.0])) for rounds, seconds in sorted(times.items())]
    rising = np.maximum.accumulate([factor for _, factor in found])
    return tuple((length, float(factor)) for (length, _), factor in zip(found, rising, strict=True))
