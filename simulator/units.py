"""Dimensioned text ("3.35 TB/s", "80 GiB", "2 us") to SI floats, read with QuantiPhy.

Inside the program every quantity is an SI float: second, byte, FLOP, watt, joule, US dollar, gram of CO2.
GB is 1e9 bytes, GiB 2**30; a small b is a bit. A bare number is refused, since nobody can tell what it meant.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema
from quantiphy import QuantiPhyError, Quantity

KIB, MIB, GIB = 2**10, 2**20, 2**30
HOUR, DAY = 3600.0, 86400.0
YEAR = 365.25 * DAY
MONTH = YEAR / 12
US = 1e-6

# dimension -> {unit as written: factor to SI}
_UNITS: dict[str, dict[str, float]] = {
    "size": {"B": 1.0, "b": 1 / 8},
    "bandwidth": {"B/s": 1.0, "b/s": 1 / 8},
    "rate": {"FLOP/s": 1.0, "OP/s": 1.0},
    "time": {"s": 1.0, "min": 60.0, "h": HOUR, "d": DAY, "day": DAY, "days": DAY}
    | dict.fromkeys(("month", "months"), MONTH)
    | dict.fromkeys(("year", "years"), YEAR),
    "power": {"W": 1.0},
    "energy": {"J": 1.0, "Wh": HOUR},
    "frequency": {"Hz": 1.0},
    "energy per FLOP": {"J/FLOP": 1.0},
    "energy per bit": {"J/b": 1.0},
    "money": {"USD": 1.0},
    "price per hour": {"USD/h": 1 / HOUR, "USD": 1 / HOUR},
    "price of energy": {"USD/kWh": 1 / 3.6e6, "USD/MWh": 1 / 3.6e9},
    "price of power": {"USD/kW/month": 1 / 1e3 / MONTH},
    "mass": {"g": 1.0, "t": 1e6},
    "carbon per energy": {"g/kWh": 1 / 3.6e6, "gCO2/kWh": 1 / 3.6e6, "kg/kWh": 1e3 / 3.6e6},
}
_EXAMPLES = {
    "size": "80 GiB",
    "bandwidth": "3.35 TB/s",
    "rate": "989 TFLOP/s",
    "time": "2 us",
    "power": "700 W",
    "energy": "1 kWh",
    "frequency": "1.98 GHz",
    "energy per FLOP": "0.71 pJ/FLOP",
    "energy per bit": "1.3 pJ/b",
    "money": "296000 USD",
    "price per hour": "2.95 USD/h",
    "price of energy": "0.08 USD/kWh",
    "price of power": "184 USD/kW/month",
    "mass": "500 t",
    "carbon per energy": "369 g/kWh",
}


@lru_cache(maxsize=4096)
def parse(text: str, dimension: str) -> float:
    """The SI value of `text`. Raises ValueError naming the unit expected where the text has none or another."""
    units, example = _UNITS[dimension], _EXAMPLES[dimension]
    if "," in text:  # 3,35 would read as 335
        raise ValueError(f"'{text}' has a comma; write decimals with a point and no thousands separators")
    number, _, unit = text.strip().partition(" ")
    if unit in units:  # a unit that needs no scale factor, such as "574 h" or "0.08 USD/kWh"
        quantity, name = _number(number, text, dimension, example), unit
    else:
        try:
            scaled = Quantity(text.strip(), binary=True)
        except QuantiPhyError:
            raise ValueError(f"'{text}' is not a {dimension}; write it like '{example}'") from None
        quantity, name = float(scaled), scaled.units
    if not name:
        raise ValueError(f"'{text}' has no unit; a {dimension} is written like '{example}'")
    if name not in units:
        raise ValueError(f"'{text}' is not a {dimension}; write it like '{example}'")
    if not quantity < float("inf"):  # also refuses NaN
        raise ValueError(f"'{text}' is not finite")
    return quantity * units[name]


def _number(number: str, text: str, dimension: str, example: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"'{text}' is not a {dimension}; write it like '{example}'") from None


def _reader(dimension: str, *, zero: bool) -> Callable[[object], float]:
    def read(value: object) -> float:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} has no unit; a {dimension} is written like '{_EXAMPLES[dimension]}'")
        number = parse(value, dimension)
        if number < 0 or (number == 0 and not zero):
            raise ValueError(f"'{value}' must be {'at least' if zero else 'above'} 0")
        return number

    return read


def _field(dimension: str, *, zero: bool = False) -> tuple[BeforeValidator, WithJsonSchema]:
    schema = {"type": "string", "description": f"a {dimension} with its unit", "examples": [_EXAMPLES[dimension]]}
    return BeforeValidator(_reader(dimension, zero=zero)), WithJsonSchema(schema)


Size = Annotated[float, *_field("size")]
Bandwidth = Annotated[float, *_field("bandwidth")]
Rate = Annotated[float, *_field("rate")]
Time = Annotated[float, *_field("time", zero=True)]
Power = Annotated[float, *_field("power", zero=True)]
Frequency = Annotated[float, *_field("frequency")]
EnergyPerFlop = Annotated[float, *_field("energy per FLOP")]
EnergyPerBit = Annotated[float, *_field("energy per bit", zero=True)]
Money = Annotated[float, *_field("money", zero=True)]
PricePerHour = Annotated[float, *_field("price per hour", zero=True)]
PriceOfEnergy = Annotated[float, *_field("price of energy", zero=True)]
PriceOfPower = Annotated[float, *_field("price of power", zero=True)]
Mass = Annotated[float, *_field("mass")]
CarbonPerEnergy = Annotated[float, *_field("carbon per energy", zero=True)]
