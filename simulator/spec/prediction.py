"""Prediction from one fit: physics times the faded residual, with its error and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.spec.forms import COLUMNS, Array, Shape, Sheet
from simulator.spec.forms_index import features, physics
from simulator.spec.residual import Table, distance, fade, residual
from simulator.units import US

CHUNK = 1 << 13
"""Points evaluated at once: their intermediate arrays fit into the cache."""
BASIS_TYPE = "<U12"
INSIDE = 1e-6
"""Octaves below which a shape counts as inside the measured range."""
LATENCY_ERROR = 0.15
"""Relative error added for each doubling of the group beyond those measured."""


class Prediction(NamedTuple):
    """Arrays of one shape: seconds, their relative standard error, and the basis label of each."""

    seconds: Array
    relative_error: Array
    basis: NDArray[np.str_]


@dataclass(frozen=True)
class FittedModel:
    """A fit ready to predict."""

    op: str
    parameters: Mapping[str, float]
    sheet: Sheet
    bounds: Mapping[str, tuple[float, float]]
    tables: tuple[Table, ...]
    known: float
    """Relative standard error where this very model was measured; `inside` the range elsewhere; growth an octave."""
    inside: float
    per_octave: float
    transferred: bool = False
    """Whether it was measured on another device."""

    def unquantised(self) -> FittedModel:
        """The same kernel on rows that come in its precision: without the time to bring them down."""
        rest = {name: value for name, value in self.parameters.items() if name not in ("tq_us", "eq")}
        return replace(self, parameters=rest)

    def predict(self, shape: Mapping[str, ArrayLike], rate_limit: float | None = None) -> Prediction:
        """Seconds of the shapes, whose columns broadcast against each other.

        Basis is interpolated inside the measured range, extrapolated outside, transferred where the residual of
        measured models exists and none of them is this one.
        """
        columns = [np.asarray(shape[name], dtype=np.float64) for name in COLUMNS[self.op]]
        outer = np.broadcast_shapes(*(column.shape for column in columns)) or (1,)
        flat = [np.broadcast_to(column, outer).ravel() for column in columns]
        size = len(flat[0])
        seconds, error = np.empty(size), np.empty(size)
        basis = np.empty(size, dtype=BASIS_TYPE)
        for start in range(0, size, CHUNK):
            part = slice(start, start + CHUNK)
            x = {name: column[part] for name, column in zip(COLUMNS[self.op], flat, strict=True)}
            seconds[part], error[part], basis[part] = self._predict(x, rate_limit)
        return Prediction(seconds.reshape(outer), error.reshape(outer), basis.reshape(outer))

    def _predict(self, x: Shape, rate_limit: float | None) -> Prediction:
        found = features(self.op, x, self.sheet)
        seconds = physics(self.op, self.parameters, x, self.sheet, rate_limit)
        octaves = distance(self.bounds, found)
        known = np.zeros(octaves.shape, dtype=bool)
        if self.tables:
            logs, known = residual(self.tables, found)
            seconds = seconds * np.exp(logs * fade(octaves))
        error = np.where(known, self.known, self.inside) + self.per_octave * octaves
        anchored = any(table.only for table in self.tables)
        inside = np.where((known | (not anchored)) & (not self.transferred), "interpolated", "transferred")
        return Prediction(seconds, error, np.where(octaves > INSIDE, "extrapolated", inside).astype(BASIS_TYPE))


def joined(models: Sequence[tuple[int, FittedModel]], size: ArrayLike, group_size: int) -> Prediction:
    """A collective of a group size between, below or beyond the measured ones (ascending)."""
    sizes = [count for count, _ in models]
    if group_size in sizes:
        return models[sizes.index(group_size)][1].predict({"bytes": size, "group_size": group_size})
    if sizes[0] < group_size < sizes[-1]:
        upper = next(i for i, count in enumerate(sizes) if count > group_size)
        (low, before), (high, after) = models[upper - 1], models[upper]
        a = before.predict({"bytes": size, "group_size": low})
        b = after.predict({"bytes": size, "group_size": high})
        share = np.log2(group_size / low) / np.log2(high / low)
        seconds = np.exp((1 - share) * np.log(a.seconds) + share * np.log(b.seconds))
        return Prediction(seconds, np.maximum(a.relative_error, b.relative_error), b.basis)
    count, model = models[0] if group_size < sizes[0] else models[-1]
    found = model.predict({"bytes": size, "group_size": group_size})
    octaves = abs(float(np.log2(group_size / count)))
    latency = 0.0
    if group_size > count and len(models) > 1:
        fewer, smaller = models[-2]
        growth = (model.parameters["a_us"] - smaller.parameters["a_us"]) / (count - fewer)
        latency = max(growth, 0.0) * US * (group_size - count)
    error = found.relative_error + LATENCY_ERROR * octaves
    return Prediction(found.seconds + latency, error, np.full(found.seconds.shape, "extrapolated"))
