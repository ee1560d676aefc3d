"""The page of a growth question: when today's cluster is too small, what breaks first, the fleet of each month, its
money and energy, and rent against buy."""

from __future__ import annotations

from itertools import accumulate

from simulator.fleet import FleetAnswer, FleetMonth, Ownership
from simulator.report import growth_words as words
from simulator.report import numbers
from simulator.report.bars import Axis, BarChart, Group, Row, bar, whisker
from simulator.report.growth_chart import Column, columns_chart, curves_chart
from simulator.report.rendering import file_name, render
from simulator.report.tables import Cell, Table, table


def render_growth(answer: FleetAnswer, file_text: str) -> str:
    """One self-contained HTML page; `file_text` is the question as its user wrote it."""
    return render(
        "growth.html.jinja",
        title=answer.title,
        name=answer.name,
        answer=answer,
        verdict=words.verdict(answer),
        interval=words.interval(answer),
        facts=_facts(answer),
        ceilings=_ceilings(answer),
        ceilings_finding=words.breaks_first(answer),
        latencies=_latencies(answer),
        columns=[_columns(answer, wide=wide) for wide in (True, False)],
        fleet_finding=words.fleet(answer),
        sized_for=words.sized_for(answer),
        months=_months(answer),
        bill_finding=words.bill(answer),
        money_finding=words.rent_or_buy(answer),
        repaid=words.repaid(answer) if answer.ownership else "",
        curves=[_curves(answer, wide=wide) for wide in (True, False)] if answer.ownership else [],
        ownership=_ownership(answer.ownership) if answer.ownership else None,
        pays_back=words.pays_back(answer.ownership) if answer.ownership else "",
        sources=answer.sources,
        file_text=file_text,
        file_name=file_name(answer.name, ".yaml"),
        version=answer.version,
    )


def _facts(answer: FleetAnswer) -> list[tuple[str, str]]:
    """The three facts under the verdict, each a lead and what it means."""
    capacity = answer.capacity
    facts = [
        (f"{words.LIMITS[capacity.first]} gives way first.", words.breaks_first(answer)),
        (f"{words.gpus(max(month.gpus for month in answer.months))} at most.", words.fleet(answer)),
    ]
    if answer.ownership is None:
        return [*facts, ("What it takes.", words.bill(answer))]
    lead = words.rent_or_buy(answer).split(" ", 1)[0]
    return [*facts, (f"{lead} is cheaper over these months.", words.pays_back(answer.ownership))]


def _ceilings(answer: FleetAnswer) -> BarChart:
    """The load one replica bears under each limit."""
    rates = [each.rate for each in answer.capacity.ceilings if each.rate is not None]
    scale = numbers.Scale(after=f"{numbers.NBSP}req/s")
    axis = Axis.covering((rate.high for rate in rates), scale)
    rows = []
    for each in answer.capacity.ceilings:
        first = each.name == answer.capacity.first
        if each.rate is None:
            rows.append(Row(words.LIMITS[each.name], "not reached", note=words.ceiling_note(each)))
            continue
        rows.append(
            Row(
                words.LIMITS[each.name],
                scale.text(each.rate.value),
                note=words.ceiling_note(each),
                value_below="gives way first" if first else "",
                interval=scale.interval(each.rate),
                segments=(bar(axis, 0.0, each.rate.value, color="expert" if first else "dense"),),
                whisker=whisker(axis, each.rate),
            )
        )
    return BarChart(axis, (Group(tuple(rows)),), tall=True)


def _latencies(answer: FleetAnswer) -> str:
    first, token = answer.capacity.ttft, answer.capacity.tpot
    return (
        f"At that load the first token takes {numbers.seconds([first]).text(first)} and each further one "
        f"{numbers.seconds([token]).text(token)}, on average; a rare request waits longer."
    )


def _columns(answer: FleetAnswer, *, wide: bool) -> str:
    step = answer.capacity.gpus
    columns = [
        Column(
            month.month,
            month.gpus,
            month.replicas_range[0] * step,
            (month.replicas_range[1] or month.replicas) * step,
            f"{words.month_name(month.month)}: {words.gpus(month.gpus)}",
        )
        for month in answer.months
    ]
    level = (float(answer.today_gpus), f"Today's {words.gpus(answer.today_gpus)}")
    return columns_chart(columns, level, numbers.wholes([]), label=words.fleet(answer), wide=wide)


def _curves(answer: FleetAnswer, *, wide: bool) -> str:
    """Cash spent by the end of every month, rented and bought."""
    rented = list(accumulate(month.rent_usd or 0.0 for month in answer.months))
    bought = list(accumulate(month.purchase_usd + month.running_usd for month in answer.months))
    curves = [("Renting", "expert", rented), ("Buying", "a2a", bought)]
    scale = numbers.dollars([max(*rented, *bought)])
    names = [month.month for month in answer.months]
    return curves_chart(names, curves, scale, label=words.repaid(answer), wide=wide)


def _months(answer: FleetAnswer) -> Table:
    energy = numbers.watt_hours(month.energy_j.value for month in answer.months)
    carbon = numbers.kilograms(month.carbon_kg.value for month in answer.months)
    rent = numbers.dollars(month.rent_usd or 0.0 for month in answer.months)
    spent = numbers.dollars(month.purchase_usd + month.running_usd for month in answer.months)
    rows: list[list[str | Cell]] = []
    for month in answer.months:
        row: list[str | Cell] = [
            month.month.replace("-", "\u2011"),  # kept on one line
            numbers.significant(month.busiest),
            Cell(f"{month.gpus:,}", note=_gpus_range(answer, month)),
            numbers.round_share(month.use),
            energy.text(month.energy_j.value),
            carbon.text(month.carbon_kg.value),
        ]
        if month.rent_usd is not None:
            row.append(rent.text(month.rent_usd))
        if answer.ownership is not None:
            row += [f"{month.bought:,}", spent.text(month.purchase_usd + month.running_usd)]
        rows.append(row)
    columns = "Month | >Busiest, requests/s | >GPUs | >Mean use | >Energy | >Carbon"
    columns += " | >Rent" if answer.months[0].rent_usd is not None else ""
    columns += " | >GPUs bought | >Purchase and running" if answer.ownership is not None else ""
    return table("months", columns, rows, min_width=820)


def _gpus_range(answer: FleetAnswer, month: FleetMonth) -> str:
    low, high = month.replicas_range
    most = "no number" if high is None else f"{high * answer.capacity.gpus:,}"
    return f"{low * answer.capacity.gpus:,}{numbers.NBSP}{numbers.DASH}{numbers.NBSP}{most}"


def _ownership(found: Ownership) -> BarChart:
    """A month of one GPU: rent, and the parts of owning."""
    everything = [found.rent, sum(found.parts.values())]
    scale = numbers.dollars(everything)
    axis = Axis.covering(everything, scale)
    owning = tuple(
        Row(name, scale.text(value), segments=(bar(axis, 0.0, value, color="dense"),))
        for name, value in found.parts.items()
    )
    rented = (Row("Rent", scale.text(found.rent), segments=(bar(axis, 0.0, found.rent, color="expert"),)),)
    groups = (
        Group(rented, "Renting", scale.text(found.rent)),
        Group(owning, f"Owning, bought for {words.money(found.price)}", scale.text(everything[1])),
    )
    return BarChart(axis, groups)
