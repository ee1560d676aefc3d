"""Collectives as transfers on a fabric: who sends how much to whom, round by round.

What simulator.cost.algorithms and .exchange say in closed form, played on the links. The ranks of a group are an array
of GPU numbers, one row for each domain. Rounds that follow one another with the same traffic are stated once; what is
pipelined in small pieces (trees, NVLS, forwarding) is one round of all that passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from simulator.cost.algorithms import Algorithm, double_tree, passes
from simulator.engine.exchange import Array, transfers_seconds
from simulator.engine.fabric import Fabric, Indices
from simulator.errors import SpecError
from simulator.graph.operator import Collective, Group


class Round(NamedTuple):
    """Transfers that are under way together: `size` bytes from GPU sources[i] to GPU targets[i]; `times` over."""

    sources: Indices
    targets: Indices
    size: Array
    times: int = 1


def played_seconds(fabric: Fabric, rounds: Sequence[Round]) -> float:
    """Seconds that rounds take one after the other, without latency."""
    return sum(r.times * transfers_seconds(fabric, r.sources, r.targets, r.size) for r in rounds)


def place_group(fabric: Fabric, group: Group, first: int = 0, stride: int = 1) -> Indices:
    """GPU numbers of a group whose ranks lie `stride` apart from GPU `first` on, one row for each domain.

    Raises SpecError for a group that the machine has no room for or whose domains are not the machine's.
    """
    gpus, domain = fabric.hardware.gpus, fabric.hardware.scale_up_domain
    last = first + (group.size - 1) * stride
    if last >= gpus:
        raise SpecError(
            f"a group of {group.size} ranks, {stride} apart from GPU {first} on, ends at GPU {last}; "
            f"this machine has {gpus} GPUs"
        )
    ranks = (first + stride * np.arange(group.size)).reshape(group.domains, group.per_domain)
    if (ranks // domain != ranks[:, :1] // domain).any():
        raise SpecError(
            f"{group.per_domain} ranks, {stride} apart from GPU {first} on, don't fit in domains of {domain}"
        )
    return ranks


def rounds_of(work: Collective, algorithm: Algorithm, ranks: Indices) -> list[Round]:
    """The rounds of a collective of the group `ranks`."""
    if ranks.size == 1:
        return []
    match algorithm:
        case "ring" | "pat":  # a tree for each chunk moves what a ring moves
            return ring_rounds(ranks, work.bytes, passes(work))
        case "tree":
            return [joined([*_chains(ranks, work.bytes), *_trees(ranks, work.bytes)])]
        case "nvls":
            return [joined([*_switches(ranks, work.bytes), *_trees(ranks, work.bytes)])]
        case "hierarchical":
            return _hierarchical(ranks, work.bytes)
        case "pairwise" | "direct" | "deepep" | "deepep_ll" | "two_sided":
            return [exchange_round(ranks, work.bytes, work.network_bytes)]
        case "send":
            return [Round(ranks.ravel()[:1], ranks.ravel()[-1:], np.array([work.bytes]))]
        case "none":
            return []


def ring_rounds(ranks: Indices, size: float, times: int = 1) -> list[Round]:
    """As many rings as a domain has ranks, each with its share of the buffer and its own way in and out.

    Ring c goes through even domains from place c upwards and through odd ones back down to c, so that it leaves and
    enters neighbouring domains at the same place: by the same rail.
    """
    domains, places = ranks.shape
    legs = []
    for c in range(places):
        upward = (np.arange(places) + c) % places
        order = np.concatenate([ranks[d, upward if d % 2 == 0 else upward[::-1]] for d in range(domains)])
        chunk = np.full(order.size, size / places / order.size)
        legs.append(Round(order, np.roll(order, -1), chunk))
    return [joined(legs)._replace(times=times * (ranks.size - 1))]


def _chains(ranks: Indices, size: float) -> list[Round]:
    """To the place of each domain that is in the trees, and back, once for every place: each with its share."""
    _, places = ranks.shape
    legs = []
    for c in range(places if places > 1 else 0):
        order = ranks[:, (np.arange(places) + c) % places]
        sources, targets = order[:, 1:].ravel(), order[:, :-1].ravel()
        piece = np.full(sources.size, size / places)
        legs += [Round(sources, targets, piece), Round(targets, sources, piece)]
    return legs


def _trees(ranks: Indices, size: float) -> list[Round]:
    """Up and down the two trees of domains, the ranks of each place with their share of the buffer."""
    domains, places = ranks.shape
    legs = []
    for parents in double_tree(domains):
        edges = [(node, parent) for node, parent in enumerate(parents) if parent is not None]
        if edges:
            node, parent = np.array(edges).T
            low, high = ranks[node].ravel(), ranks[parent].ravel()
            piece = np.full(low.size, size / places / 2)
            legs += [Round(low, high, piece), Round(high, low, piece)]
    return legs


def _switches(ranks: Indices, size: float) -> list[Round]:
    """In-switch reduction: each rank has the switch add its share of the buffer and send the sum to all, so that every
    port carries the buffer and a share of it each way; as an even exchange, which loads ports alike."""
    places = ranks.shape[1]
    return [_inside(ranks, size * (1 + 1 / places))] if places > 1 else []


def _hierarchical(ranks: Indices, size: float) -> list[Round]:
    domains, places = ranks.shape
    between = [ring_rounds(ranks[:, [place]], size / places, 2)[0] for place in range(places)] if domains > 1 else []
    inside = [joined([ring_rounds(ranks[[domain]], size)[0] for domain in range(domains)])] if places > 1 else []
    within = [r._replace(times=places - 1) for r in inside]
    across = [joined(between)._replace(times=2 * (domains - 1))] if between else []
    return [*within, *across, *within]


def exchange_round(ranks: Indices, inside: float, outside: float) -> Round:
    """An even exchange: every rank sends `inside` bytes to the others of its domain in all, and `outside` bytes to the
    same place in other domains, where they are forwarded (PXN, DeepEP): forwarding is in `inside`."""
    domains, places = ranks.shape
    legs = [_inside(ranks, inside)] if places > 1 else []
    if domains > 1:
        legs.append(_inside(ranks.T, outside))
    return joined(legs)


def staged_rounds(ranks: Indices, size: float) -> list[Round]:
    """An all-to-all of a buffer of `size` bytes in two stages: inside each domain to the place of the receiver, then to
    that place in its domain. Both ends of every network transfer are on one rail."""
    domains, places = ranks.shape
    rounds = [_inside(ranks, size * (places - 1) / places)] if places > 1 else []
    if domains > 1:
        rounds.append(_inside(ranks.T, size * (domains - 1) / domains))
    return rounds


def _inside(rows: Indices, size: float) -> Round:
    """Every rank sends `size` bytes in all to the others of its row."""
    _, width = rows.shape
    here, there = np.nonzero(~np.eye(width, dtype=bool))
    sources, targets = rows[:, here].ravel(), rows[:, there].ravel()
    return Round(sources, targets, np.full(sources.size, size / (width - 1)))


def joined(legs: Sequence[Round]) -> Round:
    """Rounds of one time each under way together."""
    sources, targets, size, _ = zip(*legs, strict=True)
    return Round(np.concatenate(sources), np.concatenate(targets), np.concatenate(size))
