"""The links of a folded machine: one rank of each pipeline stage stands for all of its replicas.

A rank has a scale-up port of its own. It shares its node's network ports with the other ranks of the node, and what
lies above them with the other nodes of the leaf and of the pod. Ranks of one stage do the same at the same time, so
the one that is simulated loads shared links as many times over as they hold of them; stages that live in one node,
under one leaf or in one pod share its links. Capacities are the calibrated bandwidths of large transfers, so that one
collective alone takes its costed time, and are per direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple

from simulator.cost.annotation import CostedGraph
from simulator.cost.collective import loaded_bytes, transfer_seconds
from simulator.cost.machine import Machine
from simulator.cost.paths import crossing_share, crowding
from simulator.engine.flows import Load, Transfer
from simulator.graph.operator import Collective, Operator
from simulator.spec.hardware import LEAF_NODES, Hardware

Kind = Literal["scale-up", "ports", "uplinks", "pod"]
Way = Literal["out", "in"]


class FoldedLink(NamedTuple):
    """One link: bytes/s in one direction, what it is, where, and the stages that load it."""

    name: str
    kind: Kind
    way: Way
    bandwidth: float
    stages: tuple[int, ...]


class Direction(NamedTuple):
    """The links of one stage in one direction; None where the machine has none or never fills it."""

    port: int
    nic: int | None
    upper: int | None
    pod: int | None = None


class Place(NamedTuple):
    """Where the ranks of a stage lie: its first node, leaf and pod, and how many of its nodes are under those."""

    node: int
    leaf: int
    pod: int
    in_leaf: float
    in_pod: float


class Tenancy(NamedTuple):
    """A job that has only a part of every leaf, since another job's nodes lie between its own."""

    nodes: int
    """Of both jobs."""
    share: float
    """Of them that are this job's."""
    oversubscription: float
    """Of the leaves, whoever's nodes are below them."""


@dataclass(frozen=True, slots=True)
class FoldedLinks:
    """Every link once; `out` and `into` are those of each stage."""

    machines: tuple[Machine, ...]
    """As the ranks of each stage see it."""
    links: tuple[FoldedLink, ...]
    out: tuple[Direction, ...]
    into: tuple[Direction, ...]
    places: tuple[Place, ...]
    ranks_in_node: int
    """Ranks of one stage in one node."""
    leaf_nodes: float
    """Nodes of this job under one leaf."""

    @property
    def capacity(self) -> tuple[float, ...]:
        """Bytes/s of each link."""
        return tuple([link.bandwidth for link in self.links])


def fold_links(costed: CostedGraph, tenancy: Tenancy | None = None) -> FoldedLinks:
    """The links that the stages of a graph use, of a machine of their own or as one of two tenants."""
    graph, hardware = costed.graph, costed.machine.hardware
    stages = range(graph.pipeline.stages)
    machines = tuple([costed.machine_of(stage) for stage in stages])
    leaf_nodes = LEAF_NODES * tenancy.share if tenancy else 1 if hardware.network.kind == "torus" else LEAF_NODES
    places = _places(hardware, graph.replicas, len(stages), leaf_nodes)
    laid = _Laid(machines, places, tenancy, graph.replicas < hardware.gpus_per_node and len(stages) > 1)
    out, into = (tuple([laid.direction(way, stage) for stage in stages]) for way in WAYS)
    per_node = min(graph.replicas, hardware.gpus_per_node)
    return FoldedLinks(machines, tuple(laid.links), out, into, places, per_node, leaf_nodes)


class _Laid:
    """The links laid so far."""

    def __init__(
        self, machines: Sequence[Machine], places: Sequence[Place], tenancy: Tenancy | None, shared: bool
    ) -> None:
        self.machines, self.places, self.tenancy, self.shared = machines, places, tenancy, shared
        self.links: list[FoldedLink] = []
        self.numbers: dict[tuple[Kind, Way, int], int] = {}

    def direction(self, way: Way, stage: int) -> Direction:
        """The links of a stage, new ones laid."""
        place, port = self.places[stage], self._link("scale-up", way, stage, stage)
        assert port is not None
        above: tuple[tuple[Kind, int], ...] = (("ports", place.node), ("uplinks", place.leaf), ("pod", place.pod))
        return Direction(port, *[self._link(kind, way, where, stage) for kind, where in above])

    def _link(self, kind: Kind, way: Way, where: int, stage: int) -> int | None:
        machine, key = self.machines[stage], (kind, way, where)
        if key not in self.numbers:
            bandwidth = _bandwidth(machine, kind, self.places[stage], self.tenancy)
            if not bandwidth:
                return None
            name = f"{_name(machine.hardware, kind, where, stage, self.shared)}, {way}"
            self.numbers[key] = len(self.links)
            self.links.append(FoldedLink(name, kind, way, bandwidth, ()))
        number = self.numbers[key]
        self.links[number] = self.links[number]._replace(stages=(*self.links[number].stages, stage))
        return number


WAYS: tuple[Way, Way] = ("out", "in")


