"""The fabric of a cluster link by link, and the route between any two GPUs.

Every GPU has a scale-up port; switches inside a domain never limit. Nodes have network ports: on a rail-optimised
tree the k-th ports of all nodes share a leaf, and traffic for another rail first crosses scale-up to the GPU of that
rail (NCCL's PXN); on a plain tree all ports of a node share one. Leaves hang on a spine that is narrower by the
oversubscription; its paths are balanced, so a leaf's uplinks are one pooled link. A dragonfly is the same with groups
and global links (Kim et al., ISCA 2008). A torus routes dimension by dimension, the shorter way round. Bandwidths are
per direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.cost.machine import Machine
from simulator.engine.folding import port_bandwidth, upper_name
from simulator.spec.hardware import LEAF_NODES, Hardware, torus_shape

Indices = NDArray[np.int64]


class Routes(NamedTuple):
    """Links of many pairs of GPUs: entry i says that the transfer of pair `pair[i]` uses `link[i]`."""

    pair: Indices
    link: Indices


@dataclass(frozen=True, slots=True, eq=False)
class Fabric:
    """Links with names and bytes/s. GPUs are numbered node by node."""

    hardware: Hardware
    names: tuple[str, ...]
    capacity: NDArray[np.float64]
    first: dict[str, int]
    """Number of the first link of each kind."""

    def route(self, source: int, target: int) -> tuple[int, ...]:
        """The links from one GPU to another, in order; none from a GPU to itself."""
        return tuple(self.routes(np.array([source]), np.array([target])).link.tolist())

    def routes(self, sources: Indices, targets: Indices) -> Routes:
        """The links of every pair (sources[i], targets[i]); pairs of one GPU with itself have none."""
        if self.hardware.network.kind == "torus":
            hops = _torus_hops(self, sources, targets)
        else:
            hops = _tree_hops(self, sources, targets)
        pairs = [np.flatnonzero(used & (sources != targets)) for used, _ in hops]
        return Routes(
            np.concatenate(pairs),
            np.concatenate([link[pair] for pair, (_, link) in zip(pairs, hops, strict=True)]),
        )


def build_fabric(machine: Machine) -> Fabric:
    """The fabric of a machine at calibrated bandwidths."""
    hardware = machine.hardware
    if hardware.network.kind == "torus":
        return _torus(machine)
    network, efficiency = hardware.network, machine.curves.network.efficiency
    names = [f"GPU {gpu} {way}" for way in ("out", "in") for gpu in range(hardware.gpus)]
    capacity = [port_bandwidth(machine)] * len(names)
    first = {"port out": 0, "port in": hardware.gpus}
    ports = hardware.nodes * _ports(hardware)
    if hardware.gpus > hardware.scale_up_domain:
        for way in ("out", "in"):
            first[f"nic {way}"] = len(names)
            names += [f"node {i // _ports(hardware)} network port {i % _ports(hardware)} {way}" for i in range(ports)]
            capacity += [efficiency * network.bandwidth] * ports
        per_leaf = min(LEAF_NODES, hardware.nodes) * (1 if _by_rail(hardware) else _ports(hardware))
        leaves = -(-hardware.nodes // LEAF_NODES) * (_ports(hardware) if _by_rail(hardware) else 1)
        for way in ("out", "in"):
            first[f"upper {way}"] = len(names)
            names += [f"{upper_name(hardware)} {leaf} {way}" for leaf in range(leaves)]
            capacity += [efficiency * network.bandwidth * per_leaf / network.oversubscription] * leaves
    return Fabric(hardware, tuple(names), np.array(capacity), first)


def _ports(hardware: Hardware) -> int:
    return hardware.network.nics_per_node or 0


def _by_rail(hardware: Hardware) -> bool:
    return hardware.network.topology == "rail-optimised-fat-tree"


Hop = tuple[NDArray[np.bool_], Indices]
"""Which pairs use a link of this step, and which link."""


def _tree_hops(fabric: Fabric, sources: Indices, targets: Indices) -> list[Hop]:
    hardware, first = fabric.hardware, fabric.first
    far = sources // hardware.scale_up_domain != targets // hardware.scale_up_domain
    near = ~far
    if "nic out" not in first:
        return [(near, first["port out"] + sources), (near, first["port in"] + targets)]
    per_node, ports = hardware.gpus_per_node, _ports(hardware)
    here, there = sources // per_node, targets // per_node
    rail_in = targets % per_node * ports // per_node
    rail_out = rail_in if _by_rail(hardware) else sources % per_node * ports // per_node
    on_bus = hardware.device.scale_up.kind == "pcie"  # the network port hangs on the bus that joins the GPUs
    proxied = far & (sources % per_node * ports // per_node != rail_out)
    proxy = here * per_node + rail_out * per_node // ports
    if _by_rail(hardware):
        leaf_out, leaf_in = here // LEAF_NODES * ports + rail_out, there // LEAF_NODES * ports + rail_in
    else:
        leaf_out, leaf_in = here // LEAF_NODES, there // LEAF_NODES
    crosses = far & (leaf_out != leaf_in)
    return [
        (near | proxied | (far & on_bus), first["port out"] + sources),
        (proxied, first["port in"] + proxy),
        (far, first["nic out"] + here * ports + rail_out),
        (crosses, first["upper out"] + leaf_out),
        (crosses, first["upper in"] + leaf_in),
        (far, first["nic in"] + there * ports + rail_in),
        (near | (far & on_bus), first["port in"] + targets),
    ]


def _torus(machine: Machine) -> Fabric:
    hardware = machine.hardware
    axes = "xyz"[: _dimensions(hardware)]
    names = [f"chip {chip} {sign}{axis}" for axis in axes for sign in "+-" for chip in range(hardware.gpus)]
    speed = machine.curves.network.efficiency * hardware.network.bandwidth
    return Fabric(hardware, tuple(names), np.full(len(names), speed), {"links": 0})


def _dimensions(hardware: Hardware) -> int:
    return 3 if hardware.network.topology == "torus-3d" else 2


def _torus_hops(fabric: Fabric, sources: Indices, targets: Indices) -> list[Hop]:
    """One hop at a time along the first axis, then the next. Half way round, even chips go up and odd ones down."""
    hardware = fabric.hardware
    hops: list[Hop] = []
    at, stride = sources.copy(), 1
    for axis, side in enumerate(torus_shape(hardware.gpus, _dimensions(hardware))):
        here, there = at // stride % side, targets // stride % side
        up = (there - here) % side
        down = side - up
        upward = (up < down) | ((up == down) & (sources % 2 == 0))
        left = np.where(up == 0, 0, np.minimum(up, down))
        step = np.where(upward, 1, -1)
        for _ in range(side // 2):
            moves = left > 0
            hops.append((moves, (2 * axis + ~upward) * hardware.gpus + at))
            coordinate = at // stride % side
            at = np.where(moves, at + ((coordinate + step) % side - coordinate) * stride, at)
            left = left - moves
        stride *= side
    return hops
