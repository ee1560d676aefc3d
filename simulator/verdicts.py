"""Claims with what the simulator says of them: the records between whoever judges and whoever draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simulator.result import Number

Judgement = Literal["holds", "in part", "doesn't", "not simulated"]


@dataclass(frozen=True)
class Verdict:
    """One claim, judged. Values are in the claim's own unit; `found` is None where a run can't be."""

    id: str
    topic: str
    claim: str
    source: str
    published: str
    range: tuple[float, float]
    """Values that read as the published figure; an end may be infinite."""
    unit: str
    found: Number | None
    judgement: Judgement
    figure: str
    """What was computed: a figure of a result by its key, or in words."""
    per: str
    """By what it is divided within a run, likewise; empty where it is not."""
    ratio: bool
    """Whether it is a ratio of two runs."""
    sides: tuple[tuple[str, Number], ...]
    """(which run, its figure in SI units) behind a ratio or a figure."""
    note: str
    reason: str = ""
    """Why it could not be simulated."""


@dataclass(frozen=True)
class Judged:
    """All claims of a file."""

    title: str
    verdicts: tuple[Verdict, ...]
    untested: tuple[tuple[str, str, str], ...]
    """(claim, source, why it can't be tested)."""
    version: str

    def count(self, judgement: Judgement) -> int:
        return sum(verdict.judgement == judgement for verdict in self.verdicts)
