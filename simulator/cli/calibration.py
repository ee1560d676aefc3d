"""The commands that measure: `calibrate` fits a profile, `verify` holds real models against it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulator.cli.output import echo, progress_bar, write_text
from simulator.errors import SpecError


def calibrate(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the profile; a killed run goes on there.")],
    device: Annotated[
        str | None, typer.Option(help="Measure on cpu or cuda:0; with --from, a device of the catalog.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="SOURCE", help="Fit `silicon`, a table or nccl-tests' text instead.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time to measure for.")] = 5.0,
    like: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="DEVICE",
            help="Device of the catalog, or file of one, that is measured; GPUs are recognised.",
        ),
    ] = None,
) -> None:
    """Measure this machine, or import measurements, and fit a profile with error bars.

    [bold]Examples[/bold]

    moesim calibrate --device cuda:0 --minutes 30 --out profiles/mine
    — measure this GPU: a profile for runs, prices for verify, a table and a page; after Ctrl-C the same command goes on

    moesim calibrate --from silicon --device h100-sxm --out reports/h100
    — fit the published database (needs the extra `silicon`)
    """
    if source is not None:
        _import(source, device, out)
    elif device is not None:
        _measure(device, out, minutes, like)
    else:
        raise SpecError("say --device cpu or cuda:0 to measure, or --from SOURCE to import")


def _measure(device: str, out: Path, minutes: float, like: str | None) -> None:
    from simulator.calibration.session import calibrate as measure
    from simulator.report.calibration_page import render_calibration

    try:
        with progress_bar("measuring") as advance:
            report = measure(
                device, out, minutes=minutes, like=like, progress=lambda done, total, _: advance(int(done), int(total))
            )
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. What was measured is in {out / 'journal.jsonl'}; the same command goes on.", err=True)
        raise
    write_text(out / "report.html", render_calibration(report.page()))
    echo(report.summary())
    echo(f"Wrote {out / 'prices.yaml'}, measured.csv and report.html.")
    if report.profile_file is None:
        echo("No profile for runs: say with --as which device this is.")
    else:
        echo(f"A run takes this machine's times with `profile: {report.profile_file}`.")


def _import(source: str, device: str | None, out: Path) -> None:
    from simulator.calibration.calibration import calibrate_from
    from simulator.calibration.report_data import imported
    from simulator.report.calibration_page import render_calibration

    with progress_bar("series") as advance:
        report = calibrate_from(source, device, out, lambda done, total, _: advance(done, total))
    write_text(out / "report.html", render_calibration(imported(report)))
    echo(report.summary())
    for file in (*report.written, out / "report.html"):
        echo(f"Wrote {file}.")


def verify(
    profile: Annotated[Path, typer.Option(metavar="FILE", help="The prices.yaml that `calibrate` wrote.")],
    device: Annotated[str, typer.Option(help="cpu or cuda:0.")] = "cpu",
    minutes: Annotated[float, typer.Option(help="Time to measure for.")] = 4.0,
    seed: Annotated[int, typer.Option(help="Chooses the models that were not looked at before.")] = 0,
) -> None:
    """Run small real models (dense, MoE, PEER, decode; forward and training) and compare them with their simulation.

    [bold]Example[/bold]

    moesim verify --device cpu --profile reports/calibration/prices.yaml
    """
    from simulator.calibration.verify import verify as measure

    with progress_bar("measuring models") as advance:
        report = measure(
            device, profile, lambda done, total, _: advance(int(done), int(total)), minutes=minutes, seed=seed
        )
    echo(report.summary())
