"""What is left of measured times after physics: small tables over log2 shape, read by multilinear interpolation.

log(measured / physics) = sum over tables, each a function of one to four features of the shape. A table has evenly
spaced knots, holds its edge values beyond them, and may act on some points only: those where a feature is set (`gate`,
its factor) or those of one measured model (`only`, exact values). Additive tables of few features are what a
generalised additive model is (Hastie and Tibshirani 1986); they cost a few gathers a point and never oscillate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Features = Mapping[str, Array]


@dataclass(frozen=True)
class Axis:
    """Evenly spaced knots of one feature: start, start + step, ... (count of them)."""

    feature: str
    start: float
    step: float
    count: int

    def place(self, values: Array) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The knot left of each value and the share of the way to the next, held at the ends."""
        scaled = np.clip((values - self.start) / self.step, 0.0, self.count - 1)
        left = np.minimum(scaled.astype(np.intp), max(self.count - 2, 0))
        return left, (scaled - left).astype(np.float32)


@dataclass(frozen=True)
class Table:
    """Values on the grid of its axes, the last one contiguous."""

    axes: tuple[Axis, ...]
    values: NDArray[np.float32]
    gate: str | None = None
    only: Mapping[str, float] = field(default_factory=dict)

    def evaluate(self, features: Features) -> NDArray[np.float32]:
        """The interpolated values at the points of `features`, times the gate where there is one."""
        places = [axis.place(features[axis.feature]) for axis in self.axes]
        flat = self.values.reshape(-1)
        *outer, (last_left, last_share) = places
        total = np.zeros(last_left.shape, dtype=np.float32)
        paired = 1 if self.axes[-1].count > 1 else 0
        for corner in range(2 ** len(outer)):
            index: NDArray[np.intp] | int = 0
            weight: NDArray[np.float32] | None = None
            for bit, (axis, (left, share)) in enumerate(zip(self.axes[:-1], outer, strict=True)):
                up = (corner >> bit) & 1
                if up and axis.count == 1:
                    break
                index = index * axis.count + left + up
                part = share if up else 1 - share
                weight = part if weight is None else weight * part
            else:
                place = index * self.axes[-1].count + last_left
                low = flat[place]
                value = low + last_share * (flat[place + paired] - low)
                total += value if weight is None else value * weight
        if self.gate is not None:
            total *= features[self.gate].astype(np.float32)
        return total


def match(only: Mapping[str, float], features: Features) -> NDArray[np.bool_]:
    """Which points have exactly these values."""
    agree: NDArray[np.bool_] = np.logical_and.reduce([features[name] == value for name, value in only.items()])
    return agree


def residual(tables: Sequence[Table], features: Features) -> tuple[Array, NDArray[np.bool_]]:
    """The sum of the tables at each point, and whether a table of a measured model took part."""
    size = len(next(iter(features.values())))
    total, known = np.zeros(size), np.zeros(size, dtype=bool)
    for table in tables:
        if not table.only:
            total += table.evaluate(features)
        elif (mine := match(table.only, features)).any():
            total[mine] += table.evaluate({name: values[mine] for name, values in features.items()})
            known |= mine
    return total, known


def distance(bounds: Mapping[str, tuple[float, float]], features: Features) -> Array:
    """Octaves (Euclidean, over the features bounded) between each point and the box that was measured; 0 inside."""
    total: Array = np.zeros(len(next(iter(features.values()))))
    for name, (low, high) in bounds.items():
        values = features[name]
        outside = np.maximum(np.maximum(low - values, values - high), 0.0)
        total += outside * outside
    return np.sqrt(total)


def fade(octaves: Array) -> Array:
    """How much of the residual is believed outside the measured range: falling by e an octave."""
    return np.exp(-octaves)
