"""The picture of a step: when each stage computes, and the operators inside one chunk of each kind."""

from __future__ import annotations

from simulator.cost.annotation import CostedGraph
from simulator.engine.fast import StepTimeline, task_times
from simulator.engine.program import Spent
from simulator.graph.graph import Chunk as GraphChunk
from simulator.graph.graph import Program
from simulator.graph.operator import COLORS, Operator
from simulator.result import Chunk, Color, Span, Timeline

MAX_DRAWN_TASKS = 4096
"""Tasks drawn; a longer schedule is drawn for as many micro-batches as fit, since it repeats."""
MAX_DRAWN_STAGES = 16
"""Rows a reader can follow; of a deeper pipeline the others look like their neighbours."""
MAX_SPANS = 240
"""Operators drawn inside one chunk: enough for several layers, which look alike."""

_STREAMS = {
    "all_to_all": "expert",
    "tensor_parallel": "tensor",
    "expert_tensor_parallel": "tensor",
    "context_parallel": "context",
    "send_recv": "pipeline",
    "gradient_sync": "data",
    "parameter_gather": "data",
}


def training_timeline(costed: CostedGraph, timeline: StepTimeline) -> Timeline:
    """Tasks of the drawn stages and blocks of operators.

    The tail of gradients and optimizer comes after each stage's last task.
    """
    pipeline = costed.graph.pipeline
    stages = drawn_stages(pipeline.stages)
    per_round = 2 * pipeline.stages * pipeline.chunks * len(stages)
    drawn = min(pipeline.micro_batches, max(1, MAX_DRAWN_TASKS // per_round) * pipeline.stages)
    chunks, ends = [], [0.0] * pipeline.stages
    for stage, forward, chunk, micro_batch, start, end in task_times(timeline, drawn, pipeline.schedule, stages):
        chunks.append(Chunk(stage, start, end, "forward" if forward else "backward", micro_batch, chunk))
        ends[stage] = end  # a stage's tasks come in the order it runs them
    for stage in stages:
        tail = timeline.stages[stage].tail
        sync = sum(tail.exposed.get(item, 0.0) for item in ("gradient_sync", "parameter_gather"))
        update, synced = tail.duration - sync, ends[stage] + sync
        if sync > 0:
            chunks.append(Chunk(stage, ends[stage], synced, "gradients", -1, -1))
        if update > 0:
            chunks.append(Chunk(stage, synced, synced + update, "optimizer", -1, -1))
    blocks: dict[str, list[Span]] = {}
    shares: dict[str, dict[str, float]] = {}
    known: dict[tuple[tuple[Program, int], ...], list[Span]] = {}
    for stage in stages:
        for phase, row, spents in (
            ("forward", costed.graph.forward[stage], timeline.stages[stage].forward),
            ("backward", costed.graph.backward[stage], timeline.stages[stage].backward),
        ):
            for part, spent in zip(row, spents, strict=True):
                key = f"{stage}/{phase}/{part.index}"
                if part.programs not in known:
                    known[part.programs] = block_spans(costed, part)
                blocks[key] = known[part.programs]
                shares[key] = color_shares(spent)
    duration = max(c.end_s for c in chunks)
    return Timeline(stages=pipeline.stages, duration_s=duration, chunks=chunks, blocks=blocks, shares=shares)


def drawn_stages(stages: int) -> tuple[int, ...]:
    """All stages, or the first, the last and evenly spaced ones between."""
    if stages <= MAX_DRAWN_STAGES:
        return tuple(range(stages))
    return tuple(round(i * (stages - 1) / (MAX_DRAWN_STAGES - 1)) for i in range(MAX_DRAWN_STAGES))


def color_shares(spent: Spent) -> dict[str, float]:
    """Share of a block's time by colour."""
    shares: dict[str, float] = {}
    total = spent.duration or 1.0
    for item, seconds in spent.exposed.items():
        color: Color = COLORS.get(item, "host")
        shares[color] = shares.get(color, 0.0) + seconds / total
    return shares


def block_spans(costed: CostedGraph, chunk: GraphChunk) -> list[Span]:
    """Operators of a chunk, layer after layer: serial ones in a row, background ones beside them from its start."""
    spans: list[Span] = []
    at = 0.0
    for program, count in chunk.programs:
        costs = costed.of(program)
        for _ in range(count):
            start = at
            for operator, seconds in zip(program.serial, costs.serial, strict=True):
                if seconds > 0:
                    spans.append(_span(operator, at, at + seconds))
                at += seconds
            lanes: dict[str, float] = {}
            for operator, seconds in zip(program.background, costs.background, strict=True):
                lane = _STREAMS[operator.item]
                begin = lanes.get(lane, start)
                spans.append(_span(operator, begin, begin + seconds))
                lanes[lane] = begin + seconds
            at = max([at, *lanes.values()])
            if len(spans) >= MAX_SPANS:
                return spans[:MAX_SPANS]
    return spans


def _span(operator: Operator, start: float, end: float) -> Span:
    stream = _STREAMS.get(operator.item, "compute")
    return Span(stream=stream, name=operator.name, color=COLORS[operator.item], start_s=start, end_s=end)
