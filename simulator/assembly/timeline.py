"""The picture of a step: when each stage computes, and the operators inside one chunk of each kind."""

from __future__ import annotations

from typing import Literal

from simulator.cost.annotation import CostedGraph
from simulator.engine.fast import StepTimeline, task_times
from simulator.engine.program import Spent
from simulator.graph.graph import Chunk as GraphChunk
from simulator.graph.graph import Program
from simulator.graph.operator import COLORS, Operator
from simulator.graph.order import Pass, steady
from simulator.result import Chunk, Color, Flow, Span, Timeline

MAX_DRAWN_TASKS = 4096
"""Tasks drawn; a longer schedule is drawn for as many micro-batches as fit, since it repeats."""
MAX_DRAWN_STAGES = 16
"""Rows a reader can follow; of a deeper pipeline the others look like their neighbours."""
MAX_SPANS = 240
"""Operators drawn inside one chunk: enough for several layers, which look alike."""

MAX_FLOWS = 1500
"""Transfers kept for the trace: several micro-batches of every stage."""

_STREAMS = {
    "all_to_all": "expert",
    "tensor_parallel": "tensor",
    "expert_tensor_parallel": "tensor",
    "context_parallel": "context",
    "send_recv": "pipeline",
    "gradient_sync": "data",
    "parameter_gather": "data",
}
_PHASES: dict[Pass, Literal["forward", "backward", "weight_grad"]] = {
    Pass.FORWARD: "forward",
    Pass.PAIRED_FORWARD: "forward",
    Pass.BACKWARD: "backward",
    Pass.PAIRED_BACKWARD: "backward",
    Pass.INPUT_GRADIENT: "backward",
    Pass.WEIGHT_GRADIENT: "weight_grad",
}


def training_timeline(costed: CostedGraph, timeline: StepTimeline) -> Timeline:
    """Tasks of the drawn stages and blocks of operators.

    The tail of gradients and optimizer comes after each stage's last task.
    """
    pipeline = costed.graph.pipeline
    stages = drawn_stages(pipeline.stages)
    _, per_round = steady(pipeline.schedule, pipeline.stages, pipeline.chunks)
    drawn = min(pipeline.micro_batches, max(1, MAX_DRAWN_TASKS // (per_round * len(stages))) * pipeline.stages)
    chunks, ends = [], [0.0] * pipeline.stages
    for stage, what, chunk, micro_batch, start, end in task_times(timeline, drawn, pipeline.schedule, stages):
        chunks.append(Chunk(stage, start, end, _PHASES[what], micro_batch, chunk))
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
    tables = costed.graph.passes
    for what in Pass:  # of what is drawn alike, the last is what most tasks do, and stays
        for stage in stages if tables[what] else ():
            for part, spent in zip(tables[what][stage], timeline.stages[stage].passes[what], strict=True):
                key = f"{stage}/{_PHASES[what]}/{part.index}"
                if part.programs not in known:
                    known[part.programs] = block_spans(costed, part)
                blocks[key] = known[part.programs]
                shares[key] = color_shares(spent)
    duration = max(c.end_s for c in chunks)
    return Timeline(
        stages=pipeline.stages,
        duration_s=duration,
        chunks=chunks,
        blocks=blocks,
        shares=shares,
        flows=_flows(timeline, stages),
    )


def _flows(timeline: StepTimeline, stages: tuple[int, ...]) -> list[Flow]:
    """The first transfers of the drawn stages as events played them, in order of time."""
    names = {f"stage {stage}": stage for stage in stages}
    mine = sorted((c for c in timeline.carried if c[3] in names), key=lambda c: c[:2])[:MAX_FLOWS]
    return [
        Flow(names[stream], _STREAMS[transfer.item], transfer.name, COLORS[transfer.item], start, end)
        for start, end, transfer, stream in mine
    ]


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
