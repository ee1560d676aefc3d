"""Dated lists of what a GPU rents for, each price with its source: `hardware_profiles/prices/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from simulator.errors import SpecError, nearest
from simulator.spec.base import Spec, data_root, read_document, validate
from simulator.units import HOUR, PricePerHour, parse


class Rent(Spec):
    """What one GPU rents for (USD/s), and who says so."""

    rent: PricePerHour
    source: Annotated[str, Field(min_length=1)]


class PriceTable(Spec):
    """Rents by device, all of about the same date."""

    date: str
    prices: Annotated[dict[str, Rent], Field(min_length=1)]


def read_prices(name: str) -> PriceTable:
    """The shipped price table of that name. Raises SpecError with the nearest names where there is none."""
    known = {path.stem: path for path in (data_root() / "hardware_profiles/prices").glob("*.yaml")}
    if name not in known:
        raise SpecError(f"unknown price table '{name[:200]}'.{nearest(name, known)}")
    return validate(PriceTable, read_document(known[name]))


def rents(prices: str | Mapping[str, str]) -> dict[str, float]:
    """USD/s by device, of a shipped table or of prices as a plan states them. Raises SpecError, or ValueError."""
    if isinstance(prices, str):
        return {device: price.rent for device, price in read_prices(prices).prices.items()}
    return {device: parse(text, "price per hour") for device, text in prices.items()}


def hourly(rent: float) -> str:
    """A rent in USD/s as a run file writes it."""
    return f"{rent * HOUR:.10g} USD/h"
