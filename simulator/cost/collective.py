"""Seconds of collectives if alone on their links.

Within a scale-up domain a ring moves 2 (p-1)/p (all-reduce) or (p-1)/p (gather, scatter) of the buffer through each
link at a fraction of its bandwidth; across domains a group's bus is the smaller of its NVLink bus and its ranks' NICs
together. Latency and bandwidth combine as t = (a^q + (S/b)^q)^(1/q), which fits NCCL timings twice as well as a + S/b.
All-to-all counts the bytes that leave a rank inside its domain and over the network apart; the slower path sets the
time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simulator.cost.machine import Machine
from simulator.graph.operator import Collective
from simulator.spec.inference_constants import read_inference_constants
from simulator.units import US

Array = NDArray[np.float64]


def collective_seconds(works: Sequence[tuple[Machine, Collective]]) -> Array:
    """Seconds of collectives and transfers; 0 for groups of one rank."""
    table = np.array([_terms(machine, work) for machine, work in works], dtype=np.float64)
    latency, transfer, q = table.T
    seconds: Array = (latency**q + transfer**q) ** (1 / q)
    return seconds


def transfer_seconds(machine: Machine, work: Collective) -> float:
    """Seconds a large collective spends moving bytes: what grows with its size, without its latency."""
    return float(_terms(machine, work)[1])


def sent_bytes(work: Collective) -> tuple[float, float]:
    """Bytes one rank sends for a collective: (over its scale-up link, over the network)."""
    group = work.group
    if group.size == 1:
        return 0.0, 0.0
    if work.kind == "all_to_all":
        return work.bytes, work.network_bytes
    if work.kind == "send_recv":
        return (work.bytes, 0.0) if group.per_domain > 1 else (0.0, work.bytes)
    passes = 2 if work.kind == "all_reduce" else 1
    sent = passes * work.bytes * (group.size - 1) / group.size
    outside = sent / group.per_domain if group.domains > 1 else 0.0  # a ring leaves each domain once
    return sent - outside, outside


def _terms(machine: Machine, work: Collective) -> tuple[float, float, float]:
    """(latency in seconds, transfer in seconds, exponent that joins them)."""
    ranks = work.group.size
    if ranks == 1:
        return 0.0, 0.0, 1.0
    match work.kind:
        case "all_to_all":
            return _all_to_all(machine, work)
        case "send_recv":
            inside = work.group.per_domain > 1
            curve = machine.curves
            speed = curve.collective.ring * machine.link if inside else curve.network.efficiency * machine.nic
            return (curve.collective if inside else curve.network).base_us * US, work.bytes / speed, 1.0
        case _:
            ring = _ring(machine, work)
            direct = _direct(machine, work) if work.direct else None
            return ring if direct is None else min(ring, direct, key=_combined)


def _combined(terms: tuple[float, float, float]) -> float:
    latency, transfer, q = terms
    return float((latency**q + transfer**q) ** (1 / q))


def bus_bandwidth(machine: Machine, work: Collective) -> float:
    """Bytes/s through each rank's link that a large ring collective of this group sustains."""
    group, curve = work.group, machine.curves.collective
    reduces = work.kind == "all_reduce" and machine.hardware.device.scale_up.in_network_reduction
    inside = (curve.in_network if reduces and group.per_domain >= NVLS_RANKS else curve.ring) * machine.link
    if group.domains == 1:
        return inside
    nics = group.per_domain * machine.nic
    if work.nics is not None:
        nics = min(nics, work.nics * machine.hardware.network.bandwidth)
    return min(curve.ring * machine.link, machine.curves.network.efficiency * nics)


ALL_REDUCE_LATENCY = 1.4
"""Smallest all-reduce over smallest all-gather: 21/15, 15.5/10.4 and 26/17 us on 8 A100, H100 and B200 (NCCL)."""
NVLS_RANKS = 8
"""NCCL turns to in-switch reduction where a group fills a node."""


def _direct(machine: Machine, work: Collective) -> tuple[float, float, float] | None:
    """An all-reduce of a serving engine over peer memory (one barrier, two shots); None where GPUs lack NVLink."""
    ranks, constants = work.group.size, read_inference_constants()
    if work.group.domains > 1 or machine.hardware.device.scale_up.kind == "pcie":
        return None
    latency = constants.reduce_us + constants.reduce_hop_us * ranks
    moved = 2 * (ranks - 1) / ranks * work.bytes
    return latency * US, moved / (constants.reduce_ring * machine.link), 1.0


def _ring(machine: Machine, work: Collective) -> tuple[float, float, float]:
    group, curves = work.group, machine.curves
    share = (group.size - 1) / group.size
    passes = 2 if work.kind == "all_reduce" else 1
    latency = curves.collective.base_us + curves.collective.hop_us * group.per_domain
    if group.domains > 1:
        latency += curves.network.base_us * np.log2(group.domains)
    if passes == 2:
        latency *= ALL_REDUCE_LATENCY
    return latency * US, passes * share * work.bytes / bus_bandwidth(machine, work), curves.collective.q


def _all_to_all(machine: Machine, work: Collective) -> tuple[float, float, float]:
    curves = machine.curves
    inside = work.bytes / (curves.collective.all_to_all * machine.link)
    latency = curves.collective.all_to_all_us
    outside = 0.0
    if work.network_bytes:
        nic = machine.hardware.all_to_all_bandwidth_per_gpu
        outside = work.network_bytes / (curves.network.efficiency * nic)
        latency = curves.network.all_to_all_us
    return latency * US, max(inside, outside), 1.0
