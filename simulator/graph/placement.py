"""Which rank holds which expert, and copies of the popular ones: DeepSeek's expert-parallel load balancer (EPLB).

Redundant slots go one after the other to the expert with the most rows per copy; copies are then packed onto ranks in
order of their rows, each to the emptiest rank that has a slot left. Where routing is limited to groups of experts and
the groups divide by the nodes, groups are packed onto nodes first and both steps happen inside each node, so that a
token's rows stay within as few nodes as its groups do (arXiv 2412.19437 section 3.4.1; the README of deepseek-ai/EPLB).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


class Placement(NamedTuple):
    """Copies of experts: which expert each is of, how many that expert has, and the rank that holds it."""

    expert: Indices
    copies: Indices
    rank: Indices

    def rows(self, by_expert: Array, ranks: int) -> Array:
        """Rows of each rank: an array (ranks). The copies of an expert share its rows evenly."""
        return np.asarray(np.bincount(self.rank, by_expert[self.expert] / self.copies, ranks), dtype=np.float64)


def as_numbered(experts: int, ranks: int) -> Placement:
    """Neighbouring experts on one rank, each once."""
    expert = np.arange(experts)
    return Placement(expert, np.ones(experts, dtype=np.int64), expert // (experts // ranks))


def balanced(popularity: Array, ranks: int, *, redundant: int = 0, groups: int = 1, nodes: int = 1) -> Placement:
    """Experts and `redundant` copies on ranks by popularity; `ranks` divides all of them, `groups` the experts."""
    if nodes == 1 or groups % nodes or ranks % nodes or (popularity.size + redundant) % nodes:
        return _inside(popularity, np.arange(popularity.size), ranks, redundant)
    of_group = popularity.reshape(groups, -1).sum(axis=1)
    node = np.repeat(pack(of_group, nodes), popularity.size // groups)
    parts = []
    for number in range(nodes):
        part = _inside(popularity, np.flatnonzero(node == number), ranks // nodes, redundant // nodes)
        parts.append(part._replace(rank=part.rank + number * (ranks // nodes)))
    return Placement(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _inside(popularity: Array, members: Indices, ranks: int, redundant: int) -> Placement:
    """Some experts and their copies on the ranks of one node, or of all."""
    copies = replicate(popularity[members], redundant)
    expert, times = np.repeat(members, copies), np.repeat(copies, copies)
    return Placement(expert, times, pack(popularity[expert] / times, ranks))


def replicate(popularity: Array, redundant: int) -> Indices:
    """Copies of each expert when each redundant slot goes to the one with the most rows per copy."""
    copies = np.ones(popularity.size, dtype=np.int64)
    for _ in range(redundant):
        copies[np.argmax(popularity / copies)] += 1
    return copies


def pack(weights: Array, packs: int) -> Indices:
    """The pack of every item: in order of weight each goes to the lightest pack that has room; all hold as many."""
    homes = np.zeros(weights.size, dtype=np.int64)
    load, room = np.zeros(packs), np.full(packs, weights.size // packs)
    for item in np.argsort(-weights, kind="stable"):
        lightest = int(np.argmin(np.where(room > 0, load, np.inf)))
        homes[item] = lightest
        load[lightest] += weights[item]
        room[lightest] -= 1
    return homes
