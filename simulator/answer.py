"""What a plan or a what-if yields: the records between the search and whoever prints or draws them.

Nothing here computes physics. Figures are named as in a Result, and three more: `gpus`, `headroom_gib` (free on the
fullest GPU) and `power_w` (mean draw of the cluster at the meter).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from simulator.result import Basis, Color, Number

if TYPE_CHECKING:
    import pandas

End = Literal["value", "pessimistic", "optimistic"]
HIGHER_IS_BETTER = frozenset({"tokens_per_s", "output_tokens_per_s", "headroom_gib", "goodput_requests_per_s"})
LATE = ("goodput_requests_per_s", "ttft_p99_s", "tpot_p99_s")
"""Figures that only a simulation of arriving requests yields, so that only the options it was asked of have them."""


@dataclass(frozen=True)
class Limit:
    """A constraint in the unit of the figure it limits: `days` at most 30, `headroom_gib` at least 4."""

    name: str
    key: str
    value: float

    @property
    def at_least(self) -> bool:
        return self.key in HIGHER_IS_BETTER

    def relaxed(self, factor: float) -> Limit:
        """The limit made `factor` (above 1) times easier."""
        return Limit(self.name, self.key, self.value / factor if self.at_least else self.value * factor)


@dataclass(frozen=True)
class Option:
    """One point of a plan: what is set, and what it takes."""

    number: int
    settings: Mapping[str, Any]
    model: str
    device: str
    gpus: int
    basis: Basis
    figures: Mapping[str, Number]
    seconds: Mapping[Color, float]


@dataclass(frozen=True)
class ConstraintCost:
    """What a limit costs: whether it binds, and what the best option is where it is relaxed by a tenth."""

    limit: Limit
    binds: bool
    relaxed: Limit
    best: Option
    saving: float
    """By how much of the objective `best` is better than the answer; 0 where it is the same."""


@dataclass(frozen=True)
class Relaxation:
    """A least change of limits under which there is an answer, and that answer."""

    limits: tuple[Limit, ...]
    option: Option


@dataclass(frozen=True)
class Term:
    """How much more of one kind of time (or of what follows from it) there is in the second of two runs."""

    label: str
    color: Color
    before: float
    after: float
    change: Number


@dataclass(frozen=True)
class Comparison:
    """The answer against another option: the answer's figure less the other's, by kind of time."""

    other: Option
    key: str
    terms: tuple[Term, ...]
    total: Number


@dataclass(frozen=True)
class PairErrors:
    """Standard deviation of log(a/b) between predicted and measured ratios of two runs of one model, and pairs seen."""

    same_device: float
    other_device: float
    same_pairs: int
    other_pairs: int


@dataclass(frozen=True)
class Check:
    """An option simulated again in full: a training step by the event engine where the fast one can't vouch for itself,
    a service request by request. `longer` is by how much of its time the option takes longer than first found."""

    number: int
    how: Literal["certified", "events", "requests", "refused"]
    longer: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Proof:
    """What a search of a part of the space proved: of `combinations`, `left` were not looked at, and none of those has
    a first objective better than `bound`; None where no bound is known, infinite where none can keep the limits."""

    combinations: int
    left: int
    bound: float | None


@dataclass(frozen=True)
class Shift:
    """The first choice with one number changed. `moved`: another machine; else at most another split or setting."""

    option: Option
    same: bool
    moved: bool
    figure: float
    """Its first objective."""


@dataclass(frozen=True)
class Sensitivity:
    """What the answer does when a number of the hardware, or how wrong a kind of operator may be, is otherwise.

    `lower` and `higher` are for the number less and plus the share `change` of it (for a kind of operator, its time);
    None where nothing keeps the limits any more.
    """

    label: str
    kind: Literal["hardware", "price", "model"]
    change: float
    lower: Shift | None
    higher: Shift | None

    @property
    def matters(self) -> Literal["machine", "settings", "nothing"]:
        """What another value changes about the first choice."""
        shifts = (self.lower, self.higher)
        if any(shift is None or shift.moved for shift in shifts):
            return "machine"
        return "nothing" if all(shift is not None and shift.same for shift in shifts) else "settings"


@dataclass(frozen=True)
class Answer:
    """What a plan found. `ranked`, `front` and `tied` hold index labels of `table`, best first.

    `table` has a row for every point that could be timed: `option.*` facts, figures with `.low` and `.high`, and
    `seconds.<kind>`; `ranked` holds those within the limits, empty where there are none.
    """

    name: str
    title: str
    kind: Literal["training", "inference"]
    """What is asked of the machines; serving counts as inference."""
    models: tuple[str, ...]
    tokens: float | None
    objectives: tuple[str, ...]
    decide_on: End
    limits: tuple[Limit, ...]
    table: pandas.DataFrame
    axes: tuple[str, ...]
    base: Mapping[str, Any]
    ranked: tuple[int, ...]
    front: tuple[int, ...]
    tied: tuple[int, ...]
    best: Option | None
    listed: tuple[Option, ...]
    firsts: tuple[Option, ...]
    """The best option of every model on every device."""
    surest: Option | None
    comparison: Comparison | None
    costs: tuple[ConstraintCost, ...]
    relaxations: tuple[Relaxation, ...]
    conflicts: tuple[tuple[Limit, ...], ...]
    steps: tuple[tuple[str, int], ...]
    pair_errors: PairErrors
    version: str
    """Of the program."""
    notes: tuple[str, ...] = field(default=())
    checks: tuple[Check, ...] = ()
    """Options simulated again in full, in the order in which they came first."""
    settled: bool = True
    """Whether the first option is one of those, or needed none."""
    proof: Proof | None = None
    """None where every point was timed."""
    sensitivity: tuple[Sensitivity, ...] = ()


@dataclass(frozen=True)
class Change:
    """One figure before and after a change; `difference` is None for what the change doesn't touch."""

    key: str
    before: Number
    after: Number
    difference: Number


@dataclass(frozen=True)
class WhatIf:
    """A run against the same run changed. `key` is the time the terms add up to."""

    name: str
    settings: Mapping[str, Any]
    key: str
    terms: tuple[Term, ...]
    total: Number
    figures: tuple[Change, ...]
    shared: bool
    """Whether the errors of both runs are the same ones, so that they cancel where nothing moves."""
