"""Fitting one operation: hold whole shapes and ranges out, learn how far off predictions are there, then fit
everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from simulator.calibration.holdout import Mask, Split, splits
from simulator.calibration.physics_fit import fit_physics
from simulator.calibration.priors import priors
from simulator.calibration.residual_fit import fit_residual
from simulator.calibration.series import Series
from simulator.errors import CalibrationError
from simulator.spec.forms import Array, Shape
from simulator.spec.forms_index import BOUNDED, features, physics
from simulator.spec.prediction import FittedModel
from simulator.spec.profile import Z90, HeldOut, Spread
from simulator.spec.residual import distance

FEWEST_POINTS = 4
IMPLAUSIBLE = 100.0
"""Ratio to what a data sheet suggests that no kernel has, and a wrong unit exceeds."""
UNTESTED = 0.5
"""90 % error assumed inside the range where too few points were measured to hold any out."""
LEAST_SPREAD = 0.03
"""Measurements of the same kernel on the same machine repeat within 1-5 % (re-run NCCL and vidur tables)."""
NEAR = 0.5
"""Octaves beyond which a held-out point says something about growth."""
UNKNOWN_GROWTH = 0.3
"""90 % error added per octave outside the range where no range could be held out."""


@dataclass(frozen=True)
class Fitted:
    """What came of a series."""

    series: Series
    model: FittedModel
    spread: Spread
    held_out: Mapping[str, HeldOut] = field(default_factory=dict)


def fit_series(series: Series) -> Fitted:
    """The fit of a series with its errors on what was held out. Raises CalibrationError below 4 points."""
    count = len(series.seconds)
    if count < FEWEST_POINTS:
        raise CalibrationError(
            f"{series.op} {series.dtype} by {series.kernel}: {count} points; a fit needs {FEWEST_POINTS}"
        )
    _check_unit(series)
    tests = [_Test(split, *_errors(series, split)) for split in splits(series.op, series.shape)]
    spread = _spread(tests)
    model = _fit(series, np.ones(count, dtype=bool))
    return Fitted(series, _with_spread(model, spread), spread, _held_out(tests))


def _check_unit(series: Series) -> None:
    """Raises CalibrationError where times are beyond what any kernel of a device with this data sheet takes."""
    known = priors(series.op, quantised=series.quantised, copies=series.copies)
    usual = {name: prior.median for name, prior in known.items()}
    off = float(np.median(series.seconds / physics(series.op, usual, series.shape, series.sheet)))
    if not 1 / IMPLAUSIBLE < off < IMPLAUSIBLE:
        times = f"{off:.0f} times as long" if off > 1 else f"{1 / off:.0f} times as short"
        raise CalibrationError(
            f"{series.op} {series.dtype} by {series.kernel}: {times} as the data sheet suggests; "
            "latency_s is in seconds"
        )


def _fit(series: Series, train: Mask) -> FittedModel:
    x = {name: values[train] for name, values in series.shape.items()}
    seconds = series.seconds[train]
    known = priors(
        series.op,
        quantised=series.quantised,
        copies=series.copies,
        crosses="nodes" in x and bool((x["nodes"] > 1).any()),
        counts_sms="sms" in x and len(np.unique(x["sms"])) > 1,
    )
    parameters = fit_physics(series.op, x, seconds, series.sheet, known)
    found = features(series.op, x, series.sheet)
    tables = fit_residual(series.op, found, np.log(seconds / physics(series.op, parameters, x, series.sheet)))
    bounds = {name: (float(found[name].min()), float(found[name].max())) for name in BOUNDED[series.op]}
    return FittedModel(series.op, parameters, series.sheet, bounds, tables, 0.0, 0.0, 0.0)


def _with_spread(model: FittedModel, spread: Spread) -> FittedModel:
    return replace(model, known=spread.known / Z90, inside=spread.inside / Z90, per_octave=spread.per_octave / Z90)


@dataclass(frozen=True)
class _Test:
    """log(predicted/measured) of a split's held-out points and how many octaves outside its fit each lies."""

    split: Split
    logs: Array
    octaves: Array


def _errors(series: Series, split: Split) -> tuple[Array, Array]:
    model = _fit(series, split.train)
    x: Shape = {name: values[split.out] for name, values in series.shape.items()}
    logs = np.log(model.predict(x).seconds / series.seconds[split.out])
    return logs, distance(model.bounds, features(series.op, x, series.sheet))


def _spread(tests: Sequence[_Test]) -> Spread:
    """90 % errors: `known` of new sizes of measured models, `inside` of new models, growth from the ranges held out."""
    inside = [test for test in tests if not test.split.beyond]
    same = [test for test in inside if test.split.name in ("new token counts", "new sizes", "new sequence lengths")]
    new = [test for test in inside if test not in same] or same
    known = _quantile(same or new)
    wide = max(_quantile(new), known if new is same else 0.0)
    return Spread(known=known, inside=wide, per_octave=_growth([t for t in tests if t.split.beyond], wide))


def _quantile(tests: Sequence[_Test]) -> float:
    if not tests:
        return UNTESTED
    return max(LEAST_SPREAD, float(np.quantile(np.abs(np.concatenate([test.logs for test in tests])), 0.9)))


def _growth(tests: Sequence[_Test], inside: float) -> float:
    """Growth an octave such that in every range 90 % of |error| lie within inside + growth x octaves."""
    grown = [0.0]
    for test in tests:
        outside = test.octaves > NEAR
        if outside.any():
            excess = (np.abs(test.logs[outside]) - inside) / test.octaves[outside]
            grown.append(float(np.quantile(excess, 0.9)))
    return max(grown) if len(grown) > 1 else UNKNOWN_GROWTH


def _held_out(tests: Sequence[_Test]) -> dict[str, HeldOut]:
    found = {}
    for name in dict.fromkeys(test.split.name for test in tests):
        mine = [test for test in tests if test.split.name == name]
        ratio = np.expm1(np.concatenate([test.logs for test in mine]))
        size = np.abs(ratio)
        found[name] = HeldOut(
            rows=len(ratio),
            mean_absolute=_rounded(size.mean()),
            bias=_rounded(ratio.mean()),
            p50=_rounded(np.quantile(size, 0.5)),
            p90=_rounded(np.quantile(size, 0.9)),
            p99=_rounded(np.quantile(size, 0.99)),
            covered=_coverage(mine, tests),
        )
    return found


def _coverage(mine: Sequence[_Test], tests: Sequence[_Test]) -> float | None:
    """Share of held-out points inside intervals that were set without them.

    Inside the range the groups are halved and each half sets the interval of the other; a range is judged by the growth
    that the other ranges show.
    """
    if mine[0].split.beyond:
        others = [test for test in tests if test.split.beyond and test not in mine]
        if not others:
            return None
        wide = _quantile([test for test in tests if not test.split.beyond])
        growth = _growth(others, wide)
        hits = [np.abs(test.logs) <= wide + growth * test.octaves for test in mine]
        return _rounded(np.concatenate(hits).mean())
    logs = np.concatenate([test.logs for test in mine])
    owners = [test.split.groups[test.split.out] for test in mine if test.split.groups is not None]
    groups = np.concatenate(owners)
    order = np.random.default_rng(11).permutation(np.unique(groups))
    first = np.isin(groups, order[::2])
    if first.all() or not first.any():
        return None
    inside = np.empty(len(logs), dtype=bool)
    for half in (first, ~first):
        inside[half] = np.abs(logs[half]) <= np.quantile(np.abs(logs[~half]), 0.9)
    return _rounded(inside.mean())


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 4)
