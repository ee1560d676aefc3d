"""What a verification found, and how it is printed: per group and by range the error, its bias and its floor."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

from simulator.calibration.step_prices import Priced


@dataclass(frozen=True)
class Comparison:
    """One model step, predicted and measured."""

    group: str
    name: str
    predicted: Priced
    measured: float
    runs: tuple[float, ...]
    """The estimates of separate measuring runs, seconds."""
    drawn: bool = False
    """The model was chosen by the seed."""

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted.seconds / self.measured - 1

    @property
    def covered(self) -> bool:
        """Whether the 90 % interval holds the measurement."""
        return self.predicted.low <= self.measured <= self.predicted.high

    @property
    def floor(self) -> float:
        """How far the measuring runs lie apart, as a logarithm."""
        return abs(log(max(self.runs) / min(self.runs)))


@dataclass(frozen=True)
class Errors:
    """The errors of several comparisons, fractions."""

    n: int
    mape: float
    bias: float
    worst: float
    coverage: float


def errors_of(comparisons: Sequence[Comparison]) -> Errors:
    """MAPE, mean signed and worst error, and the share of measurements inside their intervals."""
    found = [c.error for c in comparisons]
    return Errors(
        n=len(found),
        mape=statistics.fmean(map(abs, found)),
        bias=statistics.fmean(found),
        worst=max(found, key=abs),
        coverage=statistics.fmean(c.covered for c in comparisons),
    )


@dataclass(frozen=True)
class VerifyReport:
    """All comparisons of one verification."""

    device: str
    statistic: str
    seed: int
    single: tuple[Comparison, ...]
    parallel: tuple[Comparison, ...]

    @property
    def floors(self) -> tuple[float, float]:
        """Median and 90th percentile of how far two measuring runs of one step differ."""
        found = sorted(c.floor for c in self.single)
        return statistics.median(found), found[min(len(found) - 1, round(0.9 * (len(found) - 1)))]

    def groups(self) -> dict[str, Errors]:
        """Errors of all single-process steps, by origin, range and group, then of the parallel ones."""
        keep: dict[str, Callable[[Comparison], bool]] = {
            "all, one process": lambda c: True,
            "chosen by the seed": lambda c: c.drawn,
            "inside the measured range": lambda c: c.predicted.side == "inside",
            "below it": lambda c: c.predicted.side == "below",
            "above it": lambda c: c.predicted.side == "above",
        }
        for group in dict.fromkeys(c.group for c in self.single):
            keep[group] = lambda c, group=group: c.group == group  # type: ignore[misc]
        chosen = {name: [c for c in self.single if test(c)] for name, test in keep.items()}
        chosen["experts over 2 processes"] = list(self.parallel)
        return {name: errors_of(found) for name, found in chosen.items() if found}

    def summary(self) -> str:
        """Every step and the errors by group, as text."""
        what = "the smallest" if self.statistic == "minimum" else "the median"
        lines = [
            f"{self.device}: {what} step time is predicted; seed {self.seed}",
            f"{'':<16} {'model':<44} {'predicted':>10} {'measured':>10} {'error':>7}  90 % interval",
        ]
        for c in (*self.single, *self.parallel):
            p = c.predicted
            mark = "" if c.covered else "  missed"
            lines.append(
                f"{c.group:<16} {c.name:<44} {_ms(p.seconds):>10} {_ms(c.measured):>10} {c.error:>+7.1%}"
                f"  {_ms(p.low)} to {_ms(p.high)}{mark}{'' if p.side == 'inside' else f' ({p.side} the range)'}"
            )
        lines.append(f"{'':<28} {'n':>3} {'MAPE':>7} {'bias':>7} {'worst':>7} {'in interval':>12}")
        for name, e in self.groups().items():
            lines.append(f"{name:<28} {e.n:>3} {e.mape:>7.1%} {e.bias:>+7.1%} {e.worst:>+7.1%} {e.coverage:>12.0%}")
        half, most = self.floors
        lines.append(
            f"floor: two measuring runs of one step differ by {half:.1%} (median), {most:.1%} (90th percentile)"
        )
        return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"
