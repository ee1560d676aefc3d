"""What is computed of a run before it becomes a Result or a row of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.cost.annotation import CostedGraph
from simulator.cost.memory import StageBytes
from simulator.engine.fast import StepTimeline
from simulator.engine.inference import PhaseTimeline
from simulator.graph.builder import Build
from simulator.serving.served import Served
from simulator.spec.run import Run


@dataclass(frozen=True, slots=True)
class Timed:
    """A costed graph and its time line."""

    costed: CostedGraph
    timeline: StepTimeline


@dataclass(frozen=True, slots=True)
class Step:
    """Everything computed of a training step."""

    build: Build
    costed: CostedGraph
    timeline: StepTimeline
    memory: list[StageBytes]
    healthy: Timed | None = None
    """The same step without the faults and stragglers of its hardware, where there are any."""


CostedPass = tuple[Build, CostedGraph, PhaseTimeline]


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything computed of inference: a prefill, a decode step, a draft's pass where there is one, what is served.

    The prefill is that of a static batch, or of one prompt where requests come and go; `prefills` is how many of them
    a rank does for the requests in flight.
    """

    run: Run
    prefill: CostedPass
    decode: CostedPass
    draft: CostedPass | None
    prefills: float
    served: Served
    memory: list[StageBytes]
    pools: tuple[str, ...]
    """Of each entry of `memory` the pool it belongs to; empty names where all GPUs do both phases."""

    @property
    def passes(self) -> int:
        """Passes of the draft in a step."""
        asked = self.run.inference.speculative if self.run.inference is not None else None
        return 0 if asked is None else asked.tokens

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that a sequence gains in a step."""
        asked = self.run.inference.speculative if self.run.inference is not None else None
        return 1.0 if asked is None else asked.tokens_per_step

    @property
    def exposed(self) -> dict[str, float]:
        """Seconds of a token by item, of an undisturbed step, without the engine's own work."""
        items = {item: seconds / self.tokens_per_step for item, seconds in self.decode[2].spent.exposed.items()}
        if self.draft is not None:
            items["draft"] = self.passes * self.draft[2].duration / self.tokens_per_step
        return items

    @property
    def token(self) -> dict[str, float]:
        """Seconds of a token by item; they sum to the time per output token."""
        steady, exposed = self.served.steady, self.exposed
        computing = sum(exposed.values())
        engine = max(0.0, steady.step - computing)
        waiting = "prompts" if self.served.handover is None else "handover"
        return {**exposed, "engine": engine, waiting: max(0.0, steady.tpot - engine - computing)}
