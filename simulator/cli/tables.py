"""Results, sweeps and catalogs as terminal tables. Only display: every figure is a Result's or a record's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulator.cli.output import echo, plain
from simulator.report import numbers, sweep_data
from simulator.report.metrics import METRICS, label, time_metric
from simulator.report.numbers import Scale
from simulator.report.serving_section import figures_table, latency_table
from simulator.report.tables import Table as ReportTable
from simulator.result import Number, Result

if TYPE_CHECKING:
    import pandas

Scaling = Callable[[Iterable[float]], Scale]
_MOST_REASONS = 5
# What a sweep's table shows of its points, the first one in the frame first: it ranks them.
_SWEEP_METRICS = ("step_time_s", "tpot_s", "ttft_s", "output_tokens_per_s", "mfu", "peak_memory_gib", "cost_usd")

# Parts shown under a metric: key of the result -> label.
_PARTS: dict[str, dict[str, str]] = {
    "peak_memory_gib": {
        "memory_gib.parameters": "parameters",
        "memory_gib.gradients": "gradients",
        "memory_gib.optimizer_states": "optimizer states",
        "memory_gib.activations": "activations",
        "memory_gib.kv_cache": "KV cache",
        "memory_gib.buffers": "buffers",
        "memory_gib.framework": "framework",
    },
    "step_time_s": {
        "communication_s.all_to_all.exposed": "exposed all-to-all",
        "communication_s.all_reduce.exposed": "exposed all-reduce",
        "communication_s.all_gather.exposed": "exposed all-gather",
        "communication_s.reduce_scatter.exposed": "exposed reduce-scatter",
        "communication_s.send_recv.exposed": "exposed send and receive",
    },
}


def _figures(results: Sequence[Result]) -> Iterator[tuple[str, Scaling, list[Number | None]]]:
    """(label, scaling, one number a result) of every metric that one of them has, parts that are not zero included."""
    found = [result.numbers() for result in results]
    for key, metric in METRICS.items():
        row = [numbers_.get(key) for numbers_ in found]
        if any(row):
            yield label(metric, results[0]), metric.scale, row
        for part, words in _PARTS.get(key, {}).items():
            row = [numbers_.get(part) for numbers_ in found]
            if any(number is not None and number.value for number in row):
                yield f"  {words}", metric.scale, row


def print_result(result: Result) -> None:
    """The summary of one run: value, 90 % interval and basis of every figure that is not zero."""
    summary = result.summary
    counts = numbers.in_words(summary.parameters), numbers.in_words(summary.active_parameters)
    table = new_table(f"{result.name}: {result.kind} of {summary.model} on {summary.gpus:,} x {summary.device}")
    for heading in ("", "value", "90 % interval", "basis"):
        table.add_column(heading, justify="left" if heading in ("", "basis") else "right", no_wrap=heading != "")
    for words, scaling, (number,) in _figures([result]):
        if number is not None:
            scale = scaling([number.value])
            table.add_row(words, scale.text(number.value), scale.interval(number), number.basis)
    print_table(table)
    if result.serving is not None:
        print_table(_rich(latency_table(result.serving), "what requests see"))
        print_table(_rich(figures_table(result.serving), None))
    lines = [
        f"{counts[0]} parameters, {counts[1]} active per token; network {summary.network}",
        f"{numbers.significant(summary.allocatable_gib)} GiB of each GPU can be allocated",
        f"engine: {result.provenance.engine}; {result.provenance.certificate}",
        *summary.notes,
    ]
    for line in [*lines, *_advice(result)]:
        echo(line)


def _rich(shown: ReportTable, title: str | None) -> Table:
    """A table of the report for a terminal."""
    table = new_table(title)
    for column in shown.columns:
        table.add_column(column.title, justify="right" if column.numeric else "left", no_wrap=True)
    for row in shown.rows:
        table.add_row(*(cell.text for cell in row))
    return table


def _advice(result: Result, *, most: int = 3) -> list[str]:
    """The changes of the run file that save most time, those that can be."""
    step = METRICS[time_metric(result)]
    helpful = [
        lever for lever in result.levers if lever.kind == "run" and lever.feasible and lever.step_time_s.value < 0
    ]
    lines = []
    for lever in sorted(helpful, key=lambda lever: lever.step_time_s.value)[:most]:
        saved = numbers.signed(step.scale([lever.step_time_s.value]), lever.step_time_s.value)
        setting = quote(f"{lever.path}={lever.change}")
        lines.append(f"  --set {setting}: {step.label.lower()} {saved}")
    return ["Would help:", *lines] if lines else []


def print_comparison(results: Sequence[Result]) -> None:
    """Results side by side, each with its half interval, one scale in a row."""
    table = new_table("comparison")
    table.add_column("", no_wrap=True)
    for result in results:
        table.add_column(_cell(result.name), justify="right")
    for words, scaling, row in _figures(results):
        scale = scaling([number.value for number in row if number is not None])
        table.add_row(words, *("" if number is None else _with_interval(number, scale) for number in row))
    print_table(table)


def _with_interval(number: Number, scale: Scale) -> str:
    if number.low == number.high or number.value == 0:
        return scale.text(number.value)
    return f"{scale.text(number.value)} {numbers.plus_minus(number)}"


def print_sweep(frame: pandas.DataFrame, *, most: int = 20) -> None:
    """The best points of a sweep by its first metric, then how many there are and why others can't be."""
    data = sweep_data.read(frame)
    shown = [metric for key in _SWEEP_METRICS for metric in data.metrics if metric.key == key]
    if shown:
        best = sweep_data.ranked(data.points, shown[0])[:most]
        table = new_table(f"best {len(best)} of {data.total:,} points")
        for axis in _short(data.axes):
            table.add_column(_cell(axis), no_wrap=True)
        for metric in shown:
            table.add_column(metric.label, justify="right")
        values = {m.key: [p.figures[m.key].value for p in best if m.key in p.figures] for m in shown}
        scales = {metric.key: metric.scale(values[metric.key]) for metric in shown}
        for point in best:
            figures = (scales[m.key].text(point.figures[m.key].value) if m.key in point.figures else "" for m in shown)
            table.add_row(*(_cell(setting) for setting in point.settings), *figures)
        print_table(table)
    echo(f"{len(data.points):,} points simulated, {data.total - len(data.points):,} can't be.")
    for group in data.refusals[:_MOST_REASONS]:
        echo(f"  {group.count:,} like: {group.reason}")


