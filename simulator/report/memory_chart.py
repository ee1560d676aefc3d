"""Memory per GPU: stacked bars per stage against the capacity, and a table by component."""

from __future__ import annotations

from simulator.report import numbers
from simulator.report.bars import Axis, BarChart, Group, Row, Segment, whisker
from simulator.report.kinds import MEMORY_NAMES, chip, memory_colors
from simulator.report.numbers import NBSP
from simulator.report.tables import Cell, Table, table
from simulator.result import Infeasible, Memory, Number, Result, StageMemory, Summary

MOST_ROWS = 16
_STATE = ("parameters", "gradients", "optimizer_states")
# Narrowest track that still shows headings, and the width of a character at 13 px in a wide font, px.
_TRACK_PX, _CHARACTER_PX = 370, 7.3


def memory_parts(memory: Memory) -> dict[str, Number]:
    """The components that take any memory, in drawing order."""
    return {key: getattr(memory, key) for key in MEMORY_NAMES if getattr(memory, key).high > 0}


def memory_chart(stages: list[StageMemory], summary: Summary) -> BarChart:
    """One row for each group of like stages, at most 16; the thick line is the capacity."""
    scale = numbers.gibibytes([])
    fullest = max(stages, key=lambda s: s.total.value)
    axis = Axis.covering([summary.capacity_gib, *(s.total.high for s in stages)], scale)
    groups = _fewer(_alike(stages), fullest)
    rows = tuple(_row(group, axis, summary.capacity_gib, fullest=fullest in group) for group in groups)
    marks = _headings(axis, fullest, summary.capacity_gib)
    return BarChart(axis, (Group(rows),), capacity=axis.at(summary.capacity_gib), tall=True, marks=marks)


def memory_table(result: Result, memory: Memory) -> Table:
    """Component, GiB of the fullest GPU with its interval, how it is counted where that is known, basis."""
    parts = memory_parts(memory)
    colors = memory_colors(parts)
    scale = numbers.gibibytes([])
    rules = result.memory_rules
    rows: list[list[str | Cell]] = []
    for key, number in parts.items():
        row: list[str | Cell] = [Cell(MEMORY_NAMES[key], swatch=colors[key]), scale.text(number.value)]
        row += [scale.interval(number), *([rules.get(key, "")] if rules else []), Cell(basis=number.basis)]
        rows.append(row)
    peak = result.peak_memory_gib or Number.exact(sum(n.value for n in parts.values()))
    total: list[str | Cell] = ["Total", scale.text(peak.value), scale.interval(peak), *([""] if rules else []), ""]
    columns = f"Component | >Fullest {chip(result)} | >90 % interval | {'How it is counted | ' if rules else ''}Basis"
    return table("memory by component", columns, rows, total=total, min_width=620 if rules else 480)


def memory_finding(result: Result, memory: Memory) -> str:
    """The peak against the capacity, and what fills it."""
    parts = memory_parts(memory)
    peak = result.peak_memory_gib.value if result.peak_memory_gib else sum(n.value for n in parts.values())
    capacity = result.summary.capacity_gib
    used = f"{numbers.significant(peak)} of {numbers.brief(capacity)}{NBSP}GiB"
    if not parts:
        return f"The fullest {chip(result)} uses {used}."
    biggest = max(parts, key=lambda key: parts[key].value)
    name = MEMORY_NAMES[biggest] if biggest == "kv_cache" else MEMORY_NAMES[biggest].lower()
    return (
        f"The fullest {chip(result)} uses {used}; {numbers.round_share(parts[biggest].value / peak)} of that is {name}."
    )


def _alike(stages: list[StageMemory]) -> list[list[StageMemory]]:
    """Neighbours that read the same to three digits, together."""

    def reading(stage: StageMemory) -> tuple[str, ...]:
        label = stage.label.removeprefix(f"Stage {stage.stage}")
        return (*(numbers.significant(v) for v in stage.parts.values()), label)

    groups: list[list[StageMemory]] = []
    for stage in stages:
        if groups and reading(groups[-1][0]) == reading(stage):
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return groups


