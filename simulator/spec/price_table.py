"""Dated lists of prices, each with its source, in `hardware_profiles/prices`: `rental-*`, `purchase-*`, `energy-*`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from simulator.errors import SpecError, nearest
from simulator.spec.base import Spec, data_root, read_document, validate
from simulator.units import HOUR, CarbonPerEnergy, Money, PriceOfEnergy, PriceOfPower, PricePerHour, parse

Standing = Literal["list", "quote", "secondary", "estimate"]
"""Who says so: the seller's list, an offer made to somebody, someone who repeats a list, or someone who reckons."""
Source = Annotated[str, Field(min_length=1)]


class Rent(Spec):
    """What one GPU rents for (USD/s), and who says so."""

    rent: PricePerHour
    standing: Standing = "list"
    source: Source


class PriceTable(Spec):
    """Rents by device, all of about the same date."""

    date: str
    prices: Annotated[dict[str, Rent], Field(min_length=1)]


class Purchase(Spec):
    """What one GPU costs with its share of server and network (USD), and who says so."""

    price: Money
    standing: Standing = "list"
    source: Source


class Hosting(Spec):
    """Rent of a place with power and cooling, by rated power (USD/s/W), electricity not included."""

    price: PriceOfPower
    source: Source


class PurchaseTable(Spec):
    """Prices by device, all of about the same date, and what a place for them costs."""

    date: str
    purchases: Annotated[dict[str, Purchase], Field(min_length=1)]
    hosting: Hosting


class Region(Spec):
    """Electricity of a region: price (USD/J), carbon (g/J), or both."""

    electricity: PriceOfEnergy | None = None
    carbon: CarbonPerEnergy | None = None
    source: Source

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.electricity is None and self.carbon is None:
            raise ValueError("expected electricity, carbon or both")
        return self


class EnergyTable(Spec):
    """Electricity by region."""

    date: str
    regions: Annotated[dict[str, Region], Field(min_length=1)]


Read = TypeVar("Read", PriceTable, PurchaseTable, EnergyTable)


def _read(kind: str, record: type[Read], name: str) -> Read:
    known = {path.stem: path for path in (data_root() / "hardware_profiles/prices").glob(f"{kind}-*.yaml")}
    if name not in known:
        raise SpecError(f"unknown price table '{name[:200]}'.{nearest(name, known)}")
    return validate(record, read_document(known[name]))


def read_prices(name: str) -> PriceTable:
    """The shipped table of rents of that name. Raises SpecError with the nearest names where there is none."""
    return _read("rental", PriceTable, name)


def read_purchases(name: str) -> PurchaseTable:
    """The shipped table of purchase prices of that name. Raises SpecError with the nearest names."""
    return _read("purchase", PurchaseTable, name)


def read_energy(name: str) -> EnergyTable:
    """The shipped table of electricity of that name. Raises SpecError with the nearest names."""
    return _read("energy", EnergyTable, name)


def rents(prices: str | Mapping[str, str]) -> dict[str, float]:
    """USD/s by device, of a shipped table or of prices as a plan states them. Raises SpecError, or ValueError."""
    if isinstance(prices, str):
        return {device: price.rent for device, price in read_prices(prices).prices.items()}
    return {device: parse(text, "price per hour") for device, text in prices.items()}


def hourly(rent: float) -> str:
    """A rent in USD/s as a run file writes it."""
    return f"{rent * HOUR:.10g} USD/h"
