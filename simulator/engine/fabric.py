"""The fabric of a cluster link by link, and the route between any two GPUs.

Every GPU has a scale-up port; switches inside a domain never limit. A node's network ports are dealt to planes, each a
tree of its own, and traffic stays in the plane of the port it arrives at: one that the sender's own port is not in is
reached through scale-up and the GPU of another port (NCCL's PXN). A rail-optimised tree is the case of one plane a
port, a plain one of one plane in all. Leaves hang on a spine that is narrower by the oversubscription, pods on a core
that is narrower still. With adaptive routing the uplinks of a leaf are one pooled link; with ECMP a hash of the two
GPUs picks one. A dragonfly is the same with groups and global links (Kim et al., ISCA 2008). A torus routes dimension
by dimension, the shorter way round. Bandwidths are per direction. Traffic goes around ports and leaves that have
failed, spread over those that are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.cost.conditions import check_joined, ports_left, scale_up_left, uplinks_left
from simulator.cost.machine import Machine
from simulator.cost.paths import uplinks
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
    """The fabric of a machine at calibrated bandwidths, less its faults. Raises InfeasibleError where these cut off a
    part of it."""
    hardware = machine.hardware
    check_joined(hardware)
    if hardware.network.kind == "torus":
        return _torus(machine)
    gpus, nodes, ports = hardware.gpus, hardware.nodes, _ports(hardware)
    port, speed = port_bandwidth(machine), machine.curves.network.efficiency * hardware.network.bandwidth
    scale_up = np.full(gpus, port)
    for gpu, left in scale_up_left(hardware).items():
        scale_up[gpu] *= left
    laid = _Laid()
    laid.both("port", [f"GPU {gpu}" for gpu in range(gpus)], scale_up)
    if gpus > hardware.scale_up_domain:
        of_node = np.full((nodes, ports), speed)
        for node, shares in ports_left(hardware).items():
            of_node[node] *= shares
        laid.both("nic", [f"node {i // ports} network port {i % ports}" for i in range(nodes * ports)], of_node.ravel())
        upper, above = upper_name(hardware), _uplink_bandwidth(hardware, speed)
        paths = above.shape[1]
        path = [f" path {i}" if hardware.network.routing == "ecmp" else "" for i in range(paths)]
        laid.both("upper", [f"{upper} {i // paths}{path[i % paths]}" for i in range(above.size)], above.ravel())
        pods = hardware.network.pods
        if pods is not None and nodes > pods.nodes:
            wide = speed * ports * pods.nodes / hardware.network.oversubscription / pods.oversubscription
            count = -(-nodes // pods.nodes)
            laid.both("pod", [f"pod uplinks {i}" for i in range(count)], np.full(count, wide))
    return Fabric(hardware, tuple(laid.names), np.concatenate(laid.capacity), laid.first)


class _Laid:
    """The links laid so far."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.capacity: list[NDArray[np.float64]] = []
        self.first: dict[str, int] = {}

    def both(self, kind: str, names: list[str], capacity: NDArray[np.float64]) -> None:
        """Lay links of a kind, first those out, then those in."""
        for way in ("out", "in"):
            self.first[f"{kind} {way}"] = len(self.names)
            self.names += [f"{name} {way}" for name in names]
            self.capacity.append(capacity)


def _uplink_bandwidth(hardware: Hardware, speed: float) -> NDArray[np.float64]:
    """Bytes/s of the uplinks: an array (leaves, paths), all paths of a leaf pooled unless flows are hashed."""
    below = min(LEAF_NODES, hardware.nodes) * _ports(hardware) / hardware.planes
    pooled = np.full(hardware.leaves, speed * below / hardware.network.oversubscription)
    for group, shares in uplinks_left(hardware).items():
        pooled[group * hardware.planes : (group + 1) * hardware.planes] *= shares
    paths = uplinks(hardware) if hardware.network.routing == "ecmp" else 1
    return np.repeat(pooled[:, None] / paths, paths, axis=1)


def _ports(hardware: Hardware) -> int:
    return hardware.network.nics_per_node or 0


Hop = tuple[NDArray[np.bool_], Indices]
"""Which pairs use a link of this step, and which link."""


