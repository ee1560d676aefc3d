"""Energy of one step by part, the bill, and the carbon of the electricity."""

from __future__ import annotations

from simulator.report import numbers
from simulator.report.bars import Axis, BarChart, Group, Row, bar, whisker
from simulator.report.kinds import batch_unit
from simulator.report.tables import Cell, Table, table
from simulator.result import Energy, Price, Result

_PARTS = {
    "compute": ("Arithmetic", "expert"),
    "memory": ("HBM", "mem"),
    "network": ("Links and switches", "comm"),
    "static": ("Idle power", "host"),
    "facility": ("Power delivery and cooling", "wait"),
}


def energy_chart(energy: Energy) -> BarChart:
    """Joules of one step or batch by part, with their intervals."""
    parts = {key: getattr(energy, key) for key in _PARTS}
    total = energy_sum(energy)
    scale = numbers.joules([n.value for n in parts.values()])
    axis = Axis.covering(
        [n.high for n in parts.values()], numbers.joules([max(n.high for n in parts.values())]), intervals=2
    )
    rows = []
    for key, number in parts.items():
        name, color = _PARTS[key]
        drawn = (bar(axis, 0, number.value, color=color),) if number.value else ()
        share = numbers.share(number.value / total) if total else ""
        rows.append(
            Row(
                name,
                scale.text(number.value),
                value_note=share,
                segments=drawn,
                whisker=whisker(axis, number),
                interval=scale.interval(number),
            )
        )
    return BarChart(axis, (Group(tuple(rows)),))


def energy_sum(energy: Energy) -> float:
    return float(sum(getattr(energy, key).value for key in _PARTS))


def bill_table(result: Result) -> Table | None:
    """Every item of the bill with its sum; what another item holds stands in brackets and is not added."""
    if not result.bill:
        return None
    rows: list[list[str | Cell]] = []
    for price in result.bill:
        amount = numbers.dollars([price.usd.value]).text(price.usd.value)
        rows.append([price.item, price.amount, f"({amount})" if price.included else amount])
    total = result.cost_usd.value if result.cost_usd else sum(price.usd.value for price in counted(result))
    return table("bill", "Item | Rate | >Amount", rows, total=["Total", "", numbers.dollars([total]).text(total)])


def counted(result: Result) -> list[Price]:
    """The items that make up the cost: not free, and not held in another item."""
    return [price for price in result.bill if price.usd.value > 0 and not price.included]


def rates_table(result: Result) -> Table | None:
    """The cost at two thirds and four thirds of the hourly rent, where rent is all there is on the bill."""
    rate, cost = result.summary.gpu_hour_usd, result.cost_usd
    paid = counted(result)
    if not rate or cost is None or len(paid) != 1:
        return None
    rows: list[list[str | Cell]] = []
    for other in (float(f"{rate * 2 / 3:.2g}"), rate, float(f"{rate * 4 / 3:.2g}")):
        factor = other / rate
        scale = numbers.dollars([cost.value * factor])
        rows.append(
            [f"${other:.2f}", scale.text(cost.value * factor), scale.range(cost.low * factor, cost.high * factor)]
        )
    return table("cost by hourly rent", "If the GPU-hour cost | >Total | >90 % interval", rows)


def energy_finding(result: Result) -> str:
    """What the run costs, what part of the bill is largest, what it draws and emits; of inference, a million tokens."""
    parts: list[str] = _of_a_million(result)
    if parts:
        return f"A million output tokens {numbers.listing(parts)}."
    if result.cost_usd is not None:
        parts.append(f"The bill is {numbers.dollars([result.cost_usd.value]).text(result.cost_usd.value)}")
        paid = counted(result)
        if len(paid) > 1:
            first = max(paid, key=lambda p: p.usd.value)
            part = numbers.round_share(first.usd.value / sum(p.usd.value for p in paid))
            parts[0] += f", of which {first.item} is {part}"
    meter = result.energy_total_j
    if meter is not None:
        parts.append(f"the meter counts {numbers.watt_hours([meter.value]).text(meter.value)}")
    if result.carbon_kg is not None:
        parts.append(f"{numbers.kilograms([result.carbon_kg.value]).text(result.carbon_kg.value)} are emitted")
    if not parts and result.energy_j is not None:
        total = energy_sum(result.energy_j)
        parts.append(f"One {batch_unit(result)} draws {numbers.joules([total]).text(total)} at the meter")
    if not parts:
        return "Energy and money were not asked for."
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def _of_a_million(result: Result) -> list[str]:
    """What a million output tokens cost, draw and emit; nothing where tokens of a batch can't be told."""
    energy, each, meter = result.energy_j, result.joules_per_output_token, result.energy_total_j
    if energy is None or each is None or meter is None or not each.value:
        return []
    batch = (energy.compute.value + energy.memory.value + energy.static.value) / each.value
    parts = [("draw {} at the meter", meter, numbers.watt_hours), ("emit {}", result.carbon_kg, numbers.kilograms)]
    million = [
        words.format(scale([n.value * 1e6 / batch]).text(n.value * 1e6 / batch))
        for words, n, scale in parts
        if n is not None
    ]
    price = result.usd_per_million_output_tokens
    if price is not None:
        million.insert(0, f"cost {numbers.dollars([price.value]).text(price.value)}")
    return million


def per_token_line(result: Result) -> str:
    """Money, energy and carbon per billion tokens, as far as they are known."""
    tokens = result.summary.tokens
    if not tokens:
        return ""
    scales = (
        (result.cost_usd, numbers.dollars),
        (result.energy_total_j, numbers.watt_hours),
        (result.carbon_kg, numbers.kilograms),
    )
    parts = [scale([n.value / tokens * 1e9]).text(n.value / tokens * 1e9) for n, scale in scales if n is not None]
    return f"Per billion tokens: {', '.join(parts)}." if parts else ""
