"""What the page of a validation is made from: rows with what was predicted and measured, and the errors over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

ALL = "all"
BEST = "A"
"""The quality of rows whose every setting was published."""


class Score(Protocol):
    """Errors of one metric over some rows, in percent; `macro` weighs all groups of like rows alike."""

    @property
    def n(self) -> int: ...
    @property
    def macro(self) -> float: ...
    @property
    def mape(self) -> float: ...
    @property
    def median(self) -> float: ...
    @property
    def bias(self) -> float: ...
    @property
    def worst(self) -> float: ...
    @property
    def coverage(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Errors:
    """Scores of one metric over `rows`, which is ALL or BEST: of all of them, and by heading for each group."""

    metric: str
    rows: str
    total: Score
    groups: Mapping[str, Sequence[tuple[str, Score]]]


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric of one row: the prediction with the ends of its 90 % interval, and the measurement."""

    predicted: float
    low: float
    high: float
    measured: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1

    @property
    def covered(self) -> bool:
        """Whether the measurement lies inside the interval."""
        return self.low <= self.measured <= self.high


@dataclass(frozen=True, slots=True)
class Part:
    """Seconds of the predicted step that go to one kind of work; `color` is that of the kind in every chart."""

    label: str
    color: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ReplayedRow:
    """One row of the table. A refused one has a `reason` and no metrics.

    `source` cites the measurement, `parts` sum to one `unit` of work (a step, a decode step), `settings` are the row's
    fields by dotted path.
    """

    id: str
    name: str
    source: str
    quality: str = ""
    arch: str = ""
    device: str = ""
    gpus: str = ""
    precision: str = ""
    framework: str = ""
    notes: str = ""
    reason: str = ""
    unit: str = "step"
    metrics: Mapping[str, Compared] = field(default_factory=dict)
    parts: Sequence[Part] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ValidationRecord:
    """A validated table. `fitted` says in a sentence what was fitted on which rows; `table` is what a user calls it."""

    table: str
    version: str
    rows: Sequence[ReplayedRow]
    errors: Sequence[Errors]
    fitted: str

    def metrics(self) -> list[str]:
        """Metrics any row was measured in, those with errors."""
        return list(dict.fromkeys(errors.metric for errors in self.errors))

    def of(self, metric: str) -> list[Errors]:
        """The errors of a metric, those over all rows first."""
        return sorted((e for e in self.errors if e.metric == metric), key=lambda e: e.rows != ALL)

    def measured(self, metric: str, rows: str = ALL) -> list[ReplayedRow]:
        """Rows that were measured in a metric."""
        return [row for row in self.rows if metric in row.metrics and rows in (ALL, row.quality)]
