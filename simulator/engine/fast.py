"""The fast engine: longest paths over folded ranks, for one run or one after another in a sweep.

Symmetric ranks are one stage here; their links carry the sum of their traffic by construction of the costs (a rank's
fair share of each link). Two things it can't see are transfers of different kinds on one link at the same time, and
ranks that differ; `certificate` says whether the first can have happened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2

from simulator.cost.annotation import CostedGraph, CostedProgram
from simulator.engine.folding import Tenancy
from simulator.engine.loads import Clash, LinkUse
from simulator.engine.pipeline import Placed, Times, place, stage_ends
from simulator.engine.program import Spent, spend
from simulator.engine.streams import Carried
from simulator.graph.graph import Chunk, Pipeline
from simulator.graph.order import Pass, near_chunk, position, runs
from simulator.spec.constants import Constants, read_constants
from simulator.units import US

FAST = "fast (longest path over folded ranks)"


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage's step: seconds spent by item, all micro-batches together, and its end-of-step work.

    `passes` is what each pass of its chunks takes alone, by `Pass`; empty for those that the schedule does not run.
    """

    passes: tuple[tuple[Spent, ...], ...]
    busy: Spent
    tail: Spent
    end: float

    @property
    def forward(self) -> tuple[Spent, ...]:
        """Whole forward passes."""
        return self.passes[Pass.FORWARD]

    @property
    def backward(self) -> tuple[Spent, ...]:
        """Whole backward passes."""
        return self.passes[Pass.BACKWARD]


@dataclass(frozen=True, slots=True)
class StepTimeline:
    """When a step ends and what each stage's time went to. `noise` is time lost to the slowest of many ranks."""

    duration: float
    stages: tuple[StageTime, ...]
    times: Times
    noise: float
    certificate: str
    engine: str = FAST
    links: tuple[LinkUse, ...] = ()
    """Where events were played; so are the next three."""
    clashes: tuple[Clash, ...] = ()
    carried: Sequence[Carried] = ()
    tenancy: Tenancy | None = None
    """Of a step beside another job."""
    undisturbed: float | None = None
    """Seconds of the step if no transfer held up another."""

    @property
    def exact(self) -> bool:
        """Whether the event engine would give the same."""
        return self.certificate == ""


def execute(costed: CostedGraph, ranks: int) -> StepTimeline:
    """The step of a costed graph on `ranks` GPUs. Raises DeadlockError for a schedule that can't run."""
    return execute_many([(costed, ranks)])[0]


def execute_many(points: Sequence[tuple[CostedGraph, int]]) -> list[StepTimeline]:
    """The steps of many costed graphs, each with its number of GPUs.

    Pipelines of one shape are evaluated together, and what points share is worked out once.
    """
    sums = _Sums(read_constants(), {}, {}, {})
    times = [_times(costed, sums) for costed, _ in points]
    shapes: dict[tuple[str, int, int, int], dict[Times, list[float]]] = {}
    for (costed, _), (_, point) in zip(points, times, strict=True):
        shapes.setdefault(_shape(costed), {})[point] = []
    for shape, ends in shapes.items():
        kind, *_, micro_batches = shape
        for point, row in zip(ends, stage_ends(list(ends), micro_batches, kind).tolist(), strict=True):
            ends[point] = row
    return [
        _timeline(costed, ranks, stages, point, shapes[_shape(costed)][point], sums)
        for (costed, ranks), (stages, point) in zip(points, times, strict=True)
    ]


def task_times(timeline: StepTimeline, micro_batches: int, schedule: str, stages: Sequence[int]) -> Iterator[Placed]:
    """The tasks of some stages with start and end, for drawing; `micro_batches` through each chunk."""
    return place(timeline.times, micro_batches, schedule, stages)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums of seconds by item that the points of a batch share, so far."""

    constants: Constants
    programs: dict[CostedProgram, Spent]
    chunks: dict[tuple[object, ...], tuple[Spent, float]]
    """(seconds by item, all of them) of a chunk, by its programs with counts and what the host and a send add."""
    stages: dict[tuple[tuple[Spent, int], ...], Spent]
    """Of all tasks of a stage, by what they take and how many there are."""

    def program(self, costed: CostedProgram) -> Spent:
        if costed not in self.programs:
            self.programs[costed] = spend(costed, self.constants)
        return self.programs[costed]

    def chunk(self, programs: tuple[tuple[CostedProgram, int], ...], launch: float, send: float) -> tuple[Spent, float]:
        key = (programs, launch, send)
        if key not in self.chunks:
            total = Spent()
            for program, count in programs:
                total.add(self.program(program), count)
            total.add(Spent({"host": launch, "send_recv": send} if send else {"host": launch}))
            self.chunks[key] = total, total.duration
        return self.chunks[key]

    def stage(self, stage: _Stage, counts: dict[tuple[Pass, int], int]) -> Spent:
        how_often: dict[Spent, int] = {}
        for (what, chunk), count in counts.items():
            spent = stage[what][chunk]
            how_often[spent] = how_often.get(spent, 0) + count
        key = tuple(how_often.items())
        if key not in self.stages:
            busy = self.stages[key] = Spent()
            for spent, count in key:
                busy.add(spent, count)
        return self.stages[key]


_Stage = tuple[tuple[Spent, ...], ...]
"""What a stage's chunks take, by `Pass`; chunks that do the same share one record."""