def _short(paths: Sequence[str]) -> list[str]:
    """The last word of each path, or the whole where two end alike."""
    last = [path.rpartition(".")[2] for path in paths]
    return [word if last.count(word) == 1 else path for word, path in zip(last, paths, strict=True)]


# Key endings of catalog entries -> what a label says instead, and the scale.
_UNITS: tuple[tuple[str, str, Scaling], ...] = (
    ("_flops_per_s", "", lambda v: numbers.si(v, "FLOP/s")),
    ("_flops_per_token", " FLOPs per token", lambda v: numbers.si(v, "FLOP")),
    ("_bytes_per_s", "", lambda v: numbers.si(v, "B/s")),
    ("_bytes", "", numbers.bytes_),
    ("_j_per_bit", "", lambda v: numbers.si(v, "J/b")),
    ("_w", "", lambda v: numbers.si(v, "W", smallest=0, largest=0)),
    ("_s", "", numbers.seconds),
)


def print_catalog(entries: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """One row an entry; `columns` maps the keys shown to their headings."""
    table = new_table(None)
    texts = {key: _column(key, [entry.get(key) for entry in entries]) for key in columns}
    for key, heading in columns.items():
        number = any(isinstance(entry.get(key), int | float) for entry in entries)
        table.add_column(heading, justify="right" if number else "left", no_wrap=number or key == "name")
    for row in zip(*texts.values(), strict=True):
        table.add_row(*(_cell(text) for text in row))
    print_table(table)


def print_entry(entry: Mapping[str, Any], text: str) -> None:
    """Every figure of one entry, then the file it comes from as it stands."""
    table = new_table(None)
    table.add_column("", no_wrap=True)
    table.add_column(_cell(str(entry["name"])), justify="right")
    for key, value in entry.items():
        if key != "name" and value is not None:
            table.add_row(_label(key), _cell(_column(key, [value], exact=True)[0]))
    print_table(table)
    echo(text.rstrip())


def _label(key: str) -> str:
    """The key as words, without the unit that its value shows."""
    for ending, words, _ in _UNITS:
        if key.endswith(ending):
            return key.removesuffix(ending).replace("_", " ") + words
    return key.replace("_", " ")


def _column(key: str, values: Sequence[Any], *, exact: bool = False) -> list[str]:
    """The texts of one column, figures in one prefix where it has a unit."""
    figures = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    scale = next((scaling(figures) for ending, _, scaling in _UNITS if key.endswith(ending)), None)
    if scale is None and key.endswith("parameters") and not exact:
        scale = Scale(1e9, f"{numbers.NBSP}B")

    def text(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return str(value)
        if scale is not None:
            return scale.text(value)
        return f"{value:,}" if isinstance(value, int) else numbers.significant(value)

    return [text(value) for value in values]


def new_table(title: str | None) -> Table:
    """A table without columns, set as narrow as reads well."""
    title_ = _cell(title) if title else None
    return Table(
        title=title_, box=SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )


def _cell(text: str) -> Text:
    """Text as it stands: no markup read into it, nothing that steers the terminal."""
    return Text(plain(text))


def print_table(table: Table) -> None:
    """The table as wide as the terminal; where there is none, wide enough that nothing is cut."""
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
