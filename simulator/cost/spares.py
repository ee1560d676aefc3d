"""How much of a job runs while some of its nodes are away for repair.

A GPU's failure takes its node out for the repair time. Nodes fail independently, so the number away is Poisson with
mean (nodes) x (failures per node and second) x (repair time), whatever the distribution of repairs (an M/G/infinity
queue; Kleinrock, Queueing Systems I, section 3.5). Spare nodes, which fail as the others do, step in first. Beyond
them an elastic job goes on with fewer replicas, all others wait.
"""

from __future__ import annotations

from math import ceil, exp

from simulator.errors import InfeasibleError
from simulator.spec.hardware import Hardware
from simulator.spec.workload import Reliability

LEAST = 0.05
"""A job that runs less than this share of the time is refused: its days would say nothing."""
GOOD = 0.99
MANY = 700.0
"""Nodes away on average from which e^-mean is no number any more."""


def availability(reliability: Reliability, hardware: Hardware, replicas: int) -> float:
    """Share of the job's full speed that is there on average, nodes away for repair counted.

    1 where no repair time is stated: a failed node is then replaced at once. Raises InfeasibleError where the job
    hardly ever runs, with the spare nodes that mend it.
    """
    if reliability.repair_time is None:
        return 1.0
    share = _share(reliability, hardware, replicas, reliability.spare_nodes)
    if share < LEAST:
        away = _away(reliability, hardware, reliability.spare_nodes)
        raise InfeasibleError(
            f"{away:.3g} of {hardware.nodes:,} nodes are away for repair on average, and {reliability.spare_nodes} are "
            f"spare: the job runs {share:.1%} of the time",
            path="reliability.spare_nodes",
            suggestion=f"reliability.spare_nodes: {spares_for(reliability, hardware, replicas, GOOD)}",
        )
    return share


def spares_for(reliability: Reliability, hardware: Hardware, replicas: int, share: float) -> int:
    """The fewest spare nodes with which so much of the job's full speed is there on average."""
    spares = 0
    while _share(reliability, hardware, replicas, spares) < share:
        spares += 1
    return spares


def paid_gpus(reliability: Reliability | None, hardware: Hardware) -> int:
    """GPUs that are rented: the job's and the spare ones."""
    spares = reliability.spare_nodes if reliability else 0
    return hardware.gpus + spares * hardware.gpus_per_node


def _away(reliability: Reliability, hardware: Hardware, spares: int) -> float:
    """Nodes away on average."""
    assert reliability.repair_time is not None
    failures = hardware.gpus_per_node / reliability.gpu_mtbf
    return (hardware.nodes + spares) * failures * reliability.repair_time


def _share(reliability: Reliability, hardware: Hardware, replicas: int, spares: int) -> float:
    mean = _away(reliability, hardware, spares)
    if mean > MANY:
        return 0.0 if spares < mean else 1.0
    chance, share = exp(-mean), 0.0
    for away in range(hardware.nodes + spares + 1):
        missing = max(0, away - spares)
        if missing and not reliability.elastic:
            break
        lost = ceil(missing * hardware.gpus_per_node * replicas / hardware.gpus)
        if lost >= replicas:
            break
        share += chance * (replicas - lost) / replicas
        chance *= mean / (away + 1)
    return min(1.0, share)
