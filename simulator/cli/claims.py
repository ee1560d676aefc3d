"""Published claims, checked, on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.cli.output import echo, progress_bar, refuse_file, write_folder

if TYPE_CHECKING:
    from simulator.verdicts import Judged


def claims(
    file: Annotated[
        Path | None, typer.Argument(metavar="[CLAIMS]", help="A claims file; without one, the shipped.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write report.html there.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON and nothing else.")] = False,
) -> None:
    """Judge what is claimed of mixtures of experts and of machines: each figure simulated now, against its source.

    [bold]Examples[/bold]

    moesim claims --out reports/claims

    moesim claims my-claims.yaml
    — claims of your own, in the form of workloads/claims.yaml
    """
    refuse_file(out)
    from simulator.planning.claims import judge
    from simulator.spec.base import data_root
    from simulator.spec.claims import read_claims

    path = file or data_root() / "workloads/claims.yaml"
    asked = read_claims(path)
    with progress_bar("claims") as advance:
        judged = judge(asked, path.parent, advance)
    if out is not None:
        from simulator.report.claims_page import render_claims

        html = render_claims(judged)
        with write_folder(out) as folder:
            (folder / "report.html").write_text(html, encoding="utf-8")
    if json:
        _print_json(judged)
        return
    _print(judged)
    if out is not None:
        echo(f"Wrote {out / 'report.html'}.")


def _print_json(judged: Judged) -> None:
    import json
    from dataclasses import asdict
    from math import isfinite

    data = asdict(judged)
    for verdict in data["verdicts"]:
        verdict["range"] = [end if isfinite(end) else None for end in verdict["range"]]
    echo(json.dumps(data, indent=1, ensure_ascii=False, default=lambda number: number.model_dump()))


def _print(judged: Judged) -> None:
    from simulator.cli.tables import new_table, print_table
    from simulator.report import claims_page as page

    table = new_table(judged.title)
    for heading in ("claim", "published", "computed, 90 % interval", "verdict"):
        table.add_column(heading)
    for each in judged.verdicts:
        shown = each.reason or page.found(each)
        table.add_row(each.id, page.published(each), shown, page.WORDS[each.judgement])
    print_table(table)
    echo(page.verdict(judged))
    if judged.untested:
        echo(f"{len(judged.untested)} more can't be tested; the report says why.")
