"""Cost annotation: every operator of a graph with its seconds if alone. Knows no time line.

Works on many graphs at once, so a sweep pays numpy's overhead once and not once a point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.cost.collective import collective_seconds
from simulator.cost.compute import attention_seconds, gemm_seconds, host_transfer_seconds, traffic_seconds
from simulator.cost.machine import Machine
from simulator.graph.graph import OperatorGraph, Program
from simulator.graph.operator import Attention, Collective, Gemm, HostTransfer, Operator, Traffic, WeightGrad, Work
from simulator.spec.constants import Constants, read_constants
from simulator.units import US


@dataclass(frozen=True, slots=True)
class CostedProgram:
    """A program with the seconds of its operators (all calls), serial and background, and of the host."""

    program: Program
    serial: tuple[float, ...]
    background: tuple[float, ...]
    host: float


@dataclass(frozen=True, slots=True)
class CostedGraph:
    """A graph whose programs and stage ends carry seconds. `programs` is keyed by the program's identity."""

    graph: OperatorGraph
    machine: Machine
    programs: dict[int, CostedProgram]
    ends: tuple[dict[str, float], ...]
    send: float

    def of(self, program: Program) -> CostedProgram:
        """The costs of one of the graph's programs."""
        return self.programs[id(program)]


TRAINING = frozenset({"forward", "backward"})
FREQUENT = frozenset({"tensor_parallel", "expert_tensor_parallel"})
"""Collectives of every layer that compute waits for: ranks reach them unevenly, which no kernel timing shows."""

# Which function costs which kind of work; each takes (machine, work) pairs and returns seconds.
_COSTS: tuple[tuple[tuple[type, ...], Callable[[Any], NDArray[np.float64]]], ...] = (
    ((Gemm, WeightGrad), gemm_seconds),
    ((Attention,), attention_seconds),
    ((Traffic,), traffic_seconds),
    ((HostTransfer,), host_transfer_seconds),
    ((Collective,), collective_seconds),
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
    """The costed graphs of many runs, costed together. Each point is (graph, machine, host cost relative to calibrated)."""
    works: dict[tuple[int, Work], int] = {}
    pairs: list[tuple[Machine, Work]] = []
    for graph, machine, _ in points:
        for operator in _operators(graph):
            key = (id(machine), operator.work)
            if key not in works:
                works[key] = len(pairs)
                pairs.append((machine, operator.work))
    seconds = work_seconds(pairs)
    constants = read_constants()

    def cost(machine: Machine, operator: Operator) -> float:
        return seconds[works[(id(machine), operator.work)]] * operator.calls

    return [_costed(graph, machine, speed, constants, cost) for graph, machine, speed in points]


def _costed(
    graph: OperatorGraph,
    machine: Machine,
    host_speed: float,
    constants: Constants,
    cost: Callable[[Machine, Operator], float],
) -> CostedGraph:
    programs = {}
    for program in graph.programs:
        skew = constants.tensor_skew_us * US if program.phase in TRAINING else 0.0
        serial = tuple([cost(machine, op) + (skew * op.calls if op.item in FREQUENT else 0.0) for op in program.serial])
        background = tuple([cost(machine, operator) for operator in program.background])
        host = program.host_modules * constants.host_module_us + program.host_launches * constants.host_launch_us
        programs[id(program)] = CostedProgram(program, serial, background, host * US * host_speed)
    ends = tuple(
        {
            "gradient_sync": sum(cost(machine, op) for op in end.gradient_sync),
            "update": sum(cost(machine, op) for op in end.update),
            "parameter_gather": sum(cost(machine, op) for op in end.parameter_gather),
        }
        for end in graph.ends
    )
    send = graph.pipeline.send
    return CostedGraph(graph, machine, programs, ends, cost(machine, send) if send else 0.0)


def _operators(graph: OperatorGraph) -> Iterable[Operator]:
    for program in graph.programs:
        yield from program.serial
        yield from program.background
    for end in graph.ends:
        yield from end.gradient_sync
        yield from end.update
        yield from end.parameter_gather
    if graph.pipeline.send is not None:
        yield graph.pipeline.send
