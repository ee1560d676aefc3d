"""What is computed of a run before it becomes a Result or a row of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.cost.annotation import CostedGraph
from simulator.cost.memory import StageBytes
from simulator.engine.fast import StepTimeline
from simulator.engine.inference import PhaseTimeline
from simulator.graph.builder import Build
from simulator.serving.served import Served


@dataclass(frozen=True, slots=True)
class Step:
    """Everything computed of a training step."""

    build: Build
    costed: CostedGraph
    timeline: StepTimeline
    memory: list[StageBytes]


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything computed of inference: (build, costs, timeline) of a prefill and of a decode step, and what is served.

    The prefill is that of a static batch, or of one prompt where requests come and go; `prefills` is how many of them
    the
    requests in flight need.
    """

    prefill: tuple[Build, CostedGraph, PhaseTimeline]
    decode: tuple[Build, CostedGraph, PhaseTimeline]
    prefills: float
    served: Served
    memory: list[StageBytes]

    @property
    def step_overhead(self) -> float:
        """Seconds of an undisturbed decode step that no operator takes: scheduler and per-sequence host work."""
        return max(0.0, self.served.steady.step - self.decode[2].duration)

    @property
    def prompts(self) -> float:
        """Seconds a token waits for the prompts of other requests."""
        return max(0.0, self.served.steady.tpot - self.step_overhead - self.decode[2].duration)
