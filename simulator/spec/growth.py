"""A growth question: a serving run, the demand of the months to come, what was promised, and what machines cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from simulator.errors import SpecError
from simulator.spec.base import Document, Spec, read_document, validate
from simulator.spec.price_table import read_prices, read_purchases
from simulator.spec.run import Run, apply_overrides, build_run, parse_override
from simulator.spec.sweep import base_document
from simulator.units import PriceOfPower, Time, parse

MONTHS = 12
MOST_MONTHS = 240
PURCHASES = "purchase-2025"
"""The dated table whose hosting holds where a question states none."""
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")

End = Literal["value", "pessimistic", "optimistic"]


def _month(value: object) -> str:
    text = str(value)
    if not _MONTH.fullmatch(text):
        raise ValueError(f"'{text[:40]}' is no month; write it like '2026-01'")
    return text


Month = Annotated[str, BeforeValidator(_month)]


def later(month: str, by: int) -> str:
    """The month `by` months after `month`."""
    count = int(month[:4]) * MONTHS + int(month[5:]) - 1 + by
    return f"{count // MONTHS:04d}-{count % MONTHS + 1:02d}"


def _no_gap(curve: dict[str, float]) -> dict[str, float]:
    months = list(curve)
    if not months:
        raise ValueError("expected at least one month")
    for before, month in pairwise(months):
        if month <= before:
            raise ValueError(f"{month} stands after {before}; months go forward")
        if month != later(before, 1):
            raise ValueError(f"{later(before, 1)} is missing between {before} and {month}")
    return curve


Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Demand(Spec):
    """How much is asked, month by month: a curve, or a first month and its growth."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    unit: Literal["requests/s", "output tokens/day"] = "requests/s"
    """Mean over a month."""
    curve: Annotated[dict[Month, Amount], AfterValidator(_no_gap)] | None = None
    """Every month with its demand, one after the other."""
    start: Month | None = None
    first: Amount | None = None
    """Demand of the month `start`."""
    growth: Annotated[float, Field(gt=-1, le=10)] | None = None
    """Of each month over the one before: 0.1 is ten percent more."""
    months: Annotated[int, Field(gt=0, le=MOST_MONTHS)] | None = None
    peak: Annotated[float, Field(ge=1, le=100)] = 1.0
    """Busiest time over the mean: objectives hold then."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        line = {name: getattr(self, name) for name in ("start", "first", "growth", "months")}
        given = [name for name, value in line.items() if value is not None]
        if self.curve is not None:
            if given:
                raise ValueError(f"a curve says all of it; leave out {', '.join(given)}")
            if len(self.curve) > MOST_MONTHS:
                raise ValueError(f"{len(self.curve)} months; at most {MOST_MONTHS} are allowed")
        elif missing := [name for name in line if name not in given]:
            raise ValueError(f"expected a curve, or start, first, growth and months; missing: {', '.join(missing)}")
        return self

    @property
    def by_month(self) -> dict[str, float]:
        """Mean demand of every month, in `unit`."""
        if self.curve is not None:
            return dict(self.curve)
        assert self.start is not None
        assert self.first is not None
        assert self.growth is not None
        assert self.months is not None
        return {later(self.start, i): self.first * (1 + self.growth) ** i for i in range(self.months)}


class Objectives(Spec):
    """What users were promised, on average over requests."""

    ttft: Time | None = None
    tpot: Time | None = None


Priced = str | dict[str, str]


def _dated(dimension: str) -> Any:
    """A table's name, a price, or prices from months on."""

    def check(value: object) -> object:
        texts = value if isinstance(value, Mapping) else {}
        if isinstance(value, str) and value[:1].isdigit():
            parse(value, dimension)
        if isinstance(value, Mapping) and not value:
            raise ValueError("expected at least one month with its price")
        months = [_month(month) for month in texts]
        if months != sorted(months):
            raise ValueError("months go forward")
        for month, text in texts.items():
            if not isinstance(text, str):
                raise ValueError(f"{month}: {text!r} has no unit")
            parse(text, dimension)
        return value

    return BeforeValidator(check)


Rents = Annotated[Priced, _dated("price per hour"), WithJsonSchema({"type": ["string", "object"]})]
Prices = Annotated[Priced, _dated("money"), WithJsonSchema({"type": ["string", "object"]})]
Share = Annotated[float, Field(ge=0, le=1)]


class Buy(Spec):
    """What owning a GPU takes, with its share of server and network."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    price: Prices = "purchase-2025"
    """A shipped table, `49000 USD`, or what it costs from a month on: {2026-01: 49000 USD, 2027-01: 40000 USD}."""
    life: Time
    """Until it is written off."""
    residual: Share = 0.0
    """Of the price, what it still fetches then."""
    interest: Share = 0.0
    """On the capital, a year."""
    upkeep: Share = 0.0
    """Repairs, spares and staff, a year, as a share of the price."""
    hosting: PriceOfPower | None = None
    """Of a place, by rated power; absent: that of the shipped table purchase-2025."""

    @model_validator(mode="after")
    def _lives(self) -> Self:
        if not self.life:
            raise ValueError("life must be above 0")
        return self


class Growth(Spec):
    """A serving run against the demand of months to come."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1, max_length=300)]
    title: Annotated[str, Field(max_length=300)] = ""
    """Heading of the report."""
    run: str | dict[str, Any]
    """Today's cluster: a run file's path, relative to this file; the name of a shipped run; or the run itself."""
    demand: Demand
    objectives: Objectives = Objectives()
    rent: Rents | None = None
    """Of one GPU: a shipped table, `2.95 USD/h`, or from a month on; absent: the run's economics.gpu_hour."""
    buy: Buy | None = None
    decide_on: End = "value"
    """Which end of the 90 % interval the fleet is sized for."""


