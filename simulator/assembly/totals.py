"""Sums over the operators of a step: FLOPs, bytes, seconds and traffic of one rank of each stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from simulator.cost.annotation import CostedGraph
from simulator.graph.graph import Chunk
from simulator.graph.operator import Collective, HostTransfer, Operator


@dataclass(slots=True)
class OperatorTotal:
    """All calls of one operator in a step, on one rank."""

    operator: Operator
    calls: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class StageTotals:
    """What one rank of a stage does in a step."""

    operators: dict[str, OperatorTotal] = field(default_factory=dict)
    flops: float = 0.0
    memory_bytes: float = 0.0
    link_bytes: float = 0.0
    network_bytes: float = 0.0
    all_to_all_bytes: float = 0.0
    communication: dict[str, float] = field(default_factory=dict)
    """Seconds of each kind of collective, hidden ones included."""

    def add(self, operator: Operator, seconds: float, times: float) -> None:
        """Count `times` executions of an operator whose calls take `seconds` together."""
        work, calls = operator.work, operator.calls * times
        total = self.operators.setdefault(operator.name, OperatorTotal(operator))
        total.calls += calls
        total.seconds += seconds * times
        if isinstance(work, Collective):
            inside, outside = sent_bytes(work)
            self.link_bytes += inside * calls
            self.network_bytes += outside * calls
            total.bytes += (inside + outside) * calls
            self.communication[work.kind] = self.communication.get(work.kind, 0.0) + seconds * times
            if work.kind == "all_to_all":
                self.all_to_all_bytes += (inside + outside) * calls
            return
        total.flops += work.flops * calls
        total.bytes += work.bytes * calls
        self.flops += work.flops * calls
        if not isinstance(work, HostTransfer):
            self.memory_bytes += work.bytes * calls


def sent_bytes(work: Collective) -> tuple[float, float]:
    """Bytes one rank sends for a collective: (over its scale-up link, over the network)."""
    group = work.group
    if group.size == 1:
        return 0.0, 0.0
    if work.kind == "all_to_all":
        return work.bytes, work.network_bytes
    if work.kind == "send_recv":
        return (work.bytes, 0.0) if group.per_domain > 1 else (0.0, work.bytes)
    passes = 2 if work.kind == "all_reduce" else 1
    sent = passes * work.bytes * (group.size - 1) / group.size
    if group.domains == 1:
        return sent, 0.0
    return sent, sent / group.per_domain  # a ring through domains leaves each of them once


def stage_totals(costed: CostedGraph) -> list[StageTotals]:
    """The totals of one rank of each stage over a whole step."""
    graph = costed.graph
    count = graph.pipeline.micro_batches
    out = []
    for stage in range(graph.pipeline.stages):
        totals = StageTotals()
        chunks = graph.forward[stage] + (graph.backward[stage] if graph.backward else ())
        for operator, seconds, times in _executions(costed, chunks):
            totals.add(operator, seconds, times * count)
        if graph.ends:
            end = graph.ends[stage]
            for item, operators in (
                ("gradient_sync", end.gradient_sync),
                ("update", end.update),
                ("parameter_gather", end.parameter_gather),
            ):
                for operator in operators:
                    totals.add(operator, costed.ends[stage][item] / len(operators), 1.0)
        if graph.pipeline.send is not None:
            sends = 2 * graph.pipeline.chunks * count if graph.backward else 1
            edge = graph.pipeline.stages * graph.pipeline.chunks
            totals.add(graph.pipeline.send, costed.send, sends * (edge - 1) / edge)
        out.append(totals)
    return out


def _executions(costed: CostedGraph, chunks: tuple[Chunk, ...]) -> Iterator[tuple[Operator, float, float]]:
    for chunk in chunks:
        for program, count in chunk.programs:
            costs = costed.of(program)
            yield from ((op, s, count) for op, s in zip(program.serial, costs.serial, strict=True))
            yield from ((op, s, count) for op, s in zip(program.background, costs.background, strict=True))
