"""The command line: parses, calls one function, prints. Results go to stdout, messages to stderr.

Exit codes: 0 done; 2 the input is wrong; 3 the run is infeasible; 1 anything else; 130 interrupted.
Everything heavy is imported inside the command that needs it, so that help and refusals come at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from simulator import __version__
from simulator.cli.calibration import calibrate, verify
from simulator.cli.catalog import devices, models, networks, schema
from simulator.cli.claims import claims
from simulator.cli.growth import grow
from simulator.cli.output import echo, progress_bar, refuse_file, shipped, write_folder, write_text
from simulator.cli.plan import Scheduler, plan, what_if
from simulator.errors import InfeasibleError, SimulatorError, SpecError

app = typer.Typer(
    name="moesim",
    help="Time, memory, energy and money of dense and Mixture-of-Experts transformers, with error bars.",
    epilog="Start with: moesim run mixtral-8x7b-64xh100 --out reports/mixtral. Each command's --help has examples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one field, by its dotted path. May be given many times."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]


def _version(wanted: bool) -> None:
    if wanted:
        echo(f"moesim {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Time, memory, energy and money of dense and Mixture-of-Experts transformers, with error bars."""


@app.command()
def run(
    file: Annotated[str, typer.Argument(metavar="RUN", help="A run file, or the name of a shipped run.")],
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the report and its data there.")] = None,
    engine: Annotated[
        Literal["fast", "events", "auto"],
        typer.Option(help="Who times a training step: longest paths, events with shared links, or either as needed."),
    ] = "fast",
    beside: Annotated[
        str | None, typer.Option(metavar="RUN", help="Another training run, whose nodes share the leaf switches.")
    ] = None,
    json: Json = False,
) -> None:
    """Simulate one run: step time, throughput, MFU, memory, energy, money, each with its 90 % interval.

    [bold]Examples[/bold]

    moesim run mixtral-8x7b-64xh100
    — a shipped run, summary on the terminal

    moesim run my.yaml --set parallelism.tp=4 --set hardware.gpus=128
    — the same run, changed

    moesim run my.yaml --out reports/mine
    — also report.html, result.json and trace.json.gz (for Perfetto) in that folder

    moesim run my.yaml --engine events
    — the same step with transfers that share links

    moesim run my.yaml --beside theirs.yaml
    — the same with another job on the fabric, and what each makes of the other

    moesim run my.yaml --json
    — the whole result for a script
    """
    refuse_file(out)
    from simulator.spec.run import read_run

    spec = read_run(shipped(file, "runs"), set_ or ())
    from simulator.explanation.explain import explain

    if beside is None:
        from simulator.simulation import simulate

        result = explain(spec, simulate(spec, engine=engine))
    else:
        from simulator.neighbours import simulate_beside

        result = explain(spec, simulate_beside(spec, read_run(shipped(beside, "runs"))))
    if out is not None:
        from simulator.report.page import render_run
        from simulator.report.trace import write_trace

        html = render_run(result)
        with write_folder(out) as folder:
            result.write(folder / "result.json")
            (folder / "report.html").write_text(html, encoding="utf-8")
            write_trace(result, folder / "trace.json.gz")
    if json:
        echo(result.model_dump_json(indent=1))
        return
    from simulator.cli.tables import print_result

    print_result(result)
    if result.beside is not None:
        from simulator.report.links_chart import beside_sentence

        echo(beside_sentence(result.beside))
    if out is not None:
        echo(f"Wrote {out / 'report.html'}, result.json and trace.json.gz.")


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a shipped sweep.")],
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write sweep.csv and report.html there.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes to use.")] = 1,
    scheduler: Scheduler = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep that was begun in --out.")] = False,
) -> None:
    """Simulate every point of a grid and rank them. A point that can't be is a row with its reason.

    [bold]Examples[/bold]

    moesim sweep my-sweep.yaml --workers 2

    moesim sweep my-sweep.yaml --out reports/my-sweep
    — also the table as CSV and a page with the Pareto front

    moesim sweep my-sweep.yaml --out reports/my-sweep --scheduler tcp://head:8786
    — on a Dask cluster; --resume goes on after an interruption
    """
    refuse_file(out)
    from simulator.shards.store import open_store
    from simulator.sweeps import Workers, evaluate, read_sweep

    if resume and out is None:
        raise typer.BadParameter("--resume needs --out, where the sweep was begun")
    plan = read_sweep(shipped(file, "sweeps"), set_ or ())
    store = None if out is None else open_store(out, {"plan": plan.model_dump(mode="json")}, resume=resume)
    with progress_bar("points") as advance:
        frame = evaluate(plan, workers=Workers(workers, scheduler), store=store, progress=advance)
    if out is not None:
        from simulator.report.sweep_page import render_sweep

        html = render_sweep(frame, title=plan.name)
        with write_folder(out) as folder:
            frame.to_csv(folder / "sweep.csv", index=False)
            (folder / "report.html").write_text(html, encoding="utf-8")
    from simulator.cli.tables import print_sweep

    print_sweep(frame)
    if out is not None:
        echo(f"Wrote {out / 'report.html'}, sweep.csv and points/*.parquet.")


