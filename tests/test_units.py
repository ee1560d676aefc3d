"""Text with units to SI floats: what is read, and what is refused in which words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from simulator.units import Bandwidth, EnergyPerBit, Power, PricePerHour, Rate, Size, Time, parse

# Few enough digits that the text says exactly the number.
numbers = st.integers(min_value=1, max_value=999_999).map(lambda n: n / 100)


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("80 GB", "size", 80e9),
        ("80 GiB", "size", 80 * 2**30),
        ("81559 MiB", "size", 81559 * 2**20),
        ("16 b", "size", 2.0),
        ("8 Mib", "size", 2**20),
        ("1_000 B", "size", 1000.0),
        ("3.35 TB/s", "bandwidth", 3.35e12),
        ("400 Gb/s", "bandwidth", 50e9),
        ("82 GB/s", "bandwidth", 82e9),
        ("989.4 TFLOP/s", "rate", 989.4e12),
        ("13.5 PFLOP/s", "rate", 13.5e15),
        ("1978.9 TOP/s", "rate", 1978.9e12),
        ("2 us", "time", 2e-6),
        ("2 µs", "time", 2e-6),
        ("5 min", "time", 300.0),
        ("574 h", "time", 574 * 3600.0),
        ("2 days", "time", 172_800.0),
        ("1.2 kW", "power", 1200.0),
        ("1 kWh", "energy", 3.6e6),
        ("1830 MHz", "frequency", 1.83e9),
        ("18.75 pJ/b", "energy per bit", 18.75e-12),
        ("0.71 pJ/FLOP", "energy per FLOP", 0.71e-12),
        ("3.60 USD/h", "price per hour", 0.001),
        ("0.36 USD/kWh", "price of energy", 1e-7),
        ("360 g/kWh", "carbon per energy", 1e-4),
    ],
)
def test_units_are_read(text: str, dimension: str, value: float) -> None:
    assert parse(text, dimension) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "dimension", "message"),
    [
        ("80", "size", "'80' has no unit; a size is written like '80 GiB'"),
        ("80 GB/s", "size", "'80 GB/s' is not a size; write it like '80 GiB'"),
        ("80 gib", "size", "'80 gib' is not a size; write it like '80 GiB'"),
        ("eighty GiB", "size", "'eighty GiB' is not a size; write it like '80 GiB'"),
        ("", "size", "'' is not a size; write it like '80 GiB'"),
        ("400 Gbps", "bandwidth", "'400 Gbps' is not a bandwidth; write it like '3.35 TB/s'"),
        (
            "3,35 TB/s",
            "bandwidth",
            "'3,35 TB/s' has a comma; write decimals with a point and no thousands separators",
        ),
        ("989 TFLOPS", "rate", "'989 TFLOPS' is not a rate; write it like '989 TFLOP/s'"),
        ("700 w", "power", "'700 w' is not a power; write it like '700 W'"),
        ("five h", "time", "'five h' is not a time; write it like '2 us'"),
        ("inf B", "size", "'inf B' is not finite"),
        ("nan s", "time", "'nan s' is not finite"),
        ("1e999 B", "size", "'1e999 B' is not finite"),
    ],
)
def test_anything_else_is_refused(text: str, dimension: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse(text, dimension)


def refusal(kind: object, value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    return str(caught.value.errors()[0]["msg"]).removeprefix("Value error, ")


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Size, 80, "80 has no unit; a size is written like '80 GiB'"),
        (Bandwidth, 3.35e12, "3350000000000.0 has no unit; a bandwidth is written like '3.35 TB/s'"),
        (Power, None, "None has no unit; a power is written like '700 W'"),
        (Power, "-1 W", "'-1 W' must be at least 0"),
        (Rate, "0 FLOP/s", "'0 FLOP/s' must be above 0"),
        (Bandwidth, "-3 GB/s", "'-3 GB/s' must be above 0"),
    ],
)
def test_fields_refuse_bare_and_negative_numbers(kind: object, value: object, message: str) -> None:
    assert refusal(kind, value) == message


@pytest.mark.parametrize(
    ("kind", "text"), [(Time, "0 s"), (Power, "0 W"), (EnergyPerBit, "0 pJ/b"), (PricePerHour, "0 USD/h")]
)
def test_zero_is_a_fair_time_power_or_price(kind: object, text: str) -> None:
    assert TypeAdapter(kind).validate_python(text) == 0.0


@given(numbers)
def test_gib_and_gb_differ_by_seven_percent(number: float) -> None:
    assert parse(f"{number} GiB", "size") / parse(f"{number} GB", "size") == pytest.approx(1.073741824)


@given(numbers, st.sampled_from(["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"]))
def test_eight_bits_are_a_byte(number: float, prefix: str) -> None:
    in_bytes = parse(f"{number} {prefix}B/s", "bandwidth")
    assert parse(f"{number} {prefix}b/s", "bandwidth") * 8 == pytest.approx(in_bytes)


@given(numbers)
def test_the_space_before_the_unit_is_optional(number: float) -> None:
    assert parse(f"{number}GB/s", "bandwidth") == parse(f"{number} GB/s", "bandwidth")


@given(numbers, numbers)
def test_reading_keeps_the_order(one: float, other: float) -> None:
    assert (parse(f"{one} TB/s", "bandwidth") < parse(f"{other} TB/s", "bandwidth")) == (one < other)
