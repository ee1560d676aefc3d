"""The overview of a timeline: for each stage, columns of how it spent that part of the step, by kind."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.report import numbers, svg
from simulator.report.bars import Axis
from simulator.report.kinds import total_seconds, work_unit
from simulator.report.tables import Cell, Table, table
from simulator.report.timeline_data import Selection, selection, shares
from simulator.result import Result, Timeline

# Drawn from the ground up; waiting is the ground itself.
_LAYERS = ("expert", "dense", "mem", "a2a", "comm", "host")
_TOP, _ROW, _GAP = 18.0, 26.0, 6.0
# Columns of all stages together, so that many stages do not make a heavy page.
_MOST_COLUMNS = 2400
# A wait below this share of the step is not worth a word.
_UNSEEN = 5e-4


@dataclass(frozen=True)
class Overview:
    """Two drawings of the same columns; `column_text` says how long a column is."""

    wide: str
    narrow: str
    column_text: str
    table: Table


def overview(result: Result, timeline: Timeline) -> Overview:
    """The stages over the whole step."""
    chosen = selection(timeline)
    each = min(320, _MOST_COLUMNS // len(chosen.stages))
    column = timeline.duration_s / each
    return Overview(
        wide=_drawing(result, timeline, chosen, columns=each, wide=True),
        narrow=_drawing(result, timeline, chosen, columns=min(each, 130), wide=False),
        column_text=numbers.seconds([column]).text(column),
        table=_table(timeline, chosen),
    )


def timeline_finding(result: Result) -> str:
    """How much of the step a stage waits, and for what; of inference, how long both phases take."""
    if result.ttft_s is not None and result.tpot_s is not None:
        first, each = result.ttft_s.value, result.tpot_s.value
        prefill, step = numbers.seconds([first]).text(first), numbers.seconds([each]).text(each)
        return f"The first token takes {prefill}, each one after it {step}."
    unit, total = work_unit(result), total_seconds(result)
    waits = sorted((i for i in result.breakdown if i.group == "waiting"), key=lambda i: -i.seconds.value)
    waits = [i for i in waits if i.seconds.value > _UNSEEN * total]
    if not total:
        return "No breakdown was kept for this run."
    if not waits:
        return f"No stage waits for another in this {unit}."
    waiting = sum(i.seconds.value for i in waits)
    scale = numbers.seconds([i.seconds.value for i in waits])
    parts = numbers.listing(f"{scale.text(i.seconds.value)} for {numbers.inside(i.label)}" for i in waits[:3])
    return f"A stage waits {numbers.short_share(waiting / total)} of the {unit} on average: {parts}."


def columns(timeline: Timeline, chosen: Selection, stage: int, count: int) -> list[dict[str, float]]:
    """Share of each column's time by colour, for one stage."""
    width = timeline.duration_s / count
    cells: list[dict[str, float]] = [{} for _ in range(count)]
    for chunk in chosen.chunks[stage]:
        parts = shares(timeline, chunk)
        first = max(0, int(chunk.start_s / width))
        for i in range(first, min(count, int(chunk.end_s / width) + 1)):
            overlap = min(chunk.end_s, (i + 1) * width) - max(chunk.start_s, i * width)
            if overlap > 0:
                for color, part in parts.items():
                    cells[i][color] = cells[i].get(color, 0.0) + part * overlap / width
    return cells


def _drawing(result: Result, timeline: Timeline, chosen: Selection, *, columns: int, wide: bool) -> str:
    width, left = (860.0, 68.0) if wide else (330.0, 30.0)
    bottom = _TOP + len(chosen.stages) * (_ROW + _GAP)
    parts = [_captions(timeline, left, width, wide=wide)]
    for i, stage in enumerate(chosen.stages):
        top = _TOP + i * (_ROW + _GAP)
        name = f"Stage {stage}" if wide else f"S{stage}"
        parts.append(svg.text(left - 8 if wide else 0, top + 18, name, anchor="end" if wide else "start"))
        parts.append(_row(timeline, chosen, stage, columns, left, width, top))
    parts += time_axis(timeline.duration_s, left, width, bottom, wide=wide)
    frame = f'<rect x="{svg.number(left)}" y="{svg.number(_TOP - 2)}" width="8" height="{svg.number(bottom - _TOP)}"'
    parts.append(f'<g class="brush">{frame} fill="none" stroke="var(--ink)" stroke-width="2"/></g>')
    drawing = svg.image(
        width, bottom + 26, f"{timeline.stages} stages over time. {timeline_finding(result)}", "".join(parts)
    )
    return drawing.replace("<svg ", f'<svg class="ov" data-x0="{left:g}" data-w="{width:g}" ', 1)