def _fewer(groups: list[list[StageMemory]], fullest: StageMemory) -> list[list[StageMemory]]:
    """At most 16 groups: evenly spaced ones with the first, the last and the fullest."""
    if len(groups) <= MOST_ROWS:
        return groups
    last = len(groups) - 1
    chosen = {round(i * last / (MOST_ROWS - 2)) for i in range(MOST_ROWS - 1)}
    chosen |= {i for i, group in enumerate(groups) if fullest in group}
    return [groups[i] for i in sorted(chosen)]


def _row(group: list[StageMemory], axis: Axis, capacity: float, *, fullest: bool) -> Row:
    stage = group[0]
    colors = memory_colors([key for key, size in stage.parts.items() if size > 0])
    segments, at = [], 0.0
    for key, color in colors.items():
        size = stage.parts[key]
        width = axis.at(at + size) - axis.at(at)
        text = numbers.significant(size)
        fits = len(text) * _CHARACTER_PX + 6 <= width / 100 * _TRACK_PX
        title = f"{MEMORY_NAMES[key]}: {text}{NBSP}GiB"
        segments.append(Segment(axis.at(at), width, color, title=title, text=text if fits else ""))
        at += size
    free = capacity - stage.total.value
    first, final = group[0].stage, group[-1].stage
    note = stage.label.removeprefix(f"Stage {first}").strip(" ,()")
    if fullest and "fullest" not in note:
        note = f"{note}, fullest" if note else "fullest"
    return Row(
        label=f"Stage {first}" if first == final else f"Stages {first} to {final}",
        note=note,
        value=f"{numbers.significant(stage.total.value)}{NBSP}GiB",
        value_below=f"{numbers.significant(abs(free))} {'free' if free >= 0 else 'too much'}",
        segments=tuple(segments),
        whisker=whisker(axis, stage.total),
    )


def _headings(axis: Axis, stage: StageMemory, capacity: float) -> tuple[tuple[float, str], ...]:
    """Where to name the groups of components above the bars; one that would touch its neighbour is dropped."""
    parts = stage.parts
    state = sum(parts.get(key, 0.0) for key in _STATE)
    starts = [(0.0, "Model state", state)]
    at = state
    for name, keys in (
        ("Activations", ("activations",)),
        ("KV cache", ("kv_cache",)),
        ("Other", ("buffers", "framework")),
    ):
        size = sum(parts.get(key, 0.0) for key in keys)
        starts.append((at, name, size))
        at += size
    shown: list[tuple[float, str]] = [(axis.at(capacity), f"{numbers.brief(capacity)}{NBSP}GiB capacity")]
    limit = axis.at(capacity) - 100 * len(shown[0][1]) * _CHARACTER_PX / _TRACK_PX
    for start, name, size in reversed(starts):
        width = 100 * len(name) * _CHARACTER_PX / _TRACK_PX
        if size > 0 and axis.at(start) + width <= limit:
            shown.append((axis.at(start), name))
            limit = axis.at(start)
    return tuple(reversed(shown))


def infeasible_chart(problem: Infeasible) -> tuple[BarChart | None, Table | None]:
    """What the need of a run that does not fit is made of, against what there is; None where no need is known."""
    parts = {key: size for key, size in problem.breakdown_gib.items() if size > 0}
    needed = problem.needed_gib or sum(parts.values())
    if not parts or not needed:
        return None, None
    available = problem.available_gib or 0.0
    scale = numbers.gibibytes([])
    axis = Axis.covering([needed, available], scale)
    colors = memory_colors(parts) | {key: "m5" for key in parts if key not in MEMORY_NAMES}
    segments, at = [], 0.0
    for key, color in colors.items():
        width = axis.at(at + parts[key]) - axis.at(at)
        name = MEMORY_NAMES.get(key, key)
        segments.append(Segment(axis.at(at), width, color, title=f"{name}: {scale.text(parts[key])}"))
        at += parts[key]
    row = Row("Fullest GPU", scale.text(needed), segments=tuple(segments), value_below=f"of {scale.tick(available)}")
    chart = BarChart(axis, (Group((row,)),), capacity=axis.at(available) if available else None, tall=True)
    rows: list[list[str | Cell]] = [
        [Cell(MEMORY_NAMES.get(key, key), swatch=color), scale.text(parts[key]), numbers.share(parts[key] / needed)]
        for key, color in colors.items()
    ]
    total: list[str | Cell] = ["Total", scale.text(needed), ""]
    return chart, table("memory by component", "Component | >Needed | >Share", rows, total=total)
