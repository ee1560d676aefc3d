"""Rent against buy, for one GPU with its share of server and network.

Owning costs, a month: the capital's charge, hosting by rated power, upkeep as a share of the price, and electricity
at the meter. Capital is recovered over N months of life at i a month by equal charges,

    A = (C - S (1 + i)^-N) i / (1 - (1 + i)^-N)         A = (C - S) / N  where i = 0

with S the residual value (the capital recovery factor of engineering economics, as in L. Blank and A. Tarquin,
Engineering Economy). A rented GPU costs its hours in use only, an owned one stands all month: with u the share of time
in use, rent = R H u and own = F + e (P_idle + (P_busy - P_idle) u), so that owning is cheaper above

    u* = (F + e P_idle) / (R H - e (P_busy - P_idle)).

A purchase has paid for itself after n months of saving s = rent - (hosting + upkeep + electricity):

    n = -ln(1 - C i / s) / ln(1 + i)                    n = C / s  where i = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, log1p

from simulator.units import MONTH, YEAR


@dataclass(frozen=True, slots=True)
class Terms:
    """What owning one GPU costs; SI units, money in USD."""

    price: float
    """With its share of server and network."""
    life: float
    """Seconds until it is written off."""
    residual: float
    """Share of the price it still fetches then."""
    interest: float
    """Of the capital, a year."""
    upkeep: float
    """Repairs, spares and staff a year, as a share of the price."""
    hosting: float
    """USD per second and watt of rated power."""
    rated: float
    """Watts of the GPU with its share of the server."""
    electricity: float
    """USD per joule at the meter."""
    busy: float
    """Watts at the meter (power delivery and cooling included) while it works ..."""
    idle: float
    """... and while it waits."""

    @property
    def monthly_interest(self) -> float:
        return expm1(log1p(self.interest) * MONTH / YEAR)

    @property
    def months(self) -> float:
        """Of life."""
        return self.life / MONTH

    @property
    def capital(self) -> float:
        """USD a month that recover the price less what is left of it, with interest."""
        rest, i = self.price * self.residual, self.monthly_interest
        if i == 0:
            return (self.price - rest) / self.months
        spent = -expm1(-self.months * log1p(i))  # 1 - (1 + i)^-N, to the last digit for the smallest i
        return (self.price - rest * (1 - spent)) * i / spent

    @property
    def place(self) -> float:
        """USD a month for hosting."""
        return self.hosting * self.rated * MONTH

    @property
    def repairs(self) -> float:
        """USD a month for upkeep."""
        return self.upkeep * self.price * MONTH / YEAR

    @property
    def standing(self) -> float:
        """USD a month for its place and its upkeep."""
        return self.place + self.repairs

    def electricity_of(self, use: float) -> float:
        """USD a month at that share of time in use."""
        return self.electricity * MONTH * (self.idle + (self.busy - self.idle) * use)

    def owning(self, use: float) -> float:
        """USD a month for all of it."""
        return self.capital + self.standing + self.electricity_of(use)


def renting(rent: float, use: float) -> float:
    """USD a month of one GPU at `rent` (USD/s) for the share of time in use."""
    return rent * MONTH * use


def break_even_use(terms: Terms, rent: float) -> float | None:
    """Share of time in use above which owning is cheaper; None where it never is."""
    gain = rent * MONTH - terms.electricity * MONTH * (terms.busy - terms.idle)
    if gain <= 0:
        return None
    use = (terms.capital + terms.standing + terms.electricity * MONTH * terms.idle) / gain
    return use if use <= 1 else None


def break_even_months(terms: Terms, rent: float, use: float) -> float | None:
    """Months of use after which the purchase has paid for itself; None where it doesn't within its life."""
    saving, i = renting(rent, use) - terms.standing - terms.electricity_of(use), terms.monthly_interest
    if saving <= terms.price * i:
        return None
    months = terms.price / saving if i == 0 else -log1p(-terms.price * i / saving) / log1p(i)
    return months if months <= terms.months else None
