"""Growth of demand on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.cli.output import echo, refuse_file, shipped, write_folder

if TYPE_CHECKING:
    from simulator.fleet import FleetAnswer, FleetMonth

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one field, by its dotted path. May be given many times."),
]


def grow(
    file: Annotated[str, typer.Argument(metavar="GROWTH", help="A growth file, or the name of a shipped one.")],
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write report.html and months.csv there.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON and nothing else.")] = False,
) -> None:
    """Serve a demand that grows: when today's cluster is too small, what breaks first, the fleet, rent against buy.

    [bold]Examples[/bold]

    moesim grow chat-on-llama3-70b --out reports/chat

    moesim grow chat-on-llama3-70b --set demand.growth=0.2 --set objectives.tpot='25 ms'
    — the same question, changed
    """
    refuse_file(out)
    from simulator.planning.growth import grow as answer_to
    from simulator.spec.growth import read_growth

    path = shipped(file, "growth")
    answer = answer_to(read_growth(path, set_ or ()))
    if out is not None:
        from simulator.report.growth_page import render_growth

        changes = "".join(f"# --set {text}\n" for text in set_ or ())
        html = render_growth(answer, path.read_text(encoding="utf-8") + changes)
        with write_folder(out) as folder:
            (folder / "report.html").write_text(html, encoding="utf-8")
            (folder / "months.csv").write_text(_csv(answer), encoding="utf-8")
    if json:
        _print_json(answer)
        return
    _print(answer)
    if out is not None:
        echo(f"Wrote {out / 'report.html'} and months.csv.")


def _csv(answer: FleetAnswer) -> str:
    """A row a month; figures to seven digits."""
    import csv
    from io import StringIO

    stream = StringIO()
    writer = csv.DictWriter(stream, [name for name, _ in _row(answer.months[0])], lineterminator="\n")
    writer.writeheader()
    for month in answer.months:
        writer.writerow({name: f"{x:.7g}" if isinstance(x, float) else x for name, x in _row(month)})
    return stream.getvalue()


def _row(month: FleetMonth) -> list[tuple[str, object]]:
    return [
        ("month", month.month),
        ("requests_per_s", month.demand),
        ("busiest_requests_per_s", month.busiest),
        ("replicas", month.replicas),
        ("gpus", month.gpus),
        ("use", month.use),
        ("energy_j", month.energy_j.value),
        ("carbon_kg", month.carbon_kg.value),
        ("rent_usd", month.rent_usd),
        ("gpus_bought", month.bought),
        ("gpus_owned", month.owned),
        ("purchase_usd", month.purchase_usd),
        ("running_usd", month.running_usd),
    ]


def _print_json(answer: FleetAnswer) -> None:
    import json
    from dataclasses import asdict

    from pydantic import BaseModel

    def plain(value: object) -> object:
        assert isinstance(value, BaseModel)
        return value.model_dump()

    echo(json.dumps(asdict(answer), indent=1, ensure_ascii=False, default=plain))


def _print(answer: FleetAnswer) -> None:
    from simulator.cli.tables import new_table, print_table
    from simulator.report import growth_words as words
    from simulator.report import numbers

    echo(words.verdict(answer))
    echo(words.interval(answer))
    echo(words.breaks_first(answer))
    table = new_table("month by month")
    rented = answer.months[0].rent_usd is not None
    for heading in ("month", "busiest, requests/s", "GPUs", "mean use", "energy", *(("rent",) if rented else ())):
        table.add_column(heading, justify="left" if heading == "month" else "right")
    energy = numbers.watt_hours(month.energy_j.value for month in answer.months)
    for month in answer.months:
        cells = [month.month, numbers.significant(month.busiest), f"{month.gpus:,}", numbers.round_share(month.use)]
        cells += [energy.text(month.energy_j.value)]
        cells += [words.money(month.rent_usd)] if month.rent_usd is not None else []
        table.add_row(*cells)
    print_table(table)
    echo(words.bill(answer))
    if answer.ownership is not None:
        echo(f"{words.rent_or_buy(answer)} {words.pays_back(answer.ownership)}")