@dataclass(frozen=True, slots=True)
class Question:
    """A growth question with its run, and what one GPU rents (USD/s) and sells for (USD) from a month on."""

    growth: Growth
    run: Run
    rents: Mapping[str, float] | None
    purchases: Mapping[str, float] | None
    hosting: float
    """USD per second and watt of rated power."""
    sources: tuple[str, ...]
    """Where prices come from, a sentence each."""


def read_growth(file: str | Path, overrides: Iterable[str] = ()) -> Question:
    """The question in a YAML file, its run and its prices. Raises SpecError at the line.

    An override such as `demand.growth=0.2` changes the question, one of a path of the run changes that.
    """
    document = read_document(file)
    texts, fields = list(overrides), set(Growth.model_fields) - {"run", "name"}
    own = [text for text in texts if parse_override(text)[0].partition(".")[0] in fields]
    document = apply_overrides(document, own)
    growth = validate(Growth, document)
    base = base_document(growth.run, Path(file).parent, document)
    plain = apply_overrides(base, [text for text in texts if text not in own])
    run = build_run(plain)
    if run.inference is None:
        raise document.error(f"demand grows for a serving run; this one is of kind {run.kind}", ("run",))
    growth = growth.model_copy(update={"objectives": _objectives(growth, run, document)})
    growth = growth.model_copy(update={"run": plain.data})
    return _question(growth, run, document)


def _objectives(growth: Growth, run: Run, document: Document) -> Objectives:
    """The stated ones, else those of the run's serving block."""
    asked = run.serving
    for name in ("trace", "disaggregated"):
        if asked is not None and getattr(asked, name) is not None:
            raise document.error(f"serving.{name} has no closed form, which growth is read from", ("run",))
    stated = growth.objectives
    if asked is None or stated.ttft is not None or stated.tpot is not None:
        return stated
    return Objectives.model_construct(ttft=asked.ttft_slo, tpot=asked.tpot_slo)


def _question(growth: Growth, run: Run, document: Document) -> Question:
    first, device, buy = next(iter(growth.demand.by_month)), run.hardware.device.name, growth.buy
    rents: Mapping[str, float] | None = None
    sources: list[str] = []
    if growth.rent is not None:
        rents, source = _dated_prices(growth.rent, "price per hour", first, device, document, "rent")
        sources.append(f"Rent: {source}")
    elif run.economics.gpu_hour is not None:
        rents = {first: run.economics.gpu_hour}
        sources.append("Rent: economics.gpu_hour of the run.")
    if buy is None:
        return Question(growth, run, rents, None, 0.0, tuple(sources))
    if rents is None:
        raise document.error("nothing to buy against: give `rent`, or economics.gpu_hour in the run", ("buy",))
    purchases, source = _dated_prices(buy.price, "money", first, device, document, "buy.price")
    sources.append(f"Purchase: {source}")
    hosting = buy.hosting
    if hosting is None:
        table = read_purchases(PURCHASES).hosting
        hosting = table.price
        sources.append(f"Hosting: {table.source}.")
    return Question(growth, run, rents, purchases, hosting, tuple(sources))


def _dated_prices(
    stated: str | dict[str, str], dimension: str, first: str, device: str, document: Document, path: str
) -> tuple[dict[str, float], str]:
    """(prices from a month on, where they come from). Raises SpecError where a table lacks the device, or a month."""
    place = tuple(path.split("."))
    if isinstance(stated, str) and stated[:1].isdigit():
        return {first: parse(stated, dimension)}, "stated."
    if isinstance(stated, Mapping):
        dated = {month: parse(text, dimension) for month, text in stated.items()}
        if min(dated) > first:
            raise document.error(f"no price for {first}, the first month of the demand", place)
        return dated, "stated."
    try:
        known = _known_prices(stated, dimension)
    except SpecError as error:
        raise document.error(error.message, place) from None
    if device not in known:
        have = ", ".join(sorted(known))
        raise document.error(f"no price for {device} in {stated} (there are prices for: {have})", place)
    price, standing, source = known[device]
    return {first: price}, f"{stated}, {standing}: {source.rstrip('.')}."


def _known_prices(table: str, dimension: str) -> dict[str, tuple[float, str, str]]:
    """(price, standing, source) by device."""
    if dimension == "money":
        found = read_purchases(table).purchases
        return {device: (entry.price, entry.standing, entry.source) for device, entry in found.items()}
    rents = read_prices(table).prices
    return {device: (entry.rent, entry.standing, entry.source) for device, entry in rents.items()}


def price_in(dated: Mapping[str, float], month: str) -> float:
    """What held in a month: the last price from that month or before."""
    return dated[max(start for start in dated if start <= month)]
