"""The picture of a step: when each stage computes, and the operators inside one chunk of each kind."""

from __future__ import annotations

from simulator.cost.annotation import CostedGraph
from simulator.engine.fast import StepTimeline, task_times
from simulator.engine.program import Spent
from simulator.graph.graph import Chunk as GraphChunk
from simulator.graph.operator import COLORS, Operator
from simulator.result import Chunk, Color, Span, Timeline

MAX_DRAWN_TASKS = 8192
"""Tasks drawn; a longer schedule is drawn for as many micro-batches as fit, since it repeats."""
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
    """Tasks of all stages and blocks of operators; the tail of gradients and optimizer comes after each stage's last task."""
    pipeline = costed.graph.pipeline
    per_micro_batch = 2 * pipeline.stages * pipeline.chunks
    rounds = max(1, MAX_DRAWN_TASKS // per_micro_batch // pipeline.stages)
    drawn = min(pipeline.micro_batches, rounds * pipeline.stages)
    chunks = [
        Chunk(
            stage=task.stage,
            start_s=task.start,
            end_s=task.end,
            phase="forward" if task.forward else "backward",
            micro_batch=task.micro_batch,
            chunk=task.chunk,
        )
        for task in task_times(timeline, drawn, pipeline.schedule)
    ]
    ends = [max((c.end_s for c in chunks if c.stage == s), default=0.0) for s in range(pipeline.stages)]
    for index, stage in enumerate(timeline.stages):
        sync = sum(stage.tail.exposed.get(item, 0.0) for item in ("gradient_sync", "parameter_gather"))
        update = stage.tail.duration - sync
        at = ends[index]
        for phase, seconds in (("gradients", sync), ("optimizer", update)):
            if seconds > 0:
                chunks.append(
                    Chunk(stage=index, start_s=at, end_s=at + seconds, phase=phase, micro_batch=-1, chunk=-1)  # type: ignore[arg-type]
                )
                at += seconds
    blocks: dict[str, list[Span]] = {}
    shares: dict[str, dict[str, float]] = {}
    for stages, phase, spents in (
        (costed.graph.forward, "forward", [s.forward for s in timeline.stages]),
        (costed.graph.backward, "backward", [s.backward for s in timeline.stages]),
    ):
        for s, row in enumerate(stages):
            for c, chunk in enumerate(row):
                key = f"{s}/{phase}/{c}"
                blocks[key] = block_spans(costed, chunk)
                shares[key] = color_shares(spents[s][c])
    duration = max(c.end_s for c in chunks)
    return Timeline(stages=pipeline.stages, duration_s=duration, chunks=chunks, blocks=blocks, shares=shares)


def color_shares(spent: Spent) -> dict[str, float]:
    """Share of a block's time by colour."""
    shares: dict[str, float] = {}
    total = spent.duration or 1.0
    for item, seconds in spent.exposed.items():
        color: Color = COLORS.get(item, "host")
        shares[color] = shares.get(color, 0.0) + seconds / total
    return shares


def block_spans(costed: CostedGraph, chunk: GraphChunk) -> list[Span]:
    """Operators of a chunk, layer after layer: serial ones in a row, background ones beside them from the layer's start."""
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
