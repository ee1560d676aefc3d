"""Distributions gathered while a simulation runs, in memory that doesn't grow with what is gathered."""

from __future__ import annotations

from math import exp, log

SMALLEST = 1e-12
"""Values up to it are 0."""
BIN_WIDTH = 0.005
"""Relative width of a bin: the error of a percentile is at most half of it."""


class Distribution:
    """Weighted positive values in logarithmic bins; the mean is exact, percentiles within a bin."""

    def __init__(self) -> None:
        self._bins: dict[int, float] = {}
        self.weight = 0.0
        self._sum = 0.0
        self.largest = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Count a value `weight` times."""
        self.weight += weight
        self._sum += value * weight
        self.largest = max(self.largest, value)
        index = round(log(max(value, SMALLEST)) / BIN_WIDTH)
        self._bins[index] = self._bins.get(index, 0.0) + weight

    def merge(self, other: Distribution) -> None:
        """Count all that `other` holds."""
        self.weight += other.weight
        self._sum += other._sum
        self.largest = max(self.largest, other.largest)
        for index, weight in other._bins.items():
            self._bins[index] = self._bins.get(index, 0.0) + weight

    @property
    def mean(self) -> float:
        """The mean; 0 of nothing."""
        return self._sum / self.weight if self.weight else 0.0

    def percentile(self, share: float) -> float:
        """The smallest value that `share` (0 to 1) of the weight does not exceed; 0 of nothing."""
        wanted, passed = share * self.weight, 0.0
        for index in sorted(self._bins):
            passed += self._bins[index]
            if passed >= wanted - 1e-9:
                value = exp(index * BIN_WIDTH)
                return value if value > 2 * SMALLEST else 0.0
        return 0.0

    def within(self, limit: float) -> float:
        """Share of the weight that does not exceed `limit`, within a bin; 1 of nothing."""
        last = round(log(max(limit, SMALLEST)) / BIN_WIDTH)
        inside = sum(weight for index, weight in self._bins.items() if index <= last)
        return inside / self.weight if self.weight else 1.0
