"""The algorithms that NCCL does collectives with, in closed form: a latency for each step, and bytes over a bandwidth.

* ring: every rank passes on every chunk but one, twice in an all-reduce: 2 (p-1)/p of the buffer through each link.
  Rings enter and leave a node by different NICs, so all NICs of the group carry it; inside a node a ring of d of its
  ranks has d - 1 links.
* tree: chains inside nodes and two binary trees of nodes, each with half of the buffer, in which the nodes that pass on
  in one are leaves of the other (Sanders, Speck and Traeff, Parallel Computing 35, 2009); latency grows with the
  logarithm of the nodes.
* nvls: switches add up what all ranks of a domain hold and send the sum to all; between nodes the two trees.
* hierarchical: reduce-scatter inside nodes, all-reduce of the parts between equal places of nodes, all-gather.
* pat: a tree for each rank's chunk, where a node has one rank of a gather or scatter.

Steps, trees and what is possible where are those of NCCL's cost model (src/graph/tuning.cc, src/graph/trees.cc);
latencies and bandwidths are calibrated.
"""

from __future__ import annotations

from functools import lru_cache
from math import log2
from typing import Literal, NamedTuple

from simulator.cost.machine import Machine
from simulator.graph.operator import Collective, Group
from simulator.spec.hardware import torus_shape
from simulator.spec.inference_constants import read_inference_constants
from simulator.units import US

Algorithm = Literal[
    "none", "ring", "tree", "nvls", "hierarchical", "pat", "direct", "pairwise", "deepep", "deepep_ll", "two_sided",
    "send",
]  # fmt: skip

NVLS_RANKS = 8
"""NCCL turns to in-switch reduction where a group fills a node: 2 and 4 of 8 GPUs have the bandwidth of rings."""
TREE_BANDWIDTH = 0.92
"""Bandwidth of a tree over that of a ring on the same links (src/graph/tuning.cc)."""


class Timing(NamedTuple):
    """What a collective takes alone: (latency^q + transfer^q)^(1/q) seconds."""

    algorithm: Algorithm
    latency: float
    transfer: float
    q: float = 1.0

    @property
    def seconds(self) -> float:
        """All of it."""
        return float((self.latency**self.q + self.transfer**self.q) ** (1 / self.q))


def passes(work: Collective) -> int:
    """How often a ring carries the buffer around: an all-reduce scatters and gathers."""
    return 2 if work.kind == "all_reduce" else 1


def ring(machine: Machine, work: Collective) -> Timing:
    """All-reduce, all-gather or reduce-scatter in rings through all ranks."""
    group, curve, times = work.group, machine.curves.collective, passes(work)
    between = _steps_between(machine, group)
    inside = group.size - 1 - between
    latency = curve.base_us + times * (curve.hop_us * inside + machine.curves.network.ring_us * between)
    moved = (times * (group.size - 1) + curve.ring_own) / group.size * work.bytes
    if group.domains == 1:
        return Timing("ring", latency * US, moved / (curve.ring * machine.link), curve.q)
    over_link = moved * (group.per_domain - 1) / group.per_domain / (curve.ring * machine.link)
    return Timing("ring", latency * US, max(over_link, moved / nic_bandwidth(machine, work)), curve.q)


def tree(machine: Machine, work: Collective) -> Timing:
    """All-reduce up and down two trees of nodes, in chains inside them."""
    group, curve = work.group, machine.curves.collective
    in_chain = group.per_domain - 1
    latency = curve.base_us + 2 * (curve.hop_us * in_chain + machine.curves.network.base_us * log2(group.domains))
    chain = 2 * in_chain / group.per_domain * work.bytes / (curve.ring * machine.link)
    return Timing("tree", latency * US, max(chain, _over_trees(machine, work)) / TREE_BANDWIDTH, curve.q)


def nvls(machine: Machine, work: Collective) -> Timing:
    """All-reduce by the switches of each domain, and two trees of domains where there is more than one."""
    group, curve = work.group, machine.curves.collective
    latency = curve.in_network_us + 2 * machine.curves.network.base_us * log2(group.domains)
    inside = 2 * (group.size - 1) / group.size * work.bytes / (curve.in_network * machine.link)
    return Timing("nvls", latency * US, max(inside, _over_trees(machine, work)), curve.q)


