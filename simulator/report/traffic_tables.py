"""Network traffic: who sends how much to whom as labelled matrices, how full the links are, bytes by collective."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.report import numbers
from simulator.report.bars import Axis, BarChart, Group, Row, bar
from simulator.report.kinds import batch_unit, chip, work_unit
from simulator.report.tables import Cell, Table, table
from simulator.result import CollectiveUse, Communication, Link, Matrix, Result, Traffic

MOST_ROWS = 16
# Strongest fill of a cell, percent of the colour, that text in --ink still stands out from.
_STRONGEST = 50

_COLLECTIVES = {
    "all_to_all": "All-to-all",
    "all_reduce": "All-reduce",
    "all_gather": "All-gather",
    "reduce_scatter": "Reduce-scatter",
    "send_recv": "Send and receive",
}

_ALGORITHMS = {
    "ring": "ring",
    "tree": "double binary tree",
    "nvls": "in the switch (NVLS)",
    "hierarchical": "hierarchical",
    "pat": "trees of chunks (PAT)",
    "direct": "peer memory",
    "pairwise": "pairwise",
    "deepep": "DeepEP",
    "deepep_ll": "DeepEP, low latency",
    "two_sided": "two-sided NVLink",
    "send": "send",
}


@dataclass(frozen=True)
class MatrixCell:
    """`fill` is the percentage of the colour; `text` is empty where nothing is sent."""

    text: str
    fill: int
    own: bool


@dataclass(frozen=True)
class MatrixTable:
    """A from-to matrix; `load` is what each column receives against the mean, empty where nothing is sent."""

    title: str
    caption: str
    color: str
    labels: tuple[str, ...]
    rows: tuple[tuple[str, tuple[MatrixCell, ...]], ...]
    load: tuple[str, ...]
    min_width: int


def matrices(result: Result, traffic: Traffic) -> list[MatrixTable]:
    """The matrices that carry any bytes."""
    unit = work_unit(result)
    found = (
        ("Inside a node", f"from {chip(result)} (row) to {chip(result)} (column)", "a2a", traffic.in_node),
        ("Between nodes", "from node (row) to node (column)", "comm", traffic.between_nodes),
    )
    return [
        _matrix(title, f"per {unit}, {direction}", color, matrix)
        for title, direction, color, matrix in found
        if any(value > 0 for row in matrix.bytes for value in row)
    ]


def links_chart(links: list[Link]) -> BarChart | None:
    """How full each kind of link is: mean over the step as a bar, while it carries traffic as a dot."""
    used = [link for link in links if link.bytes > 0]
    if not used:
        return None
    scale = numbers.percent([])
    axis = Axis.covering([1.0, *(_while_busy(link) for link in used), *(link.utilisation for link in used)], scale)
    rows = []
    for link in used:
        busy = _while_busy(link)
        rows.append(
            Row(
                label=link.name,
                note=f"{_rate(link)} per direction",
                value=f"{numbers.share(link.utilisation)} mean",
                value_below=f"{numbers.round_share(busy)} while busy",
                segments=(bar(axis, 0, link.utilisation, color="comm"),),
                dot=axis.at(busy),
                dot_color="comm",
            )
        )
    return BarChart(axis, (Group(tuple(rows)),), tall=True)


def collectives_table(communication: Communication) -> Table:
    """Time of each collective in one step: all of it, the part that costs time, the part that hides."""
    rows: list[list[str | Cell]] = []
    exposures = [(name, getattr(communication, key)) for key, name in _COLLECTIVES.items()]
    scale = numbers.seconds([e.total.value for _, e in exposures])
    for name, exposure in exposures:
        total, exposed = exposure.total.value, exposure.exposed.value
        rows.append(
            [
                name,
                *(scale.text(v) for v in (total, exposed, max(0.0, total - exposed))),
                scale.interval(exposure.exposed),
            ]
        )
    columns = "Collective | >Total | >Exposed | >Hidden | >Exposed, 90 % interval"
    return table("time by collective", columns, rows, min_width=520)


def algorithms_table(uses: list[CollectiveUse]) -> Table:
    """How each collective is done: among whom, by which algorithm, and what a call takes if alone."""
    time = numbers.seconds([use.seconds for use in uses])
    rows: list[list[str | Cell]] = [
        [
            use.item,
            _COLLECTIVES[use.kind],
            _ALGORITHMS[use.algorithm],
            f"{use.ranks:,}",
            f"{use.domains:,}",
            numbers.bytes_([use.bytes]).text(use.bytes),
            f"{use.calls:,.0f}",
            time.text(use.seconds),
        ]
        for use in uses
    ]
    columns = "For | Collective | Algorithm | >Ranks | >Domains | >Size | >Calls | >Time of one"
    return table("collectives and their algorithms", columns, rows, min_width=760)


def traffic_finding(result: Result) -> str:
    """What is sent, and how full the fullest link is."""
    if result.summary.gpus == 1:
        return f"One {chip(result)}: nothing crosses a link."
    sent = result.all_to_all_bytes_per_gpu
    if sent is None or sent.value == 0:
        lead = "No all-to-all in this run"
    else:
        amount = numbers.bytes_([sent.value]).text(sent.value)
        lead = f"All-to-all sends {amount} per {chip(result)} and {batch_unit(result)}"
    links = [link for link in (result.traffic.links if result.traffic else []) if link.bytes > 0]
    if not links:
        return f"{lead}; no link carries traffic." if result.traffic else f"{lead}."
    fullest = max(links, key=lambda link: (link.utilisation, link.name))
    return f"{lead}. The fullest link, {fullest.name}, is {numbers.share(fullest.utilisation)} full on average."


def _while_busy(link: Link) -> float:
    return link.bytes / link.busy_s / link.bandwidth_bytes_per_s if link.busy_s else 0.0


def _rate(link: Link) -> str:
    return numbers.si([link.bandwidth_bytes_per_s], "B/s", smallest=0).text(link.bandwidth_bytes_per_s)


def _matrix(title: str, caption: str, color: str, matrix: Matrix) -> MatrixTable:
    labels, cells = _folded(Matrix(labels=_numbers(matrix.labels), bytes=matrix.bytes))
    largest = max(value for row in cells for value in row)
    scale = numbers.bytes_([largest])
    mean = sum(map(sum, cells)) / len(cells)
    received = [sum(row[i] for row in cells) for i in range(len(cells))]
    rows = []
    for i, row in enumerate(cells):
        written = tuple(
            MatrixCell(_short(value / scale.divisor) if value > 0 else "", round(_STRONGEST * value / largest), i == j)
            for j, value in enumerate(row)
        )
        rows.append((labels[i], written))
    folded = "; neighbours are summed" if len(labels) < len(matrix.labels) else ""
    return MatrixTable(
        title=title,
        caption=f"{scale.unit} {caption}{folded}",
        color=color,
        labels=tuple(labels),
        rows=tuple(rows),
        load=tuple(f"{value / mean:.2f}" for value in received) if mean else (),
        min_width=_column_px(labels) * (len(labels) + 1),
    )


def _column_px(labels: list[str]) -> int:
    """What a column needs for its label at 12 px, or for a cell of four characters."""
    return max(40, round(7.2 * max(map(len, labels))) + 2)


def _numbers(labels: list[str]) -> list[str]:
    """Labels such as 'GPU 3' without the word they share: the caption says what they are."""
    words = {label.rpartition(" ")[0] for label in labels}
    return [label.rpartition(" ")[2] for label in labels] if len(words) == 1 else labels


def _folded(matrix: Matrix) -> tuple[list[str], list[list[float]]]:
    """At most 16 rows: neighbours summed in groups of equal size where there are more."""
    count = len(matrix.labels)
    size = -(-count // MOST_ROWS)
    if size == 1:
        return matrix.labels, matrix.bytes
    starts = range(0, count, size)
    labels = [f"{matrix.labels[s]}{numbers.DASH}{matrix.labels[min(s + size, count) - 1]}" for s in starts]
    cells = [[sum(sum(row[b : b + size]) for row in matrix.bytes[a : a + size]) for b in starts] for a in starts]
    return labels, cells


def _short(value: float) -> str:
    """At most four characters, so that cells stay small."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 0.05 else "<0.1"
