"""Paths above the leaves of a tree: which traffic takes them, and how unevenly hashed flows fall on them.

With adaptive routing the uplinks of a leaf are one pooled link. With ECMP a hash gives every flow one of them, so that
some carry more flows than others, and the fullest sets the time. F flows on U uplinks are balls in bins; with F/U of
them on an uplink on average, Poisson, the fullest holds an expected sum over k >= 0 of 1 - P(X <= k)^U (Mitzenmacher
and Upfal, Probability and Computing, section 5.4).
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, exp, sqrt

from simulator.graph.operator import Collective
from simulator.spec.hardware import LEAF_NODES, Hardware


def crowding(hardware: Hardware, work: Collective, nodes: float = LEAF_NODES) -> float:
    """Flows on the fullest uplink of a leaf over the mean of its uplinks, while all ranks of so many of its nodes do
    `work`; 1 where paths are chosen by load."""
    if hardware.network.routing == "adaptive" or hardware.leaves <= hardware.planes:
        return 1.0
    ports = min(nodes, hardware.nodes) * (hardware.network.nics_per_node or 0) / hardware.planes
    peers = work.group.domains - 1 if work.kind == "all_to_all" else 1
    return fullest_path(max(1, round(max(1, peers) * ports)), uplinks(hardware))


def crossing_share(hardware: Hardware, work: Collective, nodes: float) -> float:
    """Share of what a rank of a group sends over the network that leaves its part of `nodes` neighbouring nodes.

    The group's domains lie side by side. Of a ring only the steps from one part to the next leave it; of an all-to-all
    what goes to domains of other parts. In a torus rings stay between neighbours, and an all-to-all passes its middle.
    """
    domains, everywhere = work.group.domains, work.kind in ("all_to_all", "send_recv")
    if hardware.network.kind == "torus":
        return float(everywhere)
    parts = ceil(domains * hardware.scale_up_domain / (nodes * hardware.gpus_per_node))
    if parts <= 1 or domains == 1:
        return float(work.kind == "send_recv")
    return domains * (1 - 1 / parts) / (domains - 1) if everywhere else parts / domains


def uplinks(hardware: Hardware) -> int:
    """Uplinks of a leaf, each as fast as a network port."""
    ports = LEAF_NODES * (hardware.network.nics_per_node or 0) // hardware.planes
    return max(1, ceil(ports / hardware.network.oversubscription))


@lru_cache(maxsize=1024)
def fullest_path(flows: int, paths: int) -> float:
    """Expected flows on the fullest of `paths` over the mean, each flow on one of them at random."""
    mean = flows / paths
    if mean > MANY:  # where the spread of a Poisson shrinks against its mean as 1/sqrt(mean)
        return 1 + (fullest_path(int(MANY * paths), paths) - 1) * sqrt(MANY / mean)
    expected, at_most, term, k = 0.0, 0.0, exp(-mean), 0
    while True:
        at_most += term
        beyond = 1 - min(1.0, at_most) ** paths
        expected += beyond
        k += 1
        term *= mean / k
        if k > mean and beyond < ROUNDING:
            return max(1.0, expected, mean) / mean


MANY = 600.0
"""Flows on a path up to which the sum is taken: e^-MANY is still a number."""
ROUNDING = 1e-9
