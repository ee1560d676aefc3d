"""Rent against buy: closed forms by mental arithmetic, limits, and the dated tables of prices."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cost.price import carbon_grams_per_joule, electricity_price
from simulator.errors import SpecError
from simulator.planning.ownership import Terms, break_even_months, break_even_use, renting
from simulator.spec.base import data_root
from simulator.spec.price_table import read_energy, read_prices, read_purchases
from simulator.spec.workload import Economics
from simulator.units import HOUR, MONTH, YEAR, parse

HOURS = MONTH / HOUR  # 730.5
# 36,500 USD over 50 months is 730 USD a month; everything else is free.
PLAIN = Terms(
    price=36500.0, life=50 * MONTH, residual=0.0, interest=0.0, upkeep=0.0, hosting=0.0, rated=1000.0, electricity=0.0,
    busy=1000.0, idle=0.0,
)  # fmt: skip


def test_capital_without_interest_is_spread_evenly() -> None:
    assert PLAIN.capital == pytest.approx(730.0)
    assert replace(PLAIN, residual=0.5).capital == pytest.approx(365.0)


def test_capital_with_interest_follows_the_annuity() -> None:
    # i = 1 % a month over 12 months: 100,000 (0.01) / (1 - 1.01^-12) = 8,884.88 (any table of annuities)
    terms = replace(PLAIN, price=100_000.0, life=YEAR, interest=1.01**12 - 1)
    assert terms.monthly_interest == pytest.approx(0.01)
    assert terms.capital == pytest.approx(8884.88, abs=0.01)
    # what is left at the end is worth 20,000 / 1.01^12 today
    left = replace(terms, residual=0.2)
    assert left.capital == pytest.approx(8884.88 * (1 - 0.2 * 1.01**-12), rel=1e-5)


def test_every_part_of_owning() -> None:
    # 100 USD/kW/month for 1 kW; 12 % of the price a year; 1 kW at 0.1 USD/kWh for 730.5 h
    terms = replace(
        PLAIN, hosting=parse("100 USD/kW/month", "price of power"), upkeep=0.12, electricity=0.1 / 3.6e6, idle=200.0
    )
    assert terms.place == pytest.approx(100.0)
    assert terms.repairs == pytest.approx(365.0)
    assert terms.electricity_of(1.0) == pytest.approx(73.05)
    assert terms.electricity_of(0.0) == pytest.approx(14.61)
    assert terms.owning(1.0) == pytest.approx(730 + 100 + 365 + 73.05)


def test_break_even_use_is_where_both_cost_the_same() -> None:
    rent = 4.0 / HOUR
    use = break_even_use(PLAIN, rent)
    assert use == pytest.approx(730.0 / (4 * HOURS))  # a quarter
    assert use is not None
    assert renting(rent, use) == pytest.approx(PLAIN.owning(use))


def test_break_even_use_beyond_all_hours_is_none() -> None:
    assert break_even_use(PLAIN, 0.9 / HOUR) is None
    dear = replace(PLAIN, electricity=10 / 3.6e6)  # electricity alone costs more than the rent
    assert break_even_use(dear, 4.0 / HOUR) is None


def test_break_even_months() -> None:
    rent = 36500.0 / 10 / MONTH  # a tenth of the price a month
    assert break_even_months(PLAIN, rent, 1.0) == pytest.approx(10.0)
    assert break_even_months(PLAIN, rent, 0.5) == pytest.approx(20.0)
    assert break_even_months(PLAIN, rent, 0.1) is None  # a hundred months, of a life of fifty


def test_break_even_months_with_interest() -> None:
    # n = -ln(1 - C i / s) / ln(1 + i): 10 i = 0.1 at 1 % a month, -ln 0.9 / ln 1.01 = 10.589
    terms = replace(PLAIN, interest=1.01**12 - 1)
    assert break_even_months(terms, 36500.0 / 10 / MONTH, 1.0) == pytest.approx(10.589, abs=0.001)
    assert (
        break_even_months(replace(terms, interest=5.0), 36500.0 / 10 / MONTH, 1.0) is None
    )  # interest eats the saving


@given(
    rent=st.floats(0.5, 20.0),
    interest=st.floats(0.0, 0.3),
    residual=st.floats(0.0, 0.5),
    electricity=st.floats(0.0, 0.3),
)
def test_above_the_break_even_use_owning_is_cheaper(
    rent: float, interest: float, residual: float, electricity: float
) -> None:
    terms = replace(PLAIN, interest=interest, residual=residual, electricity=electricity / 3.6e6, idle=100.0)
    use = break_even_use(terms, rent / HOUR)
    if use is None:
        assert terms.owning(1.0) > renting(rent / HOUR, 1.0) * (1 - 1e-9)
        return
    assert terms.owning(min(1.0, use * 1.01)) <= renting(rent / HOUR, min(1.0, use * 1.01)) * (1 + 1e-9)
    assert terms.owning(use * 0.99) >= renting(rent / HOUR, use * 0.99) * (1 - 1e-9)


def test_every_shipped_price_says_where_it_comes_from() -> None:
    folder = data_root() / "hardware_profiles/prices"
    assert {path.stem for path in folder.glob("*.yaml")} == {"energy-2025", "purchase-2025", "rental-2025"}
    rents, bought, energy = read_prices("rental-2025"), read_purchases("purchase-2025"), read_energy("energy-2025")
    entries = [*rents.prices.values(), *bought.purchases.values(), *energy.regions.values(), bought.hosting]
    assert all(len(entry.source) > 20 for entry in entries)
    assert rents.prices["gb200"].standing == "secondary"
    assert {entry.standing for entry in bought.purchases.values()} == {"quote", "estimate"}


def test_unknown_tables_are_named() -> None:
    with pytest.raises(SpecError, match=r"^unknown price table 'purchase-2024'. Did you mean 'purchase-2025'\?$"):
        read_purchases("purchase-2024")
    with pytest.raises(SpecError, match=r"^unknown price table 'purchase-2025'. Known: rental-2025\.$"):
        read_prices("purchase-2025")


def test_a_region_of_the_dated_table_gives_carbon_and_a_price() -> None:
    grams, source = carbon_grams_per_joule(Economics(region="FRA"))
    assert grams * 3.6e6 == pytest.approx(56.0)
    assert source == "FRA: 2023, codecarbon 3.3.2, global_energy_mix.json"
    assert electricity_price(Economics(region="US-virginia")) == pytest.approx(0.0892 / 3.6e6)
    stated = Economics.model_validate({"region": "US-virginia", "electricity": "0.05 USD/kWh"})
    assert electricity_price(stated) == pytest.approx(0.05 / 3.6e6)
    assert electricity_price(Economics(region="FRA")) is None
    assert electricity_price(Economics()) is None
