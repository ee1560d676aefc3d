"""The fast engine: longest paths over folded ranks, for one run or one after another in a sweep.

Symmetric ranks are one stage here; their links carry the sum of their traffic by construction of the costs (a rank's fair
share of each link). Two things it can't see are transfers of different kinds on one link at the same time, and ranks that
differ; `certificate` says whether the first can have happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from simulator.cost.annotation import CostedGraph
from simulator.engine.program import Spent, spend
from simulator.engine.schedule import Placed, Times, place, stage_ends
from simulator.graph.graph import Chunk
from simulator.spec.constants import Constants, read_constants
from simulator.units import US


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage's step: seconds spent by item, all micro-batches together, and its end-of-step work."""

    forward: tuple[Spent, ...]
    backward: tuple[Spent, ...]
    busy: Spent
    tail: Spent
    end: float


@dataclass(frozen=True, slots=True)
class StepTimeline:
    """When a step ends and what each stage's time went to. `noise` is time lost to the slowest of many ranks."""

    duration: float
    stages: tuple[StageTime, ...]
    times: Times
    noise: float
    certificate: str

    @property
    def exact(self) -> bool:
        """Whether the event engine would give the same."""
        return self.certificate == ""


def execute(costed: CostedGraph, ranks: int) -> StepTimeline:
    """The step of a costed graph on `ranks` GPUs. Raises DeadlockError for a schedule that can't run."""
    graph, constants = costed.graph, read_constants()
    pipeline = graph.pipeline
    memo: dict[int, Spent] = {}
    launch = constants.host_micro_batch_us * US / (2 * pipeline.chunks)
    forward = [[_chunk(costed, c, memo, constants, launch) for c in stage] for stage in graph.forward]
    backward = [[_chunk(costed, c, memo, constants, launch) for c in stage] for stage in graph.backward]
    lag = costed.send
    if costed.send and not pipeline.overlap_send:
        _occupy(forward, backward, costed.send)
        lag = 0.0
    times = Times(
        [[spent.duration for spent in stage] for stage in forward],
        [[spent.duration for spent in stage] for stage in backward],
        lag,
    )
    ends = stage_ends(times, pipeline.micro_batches, pipeline.schedule)
    stages: list[StageTime] = []
    for s in range(pipeline.stages):
        busy = Spent()
        for spent in (*forward[s], *backward[s]):
            busy.add(spent, pipeline.micro_batches)
        tail = _tail(costed, s, forward[s], backward[s], constants)
        stages.append(StageTime(tuple(forward[s]), tuple(backward[s]), busy, tail, ends[s]))
    clean = max(stage.end + stage.tail.duration for stage in stages)
    noise = clean * constants.jitter_per_doubling * _doublings(ranks, constants)
    return StepTimeline(clean + noise, tuple(stages), times, noise, _certificate(costed))


def task_times(timeline: StepTimeline, micro_batches: int, schedule: str) -> list[Placed]:
    """Every forward and backward task with start and end, for drawing."""
    return place(timeline.times, micro_batches, schedule)


def _chunk(
    costed: CostedGraph, chunk: Chunk, memo: dict[int, Spent], constants: Constants, launch: float
) -> Spent:
    total = Spent()
    for program, count in chunk.programs:
        key = id(program)
        if key not in memo:
            memo[key] = spend(costed.of(program), constants)
        total.add(memo[key], count)
    total.exposed["host"] = total.exposed.get("host", 0.0) + launch
    return total


def _occupy(forward: list[list[Spent]], backward: list[list[Spent]], send: float) -> None:
    """A blocking send keeps its stage busy: forward from all but the last chunk, backward from all but the first."""
    stages, chunks = len(forward), len(forward[0])
    for s in range(stages):
        for c in range(chunks):
            if (s, c) != (stages - 1, chunks - 1):
                forward[s][c].add(Spent({"send_recv": send}))
            if (s, c) != (0, 0):
                backward[s][c].add(Spent({"send_recv": send}))


def _tail(
    costed: CostedGraph, stage: int, forward: list[Spent], backward: list[Spent], constants: Constants
) -> Spent:
    """Gradient synchronisation, update and parameter gather after a stage's last task.

    Where overlapped, the reduction hides under the backward passes of the last micro-batches and the gather under the
    forward passes of the first: gradients are complete, and parameters needed, no sooner.
    """
    costs, overlap = costed.ends[stage], costed.graph.overlap_gradients
    tail = Spent()
    for item, passes in (("gradient_sync", backward), ("parameter_gather", forward)):
        seconds = costs[item]
        if not seconds:
            continue
        window = constants.overlap_rate * _last_pass(costed, [spent.duration for spent in passes]) if overlap else 0.0
        hidden = min(seconds, window)
        tail.add(Spent({item: seconds - hidden}, {item: hidden}))
    tail.add(Spent({"optimizer": costs["update"], "host": constants.host_step_us * US}))
    return tail


def _last_pass(costed: CostedGraph, chunks: list[float]) -> float:
    """Seconds between a stage's first complete chunk of gradients and its last.

    One micro-batch's pass without interleaving. With v chunks the last micro-batches go through them one after the other,
    `stages` at a time, so all but one chunk's gradients are complete that much earlier.
    """
    pipeline = costed.graph.pipeline
    together = min(pipeline.stages, pipeline.micro_batches)
    return sum(chunks[1:]) * together + chunks[0]


def _doublings(ranks: int, constants: Constants) -> float:
    return max(0.0, log2(ranks / constants.jitter_ranks))


def _certificate(costed: CostedGraph) -> str:
    """Empty where no two transfers can overlap on a link; else which kinds can."""
    graph = costed.graph
    concurrent = {operator.item for program in graph.programs for operator in program.background}
    if graph.overlap_gradients and any(end["gradient_sync"] for end in costed.ends):
        concurrent.add("gradient_sync")
    if costed.send and graph.pipeline.overlap_send:
        concurrent.add("send_recv")
    if not concurrent:
        return ""
    names = ", ".join(sorted(name.replace("_", " ") for name in concurrent))
    return f"not certified: {names} may share links or SMs with other work"
