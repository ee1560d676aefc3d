"""Seconds of collectives if alone on their links, by the algorithm that NCCL would choose.

NCCL times each algorithm that a group allows with a model of latency and bandwidth and takes the fastest; so does this
(simulator.cost.algorithms). Latency and transfer join as t = (a^q + b^q)^(1/q), which fits NCCL timings twice as well
as a + b: small messages go by protocols of low latency, large ones by those of high bandwidth, with no step between.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simulator.cost.algorithms import (
    NVLS_RANKS,
    Timing,
    direct,
    hierarchical,
    nvls,
    passes,
    pat,
    ring,
    tree,
    tree_load,
)
from simulator.cost.exchange import exchange
from simulator.cost.machine import Machine
from simulator.graph.operator import Collective
from simulator.units import US

Array = NDArray[np.float64]


def collective_seconds(works: Sequence[tuple[Machine, Collective]]) -> Array:
    """Seconds of collectives and transfers; 0 for groups of one rank."""
    return np.array([timing(machine, work).seconds for machine, work in works], dtype=np.float64)


def transfer_seconds(machine: Machine, work: Collective) -> float:
    """Seconds a large collective spends moving bytes: what grows with its size, without its latency."""
    return timing(machine, work).transfer


@lru_cache(maxsize=8192)
def timing(machine: Machine, work: Collective) -> Timing:
    """How a collective is done, and its latency and transfer."""
    if work.group.size == 1:
        return Timing("none", 0.0, 0.0)
    match work.kind:
        case "all_to_all":
            return exchange(machine, work)
        case "send_recv":
            return _send(machine, work)
        case "all_reduce":
            return min(_all_reduces(machine, work), key=lambda timing: timing.seconds)
        case _:
            found = ring(machine, work)
            if work.group.per_domain > 1 or machine.hardware.network.kind == "torus":
                return found
            return min(found, pat(machine, work), key=lambda timing: timing.seconds)


def _all_reduces(machine: Machine, work: Collective) -> list[Timing]:
    """The all-reduces that NCCL, and the serving engine, have for a group; one of them where the run says which."""
    scale_up, group = machine.hardware.device.scale_up, work.group
    match machine.all_reduce:
        case "ring":
            return [ring(machine, work)]
        case "tree":
            return [tree(machine, work)]
        case "nvls":
            return [nvls(machine, work) if group.per_domain > 1 else tree(machine, work)]
        case "hierarchical":
            return [hierarchical(machine, work)]
        case "auto":
            found = [ring(machine, work)]
            if group.domains > 1 and machine.hardware.network.kind != "torus":
                found.append(tree(machine, work))
            if scale_up.in_network_reduction and group.per_domain >= NVLS_RANKS:
                found.append(nvls(machine, work))
            if work.direct and group.domains == 1 and scale_up.kind != "pcie":
                found.append(direct(machine, work))
            return found


def _send(machine: Machine, work: Collective) -> Timing:
    curves = machine.curves
    if work.group.per_domain > 1:
        return Timing("send", curves.collective.base_us * US, work.bytes / (curves.collective.ring * machine.link))
    return Timing("send", curves.network.base_us * US, work.bytes / (curves.network.efficiency * machine.nic))


def bus_bandwidth(machine: Machine, work: Collective) -> float:
    """Bytes/s in nccl-tests' meaning that ever larger collectives of this group approach."""
    ranks = work.group.size
    return passes(work) * (ranks - 1) / ranks * work.bytes / timing(machine, work).transfer


def loaded_bytes(machine: Machine, work: Collective) -> tuple[float, float]:
    """Bytes one rank's scale-up port carries each way, and its share of the NICs, by the algorithm chosen."""
    places, domains = work.group.per_domain, work.group.domains
    match timing(machine, work).algorithm:
        case "tree":
            inside, outside = 2 * (places - 1) / places, tree_load(domains) / places
        case "nvls":
            inside, outside = 1 + 1 / places, tree_load(domains) / places
        case "hierarchical":
            inside, outside = 2 * (places - 1) / places, 2 * (domains - 1) / domains / places
        case _:
            return sent_bytes(work)
    return inside * work.bytes, outside * work.bytes


def sent_bytes(work: Collective) -> tuple[float, float]:
    """Bytes one rank sends for a collective: (over its scale-up link, over the network). Reductions and gathers count
    as rings, whichever algorithm is chosen."""
    group = work.group
    if group.size == 1:
        return 0.0, 0.0
    if work.kind == "all_to_all":
        return work.bytes, work.network_bytes
    if work.kind == "send_recv":
        return (work.bytes, 0.0) if group.per_domain > 1 else (0.0, work.bytes)
    sent = passes(work) * work.bytes * (group.size - 1) / group.size
    outside = sent / group.per_domain if group.domains > 1 else 0.0  # a ring leaves each domain once
    return sent - outside, outside