def _shape(costed: CostedGraph) -> tuple[str, int, int, int]:
    pipeline = costed.graph.pipeline
    return pipeline.schedule, pipeline.stages, pipeline.chunks, pipeline.micro_batches


def _times(costed: CostedGraph, sums: _Sums) -> tuple[list[_Stage], Times]:
    """What each chunk's time goes to, and how long it takes.

    A blocking send keeps its stage busy: after every pass that another stage waits for.
    """
    pipeline = costed.graph.pipeline
    launch = sums.constants.host_micro_batch_us * US / (2 * pipeline.visits)
    blocking = 0.0 if pipeline.overlap_send else costed.send
    known: dict[tuple[object, float, float], tuple[Spent, float]] = {}

    def passes(what: Pass, row: tuple[Chunk, ...]) -> tuple[tuple[Spent, ...], tuple[float, ...]]:
        found = []
        for chunk in row:
            send = blocking if blocking and sends(pipeline, what, chunk.stage, chunk.index) else 0.0
            host = launch / 2 if what in CUT else launch
            key = (chunk.programs, host, send)
            if key not in known:
                programs = tuple([(costed.of(program), count) for program, count in chunk.programs])
                known[key] = sums.chunk(programs, host, send)
            found.append(known[key])
        return tuple([spent for spent, _ in found]), tuple([seconds for _, seconds in found])

    tables = [[passes(what, row) for row in costed.graph.passes[what]] for what in Pass]
    stages = [tuple([table[stage][0] if table else () for table in tables]) for stage in range(pipeline.stages)]
    forward, backward, *others = [tuple([seconds for _, seconds in table]) for table in tables]
    send = costed.send if pipeline.overlap_send else 0.0
    return stages, Times(forward, backward, send, *others)


CUT = (Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
"""The halves of a backward pass that its schedule cuts."""


def sends(pipeline: Pipeline, what: Pass, stage: int, chunk: int) -> bool:
    """Whether another stage waits for a pass: the model's first chunk sends no gradient and its last no activation."""
    place = position(pipeline.schedule, stage, chunk, pipeline.stages)
    edge = pipeline.stages * pipeline.visits - 1 if what.goes_forward else 0
    return what is not Pass.WEIGHT_GRADIENT and place != edge


def _timeline(
    costed: CostedGraph, ranks: int, stages: list[_Stage], times: Times, ends: list[float], sums: _Sums
) -> StepTimeline:
    kind, *shape = _shape(costed)
    found = [
        StageTime(
            stage,
            sums.stage(stage, runs(kind, s, *shape)),
            _tail(costed, s, times, sums.constants),
            ends[s],
        )
        for s, stage in enumerate(stages)
    ]
    clean = max(stage.end + stage.tail.duration for stage in found)
    noise = clean * sums.constants.jitter_per_doubling * _doublings(ranks, sums.constants)
    return StepTimeline(clean + noise, tuple(found), times, noise, _certificate(costed))


def _tail(costed: CostedGraph, stage: int, times: Times, constants: Constants) -> Spent:
    """Gradient synchronisation, update and parameter gather after a stage's last task.

    Where overlapped, the reduction hides under the backward passes of the last micro-batches and the gather under the
    forward passes of the first: gradients are complete, and parameters needed, no sooner. The last bucket has nothing
    to hide under.
    """
    costs, overlap = costed.ends[stage], costed.graph.overlap_gradients
    tail = Spent()
    gradients = times.weight_gradient or times.backward
    for item, passes in (("gradient_sync", gradients[stage]), ("parameter_gather", times.forward[stage])):
        seconds = costs[item]
        if not seconds:
            continue
        window = constants.overlap_rate * _last_pass(costed.graph.pipeline, stage, passes) if overlap else 0.0
        hidden = min(seconds * (1 - costed.graph.ends[stage].bucket_share), window)
        tail.add(Spent({item: seconds - hidden}, {item: hidden}))
    tail.add(Spent({"optimizer": costs["update"], "host": constants.host_step_us * US}))
    return tail


def _last_pass(pipeline: Pipeline, stage: int, chunks: Sequence[float]) -> float:
    """Seconds of the tasks in which a stage's last chunk of gradients or first of parameters is not yet complete."""
    if pipeline.visits < pipeline.chunks:
        return chunks[near_chunk(stage, pipeline.stages)]
    return sum(chunks[:-1]) * _together(pipeline) + chunks[-1]


def last_tasks(pipeline: Pipeline) -> int:
    """Tasks of a stage in which overlapped gradients or parameters can hide.

    One micro-batch's pass without interleaving; of a backward pass that is cut, the weights' part. With v chunks the
    last micro-batches go through them one after the other, `stages` at a time and from the last chunk to the first, so
    the last chunk's gradients are complete after its last task; parameters are needed in the mirrored order.
    """
    return (pipeline.visits - 1) * _together(pipeline) + 1


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
