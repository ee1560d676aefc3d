"""Capacity planning on the command line: plan, and what-if."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulator.cli.output import echo, progress_bar, refuse_file, shipped, write_folder
from simulator.errors import InfeasibleError

if TYPE_CHECKING:
    from simulator.answer import Answer, WhatIf

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one field, by its dotted path. May be given many times."),
]

Scheduler = Annotated[
    str | None, typer.Option(metavar="tcp://HOST:PORT", help="Use the cluster of this Dask scheduler instead.")
]


def plan(
    file: Annotated[str, typer.Argument(metavar="PLAN", help="A plan file, or the name of a shipped plan.")],
    set_: Set = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write report.html, best.yaml and points/*.parquet there.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes to use.")] = 1,
    scheduler: Scheduler = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search that was begun in --out.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Time every point, however many there are.")] = False,
) -> None:
    """Find the best machine, split and settings within limits: time, money, memory, power, carbon.

    [bold]Examples[/bold]

    moesim plan mixtral-8x22b-30-days --workers 2 --out reports/mixtral-8x22b
    — a shipped plan; the page lets a reader move the limits

    moesim plan my-plan.yaml --set constraints.deadline='20 d'
    — the same question with another limit

    moesim plan my-plan.yaml --out reports/my-plan --resume
    — go on after an interruption

    moesim plan my-plan.yaml --out reports/my-plan --scheduler tcp://head:8786
    — on a Dask cluster

    moesim plan my-plan.yaml --set search.points=50000
    — time a part of a space that is too large, and say what is proved of the rest
    """
    refuse_file(out)
    from simulator.planning.plan import solve
    from simulator.shards.work import Workers
    from simulator.spec.plan import read_plan

    if resume and out is None:
        raise typer.BadParameter("--resume needs --out, where the search was begun")
    question = read_plan(shipped(file, "plans"), set_ or ())
    with progress_bar("points") as advance:
        answer = solve(
            question,
            out=out,
            workers=Workers(workers, scheduler),
            resume=resume,
            force=force,
            announce=lambda size: echo(size, err=True),
            progress=advance,
        )
    if out is not None:
        _write(answer, out)
    _print(answer)
    if out is not None:
        echo(f"Wrote {out / 'report.html'}{', best.yaml' if answer.best else ''} and points/*.parquet.")
    if answer.best is None:
        raise InfeasibleError("no point keeps all limits")


def _write(answer: Answer, out: Path) -> None:
    from simulator.planning.run_file import run_file
    from simulator.report.plan_page import render_plan

    best = run_file(answer.name, answer.base, answer.best) if answer.best else ""
    html = render_plan(answer, best)
    with write_folder(out) as folder:
        (folder / "report.html").write_text(html, encoding="utf-8")
        if best:
            (folder / "best.yaml").write_text(best, encoding="utf-8")


def _print(answer: Answer) -> None:
    from simulator.report import plan_grounds as grounds
    from simulator.report import plan_words as words

    echo(words.verdict(answer))
    if answer.best is None:
        echo(words.way_out(answer))
        return
    echo(words.interval(answer))
    echo(f"{words.ties(answer)} {words.relaxing(answer)}")
    for sentence in (grounds.checked(answer), grounds.proved(answer), grounds.sensitive(answer)):
        if sentence:
            echo(sentence)
    if answer.surest and answer.surest.number != answer.best.number:
        echo(f"The surest option: {words.machine(answer.surest)}, {words.surest(answer)}")
    if len(answer.firsts) > 1:
        _print_options("the best of each", answer, [o.number for o in answer.firsts])
    _print_options("best first; ≈: can't be told from the first", answer, [o.number for o in answer.listed])
    _print_options("Pareto front", answer, list(answer.front[:20]))


def _print_options(title: str, answer: Answer, wanted: list[int]) -> None:
    from simulator.cli.tables import new_table, print_table
    from simulator.planning.table import option
    from simulator.report import plan_words as words

    options = [option(answer.table, number, answer.axes) for number in wanted]
    keys = list(dict.fromkeys((*answer.objectives, *(limit.key for limit in answer.limits))))
    keys = [key for key in keys if key != "gpus"]
    table = new_table(title)
    for heading in ("cluster", "settings", *(words.FIGURES[key].label for key in keys)):
        table.add_column(heading, justify="left" if heading in ("cluster", "settings") else "right")
    scales = {key: words.scale_of(key, (o.figures[key].value for o in options)) for key in keys}
    for each in options:
        name = words.machine(each) if len(answer.models) == 1 else f"{each.model}, {words.machine(each)}"
        near = "≈ " if each.number in answer.tied else ""
        cells = [scales[key].text(each.figures[key].value) for key in keys]
        table.add_row(near + name, words.split(each.settings), *cells)
    print_table(table)


def what_if(
    file: Annotated[str, typer.Argument(metavar="RUN", help="A run file, or the name of a shipped run.")],
    set_: Set = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH=[VALUES]", help="Compare with each of these values instead; --set goes to both."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """What changes does to a run: the difference, kind of time by kind of time, with the interval of the difference.

    [bold]Examples[/bold]

    moesim what-if mixtral-8x7b-64xh100 --set hardware.network.bandwidth='800 Gb/s'

    moesim what-if mixtral-8x7b-64xh100 --vary parallelism.tp=[2,4,8]
    """
    from simulator.errors import SpecError
    from simulator.planning import what_if as ask

    source = shipped(file, "runs")
    if vary and len(vary) > 1:
        raise SpecError("vary one path at a time; moesim sweep makes grids")
    found = [ask.what_if(source, set_ or ())] if not vary else list(ask.what_ifs(source, set_ or (), vary[0]))
    if json:
        _print_json(found)
        return
    for each in found:
        _print_what_if(each, detailed=len(found) == 1)


def _print_what_if(found: WhatIf, *, detailed: bool) -> None:
    from simulator.cli.tables import new_table, print_table
    from simulator.report import numbers
    from simulator.report.metrics import METRICS

    change = ", ".join(f"{path}: {value}" for path, value in found.settings.items())
    table = new_table(f"{found.name} with {change}")
    for heading in ("", "before", "after", "difference", "90 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in found.figures:
        scale = METRICS[row.key].scale([row.before.value, row.after.value])
        one = METRICS[row.key].scale([row.difference.value]) if row.difference.value else scale
        table.add_row(
            METRICS[row.key].label,
            scale.text(row.before.value),
            scale.text(row.after.value),
            numbers.signed(one, row.difference.value),
            f"{numbers.signed(one, row.difference.low)} to {numbers.signed(one, row.difference.high)}",
        )
    if detailed:
        for term in (term for term in found.terms if term.change.value):
            scale = numbers.seconds([term.change.value])
            base = numbers.seconds([max(term.before, term.after)])
            table.add_row(
                f"  {term.label}",
                base.text(term.before),
                base.text(term.after),
                numbers.signed(scale, term.change.value),
                f"{numbers.signed(scale, term.change.low)} to {numbers.signed(scale, term.change.high)}",
            )
    print_table(table)
    if not found.shared:
        echo("Another device or precision: the errors of both runs are taken as independent.")


def _print_json(found: list[WhatIf]) -> None:
    import json
    from dataclasses import asdict, is_dataclass

    from pydantic import BaseModel

    def plain(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value.model_dump()
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)

    data = [asdict(each) for each in found]
    echo(json.dumps(data[0] if len(data) == 1 else data, indent=1, ensure_ascii=False, default=plain))
