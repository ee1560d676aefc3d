"""Several results side by side: figures, where the time goes, memory, and the settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulator.report import numbers
from simulator.report.bars import Axis, BarChart, Group, Row, Segment, bar, whisker
from simulator.report.kinds import COLORS, KIND_NAMES, MEMORY_NAMES, memory_colors, seconds_by_color, total_seconds
from simulator.report.memory_chart import memory_parts
from simulator.report.metrics import METRICS, label, time_metric
from simulator.report.sources_tables import flatten, mean_error
from simulator.report.tables import Cell, Table, table
from simulator.result import BreakdownItem, Number, Result


@dataclass(frozen=True)
class Named:
    """A result with the name it goes by on this page, which no other result has."""

    name: str
    result: Result


def named(results: Sequence[Result]) -> list[Named]:
    """The results with their own names, numbered where two share one."""
    names = [result.name for result in results]
    seen: dict[str, int] = {}
    out = []
    for name, result in zip(names, results, strict=True):
        seen[name] = seen.get(name, 0) + 1
        out.append(Named(f"{name} ({seen[name]})" if names.count(name) > 1 else name, result))
    return out


def same_tokens(runs: Sequence[Named]) -> bool:
    """Whether the runs do the same amount of work, so that their days and costs can be compared."""
    return len({run.result.summary.tokens for run in runs}) == 1


def difference(a: Number, b: Number) -> Number:
    """`a` less `b` with errors taken as independent: half-widths add in squares."""
    value = a.value - b.value
    down = ((a.value - a.low) ** 2 + (b.high - b.value) ** 2) ** 0.5
    up = ((a.high - a.value) ** 2 + (b.value - b.low) ** 2) ** 0.5
    return Number(value=value, low=value - down, high=value + up, basis=a.basis)


def figures_table(runs: list[Named]) -> Table:
    """Every metric that one of the results has, with its interval below it."""
    found = [run.result.numbers() for run in runs]
    rows: list[list[str | Cell]] = []
    for key, metric in METRICS.items():
        row = [numbers_.get(key) for numbers_ in found]
        shown = [number for number in row if number is not None]
        if not shown or not any(number.value for number in shown):
            continue
        scale = metric.scale([number.value for number in shown])
        cells = [_figure(number, scale) for number in row]
        first = next(run for run, number in zip(runs, row, strict=True) if number is not None)
        rows.append([label(metric, first.result) if same_tokens(runs) else metric.label, *cells])
    return table("figures", _columns("Figure", runs), rows, min_width=220 + 170 * len(runs))


def _figure(number: Number | None, scale: numbers.Scale) -> str | Cell:
    if number is None:
        return numbers.DASH
    return Cell(scale.text(number.value), note=scale.interval(number))


def time_chart(runs: list[Named]) -> BarChart | None:
    """One stacked bar a run, all on one scale of seconds."""
    shown = [run for run in runs if run.result.breakdown]
    if not shown:
        return None
    scale = numbers.seconds([max(total_seconds(run.result) for run in shown)])
    axis = Axis.covering([total_seconds(run.result) for run in shown], scale)
    rows = []
    for run in shown:
        parts: dict[str, tuple[str, float]] = {
            color: (KIND_NAMES[color], size) for color, size in seconds_by_color(run.result.breakdown).items()
        }
        total = total_seconds(run.result)
        rows.append(Row(run.name, numbers.seconds([total]).text(total), segments=_stacked(axis, parts, scale)))
    return BarChart(axis, (Group(tuple(rows)),), tall=True)


def time_table(runs: list[Named]) -> Table | None:
    """Seconds of each kind, a column a run, with swatches that are the key of the chart."""
    shown = [run for run in runs if run.result.breakdown]
    spent = [seconds_by_color(run.result.breakdown) for run in shown]
    scale = numbers.seconds(size for parts in spent for size in parts.values())
    rows: list[list[str | Cell]] = [
        [Cell(KIND_NAMES[color], swatch=color), *(scale.text(parts.get(color, 0.0)) for parts in spent)]
        for color in COLORS
        if any(color in parts for parts in spent)
    ]
    total: list[str | Cell] = ["Total", *(scale.text(sum(parts.values())) for parts in spent)]
    columns = _columns("Kind of time", shown)
    return table("time by kind", columns, rows, total=total, min_width=200 + 120 * len(shown)) if shown else None


def changes_chart(first: Named, second: Named) -> BarChart:
    """The second run less the first, by kind of time; left of zero is faster."""
    kinds = [c for c in COLORS if any(i.color == c for r in (first, second) for i in r.result.breakdown)]
    parts = {c: difference(_kind(second.result.breakdown, c), _kind(first.result.breakdown, c)) for c in kinds}
    key = time_metric(first.result)
    before, after = (run.result.numbers().get(key, _kind(run.result.breakdown, None)) for run in (first, second))
    total = difference(after, before)
    everything = [*parts.values(), total]
    scale = numbers.seconds([max(abs(end) for n in everything for end in (n.low, n.high))])
    axis = Axis.covering((end for n in everything for end in (n.low, n.high)), scale, signed=True)
    rows = [
        Row(
            KIND_NAMES[color],
            numbers.signed(scale, number.value),
            segments=(bar(axis, 0, number.value, color=color),) if number.value else (),
            whisker=whisker(axis, number),
            interval=_signed_range(scale, number),
        )
        for color, number in parts.items()
    ]
    rows.append(
        Row(
            "Total",
            numbers.signed(scale, total.value),
            whisker=whisker(axis, total),
            dot=axis.at(total.value),
            interval=_signed_range(scale, total),
        )
    )
    return BarChart(axis, (Group(tuple(rows)),), zero=axis.at(0))


def memory_chart(runs: list[Named]) -> BarChart | None:
    """The fullest GPU of each run, by component."""
    shown = [(run, run.result.memory_gib) for run in runs if run.result.memory_gib is not None]
    if not shown:
        return None
    scale = numbers.gibibytes([])
    peaks = [run.result.peak_memory_gib for run, _ in shown]
    axis = Axis.covering([peak.high for peak in peaks if peak is not None], scale)
    rows = []
    for run, memory in shown:
        if memory is None:
            continue
        found = {key: number.value for key, number in memory_parts(memory).items()}
        colors = memory_colors(found)
        parts = {colors[key]: (MEMORY_NAMES[key], found[key]) for key in colors}
        peak = run.result.peak_memory_gib or Number.exact(sum(found.values()))
        rows.append(
            Row(
                run.name,
                scale.text(peak.value),
                value_below=f"of {numbers.brief(run.result.summary.capacity_gib)}{numbers.NBSP}GiB",
                segments=_stacked(axis, parts, scale),
                whisker=whisker(axis, peak),
            )
        )
    return BarChart(axis, (Group(tuple(rows)),), tall=True)


def memory_table(runs: list[Named]) -> Table | None:
    """GiB of each component, a column a run."""
    shown = [(run, run.result.memory_gib) for run in runs if run.result.memory_gib is not None]
    if not shown:
        return None
    scale = numbers.gibibytes([])
    found = [memory_parts(memory) for _, memory in shown if memory is not None]
    present = {key for parts in found for key in parts}
    rows: list[list[str | Cell]] = []
    for key, color in memory_colors(present).items():
        cells = [scale.text(parts[key].value) if key in parts else scale.text(0) for parts in found]
        rows.append([Cell(MEMORY_NAMES[key], swatch=color), *cells])
    columns = _columns("Component", [run for run, _ in shown])
    return table("memory by component", columns, rows, min_width=200 + 120 * len(shown))


def settings_table(runs: list[Named]) -> Table:
    """The fields of the runs that are not the same in all of them."""
    fields = [dict(flatten(run.result.run)) for run in runs]
    paths = list(dict.fromkeys(path for found in fields for path in found))
    rows: list[list[str | Cell]] = [
        [Cell(path, code=True), *(Cell(found.get(path, numbers.DASH), code=True) for found in fields)]
        for path in paths
        if path != "name" and len({found.get(path) for found in fields}) > 1
    ]
    return table("settings that differ", _columns("Field", runs, numeric=False), rows, min_width=220 + 150 * len(runs))


def sources_table(runs: list[Named]) -> Table:
    """What each result rests on."""
    rows: list[list[str | Cell]] = []
    for run in runs:
        result = run.result
        timed = sum(row.share_of_step for row in result.basis if row.basis in ("measured", "interpolated"))
        near = result.precedents
        error = f"{numbers.share(mean_error(near))} over {len(near)}" if near else "none near"
        origin = result.provenance
        rows.append([run.name, numbers.round_share(timed), error, origin.profile, f"{origin.engine}, {origin.version}"])
    columns = "Run | >Timed on this device | Error of near published runs | Profile | Engine, version"
    return table("what the runs rest on", columns, rows, min_width=640)


def _columns(first: str, runs: list[Named], *, numeric: bool = True) -> str:
    """A heading line; a name must not hold its own separators."""
    mark = ">" if numeric else ""
    return " | ".join([first, *(mark + run.name.replace("|", "/").lstrip(">") for run in runs)])


def _stacked(axis: Axis, parts: Mapping[str, tuple[str, float]], scale: numbers.Scale) -> tuple[Segment, ...]:
    """Segments end to end; `parts` maps a colour to its name and size."""
    segments, at = [], 0.0
    for color, (name, size) in parts.items():
        left, right = axis.at(at), axis.at(at + size)
        segments.append(Segment(left, right - left, color, title=f"{name}: {scale.text(size)}"))
        at += size
    return tuple(segments)


def _kind(items: Sequence[BreakdownItem], color: str | None) -> Number:
    """The sum over items of one colour, or all, with errors added as independent."""
    chosen = [item.seconds for item in items if color is None or item.color == color]
    value = sum(n.value for n in chosen)
    down = sum((n.value - n.low) ** 2 for n in chosen) ** 0.5
    up = sum((n.high - n.value) ** 2 for n in chosen) ** 0.5
    return Number(value=value, low=value - down, high=value + up, basis="interpolated")


def _signed_range(scale: numbers.Scale, number: Number) -> str:
    return f"{numbers.signed(scale, number.low)} to {numbers.signed(scale, number.high)}"
