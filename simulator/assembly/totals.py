"""Sums over the operators of a step: FLOPs, bytes, seconds and traffic of one rank of each stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from simulator.cost.annotation import CostedGraph
from simulator.cost.collective import sent_bytes
from simulator.graph.graph import Chunk, OperatorGraph, Program, StageEnd
from simulator.graph.operator import Collective, HostTransfer, Item, Operator


@dataclass(slots=True)
class Sums:
    """What one rank does: FLOPs, and bytes through its memory, its scale-up link and its network port.

    Where expert ranks are uneven it is the mean one: sums are reported and paid for all ranks together.
    """

    flops: float = 0.0
    memory_bytes: float = 0.0
    link_bytes: float = 0.0
    network_bytes: float = 0.0
    all_to_all_bytes: float = 0.0

    def add(self, operator: Operator, times: float) -> None:
        """Count `times` executions of an operator."""
        work, calls = operator.work, operator.calls * times * operator.mean_share
        if isinstance(work, Collective):
            inside, outside = sent_bytes(work)
            self.link_bytes += inside * calls
            self.network_bytes += outside * calls
            if work.kind == "all_to_all":
                self.all_to_all_bytes += (inside + outside) * calls
            return
        self.flops += work.flops * calls
        if not isinstance(work, HostTransfer):
            self.memory_bytes += work.bytes * calls

    def times(self, count: float) -> Sums:
        """`count` times all it holds."""
        out = Sums()
        out.add_sums(self, count)
        return out

    def add_sums(self, other: Sums, times: float) -> None:
        """Count all that `other` holds, `times` over."""
        self.flops += other.flops * times
        self.memory_bytes += other.memory_bytes * times
        self.link_bytes += other.link_bytes * times
        self.network_bytes += other.network_bytes * times
        self.all_to_all_bytes += other.all_to_all_bytes * times


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
    """What one rank of a stage does in a step, operator by operator."""

    operators: dict[str, OperatorTotal] = field(default_factory=dict)
    communication: dict[str, float] = field(default_factory=dict)
    """Seconds of each kind of collective, hidden ones included."""
    sent: dict[tuple[Item, Collective], float] = field(default_factory=dict)
    """How often each collective is called; operators of one name may differ in size and group."""

    def add(self, operator: Operator, seconds: float, times: float) -> None:
        """Count `times` executions of an operator whose calls take `seconds` together."""
        work, calls = operator.work, operator.calls * times
        total = self.operators.get(operator.name)
        if total is None:
            total = self.operators[operator.name] = OperatorTotal(operator)
        total.calls += calls
        total.seconds += seconds * times
        if isinstance(work, Collective):
            total.bytes += sum(sent_bytes(work)) * calls
            self.sent[operator.item, work] = self.sent.get((operator.item, work), 0.0) + calls
            self.communication[work.kind] = self.communication.get(work.kind, 0.0) + seconds * times
            return
        total.flops += work.flops * calls
        total.bytes += work.bytes * calls


def mean_sums(graph: OperatorGraph) -> Sums:
    """The sums of one rank over a whole step, mean over the stages."""
    mean, pipeline = Sums(), graph.pipeline
    for program, count in _program_counts([chunk for row in (*graph.forward, *graph.backward) for chunk in row]):
        mean.add_sums(_program_sums(program), count * pipeline.micro_batches / pipeline.stages)
    for end, count in Counter(graph.ends).items():
        for _, operators in _end_operators(end):
            for operator in operators:
                mean.add(operator, count / pipeline.stages)
    if pipeline.send is not None:
        mean.add(pipeline.send, _sends(graph))
    return mean


def stage_totals(costed: CostedGraph) -> list[StageTotals]:
    """The totals of one rank of each stage over a whole step. Stages that do the same share one record."""
    graph = costed.graph
    known: dict[object, StageTotals] = {}
    out = []
    for stage in range(graph.pipeline.stages):
        programs = _program_counts(graph.forward[stage] + (graph.backward[stage] if graph.backward else ()))
        end = graph.ends[stage] if graph.ends else None
        key = (tuple(programs), end)
        if key not in known:
            known[key] = _totals(costed, programs, end, costed.ends[stage] if end else {})
        out.append(known[key])
    return out


def _totals(
    costed: CostedGraph, programs: Sequence[tuple[Program, int]], end: StageEnd | None, end_seconds: dict[str, float]
) -> StageTotals:
    graph, totals = costed.graph, StageTotals()
    for program, count in programs:
        costs = costed.of(program)
        times = count * graph.pipeline.micro_batches
        for operators, seconds in ((program.serial, costs.serial), (program.background, costs.background)):
            for operator, one in zip(operators, seconds, strict=True):
                totals.add(operator, one, times)
    if end is not None:
        for item, operators in _end_operators(end):
            for operator in operators:
                totals.add(operator, end_seconds[item] / len(operators), 1.0)
    if graph.pipeline.send is not None:
        totals.add(graph.pipeline.send, costed.send, _sends(graph))
    return totals


def _program_counts(chunks: Iterable[Chunk]) -> list[tuple[Program, int]]:
    """The programs of some chunks, each once with how often it runs for one micro-batch, in order of first use."""
    counts: dict[Program, int] = {}
    for chunk in chunks:
        for program, count in chunk.programs:
            counts[program] = counts.get(program, 0) + count
    return list(counts.items())


@lru_cache(maxsize=4096)
def _program_sums(program: Program) -> Sums:
    """What one execution of a program does; not to be changed."""
    sums = Sums()
    for operator in (*program.serial, *program.background):
        sums.add(operator, 1.0)
    return sums


def _end_operators(end: StageEnd) -> Iterator[tuple[str, tuple[Operator, ...]]]:
    yield "gradient_sync", end.gradient_sync
    yield "update", end.update
    yield "parameter_gather", end.parameter_gather


def _sends(graph: OperatorGraph) -> float:
    """Pipeline sends of one rank in a step, mean over the stages: no chunk follows the last."""
    pipeline = graph.pipeline
    sends = 2 * pipeline.chunks * pipeline.micro_batches if graph.backward else 1
    edge = pipeline.stages * pipeline.visits
    return sends * (edge - 1) / edge
