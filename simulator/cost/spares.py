"""How much of a job runs while some of its nodes are away for repair.

A GPU's failure takes its node out for the repair time r. With a mean time m between its failures a node is away for
r / (m + r) of the time, whatever the distributions of both (an alternating renewal process; Ross, Stochastic Processes,
section 3.4), and nodes fail independently, so that the number away is binomial. Spare nodes, which fail as the others
do, step in first. Beyond them an elastic job goes on with fewer replicas, all others wait.
"""

from __future__ import annotations

from math import ceil, exp, lgamma, log, log1p

from simulator.errors import InfeasibleError
from simulator.spec.hardware import Hardware
from simulator.spec.workload import Reliability

LEAST = 0.05
"""A job that runs less than this share of the time is refused: its days would say nothing."""
GOOD = 0.99


def availability(reliability: Reliability, hardware: Hardware, replicas: int) -> float:
    """Share of the job's full speed that is there on average, nodes away for repair counted.

    1 where no repair time is stated: a failed node is then replaced at once. Raises InfeasibleError where the job
    hardly ever runs, with the spare nodes that mend it.
    """
    if reliability.repair_time is None:
        return 1.0
    share = _share(reliability, hardware, replicas, reliability.spare_nodes)
    if share < LEAST:
        away = _share_away(reliability, hardware) * (hardware.nodes + reliability.spare_nodes)
        raise InfeasibleError(
            f"{away:.3g} nodes are away for repair on average, the job needs {hardware.nodes:,} and "
            f"{reliability.spare_nodes} are spare: it runs {share:.1%} of the time",
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


def _share_away(reliability: Reliability, hardware: Hardware) -> float:
    """Share of the time that a node is away."""
    assert reliability.repair_time is not None
    between = reliability.gpu_mtbf / hardware.gpus_per_node
    return reliability.repair_time / (between + reliability.repair_time)


def _share(reliability: Reliability, hardware: Hardware, replicas: int, spares: int) -> float:
    nodes, away = hardware.nodes + spares, _share_away(reliability, hardware)
    share = 0.0
    for missing_nodes in range(nodes + 1):
        missing = max(0, missing_nodes - spares)
        if missing and not reliability.elastic:
            break
        lost = ceil(missing * hardware.gpus_per_node * replicas / hardware.gpus)
        if lost >= replicas:
            break
        share += _chance(nodes, missing_nodes, away) * (replicas - lost) / replicas
    return min(1.0, share)


def _chance(nodes: int, away: int, share: float) -> float:
    """Probability that so many of the nodes are away."""
    if share == 0:
        return float(away == 0)
    ways = lgamma(nodes + 1) - lgamma(away + 1) - lgamma(nodes - away + 1)
    return exp(ways + away * log(share) + (nodes - away) * log1p(-share))