def _tree_hops(fabric: Fabric, sources: Indices, targets: Indices) -> list[Hop]:
    hardware, first = fabric.hardware, fabric.first
    far = sources // hardware.scale_up_domain != targets // hardware.scale_up_domain
    near = ~far
    if "nic out" not in first:
        return [(near, first["port out"] + sources), (near, first["port in"] + targets)]
    per_node, ports, planes = hardware.gpus_per_node, _ports(hardware), hardware.planes
    here, there = sources // per_node, targets // per_node
    own_out, own_in = sources % per_node * ports // per_node, targets % per_node * ports // per_node
    port_out, port_in = _working_ports(fabric, sources, targets, own_out, own_in)
    on_bus = hardware.device.scale_up.kind == "pcie"  # the network port hangs on the bus that joins the GPUs
    to_proxy, from_proxy = far & (own_out != port_out), far & (own_in != port_in)
    proxy_out, proxy_in = here * per_node + port_out * per_node // ports, there * per_node + port_in * per_node // ports
    plane = port_in % planes
    leaf_out, leaf_in = here // LEAF_NODES * planes + plane, there // LEAF_NODES * planes + plane
    crosses = far & (leaf_out != leaf_in)
    paths = (first["upper in"] - first["upper out"]) // hardware.leaves
    path = _hashed(sources, targets) % paths
    hops = [
        (near | to_proxy | (far & on_bus), first["port out"] + sources),
        (to_proxy, first["port in"] + proxy_out),
        (far, first["nic out"] + here * ports + port_out),
        (crosses, first["upper out"] + leaf_out * paths + path),
        (crosses, first["upper in"] + leaf_in * paths + path),
        (far, first["nic in"] + there * ports + port_in),
        (from_proxy, first["port out"] + proxy_in),
        (near | from_proxy | (far & on_bus), first["port in"] + targets),
    ]
    if "pod out" in first and hardware.network.pods is not None:
        size = hardware.network.pods.nodes
        beyond = far & (here // size != there // size)
        hops[4:4] = [(beyond, first["pod out"] + here // size), (beyond, first["pod in"] + there // size)]
    return hops


def _working_ports(
    fabric: Fabric, sources: Indices, targets: Indices, own_out: Indices, own_in: Indices
) -> tuple[Indices, Indices]:
    """The ports that pairs leave and arrive by: those of their GPUs (the first one's moved to the plane of the
    second's); where one of them or the leaf above has failed, pairs take turns on all that are left."""
    hardware, planes, ports = fabric.hardware, fabric.hardware.planes, _ports(fabric.hardware)
    port_in, port_out = own_in.copy(), own_out // planes * planes + own_in % planes
    if not any(fault.left == 0 for fault in hardware.faults):
        return port_out, port_in
    works = fabric.capacity[fabric.first["nic out"] : fabric.first["nic in"]].reshape(hardware.nodes, ports) > 0
    above = fabric.capacity[fabric.first["upper out"] : fabric.first["upper in"]]
    joined = np.asarray(above.reshape(hardware.leaves // planes, planes, -1).max(axis=2) > 0)
    here, there = sources // hardware.gpus_per_node, targets // hardware.gpus_per_node
    leaf, other = here // LEAF_NODES, there // LEAF_NODES
    every = np.array([(o, i) for o in range(ports) for i in range(ports) if o % planes == i % planes])

    def usable(pair: Indices, out: Indices, into: Indices) -> NDArray[np.bool_]:
        spans = (leaf[pair] == other[pair]) | (joined[leaf[pair], into % planes] & joined[other[pair], into % planes])
        return np.asarray(works[here[pair], out] & works[there[pair], into] & spans)

    pairs = np.arange(sources.size)
    bad = np.flatnonzero(~usable(pairs, port_out, port_in))
    choices = usable(bad[:, None], every[:, 0], every[:, 1])
    turn = (sources[bad] + targets[bad]) % np.maximum(1, choices.sum(axis=1))
    chosen = (choices.cumsum(axis=1) > turn[:, None]).argmax(axis=1)
    port_out[bad], port_in[bad] = every[chosen].T
    return port_out, port_in


def _hashed(sources: Indices, targets: Indices) -> Indices:
    """A number for each pair, as good as random: the mixer of SplitMix64 (Steele et al., OOPSLA 2014)."""
    mixed = (sources.astype(np.uint64) << np.uint64(32)) | targets.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def _torus(machine: Machine) -> Fabric:
    hardware = machine.hardware
    axes = "xyz"[: _dimensions(hardware)]
    names = [f"chip {chip} {sign}{axis}" for axis in axes for sign in "+-" for chip in range(hardware.gpus)]
    speed = machine.curves.network.efficiency * hardware.network.bandwidth
    capacity = np.full((len(axes) * 2, hardware.gpus), speed)
    for chip, left in scale_up_left(hardware).items():
        capacity[:, chip] *= left
    return Fabric(hardware, tuple(names), capacity.ravel(), {"links": 0})


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