def _places(hardware: Hardware, replicas: int, stages: int, per_leaf: float) -> tuple[Place, ...]:
    per_pod = hardware.network.pods.nodes if hardware.network.pods else hardware.nodes
    places = []
    for stage in range(stages):
        first = stage * replicas // hardware.gpus_per_node
        end = max(first + 1, ceil((stage + 1) * replicas / hardware.gpus_per_node))
        leaf, pod = int(first / per_leaf), first // per_pod
        in_leaf, in_pod = (min(end, (at + 1) * size) - first for at, size in ((leaf, per_leaf), (pod, per_pod)))
        places.append(Place(first, leaf, pod, in_leaf, in_pod))
    return tuple(places)


def _bandwidth(machine: Machine, kind: Kind, place: Place, tenancy: Tenancy | None) -> float:
    """Bytes/s, one direction; 0 where there is no such link or nothing can fill it."""
    hardware, efficiency = machine.hardware, machine.curves.network.efficiency
    nic, upper = machine.nic, hardware.all_to_all_bandwidth_per_gpu
    in_node, pods = min(hardware.gpus, hardware.gpus_per_node), hardware.network.pods
    match kind:
        case "scale-up":
            return port_bandwidth(machine)
        case "ports":
            return efficiency * nic * in_node
        case "uplinks":
            if tenancy is not None:
                below = min(LEAF_NODES, tenancy.nodes - place.leaf * LEAF_NODES)
                return efficiency * nic * in_node * below / tenancy.oversubscription
            if not nic or (upper >= nic and hardware.network.routing == "adaptive"):
                return 0.0
            nodes = 1 if hardware.network.kind == "torus" else min(LEAF_NODES, hardware.nodes - place.leaf * LEAF_NODES)
            return efficiency * upper * in_node * nodes
        case "pod":
            if pods is None or hardware.nodes <= pods.nodes:
                return 0.0
            nodes = min(pods.nodes, hardware.nodes - place.pod * pods.nodes)
            return efficiency * upper * in_node * nodes / pods.oversubscription


def _name(hardware: Hardware, kind: Kind, where: int, stage: int, shared: bool) -> str:
    """What a link is called. A node that stages share goes by its number, one of a stage's many by the stage."""
    torus = hardware.network.kind == "torus"
    match kind:
        case "scale-up":
            return f"scale-up port, stage {stage}"
        case "ports":
            nics = "torus links" if torus else "network ports"
            return f"{nics}, node {where}" if shared else f"{nics}, node of stage {stage}"
        case "uplinks":
            return f"{upper_name(hardware)}, {'node' if torus else 'leaf'} {where}"
        case "pod":
            return f"pod uplinks, pod {where}"


def port_bandwidth(machine: Machine) -> float:
    """Bytes/s, one direction, that the best of the calibrated collectives gets through a GPU's scale-up port."""
    curve = machine.curves.collective
    return max(curve.ring, curve.all_to_all) * machine.link


def upper_name(hardware: Hardware) -> str:
    """What lies above the network ports."""
    match hardware.network.topology:
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
    work, into = operator.work, source if target is None else target
    assert isinstance(work, Collective)
    machine = min((links.machines[source], links.machines[into]), key=lambda m: m.nic)
    inside, outside = (moved * operator.calls for moved in loaded_bytes(machine, work))
    moving = min(seconds, transfer_seconds(machine, work) * operator.calls)
    if not moving:
        return Transfer(operator.name, operator.item, seconds, 0.0, 1.0, ())
    over_port = inside + (outside if machine.hardware.device.scale_up.kind == "pcie" else 0.0)
    above_leaf, above_pod = _crossing(links, work, source, into)
    wanted: dict[int, float] = {}
    for stage, direction in ((source, links.out[source]), (into, links.into[into])):
        place, capacity = links.places[stage], links.links
        wanted[direction.port] = min(over_port, moving * capacity[direction.port].bandwidth)
        if direction.nic is not None:
            wanted[direction.nic] = min(outside * links.ranks_in_node, moving * capacity[direction.nic].bandwidth)
        if direction.upper is not None and above_leaf:
            crowded = crowding(machine.hardware, work, place.in_leaf)
            wanted[direction.upper] = outside * above_leaf * links.ranks_in_node * place.in_leaf * crowded
        if direction.pod is not None and above_pod:
            wanted[direction.pod] = outside * above_pod * links.ranks_in_node * place.in_pod
    return _transfer(operator, seconds, moving, wanted, links.capacity)


def _crossing(links: FoldedLinks, work: Collective, source: int, target: int) -> tuple[float, float]:
    """Shares of what a rank sends over the network that pass above its leaf, and above its pod."""
    hardware = links.machines[source].hardware
    if work.kind == "send_recv" and source != target:
        here, there = links.places[source], links.places[target]
        return float(here.leaf != there.leaf), float(here.pod != there.pod)
    pods = hardware.network.pods
    above_pod = crossing_share(hardware, work, pods.nodes) if pods else 0.0
    return crossing_share(hardware, work, links.leaf_nodes), above_pod


def _transfer(
    operator: Operator, seconds: float, moving: float, wanted: dict[int, float], capacity: Sequence[float]
) -> Transfer:
    """A transfer whose own bytes are those on the link that it fills most, so that sharing there is fair in bytes."""
    size = wanted[max(wanted, key=lambda link: wanted[link] / capacity[link])]
    if not size:
        return Transfer(operator.name, operator.item, seconds, 0.0, 1.0, ())
    loads: tuple[Load, ...] = tuple((link, moved / size) for link, moved in wanted.items() if moved)
    return Transfer(operator.name, operator.item, seconds - moving, size, size / moving, loads)


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
