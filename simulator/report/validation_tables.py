"""The tables of a validation: errors of each metric and by group, rows one by one, and those that were refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.report import numbers
from simulator.report.metrics import METRICS, Metric
from simulator.report.tables import Cell, Column, Table, table
from simulator.report.validation_data import ALL, ReplayedRow, Score, ValidationRecord

ROWS = {ALL: "all rows", "A": "quality A"}
_SCORES = " | >Rows | >Macro mean | >Mean | >Median | >Bias | >Worst | >Inside 90 %"


@dataclass(frozen=True)
class ListedRow:
    """A row that opens: its place in the page's data, its quality, and the cells after its name."""

    index: int
    id: str
    quality: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """Rows one by one, under columns of which the first holds their names."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[ListedRow, ...]

    @property
    def first_width(self) -> int:
        """Width in px at which the longest name takes about three lines, within limits."""
        return min(230, max(90, 3 * max((len(row.id) for row in self.rows), default=0)))


def metric_of(key: str) -> Metric:
    """How a metric is called and written; one that no report knows goes by its key."""
    return METRICS.get(key, Metric(key, key, numbers.ratios))


def count(text: str) -> str:
    """A number of things as a table's cell gives it: 1,024."""
    return f"{int(text):,}" if text.isascii() and text.isdigit() else text


def percent(value: float) -> str:
    """An error given in percent: 6.4 %."""
    return numbers.share(value / 100)


def signed_percent(value: float) -> str:
    return numbers.signed_share(value / 100)


def scores_table(record: ValidationRecord) -> Table:
    """The errors of every metric, over the rows of the best quality and over all."""
    rows: list[list[str | Cell]] = [
        [metric_of(metric).label, ROWS[errors.rows], *_cells(errors.total)]
        for metric in record.metrics()
        for errors in reversed(record.of(metric))
    ]
    return table("errors of each metric", "Metric | Of" + _SCORES, rows, min_width=760)


def group_table(heading: str, groups: Sequence[tuple[str, Score]], about: str) -> Table:
    """The errors of one metric by group."""
    rows: list[list[str | Cell]] = [[name or "not stated", *_cells(score)] for name, score in groups]
    return table(f"error of {about} by {heading}", numbers.sentence(heading) + _SCORES, rows, min_width=640)


def _cells(score: Score) -> list[str | Cell]:
    means = (percent(score.macro), percent(score.mape), percent(score.median))
    inside = numbers.round_share(score.coverage / 100)
    return [f"{score.n:,}", *means, signed_percent(score.bias), signed_percent(score.worst), inside]


def listing(rows: Sequence[tuple[int, ReplayedRow]], metric: Metric, name: str) -> Listing:
    """Rows with what was measured and predicted in a metric; units stand in the headings."""
    scale = metric.scale([row.metrics[metric.key].measured for _, row in rows])
    unit = f", {scale.unit}" if scale.unit else ""
    figures = (">Error", f">Predicted{unit}", f">Measured{unit}", "Inside")
    words = ("Model", "Device", ">GPUs", "Framework", "Precision", "Kind", "Quality")
    listed = []
    for index, row in rows:
        compared = row.metrics[metric.key]
        cells = (
            numbers.signed_share(compared.error),
            scale.bare(compared.predicted),
            scale.bare(compared.measured),
            "yes" if compared.covered else "no",
            *(row.name, row.device, count(row.gpus), row.framework, row.precision, row.arch, row.quality),
        )
        listed.append(ListedRow(index, row.id, row.quality, cells))
    return Listing(name, table("", " | ".join(("Run", *figures, *words)), []).columns, tuple(listed))


def refusals_table(rows: Sequence[ReplayedRow]) -> Table:
    """Rows without a prediction, each with its reason."""
    cells: list[list[str | Cell]] = [
        [Cell(row.id, code=True), row.reason.removeprefix(f"{row.id}: "), row.source] for row in rows
    ]
    return table("refused rows", "Run | Reason | Source", cells, min_width=640)
