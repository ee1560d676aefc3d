"""Rent and purchase of a fleet that grows: what each month costs either way, and when buying has paid for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from simulator.cost.price import electricity_price
from simulator.errors import SpecError
from simulator.fleet import FleetMonth, Ownership
from simulator.planning.ownership import Terms, break_even_months, break_even_use, renting
from simulator.spec.growth import Question, price_in
from simulator.spec.hardware import Device
from simulator.units import MONTH


@dataclass
class Machines:
    """GPUs bought so far, by the month they came in and their price; they leave at the end of their life."""

    life: float
    """Months."""
    cohorts: list[tuple[int, int, float]] = field(default_factory=list)

    def owned(self, at: int) -> int:
        """GPUs in use in month number `at`."""
        return sum(count for month, count, _ in self.cohorts if at - month < self.life)

    def value(self, at: int) -> float:
        """What those cost when they were bought, USD."""
        return sum(count * price for month, count, price in self.cohorts if at - month < self.life)

    def worth(self, at: int, residual: float) -> float:
        """What they are worth as month number `at` begins, written off evenly down to the residual share, USD."""
        ages = [(at - month, count * price) for month, count, price in self.cohorts if at - month < self.life]
        return sum(paid * (1 - (1 - residual) * age / self.life) for age, paid in ages)

    def fill(self, at: int, wanted: int, price: float, server: int = 1) -> int:
        """Buy what is missing in whole servers of that many GPUs; returns how many GPUs."""
        missing = max(0, -(-(wanted - self.owned(at)) // server) * server)
        if missing:
            self.cohorts.append((at, missing, price))
        return missing


def rated_power(device: Device) -> float:
    """Watts of a GPU with its share of the server."""
    return device.tdp + device.node.overhead_power / device.node.gpus


def idle_power(device: Device, pue: float) -> float:
    """Watts at the meter of a GPU that waits, with its share of the server."""
    return (device.idle_power + device.node.overhead_power / device.node.gpus) * pue


def price_of_electricity(question: Question) -> float:
    """USD per joule. Raises SpecError where it is not known."""
    price = electricity_price(question.run.economics)
    if price is None:
        message = "an owned machine pays its electricity: state its price, or a region of the table energy-2025"
        raise SpecError(message, path="economics.electricity")
    return price


def running_usd(question: Question, machines: Machines, at: int, joules: float) -> float:
    """USD of a month for the place, the upkeep and the electricity of owned machines."""
    buy = question.growth.buy
    assert buy is not None
    place = question.hosting * rated_power(question.run.hardware.device) * machines.owned(at) * MONTH
    return place + buy.upkeep / 12 * machines.value(at) + price_of_electricity(question) * joules


def ownership(question: Question, busy: float) -> Ownership | None:
    """Rent against buy of one GPU at the first month's prices; it draws `busy` watts at the meter."""
    buy, run = question.growth.buy, question.run
    if buy is None or question.rents is None or question.purchases is None:
        return None
    month = next(iter(question.growth.demand.by_month))
    terms = Terms(
        price=price_in(question.purchases, month),
        life=buy.life,
        residual=buy.residual,
        interest=buy.interest,
        upkeep=buy.upkeep,
        hosting=question.hosting,
        rated=rated_power(run.hardware.device),
        electricity=price_of_electricity(question),
        busy=busy,
        idle=min(busy, idle_power(run.hardware.device, run.economics.pue)),
    )
    rent = price_in(question.rents, month)
    return Ownership(
        rent=renting(rent, 1.0),
        parts={
            "Capital": terms.capital,
            "Hosting": terms.place,
            "Upkeep": terms.repairs,
            "Electricity": terms.electricity_of(1.0),
        },
        price=terms.price,
        months=break_even_months(terms, rent, 1.0),
        break_even_use=break_even_use(terms, rent),
        life_months=terms.months,
    )


def repaid_in(months: Sequence[FleetMonth]) -> str | None:
    """The first month from whose end on buying has cost no more cash than renting; None where it stays dearer."""
    if not any(month.bought for month in months):
        return None
    rented = accumulate(month.rent_usd or 0.0 for month in months)
    bought = accumulate(month.purchase_usd + month.running_usd for month in months)
    ahead = [purchase <= rent for purchase, rent in zip(bought, rented, strict=True)]
    since = len(ahead) - next((i for i, good in enumerate(reversed(ahead)) if not good), len(ahead))
    return months[since].month if since < len(months) else None