@app.command()
def compare(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT.json...", help="What `run --out` wrote.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write the comparison as a page.")] = None,
) -> None:
    """Put results side by side.

    [bold]Example[/bold]

    moesim compare a/result.json b/result.json --out comparison.html
    """
    from simulator.cli.tables import print_comparison
    from simulator.result import Result

    loaded = [Result.read(path) for path in results]
    if out is not None:
        from simulator.report.compare_page import render_compare

        write_text(out, render_compare(loaded))
    print_comparison(loaded)
    if out is not None:
        echo(f"Wrote {out}.")


@app.command()
def validate(
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="A CSV of published runs, or the name of a shipped one.")
    ],
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Only these rows. May be given many times.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every row's prediction there.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the errors and every row as a page.")] = None,
) -> None:
    """Replay published runs and print the error, overall and by group. No row is dropped silently.

    Columns are dotted paths of a run; those called measured.* are what was published.

    [bold]Examples[/bold]

    moesim validate training

    moesim validate training --html validation.html
    — also a page with every row, and what its predicted time is made of

    moesim validate my-runs.csv --where quality=A --where hardware.device=h100-sxm --json errors.json
    """
    from simulator.validation.replay import validate_table

    chosen = [_equation(text) for text in where or ()]
    with progress_bar("rows") as advance:
        validation = validate_table(shipped(table, "validation", ".csv"), where=chosen, progress=advance)
    if json is not None:
        write_text(json, validation.to_json())
    if html is not None:
        from simulator.cli.validation_page import validation_record
        from simulator.report.validation_page import render_validation

        write_text(html, render_validation(validation_record(validation, table)))
    from simulator.cli.validation import print_validation

    print_validation(validation, table)
    for file in (json, html):
        if file is not None:
            echo(f"Wrote {file}.")


def _equation(text: str) -> tuple[str, str]:
    """The two sides of COLUMN=VALUE."""
    column, equals, value = text.partition("=")
    if not equals:
        raise SpecError(f"'{text}' is not of the form column=value, such as quality=A")
    return column, value


app.command()(calibrate)
app.command()(verify)
app.command()(plan)
app.command("what-if")(what_if)
app.command()(grow)
app.command()(claims)
app.command()(models)
app.command()(devices)
app.command()(networks)
app.command()(schema)


def main() -> None:
    """Run the command line and exit with its code; a user's mistake prints one message and no traceback."""
    try:
        app(prog_name="moesim")
    except SpecError as error:
        _fail(str(error), 2)
    except InfeasibleError as error:
        _fail("\n".join([str(error), *_parts(error)]), 3)
    except SimulatorError as error:
        _fail(str(error), 1)


def _parts(error: InfeasibleError) -> list[str]:
    """What the need is made of, one line a part, in the unit of the message."""
    from simulator.report.numbers import significant

    return [f"  {name.replace('_', ' ')}: {significant(amount)}" for name, amount in error.breakdown.items()]


def _fail(message: str, code: Literal[1, 2, 3]) -> None:
    echo(f"error: {message}", err=True)
    sys.exit(code)