def hierarchical(machine: Machine, work: Collective) -> Timing:
    """All-reduce in three stages, one after the other; in one domain that is a ring."""
    group = work.group
    if group.domains == 1:
        return ring(machine, work)
    leaders = Collective("all_reduce", work.bytes / group.per_domain, Group(group.domains, 1), nics=work.nics)
    stages = [ring(machine, leaders)]
    if group.per_domain > 1:
        inside = Group(group.per_domain, group.per_domain)
        stages += [ring(machine, Collective("reduce_scatter", work.bytes, inside))]
        stages += [ring(machine, Collective("all_gather", work.bytes, inside))]
    latency, transfer = sum(stage.latency for stage in stages), sum(stage.transfer for stage in stages)
    return Timing("hierarchical", latency, transfer, machine.curves.collective.q)


def pat(machine: Machine, work: Collective) -> Timing:
    """All-gather or reduce-scatter over trees, of groups with one rank in a domain."""
    group, curve = work.group, machine.curves.collective
    latency = curve.base_us + machine.curves.network.base_us * log2(group.domains)
    moved = (group.size - 1) / group.size * work.bytes
    return Timing("pat", latency * US, moved / nic_bandwidth(machine, work), curve.q)


def direct(machine: Machine, work: Collective) -> Timing:
    """All-reduce of a serving engine over peer memory: one barrier, two shots."""
    ranks, constants = work.group.size, read_inference_constants()
    latency = constants.reduce_us + constants.reduce_hop_us * ranks
    moved = 2 * (ranks - 1) / ranks * work.bytes
    return Timing("direct", latency * US, moved / (constants.reduce_ring * machine.link))


def nic_bandwidth(machine: Machine, work: Collective) -> float:
    """Bytes/s, one direction, that the NICs of a group's ranks in one domain carry together."""
    nics = work.group.per_domain * machine.nic
    if work.nics is not None:
        nics = min(nics, work.nics * machine.hardware.network.bandwidth)
    return machine.curves.network.efficiency * nics


def _steps_between(machine: Machine, group: Group) -> int:
    """Steps of a ring from one domain to the next; in a torus rings of every axis follow one another."""
    network = machine.hardware.network
    if network.kind != "torus":
        return group.domains - 1
    sides = torus_shape(group.domains, 3 if network.topology == "torus-3d" else 2)
    return sum(side - 1 for side in sides)


def _over_trees(machine: Machine, work: Collective) -> float:
    """Seconds that the busiest node sends up and down the two trees; 0 in one domain."""
    if work.group.domains == 1:
        return 0.0
    return tree_load(work.group.domains) * work.bytes / nic_bandwidth(machine, work)


@lru_cache(maxsize=1024)
def tree_load(nodes: int) -> float:
    """Buffers that the busiest node sends, and receives, in an all-reduce over the two trees."""
    sent = [0.0] * nodes
    for parents in double_tree(nodes):
        for node, parent in enumerate(parents):
            if parent is not None:
                sent[node] += 0.5
                sent[parent] += 0.5
    return max(sent)


@lru_cache(maxsize=1024)
def double_tree(nodes: int) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """The parent of every node in each of two binary trees, None for the root.

    In the first tree odd nodes are leaves. The second is its mirror image, or the first shifted by one where the number
    of nodes is odd.
    """
    first = tuple([_parent(node, nodes) for node in range(nodes)])
    second: list[int | None] = [None] * nodes
    for node, parent in enumerate(first):
        if nodes % 2:
            second[(node + 1) % nodes] = None if parent is None else (parent + 1) % nodes
        else:
            second[nodes - 1 - node] = None if parent is None else nodes - 1 - parent
    return first, tuple(second)


def _parent(node: int, nodes: int) -> int | None:
    """A node with lowest set bit b hangs below the one with the next higher bit in its place, where there is one."""
    if node == 0:
        return None
    bit = node & -node
    above = (node ^ bit) | (bit << 1)
    return above if above < nodes else node ^ bit
