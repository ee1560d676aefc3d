"""What a growth question found, in sentences; the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from simulator.fleet import Ceiling, FleetAnswer, FleetMonth, Ownership
from simulator.report import numbers
from simulator.report.numbers import NBSP

LIMITS = {
    "kv_cache": "KV cache full",
    "sequences": "Engine's sequences in use",
    "decode": "Time per output token",
    "prompts": "Time to first token",
}
_BREAKS = {
    "kv_cache": "the KV cache: no more requests fit beside each other",
    "sequences": "the number of sequences the engine runs at once",
    "decode": "the time per output token",
    "prompts": "the time to the first token: prompts queue",
}
_ENDS = {"value": "the estimate", "pessimistic": "the pessimistic end", "optimistic": "the optimistic end"}


def month_name(month: str) -> str:
    """July 2026."""
    return f"{date(int(month[:4]), int(month[5:]), 1):%B}{NBSP}{month[:4]}"


def rate(value: float) -> str:
    """A load: 7.80 requests/s."""
    return f"{numbers.significant(value)}{NBSP}requests/s"


def gpus(count: int) -> str:
    return f"{count:,}{NBSP}GPU{'' if count == 1 else 's'}"


def verdict(answer: FleetAnswer) -> str:
    """When today's cluster is too small, and what the last month needs."""
    cluster = f"{answer.today_gpus:,} {answer.device}"
    last = answer.months[-1]
    end = f"{month_name(last.month)} needs {gpus(last.gpus)}."
    if answer.stops is None:
        return f"{cluster} serve {answer.model} as promised through {month_name(last.month)}."
    if answer.stops == answer.months[0].month:
        return f"{cluster} are too few for {answer.model} from the first month on, {month_name(answer.stops)}; {end}"
    return f"{cluster} serve {answer.model} as promised until {month_name(answer.stops)}; {end}"


def interval(answer: FleetAnswer) -> str:
    """How sure the month is."""
    early, late = answer.stops_range
    if early is None:
        return f"We are 90{NBSP}% sure that no month is too much."
    if late is None:
        return f"We are 90{NBSP}% sure that it lasts until {month_name(early)} at least."
    if early == late:
        return f"We are 90{NBSP}% sure of that month."
    return f"We are 90{NBSP}% sure that it gets too small between {month_name(early)} and {month_name(late)}."


def breaks_first(answer: FleetAnswer) -> str:
    """Which limit gives way first, and what one replica bears."""
    found = answer.capacity
    return (
        f"What gives way first is {_BREAKS[found.first]}. A replica of {gpus(found.gpus)} bears "
        f"{rate(found.rate.value)} ({numbers.Scale().range(found.rate.low, found.rate.high)})."
    )


def ceiling_note(each: Ceiling) -> str:
    """The objective a ceiling comes from."""
    return "" if each.stated is None else f"at most {numbers.seconds([each.stated]).text(each.stated)}"


def fleet(answer: FleetAnswer) -> str:
    """How the fleet grows."""
    first, last = answer.months[0], answer.months[-1]
    busiest = max(answer.months, key=lambda month: month.gpus)
    if first.gpus == last.gpus == busiest.gpus:
        return f"Every month needs {gpus(first.gpus)}."
    return (
        f"From {gpus(first.gpus)} in {month_name(first.month)} to {gpus(busiest.gpus)} in {month_name(busiest.month)}, "
        f"in steps of {answer.capacity.gpus:,}."
    )


def total(answer: FleetAnswer, key: str) -> float:
    """The sum of a figure of all months."""
    return sum(float(getattr(month, key) or 0.0) for month in answer.months)


def money(value: float) -> str:
    return numbers.dollars([value]).text(value)


def bill(answer: FleetAnswer) -> str:
    """Rent and energy of all months."""
    joules = sum(month.energy_j.value for month in answer.months)
    kilograms = sum(month.carbon_kg.value for month in answer.months)
    energy, carbon = numbers.watt_hours([joules]).text(joules), numbers.kilograms([kilograms]).text(kilograms)
    drawn = f"take {energy} at the meter and emit {carbon}"
    span = f"All {len(answer.months)} months together"
    if answer.months[0].rent_usd is None:
        return f"{span} {drawn}."
    return f"{span} cost {money(total(answer, 'rent_usd'))} of rent, {drawn}."


def rent_or_buy(answer: FleetAnswer) -> str:
    """Which is cheaper over the months asked about, and how a single GPU pays for itself."""
    found = answer.ownership
    if found is None:
        return "Buying was not asked about; a block `buy` does."
    rented = total(answer, "rent_usd")
    spent = total(answer, "purchase_usd") + total(answer, "running_usd")
    net = spent - answer.worth_usd
    cheaper = "Buying" if net < rented else "Renting"
    return (
        f"{cheaper} is cheaper over these months: {money(rented)} of rent against {money(spent)} for machines, their "
        f"place and electricity, less the {money(answer.worth_usd)} the machines are still worth at the end."
    )


def pays_back(found: Ownership) -> str:
    """The two break-even points of one GPU."""
    if found.break_even_use is None:
        return "At these prices a GPU that is owned never costs less than a rented one."
    use = numbers.round_share(found.break_even_use)
    after = (
        f"Working all the time it has paid for itself after {numbers.whole(found.months)} months of "
        f"{numbers.whole(found.life_months)}."
        if found.months is not None
        else "Even working all the time it doesn't pay for itself within its life."
    )
    return f"{after} It has to work {use} of its hours to cost less than renting those hours."


def repaid(answer: FleetAnswer) -> str:
    """When cash spent on buying falls below what rent would have been."""
    if answer.repaid is None:
        return "In cash, buying stays behind renting through the last month: growth keeps buying."
    return f"In cash, buying is ahead of renting from the end of {month_name(answer.repaid)} on."


def sized_for(answer: FleetAnswer) -> str:
    return f"The fleet is sized for {_ENDS[answer.decide_on]} of what a replica bears."


def years(months: Iterable[FleetMonth]) -> list[tuple[str, list[FleetMonth]]]:
    """Months by calendar year."""
    out: dict[str, list[FleetMonth]] = {}
    for month in months:
        out.setdefault(month.month[:4], []).append(month)
    return list(out.items())
