"""What is computed of a run before it becomes a Result or a row of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.cost.annotation import CostedGraph
from simulator.cost.memory import StageBytes
from simulator.engine.fast import StepTimeline
from simulator.engine.inference import PhaseTimeline
from simulator.graph.builder import Build


@dataclass(frozen=True, slots=True)
class Step:
    """Everything computed of a training step."""

    build: Build
    costed: CostedGraph
    timeline: StepTimeline
    memory: list[StageBytes]


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything computed of a static batch. `prefill` and `decode` are (build, costs, timeline) of each phase."""

    prefill: tuple[Build, CostedGraph, PhaseTimeline]
    decode: tuple[Build, CostedGraph, PhaseTimeline]
    step_overhead: float
    """Seconds of scheduler and per-sequence host work of one decode step."""
    memory: list[StageBytes]
    max_concurrency: int
