"""The summary of a validation: errors per metric, by group, and the rows that could not be replayed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rich.table import Table

from simulator.cli.output import echo
from simulator.cli.tables import new_table, print_table
from simulator.report.numbers import round_share
from simulator.validation.replay import Row, Score, Validation

# A few gross misses can have the same reason; beyond this many reasons the JSON file is the better place.
MOST_REASONS = 10


def print_validation(validation: Validation, name: str) -> None:
    """Per metric for quality A and for all rows; then the first metric by source, device and size; then refusals."""
    refused = validation.refused()
    echo(f"{name}: {len(validation.rows)} rows, {len(refused)} refused.")
    metrics = validation.metrics()
    if metrics:
        _print_scores(validation, metrics)
        for heading, key in groupings(validation).items():
            _print_groups(validation, metrics[0], heading, key)
    for reason, count in Counter(_kind_of_reason(row) for row in refused).most_common(MOST_REASONS):
        echo(f"  refused: {count} x {reason}")


def _print_scores(validation: Validation, metrics: Sequence[str]) -> None:
    best = [row for row in validation.rows if row.quality == "A"]
    table = _score_table("error of the prediction, %", "metric", "rows")
    for metric in metrics:
        for name, rows in (("A", best), ("all", validation.rows))[len(best) == len(validation.rows) :]:
            score = validation.score(metric, rows)
            if score is not None:
                table.add_row(metric, name, *_cells(score))
    print_table(table)


def _print_groups(validation: Validation, metric: str, heading: str, key: Callable[[Row], str]) -> None:
    table = _score_table(f"error of {metric} by {heading}, %", heading)
    for name, score in group_scores(validation, metric, validation.rows, key):
        table.add_row(name, *_cells(score))
    print_table(table)


def group_scores(
    validation: Validation, metric: str, rows: Iterable[Row], key: Callable[[Row], str]
) -> list[tuple[str, Score]]:
    """The errors of a metric in each group of the rows, in order of the groups' names, sizes from small to large."""
    measured = sorted((row for row in rows if metric in row.metrics), key=gpus_of)
    groups: dict[str, list[Row]] = {}
    for row in measured:
        groups.setdefault(key(row), []).append(row)
    names = list(groups) if key is GROUPINGS["GPUs"] else sorted(groups)
    scores = ((name, validation.score(metric, groups[name])) for name in names)
    return [(name, score) for name, score in scores if score is not None]


def _score_table(title: str, *headings: str) -> Table:
    table = new_table(title)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for heading in ("n", "macro MAPE", "MAPE", "median", "bias", "worst", "in 90 % interval"):
        table.add_column(heading, justify="right")
    return table


def _cells(score: Score) -> list[str]:
    errors = (
        f"{score.macro:.1f}",
        f"{score.mape:.1f}",
        f"{score.median:.1f}",
        f"{score.bias:+.1f}",
        f"{score.worst:+.1f}",
    )
    return [str(score.n), *errors, round_share(score.coverage / 100)]


def gpus_of(row: Row) -> int:
    """How many GPUs a replayed row ran on."""
    return int(float(row.facts["hardware.gpus"]))


def _size(row: Row) -> str:
    """The power of ten of the number of GPUs."""
    digits = len(str(gpus_of(row)))
    return f"{10 ** (digits - 1):,} to {10**digits - 1:,}"


GROUPINGS: dict[str, Callable[[Row], str]] = {
    "source": lambda row: row.group.split("/")[0],
    "device": lambda row: row.facts["hardware.device"],
    "GPUs": _size,
}


def groupings(validation: Validation) -> dict[str, Callable[[Row], str]]:
    """How the rows of a table are grouped: those of collectives by what they are as well."""
    if any(row.facts.get("kind") == "collective" for row in validation.rows):
        return {"collective": lambda row: row.facts.get("name", ""), **GROUPINGS}
    return GROUPINGS


def _kind_of_reason(row: Row) -> str:
    """The reason without the row's own name in front."""
    return row.reason.removeprefix(f"{row.id}: ")