def _captions(timeline: Timeline, left: float, width: float, *, wide: bool) -> str:
    phases = {chunk.phase for chunk in timeline.chunks}
    if "decode" in phases:
        start, end = "Prefill", "First decode steps" if wide else "Decode"
    elif timeline.stages == 1:
        start, end = "Start", "Gradients and optimizer" if "optimizer" in phases else "End"
    elif wide:
        start, end = "Pipeline fills", "Drains" + (", then gradients and optimizer" if "optimizer" in phases else "")
    else:
        start, end = "Fill", "Drain" + (", optimizer" if "optimizer" in phases else "")
    return svg.text(left, 12, start) + svg.text(width, 12, end, anchor="end")


def _row(timeline: Timeline, chosen: Selection, stage: int, count: int, left: float, width: float, top: float) -> str:
    """Waiting as ground, then one stepped area for each kind, the highest first, so that each covers the one before."""
    cells = columns(timeline, chosen, stage, count)
    step, base = (width - left) / count, top + _ROW
    ground = svg.element("rect", x=left, y=top, width=width - left, height=_ROW, fill="url(#hw)")
    areas = []
    for depth in range(len(_LAYERS), 0, -1):
        color = _LAYERS[depth - 1]
        if not any(color in cell for cell in cells):
            continue
        heights = [min(_ROW, _ROW * sum(cell.get(c, 0.0) for c in _LAYERS[:depth])) for cell in cells]
        areas.append(
            f'<path d="{steps_path(heights, left, step, base)}" fill="var(--{color})" shape-rendering="crispEdges"/>'
        )
    return ground + "".join(areas)


def steps_path(heights: list[float], left: float, step: float, base: float) -> str:
    """A stepped outline above `base`; equal neighbours are one step."""
    path, level, x = [f"M{svg.number(left)} {svg.number(base)}"], 0.0, left
    for i, height in enumerate(heights):
        rounded = round(2 * height) / 2
        if rounded != level:
            at = left + i * step
            path.append(
                f"H{svg.number(at)}V{svg.number(base - rounded)}" if at > x else f"V{svg.number(base - rounded)}"
            )
            level, x = rounded, at
    return "".join(path) + f"H{svg.number(left + len(heights) * step)}V{svg.number(base)}z"


def time_axis(seconds: float, left: float, width: float, bottom: float, *, wide: bool) -> list[str]:
    """Round times below the rows; those that would touch the end of the step are left out."""
    scale = numbers.seconds([seconds])
    axis = Axis.covering([seconds], scale, intervals=6 if wide else 3)
    end = scale.text(seconds)
    room = (len(end) + 5) * svg.CHARACTER
    parts = []
    for i in range(axis.intervals + 1):
        value = axis.high * i / axis.intervals
        x = left + (width - left) * value / seconds
        if x <= width - room:
            anchor = "start" if i == 0 else "middle"
            parts.append(svg.line(x, bottom, x, bottom + 5, stroke="muted"))
            parts.append(svg.text(x, bottom + 19, scale.tick(value), anchor=anchor, muted=True))
    parts.append(svg.text(width, bottom + 19, end, anchor="end", muted=True))
    return parts


def _table(timeline: Timeline, chosen: Selection) -> Table:
    """How each stage drawn spends its time, as shares of the whole."""
    rows: list[list[str | Cell]] = []
    scale = numbers.seconds([timeline.duration_s])
    for stage in chosen.stages:
        chunks = chosen.chunks[stage]
        spent: dict[str, float] = {}
        for chunk in chunks:
            for color, part in shares(timeline, chunk).items():
                spent[color] = spent.get(color, 0.0) + part * (chunk.end_s - chunk.start_s) / timeline.duration_s
        computing = sum(spent.get(c, 0.0) for c in ("expert", "dense", "mem"))
        network = spent.get("a2a", 0.0) + spent.get("comm", 0.0)
        rest = max(0.0, 1 - computing - network - spent.get("host", 0.0))
        first = scale.text(min(c.start_s for c in chunks)) if chunks else numbers.DASH
        cells = [numbers.share(v) for v in (computing, network, spent.get("host", 0.0), rest)]
        rows.append([f"Stage {stage}", f"{len(chunks):,}", first, *cells])
    columns = "Stage | >Chunks | >Begins at | >Computing | >Communicating | >Host | >Waiting"
    return table("time of each stage", columns, rows, min_width=600)
