"""What faults and stragglers leave of each pipeline stage, and what a step costs on that.

Ranks of one stage do the same and wait for each other, in their layers, and at the latest when gradients are summed.
So its worst rank stands for a stage: the least that is left of a scale-up link, of a node's network ports and of a
leaf's uplinks, and the slowest GPU. Faults of different replicas count as if they met in one pipeline: no step is
shorter than what each of them makes it, and this one may be longer than all of them do.

A library deals its channels out evenly, so the slowest port that works sets the pace of all, and those that have failed
take no share: k of n ports with the least at r leave r k/n of the bandwidth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple

from simulator.cost.annotation import CostedGraph, CostedProgram
from simulator.cost.collective import collective_seconds
from simulator.cost.machine import Machine
from simulator.cost.stragglers import expected_slowest
from simulator.errors import InfeasibleError
from simulator.graph.graph import Chunk, Program
from simulator.graph.operator import Collective, Operator
from simulator.graph.parallel import Layout
from simulator.spec.hardware import LEAF_NODES, Hardware

FAULTS = "hardware.faults"


class Condition(NamedTuple):
    """Of the worst rank of a stage: compute time over that of a healthy one, and shares left of its links."""

    slowdown: float = 1.0
    link: float = 1.0
    ports: float = 1.0
    uplinks: float = 1.0


HEALTHY = Condition()


def stage_conditions(costed: CostedGraph, layout: Layout) -> tuple[Condition, ...]:
    """The condition of every stage: its faults, and the slowest of the ranks that wait for each other in every layer.

    Raises InfeasibleError where a fault cuts off a part of the job.
    """
    hardware, stages = costed.machine.hardware, costed.graph.pipeline.stages
    per_stage = hardware.gpus // stages
    slowdown, link, ports, uplinks = ([1.0] * stages for _ in range(4))

    def lessen(shares: list[float], gpus: range, left: float) -> None:
        for stage in range(gpus.start // per_stage, (gpus.stop - 1) // per_stage + 1):
            shares[stage] = min(shares[stage], left)

    check_joined(hardware)
    for fault in hardware.faults:
        if fault.gpu is not None and fault.speed is not None:
            stage = fault.gpu // per_stage
            slowdown[stage] = max(slowdown[stage], 1 / fault.speed)
    for gpu, left in scale_up_left(hardware).items():
        lessen(link, range(gpu, gpu + 1), left)
    for node, of_ports in ports_left(hardware).items():
        lessen(ports, _gpus_of(hardware, node, 1), even_share(of_ports))
    for group, of_leaves in uplinks_left(hardware).items():
        lessen(uplinks, _gpus_of(hardware, group * LEAF_NODES, LEAF_NODES), even_share(of_leaves))
    if hardware.stragglers is not None:
        together = expected_slowest(hardware.stragglers, synchronising_ranks(layout))
        slowdown = [max(one, together) for one in slowdown]
    return tuple(map(Condition, slowdown, link, ports, uplinks))


def synchronising_ranks(layout: Layout) -> int:
    """Ranks of a stage that wait for each other in every layer: tensor and context or expert parallel ones, and all
    where parameters are gathered layer by layer."""
    if layout.settings.sharding == "zero3":
        return layout.gpus // layout.pp
    return max(layout.tp * layout.cp, layout.ep * layout.etp)


def even_share(left: Sequence[float]) -> float:
    """What is left of links that share their traffic evenly, the failed ones excepted."""
    alive = [share for share in left if share]
    return len(alive) / len(left) * min(alive, default=0.0)


def scale_up_left(hardware: Hardware) -> dict[int, float]:
    """Share left of the scale-up links of the GPUs that have a fault there, by GPU."""
    faulty = {fault.gpu for fault in hardware.faults if fault.gpu is not None and fault.left is not None}
    return {gpu: prod(f.left for f in hardware.faults if f.gpu == gpu and f.left is not None) for gpu in sorted(faulty)}


def ports_left(hardware: Hardware) -> dict[int, list[float]]:
    """Share left of every network port of the nodes that have a fault there, by node."""
    faulty = sorted({fault.node for fault in hardware.faults if fault.node is not None})
    return {
        node: [
            prod(f.left or 0.0 for f in hardware.faults if f.node == node and f.port in (None, port))
            for port in range(hardware.network.nics_per_node or 0)
        ]
        for node in faulty
    }


def uplinks_left(hardware: Hardware) -> dict[int, list[float]]:
    """Share left of the uplinks of the leaves that stand over LEAF_NODES nodes, a leaf for each plane, by the number
    of those nodes' group; only groups with a fault."""
    planes = hardware.planes
    faulty = sorted({fault.leaf // planes for fault in hardware.faults if fault.leaf is not None})
    return {
        group: [
            prod(f.left or 0.0 for f in hardware.faults if f.leaf == group * planes + plane) for plane in range(planes)
        ]
        for group in faulty
    }


def check_joined(hardware: Hardware) -> None:
    """Raises InfeasibleError where failed links leave a part of the machine that can't reach the rest."""
    domain, gpus = hardware.scale_up_domain, hardware.gpus
    alone = domain == 1 and hardware.network.kind != "torus"
    for gpu, left in scale_up_left(hardware).items():
        if not left and not alone:
            rest = gpus - 1 if hardware.network.kind == "torus" else domain - 1
            what = "links" if hardware.network.kind == "torus" else "scale-up link"
            raise _cut(f"GPU {gpu} has no {what} left and can't reach the {rest} GPUs that it is joined to by them")
    if gpus <= domain:
        return
    for node, of_ports in ports_left(hardware).items():
        mine = _gpus_of(hardware, node, 1)
        if not any(of_ports) and domain > hardware.gpus_per_node:
            raise InfeasibleError(
                f"node {node} has no network port left, and a detour through other nodes of its rack is not modelled",
                path=FAULTS,
            )
        if not any(of_ports):
            raise _cut(
                f"node {node} has no network port left: GPUs {mine.start}-{mine.stop - 1} can't reach the other "
                f"{gpus - len(mine)}"
            )
    for group, of_leaves in uplinks_left(hardware).items():
        mine = _gpus_of(hardware, group * LEAF_NODES, LEAF_NODES)
        if not any(of_leaves) and len(mine) < gpus:
            raise _cut(
                f"the leaves of nodes {group * LEAF_NODES}-{(mine.stop - 1) // hardware.gpus_per_node} have no uplink "
                f"left: GPUs {mine.start}-{mine.stop - 1} can't reach the other {gpus - len(mine)}"
            )


def _cut(message: str) -> InfeasibleError:
    return InfeasibleError(f"the machine falls apart: {message}. Mend it, or run on fewer GPUs", path=FAULTS)


def _gpus_of(hardware: Hardware, node: int, nodes: int) -> range:
    """The GPUs of some nodes from one on."""
    each = hardware.gpus_per_node
    return range(node * each, min(hardware.gpus, (node + nodes) * each))


def weakened(machine: Machine, condition: Condition) -> Machine:
    """The machine as its worst rank sees it: links with the bandwidth that is left."""
    hardware = machine.hardware
    device, network = hardware.device, hardware.network
    scale_up = device.scale_up.model_copy(update={"bandwidth": device.scale_up.bandwidth * condition.link})
    ports = condition.link if network.kind == "torus" else condition.ports
    changed = network.model_copy(
        update={
            "bandwidth": network.bandwidth * ports,
            "oversubscription": max(1.0, network.oversubscription * ports / condition.uplinks),
        }
    )
    update = {"device": device.model_copy(update={"scale_up": scale_up}), "network": changed}
    return replace(machine, hardware=hardware.model_copy(update=update))


def impair(costed: CostedGraph, conditions: Sequence[Condition]) -> CostedGraph:
    """The costed graph with what each stage takes in its condition; programs of impaired stages are copies."""
    known = {condition: _Impaired(costed, condition) for condition in dict.fromkeys(conditions)}
    graph, stages = costed.graph, [known[condition] for condition in conditions]
    rows = [
        tuple([stage.chunks(row) for stage, row in zip(stages, table, strict=True)]) if table else ()
        for table in graph.passes
    ]
    forward, backward, input_gradient, weight_gradient, paired_forward, paired_backward = rows
    ends = tuple([stage.end(i) for i, stage in enumerate(stages)])
    programs = {program: cost for one in known.values() for program, cost in one.costs.items()}
    send = graph.pipeline.send
    slowest = max(one.ratio([send]) for one in known.values()) if send is not None else 1.0
    return CostedGraph(
        graph=replace(
            graph,
            forward=forward,
            backward=backward,
            programs=tuple(programs),
            input_gradient=input_gradient,
            weight_gradient=weight_gradient,
            paired_forward=paired_forward,
            paired_backward=paired_backward,
        ),
        machine=costed.machine,
        programs=programs,
        ends=ends,
        send=costed.send * slowest,
        machines=tuple([stage.machine for stage in stages]),
    )


class _Impaired:
    """Copies of a graph's programs with their costs in one condition."""

    def __init__(self, costed: CostedGraph, condition: Condition) -> None:
        self.costed, self.condition = costed, condition
        healthy = costed.machine
        self.machine = healthy if condition[1:] == HEALTHY[1:] else weakened(healthy, condition)
        # What was measured on healthy links says nothing of these: both sides of a ratio come from the curves.
        self.alone = [replace(machine, evidence=None) for machine in (self.machine, healthy)]
        self.costs: dict[Program, CostedProgram] = {}
        self.copies: dict[Program, Program] = {}

    def chunks(self, row: Iterable[Chunk]) -> tuple[Chunk, ...]:
        return tuple([replace(c, programs=tuple([(self._copy(p), n) for p, n in c.programs])) for c in row])

    def end(self, stage: int) -> dict[str, float]:
        """Seconds of the stage's end by item."""
        healthy, end = self.costed.ends[stage], self.costed.graph.ends[stage]
        moved: Mapping[str, tuple[Operator, ...]] = {
            "gradient_sync": end.gradient_sync,
            "parameter_gather": end.parameter_gather,
        }
        return {
            item: seconds * (self.ratio(moved[item]) if item in moved else self.condition.slowdown)
            for item, seconds in healthy.items()
        }

    def ratio(self, operators: Sequence[Operator]) -> float:
        """How much longer collectives take than on a healthy machine."""
        works = [(op.work, op.calls) for op in operators if isinstance(op.work, Collective)]
        if self.machine is self.costed.machine or not works:
            return 1.0
        calls = [count for _, count in works]
        now, before = (float(collective_seconds([(m, work) for work, _ in works]) @ calls) for m in self.alone)
        return now / before if before else 1.0

    def _copy(self, program: Program) -> Program:
        if program not in self.copies:
            copy = program if self.condition == HEALTHY else replace(program)
            self.copies[program], self.costs[copy] = copy, self._cost(program, copy)
        return self.copies[program]

    def _cost(self, program: Program, copy: Program) -> CostedProgram:
        costs = self.costed.of(program)

        def longer(operators: Sequence[Operator], seconds: Sequence[float]) -> tuple[float, ...]:
            slow = self.condition.slowdown
            pairs = zip(operators, seconds, strict=True)
            return tuple([one * (self.ratio([op]) if op.is_communication else slow) for op, one in pairs])

        serial, background = longer(program.serial, costs.serial), longer(program.background, costs.background)
        return CostedProgram(copy, serial, background, costs.host)
