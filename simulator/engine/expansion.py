"""From a costed graph to streams: what one rank of each pipeline stage does, instruction by instruction.

The fast engine says how much of each background transfer compute can hide: that part is launched beside the layer at
`overlap_rate` of its speed and joined at the layer's end, and the rest moves after it. Blocking communication moves
in its place. Undisturbed, the streams therefore take exactly the fast engine's time, and sharing can only add to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from simulator.cost.annotation import CostedGraph, CostedProgram
from simulator.cost.collective import transfer_seconds
from simulator.engine.fast import CUT, StepTimeline, last_tasks, sends
from simulator.engine.flows import Transfer
from simulator.engine.folding import FoldedLinks, Tenancy, collective_transfer, combined, fold_links
from simulator.engine.program import spend
from simulator.engine.schedule import Schedule, schedule_of
from simulator.engine.streams import Do, Instruction, Join, Launch, Mark, Signal, Streams, Wait
from simulator.graph.graph import Chunk
from simulator.graph.operator import Collective, Operator
from simulator.graph.order import Pass, neighbour
from simulator.spec.constants import Constants, read_constants
from simulator.units import US

LAYER, GRADIENTS, PARAMETERS = "layer", "gradients", "parameters"


@dataclass(frozen=True, slots=True)
class Expansion:
    """The streams of a step and what they run on. Task i of the schedule is marked 2i where it starts, 2i + 1 where
    it ends."""

    streams: Streams
    links: FoldedLinks
    schedule: Schedule
    chunks: dict[tuple[int, int, int], tuple[Instruction, ...]]
    """By stage, pass and chunk."""


def expand(costed: CostedGraph, timeline: StepTimeline, tenancy: Tenancy | None = None) -> Expansion:
    """The streams of a training step that the fast engine has timed."""
    pipeline, links, constants = costed.graph.pipeline, fold_links(costed, tenancy), read_constants()
    schedule = schedule_of(pipeline.schedule, pipeline.stages, pipeline.chunks, pipeline.micro_batches)
    compiler = _Compiler(costed, links, constants, {})
    launch = constants.host_micro_batch_us * US / (2 * pipeline.visits)
    chunks = {
        (chunk.stage, int(what), chunk.index): compiler.chunk(chunk, launch / 2 if what in CUT else launch)
        for what in Pass
        for stage in costed.graph.passes[what]
        for chunk in stage
    }
    steps = _Steps(costed, timeline, links, schedule, chunks, constants)
    streams = {f"stage {s}": steps.of(s) for s in range(pipeline.stages)}
    return Expansion(streams, links, schedule, chunks)


@dataclass(frozen=True, slots=True)
class _Compiler:
    """Turns programs into instructions, each program of a stage once."""

    costed: CostedGraph
    links: FoldedLinks
    constants: Constants
    known: dict[tuple[int, int], list[Instruction]]

    def chunk(self, chunk: Chunk, launch: float) -> tuple[Instruction, ...]:
        """The instructions of a chunk, and of the host's work for a micro-batch."""
        instructions: list[Instruction] = []
        for program, count in chunk.programs:
            key = (chunk.stage, id(program))
            if key not in self.known:
                self.known[key] = list(self._program(self.costed.of(program), chunk.stage))
            instructions += self.known[key] * count
        return tuple(_merged([*instructions, Do(launch)]))

    def _program(self, program: CostedProgram, stage: int) -> Iterator[Instruction]:
        spent = spend(program, self.constants)
        hidden = sum(spent.hidden.values())
        total = sum(program.background)
        share = hidden / total if total else 0.0
        background = self._by_item(zip(program.program.background, program.background, strict=True), stage)
        if share:
            for transfer in background:
                yield Launch(transfer.part(share).at(self.constants.overlap_rate), LAYER)
        for operator, seconds in zip(program.program.serial, program.serial, strict=True):
            yield Do(0.0, self._transfer(operator, seconds, stage)) if operator.is_communication else Do(seconds)
        if share:
            yield Join(LAYER)
        if share < 1:
            for transfer in background:
                yield Do(0.0, transfer.part(1 - share))
        yield Do(spent.exposed.get("host", 0.0))

    def _by_item(self, operators: Iterable[tuple[Operator, float]], stage: int) -> list[Transfer]:
        """One transfer for each kind of communication: a kind has a stream of its own and runs in issue order
        there."""
        kinds: dict[str, list[Transfer]] = {}
        for operator, seconds in operators:
            if seconds:
                kinds.setdefault(operator.item, []).append(self._transfer(operator, seconds, stage))
        return [combined(transfers) for transfers in kinds.values()]

    def _transfer(self, operator: Operator, seconds: float, stage: int) -> Transfer:
        return collective_transfer(self.links, operator, seconds, stage)


