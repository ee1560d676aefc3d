"""The timeline as compact data for the script that draws the movable window: chunks and blocks, not kernels.

Times are whole ticks of a power of ten seconds, starts relative to the chunk before, so that thousands of chunks
take some hundred kilobytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from simulator.report.kinds import COLORS
from simulator.result import Chunk, Color, Span, Timeline

MOST_STAGES = 16
MOST_CHUNKS = 12_000
MOST_SPANS = 12_000
_VIEW = 30

# Colour of a chunk whose inside is not known.
PHASE_COLORS: dict[str, Color] = {"optimizer": "mem", "gradients": "comm", "decode": "mem"}


_Name = TypeVar("_Name", bound=str)


@dataclass(frozen=True)
class Selection:
    """The stages that are drawn, with their chunks in order of time; `cut` tells whether chunks were left out."""

    stages: tuple[int, ...]
    chunks: dict[int, list[Chunk]]
    cut: bool


def selection(timeline: Timeline) -> Selection:
    """All stages the timeline keeps, or the first, the last and evenly spaced ones between, within a page's budget."""
    by_stage: dict[int, list[Chunk]] = {stage: [] for stage in sorted({chunk.stage for chunk in timeline.chunks})}
    for chunk in timeline.chunks:
        by_stage[chunk.stage].append(chunk)
    kept, count = list(by_stage), min(len(by_stage), MOST_STAGES)
    while count > 2 and sum(len(by_stage[s]) for s in _spread(kept, count)) > MOST_CHUNKS:
        count -= 1
    stages = _spread(kept, count)
    room = MOST_CHUNKS // len(stages)
    chunks = {s: sorted(by_stage[s], key=lambda c: (c.start_s, c.end_s)) for s in stages}
    cut = any(len(c) > room for c in chunks.values())
    return Selection(stages, {s: c[:room] if cut else c for s, c in chunks.items()}, cut)


def key(chunk: Chunk) -> str:
    """Where the timeline keeps the inside of a chunk."""
    return f"{chunk.stage}/{chunk.phase}/{chunk.chunk}"


def shares(timeline: Timeline, chunk: Chunk) -> dict[str, float]:
    """Share of a chunk's time by colour."""
    return timeline.shares.get(key(chunk)) or {PHASE_COLORS.get(chunk.phase, "dense"): 1.0}


def timeline_data(timeline: Timeline) -> dict[str, Any]:
    """What the script reads: names once, blocks once however many stages share them, chunks by reference."""
    chosen = selection(timeline)
    tick = 10.0 ** math.ceil(math.log10(timeline.duration_s / 1e7))
    names, index = _Names(), dict[str, int]()
    blocks: list[list[list[int]]] = []
    seen: dict[str, int] = {}
    spans_left = MOST_SPANS
    for stage in chosen.stages:
        for chunk in chosen.chunks[stage]:
            where = key(chunk)
            if where in index or where not in timeline.blocks:
                continue
            block = _block(timeline.blocks[where], tick, names)
            text = repr(block)
            if text not in seen:
                if len(block) > spans_left:
                    continue
                spans_left -= len(block)
                seen[text] = len(blocks)
                blocks.append(block)
            index[where] = seen[text]
    names.sort_lanes(blocks)
    return {
        "tick": tick,
        "duration": round(timeline.duration_s / tick),
        "window": max(1, round(_window(timeline, chosen) / tick)),
        "stages": list(chosen.stages),
        "lanes": names.lanes,
        "names": names.names,
        "colors": names.colors,
        "phases": names.phases,
        "phaseColors": [PHASE_COLORS.get(phase, "dense") for phase in names.phases],
        "blocks": blocks,
        "chunks": [_chunks(chosen.chunks[s], tick, index, names) for s in chosen.stages],
    }


def _window(timeline: Timeline, chosen: Selection) -> float:
    """A first view of some six chunks, or of thirty operators where chunks hold many."""
    chunks = chosen.chunks[chosen.stages[0]]
    if not chunks:
        return timeline.duration_s
    held = sum(len(timeline.blocks.get(key(c), ())) for c in chunks)
    busy = sum(c.end_s - c.start_s for c in chunks)
    return min(timeline.duration_s, 6 * median(c.end_s - c.start_s for c in chunks), busy * _VIEW / max(held, 1))


class _Names:
    """Numbers for the strings that repeat, in order of first use."""

    def __init__(self) -> None:
        self.lanes: list[str] = []
        self.names: list[str] = []
        self.colors: list[Color] = []
        self.phases: list[str] = []

    def sort_lanes(self, blocks: list[list[list[int]]]) -> None:
        """Lanes by what runs on them: computing first, then networks, the host last; blocks are changed in place."""
        rank = {lane: len(COLORS) for lane in range(len(self.lanes))}
        for lane, _, color, _, _ in (span for block in blocks for span in block):
            rank[lane] = min(rank[lane], COLORS.index(self.colors[color]))
        order = sorted(rank, key=lambda lane: rank[lane])
        for span in (span for block in blocks for span in block):
            span[0] = order.index(span[0])
        self.lanes = [self.lanes[lane] for lane in order]

    @staticmethod
    def of(known: list[_Name], name: _Name) -> int:
        if name not in known:
            known.append(name)
        return known.index(name)


def _block(spans: list[Span], tick: float, names: _Names) -> list[list[int]]:
    return [
        [
            names.of(names.lanes, span.stream),
            names.of(names.names, span.name),
            names.of(names.colors, span.color),
            round(span.start_s / tick),
            round((span.end_s - span.start_s) / tick),
        ]
        for span in spans
    ]


def _chunks(chunks: list[Chunk], tick: float, index: dict[str, int], names: _Names) -> list[list[int]]:
    """Start after the start before, length, phase, micro-batch, chunk, block (−1 where its inside is not kept)."""
    rows, before = [], 0
    for chunk in chunks:
        start = round(chunk.start_s / tick)
        phase = names.of(names.phases, chunk.phase)
        length = round((chunk.end_s - chunk.start_s) / tick)
        rows.append([start - before, length, phase, chunk.micro_batch, chunk.chunk, index.get(key(chunk), -1)])
        before = start
    return rows


def _spread(stages: list[int], count: int) -> tuple[int, ...]:
    if count >= len(stages):
        return tuple(stages)
    return tuple(stages[round(i * (len(stages) - 1) / (count - 1))] for i in range(count))
