"""The exchange of tokens between expert ranks in closed form, for each kernel that does it.

Bytes that leave a rank inside its domain and over the network are counted apart; the slower path sets the time. NCCL's
all-to-all sends pairwise. DeepEP sends over the network to the rank of the same place in each node, which forwards
inside it, and is held up by the SMs it is given as well.
"""

from __future__ import annotations

from math import log2

from simulator.cost.algorithms import Timing
from simulator.cost.machine import Machine
from simulator.cost.paths import crossing_share, crowding
from simulator.graph.operator import Collective
from simulator.spec.curves import ExchangeCurves
from simulator.spec.hardware import LEAF_NODES
from simulator.units import US

GB = 1e9


def exchange(machine: Machine, work: Collective) -> Timing:
    """An all-to-all by its kernel; by NCCL where nobody measured the kernel on this architecture."""
    curves = None if work.kernel == "nccl" else machine.curves.exchange.get(work.kernel)
    return _pairwise(machine, work) if curves is None else _by_kernel(machine, work, curves)


def _pairwise(machine: Machine, work: Collective) -> Timing:
    curve, network = machine.curves.collective, machine.curves.network
    moved = work.bytes + curve.all_to_all_own * _kept(work)
    inside = Timing("pairwise", curve.all_to_all_us * US, moved / (curve.all_to_all * machine.link), curve.q)
    if not work.network_bytes:
        return inside
    seconds = work.network_bytes / (network.efficiency * _network_bandwidth(machine, work))
    outside = Timing("pairwise", network.all_to_all_us * US, seconds)
    return max(inside, outside, key=lambda timing: timing.seconds)


def _by_kernel(machine: Machine, work: Collective, curves: ExchangeCurves) -> Timing:
    assert work.kernel != "nccl"
    curve, nodes = curves.combine if work.combines else curves.dispatch, work.group.domains
    inside = work.bytes + curve.own * _kept(work)
    paths = [inside / (curve.link * machine.link)]
    if work.network_bytes:
        paths.append(work.network_bytes / (curve.nic * _network_bandwidth(machine, work)))
    sms = work.sms or curves.sms
    if sms and curve.sm_gb:
        copied = inside / (curve.sm_gb * GB)
        if work.network_bytes and curve.sm_network_gb:
            copied += work.network_bytes * nodes / (nodes - 1) / (curve.sm_network_gb * GB)
        paths.append(copied / sms)
    latency = (curve.us + curve.node_us * log2(nodes)) * US
    return Timing(work.kernel, latency, sum(path**curve.p for path in paths) ** (1 / curve.p))


def _kept(work: Collective) -> float:
    """Bytes a rank keeps of what it would send to itself: as much as it sends to each of the others of its domain."""
    return work.bytes / max(1, work.group.per_domain - 1)


def _network_bandwidth(machine: Machine, work: Collective) -> float:
    """Bytes/s of a GPU's share of the network, one direction, while all ranks of the group exchange.

    Above the leaves, and above the pods, only what crosses them is held up.
    """
    hardware, network = machine.hardware, machine.hardware.network
    if network.kind == "torus":
        return min(machine.nic, hardware.all_to_all_bandwidth_per_gpu)
    held = [1.0, crossing_share(hardware, work, LEAF_NODES) * network.oversubscription * crowding(hardware, work)]
    if network.pods is not None:
        above = network.oversubscription * network.pods.oversubscription
        held.append(crossing_share(hardware, work, network.pods.nodes) * above)
    return machine.nic / max(held)