@dataclass(frozen=True, slots=True)
class _Steps:
    """What a stage does from the first task of a step to the gather of its parameters."""

    costed: CostedGraph
    timeline: StepTimeline
    links: FoldedLinks
    schedule: Schedule
    chunks: dict[tuple[int, int, int], tuple[Instruction, ...]]
    constants: Constants

    def of(self, stage: int) -> Iterator[Instruction]:
        """The instructions of a stage."""
        schedule, pipeline = self.schedule, self.costed.graph.pipeline
        mine = (schedule.stage == stage).nonzero()[0]
        columns = (schedule.what, schedule.chunk, schedule.awaited, schedule.sent)
        rows = list(zip(mine.tolist(), *(column[mine].tolist() for column in columns), strict=True))
        gathers, syncs = self._overlapped("parameter_gather", stage), self._overlapped("gradient_sync", stage)
        window = last_tasks(pipeline)
        syncing = [task for task, what, *_ in rows if not Pass(what).goes_forward][-window]
        gathered = [task for task, what, *_ in rows if Pass(what).goes_forward][window - 1]
        transfers = self._sends(stage)
        results: list[tuple[int, Transfer | None]] = []
        yield from (Launch(transfer, PARAMETERS) for transfer in gathers)
        for task, what, chunk, awaited, sent in rows:
            yield from (Wait(other) for other, travels in zip(awaited, sent, strict=True) if travels)
            yield Mark(2 * task)
            if task == syncing:
                yield from (Launch(transfer, GRADIENTS) for transfer in syncs)
            yield from self.chunks[stage, what, chunk]
            send = transfers.get((what, chunk))
            if send is not None and not pipeline.overlap_send:
                yield Do(0.0, send)
            yield Mark(2 * task + 1)
            if task == gathered:
                yield Join(PARAMETERS)
            results.append((task, send))
            if what != Pass.PAIRED_FORWARD:  # a pair's results are out together
                yield from self._released(results)
                results = []
        yield Join(GRADIENTS)
        yield Mark(f"tail {stage}")
        yield from self._tail(stage)

    def _released(self, results: list[tuple[int, Transfer | None]]) -> Iterator[Instruction]:
        for task, send in results:
            overlapped = send is not None and self.costed.graph.pipeline.overlap_send
            yield Launch(send, "sends", task) if overlapped else Signal(task)  # type: ignore[arg-type]

    def _sends(self, stage: int) -> dict[tuple[int, int], Transfer]:
        """What follows a pass of a chunk to another stage."""
        pipeline = self.costed.graph.pipeline
        found: dict[tuple[int, int], Transfer] = {}
        if pipeline.send is None:
            return found
        for what in Pass:
            for chunk in range(pipeline.chunks):
                if sends(pipeline, what, stage, chunk):
                    target = neighbour(pipeline.schedule, stage, chunk, pipeline.stages, forward=what.goes_forward)
                    moved = collective_transfer(self.links, pipeline.send, self.costed.send, stage, target)
                    found[what, chunk] = moved
        return found

    def _overlapped(self, item: str, stage: int) -> list[Transfer]:
        """The part of a stage's synchronisation or gather that its passes hide."""
        hidden = self.timeline.stages[stage].tail.hidden.get(item, 0.0)
        return [t.part(hidden / t.seconds).at(self.constants.overlap_rate) for t in self._end(item, stage) if hidden]

    def _tail(self, stage: int) -> Iterator[Instruction]:
        yield from self._exposed("gradient_sync", stage)
        exposed = self.timeline.stages[stage].tail.exposed
        yield Do(exposed["optimizer"] + exposed["host"])
        yield from self._exposed("parameter_gather", stage)
        yield Mark(f"end {stage}")

    def _exposed(self, item: str, stage: int) -> list[Do]:
        seconds = self.timeline.stages[stage].tail.exposed.get(item, 0.0)
        return [Do(0.0, t.part(seconds / t.seconds)) for t in self._end(item, stage) if seconds]

    def _end(self, item: str, stage: int) -> list[Transfer]:
        """A stage's gradient synchronisation or parameter gather as one transfer; none where there is none."""
        end, seconds = self.costed.graph.ends[stage], self.costed.ends[stage][item]
        if not seconds:
            return []
        operators = end.gradient_sync if item == "gradient_sync" else end.parameter_gather
        machine = self.links.machines[stage]
        moving = [transfer_seconds(machine, op.work) * op.calls for op in operators if isinstance(op.work, Collective)]
        shares = [seconds * one / sum(moving) for one in moving]
        parts = zip(operators, shares, strict=True)
        return [combined([collective_transfer(self.links, operator, share, stage) for operator, share in parts])]


def _merged(instructions: Iterable[Instruction]) -> Iterator[Instruction]:
    """Stretches of compute made one, with the transfer that follows them; what takes no time left out."""
    compute = 0.0
    for instruction in instructions:
        if isinstance(instruction, Do):
            compute += instruction.seconds
            transfer = instruction.transfer
            if transfer is None:
                continue
            if not transfer.bytes:
                compute += transfer.latency
                continue
            yield Do(compute, transfer)
            compute = 0.0
        else:
            if compute:
                yield Do(compute)
                compute = 0.0
            yield instruction
    if compute:
        yield Do(compute)
