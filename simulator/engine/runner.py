"""Which engine times a step: the fast one first, then the event engine where sharing may change the answer.

`fast` never looks further. `auto` asks the certificate: by structure first, then transfer by transfer; a step that
fails both is played with events if it is small enough. `events` always plays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from simulator.cost.annotation import CostedGraph
from simulator.engine.certificate import overloaded
from simulator.engine.contention import play
from simulator.engine.expansion import Expansion, expand
from simulator.engine.fast import StageTime, StepTimeline
from simulator.engine.folding import FoldedLink
from simulator.engine.loads import clashes, link_uses
from simulator.engine.pipeline import Times
from simulator.engine.program import Spent
from simulator.engine.streams import Played, play_alone
from simulator.errors import SpecError
from simulator.graph.graph import OperatorGraph

Engine = Literal["fast", "events", "auto"]
EVENTS = "events (streams and shared links, ranks folded)"
MAX_AUTO_OPERATORS = 1_000_000
"""Operators of a step that `auto` still plays with events: some seconds."""


def retime(
    costed: CostedGraph, fast: StepTimeline, *, engine: Engine = "fast", communication_sms: int | None = None
) -> StepTimeline:
    """The timeline of a step that the fast engine has timed; its `engine` and `certificate` say who timed it and why.

    `communication_sms` SMs work on communication while it runs beside compute, beyond what the calibrated overlap
    rate holds already; only the event engine sees them, so stating them chooses it. Raises SpecError where the device
    has not as many.
    """
    if communication_sms is not None:
        return _with_sharing(expand(costed, fast), fast, _slowdown(costed, communication_sms))
    if engine == "fast" or (engine == "auto" and fast.exact):
        return fast
    if engine == "auto":
        operators = operators_of(costed.graph)
        if operators > MAX_AUTO_OPERATORS:
            words = f"{fast.certificate}; {operators:,} operators are too many to play unasked: --engine events does"
            return replace(fast, certificate=words)
        expansion = expand(costed, fast)
        if overloaded(play_alone(expansion.streams), expansion.links.capacity) is None:
            return replace(fast, certificate="")
    return _with_sharing(expand(costed, fast), fast, 0.0)


def operators_of(graph: OperatorGraph) -> int:
    """Operators that the folded ranks of a step run, background ones included."""
    chunks = [chunk for stages in (graph.forward, graph.backward) for stage in stages for chunk in stage]
    once = sum((len(p.serial) + len(p.background)) * count for chunk in chunks for p, count in chunk.programs)
    return once * graph.pipeline.micro_batches


def _slowdown(costed: CostedGraph, communication_sms: int) -> float:
    """Share of a GPU's SMs that communication takes from the compute beside it."""
    device = costed.machine.hardware.device
    if device.sms is None or communication_sms >= device.sms:
        has = f"has {device.sms} SMs" if device.sms else "states no number of SMs"
        raise SpecError(f"{communication_sms} SMs for communication, but {device.name} {has}", path=SMS_PATH)
    return communication_sms / device.sms


SMS_PATH = "execution.communication_sms"


def _with_sharing(expansion: Expansion, fast: StepTimeline, slowdown: float) -> StepTimeline:
    """The fast engine's timeline with the times of an event play in place of its own."""
    played = play(expansion.streams, expansion.links.capacity, slowdown)
    return as_played(expansion, fast, played, expansion.links.links, slowdown)


def as_played(
    expansion: Expansion, fast: StepTimeline, played: Played, links: Sequence[FoldedLink], slowdown: float = 0.0
) -> StepTimeline:
    """The fast engine's timeline with the times of a play on some links in place of its own."""
    clean = fast.duration - fast.noise
    end = max(played.marks[f"end {stage}"] for stage in range(len(fast.stages)))
    noise = fast.noise * end / clean
    stages = tuple([_stage(expansion, played, fast, stage) for stage in range(len(fast.stages))])
    words = _words(links, played, end, max(0.0, end / clean - 1), slowdown)
    return StepTimeline(
        duration=end + noise,
        stages=stages,
        times=_mean_times(expansion, played, fast.times),
        noise=noise,
        certificate=words,
        engine=EVENTS,
        links=link_uses(links, played, end),
        clashes=clashes(links, played),
        carried=played.carried,
        undisturbed=fast.duration,
    )


def _stage(expansion: Expansion, played: Played, fast: StepTimeline, stage: int) -> StageTime:
    """A stage's time with what sharing added to its tasks and to its tail."""
    alone, marks = fast.stages[stage], played.marks
    tasks = (expansion.schedule.stage == stage).nonzero()[0].tolist()
    busy, tail = Spent(), Spent()
    busy.add(alone.busy)
    tail.add(alone.tail)
    last = marks[2 * tasks[-1] + 1]
    busy.add(Spent({"sharing": _added(sum(marks[2 * t + 1] - marks[2 * t] for t in tasks), alone.busy.duration)}))
    tail.add(Spent({"sharing": _added(marks[f"end {stage}"] - last, alone.tail.duration)}))
    return StageTime(alone.passes, busy, tail, last)


def _added(seconds: float, alone: float) -> float:
    """What sharing added, free of rounding."""
    return seconds - alone if seconds > alone * (1 + 1e-9) else 0.0


def _mean_times(expansion: Expansion, played: Played, alone: Times) -> Times:
    """Mean seconds of each chunk's tasks over the micro-batches, and of the transfers between them; of passes that no
    task runs, the seconds alone."""
    schedule, marks = expansion.schedule, played.marks
    totals: dict[tuple[int, int, int], list[float]] = {}
    lags = []
    columns = (schedule.stage, schedule.what, schedule.chunk, schedule.awaited, schedule.released, schedule.sent)
    for task, (stage, what, chunk, *needs) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        totals.setdefault((what, stage, chunk), []).append(marks[2 * task + 1] - marks[2 * task])
        for awaited, released, sent in zip(*needs, strict=True):
            if sent:
                lags.append(played.signals[awaited] - marks[2 * released + 1])

    def mean(what: int, stage: int, chunk: int, seconds: float) -> float:
        found = totals.get((what, stage, chunk))
        return sum(found) / len(found) if found else seconds

    forward, backward, *others = [
        tuple(tuple(mean(what, s, c, seconds) for c, seconds in enumerate(row)) for s, row in enumerate(table))
        for what, table in enumerate(alone.tables)
    ]
    return Times(forward, backward, sum(lags) / len(lags) if lags else 0.0, *others)


def _words(links: Sequence[FoldedLink], played: Played, end: float, added: float, slowdown: float) -> str:
    """What sharing did, in a phrase."""
    sharing = (
        "sharing"
        if not slowdown
        else f"sharing, and {slowdown:.0%} of the SMs while communication runs beside compute,"
    )
    words = f"{sharing} adds {added:.2%} to the fast engine's step"
    fullest = max(range(len(played.full_seconds)), key=played.full_seconds.__getitem__, default=0)
    if not played.full_seconds[fullest]:
        return f"{words}: no link was ever asked for more than it carries"
    share = min(1.0, played.full_seconds[fullest] / end)
    return f"{words}; for {share:.1%} of it more was asked of one link than it carries ({links[fullest].name})"
