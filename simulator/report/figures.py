"""Headline figures: eight cards whose interval bars share one relative scale, and a table of the rest."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.report import numbers
from simulator.report.kinds import WEAK
from simulator.report.metrics import label, ordered
from simulator.report.numbers import NBSP
from simulator.report.tables import Cell, Table, table
from simulator.result import Basis, Number, Result

CARDS = 8
# What the finding calls the figures it speaks of.
_NAMES = {
    "training": {"step_time_s": "speed", "cost_usd": "cost", "energy_total_j": "energy", "carbon_kg": "carbon"},
    "inference": {
        "ttft_s": "time to first token",
        "tpot_s": "speed",
        "usd_per_million_output_tokens": "price",
        "joules_per_output_token": "energy",
    },
}
# Half-widths the shared scale may have, as fractions of the value.
_WIDTHS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0)


@dataclass(frozen=True)
class Card:
    """One figure; `low` and `high` are the ends of its bar in percent of the card's width."""

    label: str
    value: str
    unit: str
    interval: str
    basis: Basis
    basis_note: str
    weak: bool
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    cards: tuple[Card, ...]
    width: float
    more: Table

    @property
    def scale(self) -> str:
        """Both ends of the shared scale: −20 % to +20 %."""
        end = f"{numbers.plain(100 * self.width)}{NBSP}%"
        return f"{numbers.MINUS}{end} to +{end}"


def figures(result: Result) -> Figures:
    """The first eight metrics the result has as cards, the others as a table."""
    known = ordered(result)
    width = next(w for w in _WIDTHS if all(_reach(n) <= w for _, n in known[:CARDS]) or w == _WIDTHS[-1])
    cards = []
    for metric, number in known[:CARDS]:
        scale = metric.scale([number.value])
        card = Card(
            label=label(metric, result),
            value=scale.bare(number.value),
            unit=scale.unit,
            interval=scale.interval(number) or "counted",
            basis=number.basis,
            basis_note=_weight(result, number.basis) if metric.key in ("step_time_s", "tpot_s") else "",
            weak=number.basis in WEAK,
            low=_position(number.low, number.value, width),
            high=_position(number.high, number.value, width),
        )
        cards.append(card)
    rows: list[list[str | Cell]] = []
    for metric, number in known[CARDS:]:
        scale = metric.scale([number.value])
        value = scale.text(number.value)
        rows.append([label(metric, result), value, scale.interval(number), Cell(basis=number.basis)])
    rows += _exact_rows(result)
    more = table("more figures", "Figure | Value | 90 % interval | Basis", rows, min_width=560)
    return Figures(tuple(cards), width, more)


def _exact_rows(result: Result) -> list[list[str | Cell]]:
    summary = result.summary
    both = f"{numbers.short_count(summary.parameters)}, {numbers.short_count(summary.active_parameters)}"
    return [["Parameters, active parameters", both, "", Cell(basis="exact")]]


def _reach(number: Number) -> float:
    """How far the interval goes from the value, as a fraction of it."""
    if number.value == 0:
        return 0.0
    return max(number.high - number.value, number.value - number.low) / abs(number.value)


def _position(end: float, value: float, width: float) -> float:
    if value == 0:
        return 50.0
    return 50 + 50 * (end - value) / abs(value) / width


def _weight(result: Result, basis: Basis) -> str:
    """How much of the step this basis carries, where it is not all of it."""
    carried = sum(row.share_of_step for row in result.basis if row.basis == basis)
    return f", {numbers.round_share(carried)} of it" if 0 < carried < 0.995 else ""


def precision_finding(result: Result) -> str:
    """How well the main figures are known: 'Speed and cost are known to about ±9 %, energy to ±14 %.'"""
    names = _NAMES["training" if result.kind == "training" else "inference"]
    grouped: dict[str, list[str]] = {}
    known = result.numbers()
    for key, number in ((key, known[key]) for key in names if key in known):
        if number.value != 0 and number.low != number.high:
            grouped.setdefault(numbers.plus_minus(number), []).append(names[key])
    if not grouped:
        return "Every figure is counted, none estimated."
    parts = [(numbers.listing(things), spread) for spread, things in grouped.items()]
    (first, spread), rest = parts[0], parts[1:]
    verb = "are" if len(grouped[spread]) > 1 else "is"
    tail = "".join(f", {things} to {size}" for things, size in rest)
    return f"{first[0].upper()}{first[1:]} {verb} known to about {spread}{tail}."
