"""The fast engine: longest paths over folded ranks, for one run or one after another in a sweep.

Symmetric ranks are one stage here; their links carry the sum of their traffic by construction of the costs (a rank's
fair share of each link). Two things it can't see are transfers of different kinds on one link at the same time, and
ranks that differ; `certificate` says whether the first can have happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

from simulator.cost.annotation import CostedGraph
from simulator.engine.pipeline import Placed, Times, place, stage_ends
from simulator.engine.program import Spent, spend
from simulator.graph.graph import Chunk, Pipeline
from simulator.spec.constants import Constants, read_constants
from simulator.units import US

FAST = "fast (longest path over folded ranks)"


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
    engine: str = FAST

    @property
    def exact(self) -> bool:
        """Whether the event engine would give the same."""
        return self.certificate == ""


def execute(costed: CostedGraph, ranks: int) -> StepTimeline:
    """The step of a costed graph on `ranks` GPUs. Raises DeadlockError for a schedule that can't run."""
    return execute_many([(costed, ranks)])[0]


def execute_many(points: Sequence[tuple[CostedGraph, int]]) -> list[StepTimeline]:
    """The steps of many costed graphs, each with its number of GPUs; pipelines of one shape are evaluated together."""
    constants = read_constants()
    spent = [_spent_by_chunks(costed, constants) for costed, _ in points]
    times = [_times(costed, chunks) for (costed, _), chunks in zip(points, spent, strict=True)]
    shapes: dict[tuple[str, int, int, int], dict[Times, list[float]]] = {}
    for (costed, _), point in zip(points, times, strict=True):
        shapes.setdefault(_shape(costed), {})[point] = []
    for shape, ends in shapes.items():
        *_, micro_batches = shape
        for point, row in zip(ends, stage_ends(list(ends), micro_batches, shape[0]).tolist(), strict=True):
            ends[point] = row
    return [
        _timeline(costed, ranks, chunks, point, shapes[_shape(costed)][point], constants)
        for (costed, ranks), chunks, point in zip(points, spent, times, strict=True)
    ]


def task_times(timeline: StepTimeline, micro_batches: int, schedule: str, stages: Sequence[int]) -> list[Placed]:
    """Forward and backward tasks of some stages with start and end, for drawing."""
    return place(timeline.times, micro_batches, schedule, stages)


@dataclass(frozen=True, slots=True)
class _ByChunk:
    """Seconds of every stage's chunks; chunks that do the same share one record."""

    forward: list[tuple[Spent, ...]]
    backward: list[tuple[Spent, ...]]


def _shape(costed: CostedGraph) -> tuple[str, int, int, int]:
    pipeline = costed.graph.pipeline
    return pipeline.schedule, pipeline.stages, pipeline.chunks, pipeline.micro_batches


def _spent_by_chunks(costed: CostedGraph, constants: Constants) -> _ByChunk:
    """What each chunk's time goes to.

    A blocking send keeps its stage busy: after every forward pass but that of the last chunk, after every backward pass
    but that of the first.
    """
    graph = costed.graph
    pipeline = graph.pipeline
    launch = constants.host_micro_batch_us * US / (2 * pipeline.chunks)
    blocking = 0.0 if pipeline.overlap_send else costed.send
    programs = {id(program): spend(costed.of(program), constants) for program in graph.programs}
    known: dict[tuple[object, ...], Spent] = {}

    def spent(chunk: Chunk, edge: tuple[int, int]) -> Spent:
        send = blocking if (chunk.stage, chunk.index) != edge else 0.0
        key = (*[(id(program), count) for program, count in chunk.programs], send)
        if key not in known:
            total = known[key] = Spent()
            for program, count in chunk.programs:
                total.add(programs[id(program)], count)
            total.add(Spent({"host": launch, "send_recv": send} if send else {"host": launch}))
        return known[key]

    last, first = (pipeline.stages - 1, pipeline.chunks - 1), (0, 0)
    return _ByChunk(
        [tuple([spent(chunk, last) for chunk in stage]) for stage in graph.forward],
        [tuple([spent(chunk, first) for chunk in stage]) for stage in graph.backward],
    )


