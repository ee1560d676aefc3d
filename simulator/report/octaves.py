"""A logarithmic axis for rows of bars: factors from halves to doubles, a tick at every whole power of its base."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, inf, log

from simulator.report.bars import Axis
from simulator.report.numbers import Scale, plain

MOST_TICKS = 7


@dataclass(frozen=True)
class LogAxis(Axis):
    """Positions by logarithm: `first` and `last` are powers of `step`, one apart."""

    @classmethod
    def over(cls, factors: Iterable[float]) -> LogAxis:
        """The tightest axis of powers of 2 (or 4, 10, 100) that holds 1 and all factors, which are above 0."""
        known = [f for f in factors if 0 < f < inf] + [1.0]
        for base in (2.0, 4.0, 10.0, 100.0, 1000.0):
            first = floor(log(min(known), base) + 1e-9)
            last = max(ceil(log(max(known), base) - 1e-9), first + 1)
            if last - first < MOST_TICKS:
                break
        return cls(first, last, base, Scale())

    def at(self, value: float) -> float:
        power = log(value, self.step) if value > 0 else float(self.first)
        return 100 * (min(max(power, self.first), self.last) - self.first) / self.intervals

    def _label(self, multiple: int) -> str:
        return f"{plain(float(f'{self.step**multiple:.3g}'))}×"
