"""The links of a folded machine: one rank of each pipeline stage stands for all of its replicas.

A rank has a scale-up port of its own and shares its node's network ports, and what lies above them, with the other
ranks of the node. Ranks of one stage do the same at the same time, so the one that is simulated loads shared links as
many times over as the node holds of them; stages that live in one node share its links. Capacities are the calibrated
bandwidths of large transfers, so that one collective alone takes its costed time, and are per direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from simulator.cost.annotation import CostedGraph
from simulator.cost.collective import sent_bytes, transfer_seconds
from simulator.cost.machine import Machine
from simulator.engine.flows import Load, Transfer
from simulator.graph.operator import Collective, Operator
from simulator.spec.hardware import LEAF_NODES


class Direction(NamedTuple):
    """The links of one stage in one direction; None where the machine has none or never fills it."""

    port: int
    nic: int | None
    upper: int | None


@dataclass(frozen=True, slots=True)
class FoldedLinks:
    """Every link once, with name and bytes/s; `out` and `into` are those of each stage."""

    machine: Machine
    names: tuple[str, ...]
    capacity: tuple[float, ...]
    out: tuple[Direction, ...]
    into: tuple[Direction, ...]
    ranks_in_node: int
    """Ranks of one stage in one node."""


def fold_links(costed: CostedGraph) -> FoldedLinks:
    """The links that the stages of a graph use."""
    machine, graph = costed.machine, costed.graph
    hardware = machine.hardware
    per_node = min(graph.replicas, hardware.gpus_per_node)
    stages_in_node = max(1, hardware.gpus_per_node // graph.replicas)
    names: list[str] = []
    capacity: list[float] = []

    def link(name: str, bandwidth: float) -> int:
        names.append(name)
        capacity.append(bandwidth)
        return len(names) - 1

    port, nic = port_bandwidth(machine), machine.curves.network.efficiency * machine.nic
    upper = machine.curves.network.efficiency * hardware.all_to_all_bandwidth_per_gpu
    nics = "torus links" if hardware.network.kind == "torus" else "network ports"
    in_node = min(hardware.gpus, hardware.gpus_per_node)
    sides = []
    for way in ("out", "in"):
        shared: dict[int, tuple[int | None, int | None]] = {}
        directions = []
        for stage in range(graph.pipeline.stages):
            node = stage // stages_in_node
            if node not in shared:
                where = f"node of stage {stage}" if stages_in_node == 1 else f"node {node}"
                shared[node] = (
                    link(f"{nics}, {where}, {way}", nic * in_node) if nic else None,
                    link(f"{upper_name(machine)}, {where}, {way}", upper * in_node) if nic and upper < nic else None,
                )
            directions.append(Direction(link(f"scale-up port, stage {stage}, {way}", port), *shared[node]))
        sides.append(tuple(directions))
    return FoldedLinks(machine, tuple(names), tuple(capacity), sides[0], sides[1], per_node)


def port_bandwidth(machine: Machine) -> float:
    """Bytes/s, one direction, that the best of the calibrated collectives gets through a GPU's scale-up port."""
    curve = machine.curves.collective
    return max(curve.ring, curve.all_to_all) * machine.link


def upper_name(machine: Machine) -> str:
    """What lies above the network ports."""
    match machine.hardware.network.topology:
        case "torus-2d" | "torus-3d":
            return "middle of the torus"
        case "dragonfly":
            return "global links"
        case _:
            return "leaf uplinks"


def collective_transfer(
    links: FoldedLinks, operator: Operator, seconds: float, source: int, target: int | None = None
) -> Transfer:
    """The transfer of an operator whose calls take `seconds` alone, on a rank of stage `source`.

    A collective loads its ranks' links both ways; a pipeline send leaves `source` and enters `target`.
    """
    work = operator.work
    assert isinstance(work, Collective)
    inside, outside = (moved * operator.calls for moved in sent_bytes(work))
    moving = min(seconds, transfer_seconds(links.machine, work) * operator.calls)
    if not moving:
        return Transfer(operator.name, operator.item, seconds, 0.0, 1.0, ())
    crossing = outside * crossing_share(links.machine, work)
    wanted: dict[int, float] = {}
    for direction in (links.out[source], links.into[source if target is None else target]):
        over_port = inside + (outside if links.machine.hardware.device.scale_up.kind == "pcie" else 0.0)
        wanted[direction.port] = min(over_port, moving * links.capacity[direction.port])
        if direction.nic is not None:
            capacity = links.capacity[direction.nic]
            wanted[direction.nic] = min(outside * links.ranks_in_node, moving * capacity)
        if direction.upper is not None:
            wanted[direction.upper] = crossing * links.ranks_in_node
    return _transfer(operator, seconds, moving, wanted, links.capacity)


def _transfer(
    operator: Operator, seconds: float, moving: float, wanted: dict[int, float], capacity: Sequence[float]
) -> Transfer:
    """A transfer whose own bytes are those on the link that it fills most, so that sharing there is fair in bytes."""
    size = wanted[max(wanted, key=lambda link: wanted[link] / capacity[link])]
    if not size:
        return Transfer(operator.name, operator.item, seconds, 0.0, 1.0, ())
    loads: tuple[Load, ...] = tuple((link, moved / size) for link, moved in wanted.items() if moved)
    return Transfer(operator.name, operator.item, seconds - moving, size, size / moving, loads)


def crossing_share(machine: Machine, work: Collective) -> float:
    """Share of what a rank sends over the network that passes the links above the leaves.

    All of an all-to-all and of a transfer to another stage; of a ring, whose domains lie side by side, only the steps
    from one leaf to the next. In a torus rings stay between neighbours.
    """
    if work.kind in ("all_to_all", "send_recv"):
        return 1.0
    hardware, domains = machine.hardware, work.group.domains
    if hardware.network.kind == "torus" or domains == 1:
        return 0.0
    leaves = ceil(domains * hardware.scale_up_domain / (LEAF_NODES * hardware.gpus_per_node))
    return leaves / domains if leaves > 1 else 0.0


def combined(transfers: Sequence[Transfer]) -> Transfer:
    """One transfer that takes as long as `transfers` one after the other and moves what they move."""
    first = transfers[0]
    if len(transfers) == 1:
        return first
    moving = sum(t.bytes / t.cap for t in transfers if t.bytes)
    size = sum(t.bytes for t in transfers)
    loads: dict[int, float] = {}
    for t in transfers:
        for link, load in t.loads:
            loads[link] = loads.get(link, 0.0) + load * t.bytes
    latency = sum(t.latency for t in transfers)
    if not size:
        return first._replace(latency=latency)
    return first._replace(
        latency=latency,
        bytes=size,
        cap=size / moving,
        loads=tuple((link, moved / size) for link, moved in loads.items()),
    )
