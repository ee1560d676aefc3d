"""Cost annotation: every operator of a graph with its seconds if alone. Knows no time line.

Works on many graphs at once, so a sweep pays numpy's overhead once and not once a point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.cost.compute import host_transfer_seconds, traffic_seconds
from simulator.cost.machine import Machine
from simulator.cost.measured import (
    measured_attention_seconds,
    measured_collective_seconds,
    measured_expert_seconds,
    measured_gemm_seconds,
)
from simulator.graph.graph import OperatorGraph, Program
from simulator.graph.operator import (
    Attention,
    Collective,
    Experts,
    Gemm,
    HostTransfer,
    Operator,
    Traffic,
    WeightGrad,
    Work,
)
from simulator.spec.constants import Constants, read_constants
from simulator.units import US


@dataclass(frozen=True, slots=True, eq=False)
class CostedProgram:
    """A program with the seconds of its operators (all calls), serial and background, and of the host."""

    program: Program
    serial: tuple[float, ...]
    background: tuple[float, ...]
    host: float


@dataclass(frozen=True, slots=True)
class CostedGraph:
    """A graph whose programs and stage ends carry seconds."""

    graph: OperatorGraph
    machine: Machine
    programs: dict[Program, CostedProgram]
    ends: tuple[dict[str, float], ...]
    send: float
    machines: tuple[Machine, ...] = ()
    """The machine as the ranks of each stage see it, where they differ."""

    def machine_of(self, stage: int) -> Machine:
        """The machine as the ranks of a stage see it."""
        return self.machines[stage] if self.machines else self.machine

    def of(self, program: Program) -> CostedProgram:
        """The costs of one of the graph's programs."""
        return self.programs[program]


TRAINING = frozenset({"forward", "backward"})
FREQUENT = frozenset({"tensor_parallel", "expert_tensor_parallel"})
"""Collectives of every layer that compute waits for: ranks reach them unevenly, which no kernel timing shows."""


def _experts_seconds(works: Sequence[tuple[Machine, Experts]]) -> NDArray[np.float64]:
    """Seconds of whole expert layers: as measured, or those of their kernels."""
    parts = iter(work_seconds([(machine, part) for machine, work in works for part, _ in work.parts]))
    sums = np.array([sum([calls * next(parts) for _, calls in work.parts]) for _, work in works])
    return measured_expert_seconds(works, sums)


# Which function costs which kind of work; each takes (machine, work) pairs and returns seconds.
_COSTS: tuple[tuple[tuple[type, ...], Callable[[Any], NDArray[np.float64]]], ...] = (
    ((Gemm, WeightGrad), measured_gemm_seconds),
    ((Attention,), measured_attention_seconds),
    ((Traffic,), traffic_seconds),
    ((HostTransfer,), host_transfer_seconds),
    ((Collective,), measured_collective_seconds),
    ((Experts,), _experts_seconds),
)


def work_seconds(works: Sequence[tuple[Machine, Work]]) -> list[float]:
    """Seconds of each work if alone, in order."""
    seconds = [0.0] * len(works)
    for kinds, cost in _COSTS:
        places = [i for i, (_, work) in enumerate(works) if type(work) in kinds]
        if places:
            for i, value in zip(places, cost([works[i] for i in places]).tolist(), strict=True):
                seconds[i] = value
    return seconds


def annotate(graph: OperatorGraph, machine: Machine, host_speed: float = 1.0) -> CostedGraph:
    """The costed graph of one run."""
    return annotate_many([(graph, machine, host_speed)])[0]


def annotate_many(points: Sequence[tuple[OperatorGraph, Machine, float]]) -> list[CostedGraph]:
    """The costed graphs of many runs, costed together; each point is (graph, machine, host cost over the calibrated).

    Programs that points share are costed once for each machine.
    """
    programs: dict[tuple[Program, int, float], Machine] = {}
    works: dict[tuple[int, Work], tuple[Machine, Work]] = {}

    def collect(machine: Machine, operators: Iterable[Operator]) -> None:
        for operator in operators:
            works[id(machine), operator.work] = machine, operator.work

    for graph, machine, speed in points:
        for program in graph.programs:
            if (program, id(machine), speed) not in programs:
                programs[program, id(machine), speed] = machine
                collect(machine, program.serial)
                collect(machine, program.background)
        collect(machine, _outside_programs(graph))
    seconds = dict(zip(works, work_seconds(list(works.values())), strict=True))
    constants = read_constants()

    def cost(machine: Machine, operator: Operator) -> float:
        return seconds[id(machine), operator.work] * operator.calls

    costed = {
        key: _costed_program(key[0], key[2], constants, partial(cost, machine)) for key, machine in programs.items()
    }
    return [
        CostedGraph(
            graph,
            machine,
            {program: costed[program, id(machine), speed] for program in graph.programs},
            _costed_ends(graph, partial(cost, machine)),
            cost(machine, graph.pipeline.send) if graph.pipeline.send else 0.0,
        )
        for graph, machine, speed in points
    ]


def _costed_program(
    program: Program, host_speed: float, constants: Constants, cost: Callable[[Operator], float]
) -> CostedProgram:
    skew = constants.tensor_skew_us * US if program.phase in TRAINING else 0.0
    serial = tuple([cost(op) + (skew * op.calls if op.item in FREQUENT else 0.0) for op in program.serial])
    background = tuple([cost(operator) for operator in program.background])
    host = program.host_modules * constants.host_module_us + program.host_launches * constants.host_launch_us
    return CostedProgram(program, serial, background, host * US * host_speed)


def _costed_ends(graph: OperatorGraph, cost: Callable[[Operator], float]) -> tuple[dict[str, float], ...]:
    """Seconds of each stage's end by item; stages that share an end share the record."""
    known = {
        end: {
            "gradient_sync": sum([cost(op) for op in end.gradient_sync]),
            "update": sum([cost(op) for op in end.update]),
            "parameter_gather": sum([cost(op) for op in end.parameter_gather]),
        }
        for end in dict.fromkeys(graph.ends)
    }
    return tuple([known[end] for end in graph.ends])


def _outside_programs(graph: OperatorGraph) -> Iterable[Operator]:
    for end in dict.fromkeys(graph.ends):
        yield from end.gradient_sync
        yield from end.update
        yield from end.parameter_gather
    if graph.pipeline.send is not None:
        yield graph.pipeline.send