def _times(costed: CostedGraph, chunks: _ByChunk) -> Times:
    durations = {id(spent): spent.duration for stage in (*chunks.forward, *chunks.backward) for spent in stage}
    return Times(
        tuple([tuple([durations[id(spent)] for spent in stage]) for stage in chunks.forward]),
        tuple([tuple([durations[id(spent)] for spent in stage]) for stage in chunks.backward]),
        costed.send if costed.graph.pipeline.overlap_send else 0.0,
    )


def _timeline(
    costed: CostedGraph, ranks: int, chunks: _ByChunk, times: Times, ends: list[float], constants: Constants
) -> StepTimeline:
    stages = []
    for s, end in enumerate(ends):
        forward, backward = chunks.forward[s], chunks.backward[s]
        busy = Spent()
        for spent, count in _counted((*forward, *backward)):
            busy.add(spent, count * costed.graph.pipeline.micro_batches)
        tail = _tail(costed, s, times, constants)
        stages.append(StageTime(forward, backward, busy, tail, end))
    clean = max(stage.end + stage.tail.duration for stage in stages)
    noise = clean * constants.jitter_per_doubling * _doublings(ranks, constants)
    return StepTimeline(clean + noise, tuple(stages), times, noise, _certificate(costed))


def _counted(spent: tuple[Spent, ...]) -> list[tuple[Spent, int]]:
    """Each record once with how often it occurs."""
    counts = Counter(map(id, spent))
    return [(one, counts[key]) for key, one in {id(one): one for one in spent}.items()]


def _tail(costed: CostedGraph, stage: int, times: Times, constants: Constants) -> Spent:
    """Gradient synchronisation, update and parameter gather after a stage's last task.

    Where overlapped, the reduction hides under the backward passes of the last micro-batches and the gather under the
    forward passes of the first: gradients are complete, and parameters needed, no sooner.
    """
    costs, overlap = costed.ends[stage], costed.graph.overlap_gradients
    tail = Spent()
    for item, passes in (("gradient_sync", times.backward[stage]), ("parameter_gather", times.forward[stage])):
        seconds = costs[item]
        if not seconds:
            continue
        window = constants.overlap_rate * _last_pass(costed, passes) if overlap else 0.0
        hidden = min(seconds, window)
        tail.add(Spent({item: seconds - hidden}, {item: hidden}))
    tail.add(Spent({"optimizer": costs["update"], "host": constants.host_step_us * US}))
    return tail


def _last_pass(costed: CostedGraph, chunks: Sequence[float]) -> float:
    """Seconds of the tasks in which a stage's last chunk of gradients or first of parameters is not yet complete."""
    return sum(chunks[:-1]) * _together(costed.graph.pipeline) + chunks[-1]


def last_tasks(pipeline: Pipeline) -> int:
    """Tasks of a stage in which overlapped gradients or parameters can hide.

    One micro-batch's pass without interleaving. With v chunks the last micro-batches go through them one after the
    other, `stages` at a time and from the last chunk to the first, so the last chunk's gradients are complete after its
    last task; parameters are needed in the mirrored order.
    """
    return (pipeline.chunks - 1) * _together(pipeline) + 1


def _together(pipeline: Pipeline) -> int:
    return min(pipeline.stages, pipeline.micro_batches)


def _doublings(ranks: int, constants: Constants) -> float:
    return max(0.0, log2(ranks / constants.jitter_ranks))


def _certificate(costed: CostedGraph) -> str:
    """Empty where no two transfers can overlap on a link; else which kinds can."""
    graph = costed.graph
    concurrent = {operator.item for program in graph.programs for operator in program.background}
    if graph.overlap_gradients and any(end["gradient_sync"] for end in costed.ends):
        concurrent.add("gradient_sync")
    if costed.send:  # it enters a stage that may be communicating itself, or receiving from the other side
        concurrent.add("send_recv")
    if not concurrent:
        return ""
    names = ", ".join(sorted(name.replace("_", " ") for name in concurrent))
    return f"not certified: {names} may share links or SMs with other work"
