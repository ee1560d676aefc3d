"""The latency of one inference phase: stages one after the other, each once."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.cost.annotation import CostedGraph
from simulator.engine.program import Spent, spend
from simulator.spec.constants import read_constants


@dataclass(frozen=True, slots=True)
class PhaseTimeline:
    """Seconds of a phase, what they went to on the critical path, and each stage's share."""

    duration: float
    spent: Spent
    stages: tuple[Spent, ...]


def execute_phase(costed: CostedGraph) -> PhaseTimeline:
    """The latency of a prefill or of a decode step."""
    constants = read_constants()
    path = Spent()
    stages = []
    for stage in costed.graph.forward:
        spent = Spent()
        for program, count in stage[0].programs:
            spent.add(spend(costed.of(program), constants), count)
        stages.append(spent)
        path.add(spent)
    if costed.send:
        path.add(Spent({"send_recv": costed.send * (len(stages) - 1)}))
    return PhaseTimeline(path.duration, path, tuple(stages))
