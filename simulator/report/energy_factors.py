"""Why two trainings differ in energy: the ratio of their joules as a product of factors that have names.

    E = tokens x FLOPs/token / (peak FLOP/s x MFU x goodput) x watts x PUE

is an identity of what a result holds: watts are the mean draw of a GPU with its share of server and network, FLOPs are
model FLOPs. So the ratio of two trainings is the product of six or seven ratios, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from simulator.report import numbers
from simulator.report.bars import BarChart, Group, Row, bar
from simulator.report.octaves import LogAxis
from simulator.report.tables import Cell, Table, table
from simulator.result import Result


@dataclass(frozen=True)
class Factor:
    """One factor of a training's energy in two runs; `power` is +1 or -1: how energy follows it."""

    name: str
    color: str
    first: float
    second: float
    scale: numbers.Scale
    power: int = 1

    @property
    def ratio(self) -> float:
        """By what it multiplies the energy of the first run."""
        return float((self.second / self.first) ** self.power)


def energy_factors(one: Result, two: Result) -> list[Factor]:
    """The factors of the second training's energy over the first's; none where a result lacks length or energy."""
    found = [_terms(one), _terms(two)]
    if found[0] is None or found[1] is None:
        return []
    factors = []
    for name, (color, power, unit) in _LOOKS.items():
        first, second = found[0][name], found[1][name]
        if name == "Time that moves it forward" and first == second == 1.0:
            continue
        factors.append(Factor(name, color, first, second, unit([first, second]), power))
    return factors


_LOOKS = {
    "Tokens": ("expert", 1, numbers.counts),
    "FLOPs per token": ("expert", 1, lambda values: numbers.si(values, "FLOP", smallest=0)),
    "Peak of a GPU": ("dense", -1, lambda values: numbers.si(values, "FLOP/s", smallest=0)),
    "Share of the peak reached (MFU)": ("dense", -1, numbers.percent),
    "Time that moves it forward": ("wait", -1, numbers.percent),
    "Power of a GPU with its share of server and network": ("comm", 1, lambda values: numbers.si(values, "W")),
    "PUE": ("comm", 1, numbers.ratios),
}


def _terms(result: Result) -> dict[str, float] | None:
    energy, step, mfu, flops = result.energy_j, result.step_time_s, result.mfu, result.flops_per_token
    tokens, summary = result.summary.tokens, result.summary
    if energy is None or step is None or mfu is None or flops is None or tokens is None:
        return None
    pue = float(result.run["economics"]["pue"])
    joules = sum(getattr(energy, part).value for part in type(energy).model_fields)
    return {
        "Tokens": tokens,
        "FLOPs per token": flops.value,
        "Peak of a GPU": summary.peak_flops_per_s,
        "Share of the peak reached (MFU)": mfu.value,
        "Time that moves it forward": result.goodput.value if result.goodput else 1.0,
        "Power of a GPU with its share of server and network": joules / pue / step.value / summary.gpus,
        "PUE": pue,
    }


def product(factors: list[Factor]) -> float:
    """The ratio of the energies."""
    out = 1.0
    for factor in factors:
        out *= factor.ratio
    return out


def factors_finding(factors: list[Factor], names: tuple[str, str]) -> str:
    """The ratio, and what makes most of it."""
    whole = product(factors)
    most = max(factors, key=lambda factor: log(factor.ratio) * (1 if whole > 1 else -1))
    against = max(factors, key=lambda factor: log(factor.ratio) * (-1 if whole > 1 else 1))
    text = (
        f"{names[1]} takes {numbers.significant(whole)} times the energy of {names[0]}. The largest factor is "
        f"{numbers.inside(most.name)}, {numbers.significant(most.ratio)}×"
    )
    if log(against.ratio) * log(whole) >= 0:
        return f"{text}."
    return f"{text}; {numbers.inside(against.name)}, {numbers.significant(against.ratio)}×, goes the other way."


def factors_chart(factors: list[Factor]) -> BarChart:
    """A bar from 1 for each factor, on an axis where equal lengths are equal factors; they multiply to the last row."""
    whole = product(factors)
    axis = LogAxis.over([*(factor.ratio for factor in factors), whole])
    rows = [
        Row(
            factor.name,
            f"{numbers.significant(factor.ratio)}×",
            segments=(bar(axis, 1.0, factor.ratio, color=factor.color),),
        )
        for factor in factors
    ]
    rows.append(Row("Energy, the product", f"{numbers.significant(whole)}×", dot=axis.at(whole)))
    return BarChart(axis, (Group(tuple(rows)),), zero=axis.at(1.0))


def factors_table(factors: list[Factor], names: tuple[str, str]) -> Table:
    """Both values of every factor, and by what each multiplies the energy."""
    rows: list[list[str | Cell]] = [
        [factor.name, factor.scale.text(factor.first), factor.scale.text(factor.second),
         f"{numbers.significant(factor.ratio)}×"]
        for factor in factors
    ]  # fmt: skip
    first, second = (name.replace("|", "/").lstrip(">") for name in names)
    total: list[str | Cell] = ["Energy", "", "", f"{numbers.significant(product(factors))}×"]
    return table(
        "energy, factor by factor",
        f"Factor | >{first} | >{second} | >Ratio of energy",
        rows,
        total=total,
        min_width=620,
    )
