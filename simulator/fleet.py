"""What a growth question yields: the records between whoever works it out and whoever prints or draws it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from simulator.result import Number

LimitName = Literal["kv_cache", "sequences", "decode", "prompts"]


@dataclass(frozen=True)
class Ceiling:
    """A limit of the service and the load one replica bears under it, requests/s; `rate` None: never the first."""

    name: LimitName
    rate: Number | None
    stated: float | None = None
    """The objective it comes from, in seconds."""


@dataclass(frozen=True)
class Capacity:
    """What one replica bears, requests/s at the busiest time: the least of its ceilings."""

    gpus: int
    rate: Number
    first: LimitName
    ceilings: tuple[Ceiling, ...]
    ttft: float
    """Seconds at that load ..."""
    tpot: float


@dataclass(frozen=True)
class FleetMonth:
    """One month. Money and energy are of the whole month; demand is in requests/s."""

    month: str
    demand: float
    busiest: float
    replicas: int
    replicas_range: tuple[int, int | None]
    """At the optimistic and the pessimistic end of what a replica bears; None where no number would do."""
    gpus: int
    use: float
    """Mean demand over what the fleet bears."""
    energy_j: Number
    """At the meter."""
    carbon_kg: Number
    rent_usd: float | None
    bought: int
    """GPUs bought at its start."""
    owned: int
    purchase_usd: float
    running_usd: float
    """Hosting, upkeep and electricity of owned machines."""


@dataclass(frozen=True)
class Ownership:
    """Rent against buy of one GPU that works all month, at the first month's prices."""

    rent: float
    """USD a month."""
    parts: Mapping[str, float]
    """USD a month of owning, by what it is for."""
    price: float
    months: float | None
    """Until a purchase has paid for itself; None where it doesn't within its life."""
    break_even_use: float | None
    """Share of hours in use above which owning is cheaper; None where it never is."""
    life_months: float


@dataclass(frozen=True)
class FleetAnswer:
    """Today's cluster against the demand of months to come, and the fleet each month needs."""

    name: str
    title: str
    model: str
    device: str
    unit: str
    tokens_per_request: tuple[float, float]
    """Prompt and output."""
    peak: float
    today_gpus: int
    today_replicas: int
    capacity: Capacity
    stops: str | None
    """First month whose busiest time today's cluster doesn't bear; None where it bears all."""
    stops_range: tuple[str | None, str | None]
    """The same at the pessimistic and at the optimistic end."""
    decide_on: str
    months: tuple[FleetMonth, ...]
    ownership: Ownership | None
    repaid: str | None
    """First month from whose end on buying has cost no more cash than renting; None where it stays dearer."""
    worth_usd: float
    """What bought machines are still worth at the end, written off evenly."""
    sources: tuple[str, ...]
    """Where prices come from, a sentence each."""
    version: str
