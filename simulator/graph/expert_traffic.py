"""How many experts a step touches, and how many rows they compute, under uneven popularity.

Text prefers some experts. With popularity p_e after Zipf (p_e proportional to e^-s) an expert is chosen by a token with
q_e = min(1, k p_e), the excess spread over the others, and T tokens touch sum_e 1 - (1 - q_e)^T experts.
"""

from __future__ import annotations

from functools import lru_cache
from math import log, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.graph.moe import ExpertLoad
from simulator.graph.placement import as_numbered, balanced, replicate
from simulator.graph.routing import capped, popularities
from simulator.graph.transformer import Shapes
from simulator.spec.workload import Routing


@lru_cache(maxsize=64)
def chosen(experts: int, top_k: int, skew: float) -> NDArray[np.float64]:
    """Probability of each expert to be among a token's `top_k`; they sum to top_k."""
    weight = np.arange(1, experts + 1, dtype=np.float64) ** -skew
    q = np.zeros(experts)
    free = np.ones(experts, dtype=bool)
    while True:  # experts that every token would choose are capped at one
        share = weight[free] / weight[free].sum() * (top_k - (~free).sum())
        q[free] = share
        if share.max(initial=0.0) <= 1.0:
            return q
        q[free] = np.minimum(share, 1.0)
        free = q < 1.0


def touched_experts(experts: int, top_k: int, skew: float, tokens: float) -> float:
    """Expected experts that at least one of `tokens` is routed to."""
    return float((1 - (1 - chosen(experts, top_k, skew)) ** tokens).sum())


def fullest_rank(experts: int, top_k: int, skew: float, ranks: int) -> float:
    """Rows of the fullest of `ranks` expert ranks over their mean, experts dealt at random.

    The load of a rank is a sum of experts/ranks popularities; of r such sums the largest lies about sqrt(2 ln r)
    standard deviations above the mean (extreme values of a normal distribution).
    """
    if ranks == 1:
        return 1.0
    q = chosen(experts, top_k, skew)
    held = experts / ranks
    spread = float(q.std() / q.mean()) / sqrt(held) * sqrt(1 - 1 / ranks)
    return min(ranks, 1 + sqrt(2 * log(ranks)) * spread)


def served_load(s: Shapes, routing: Routing, *, skew: float, tokens: float) -> ExpertLoad:
    """The fullest expert rank when `tokens` are routed together, popularity falling with x^-`skew` or as measured.

    A stated imbalance overrides what popularity implies. Experts lie anywhere, or where a load balancer puts them and
    copies of the popular ones; their sources choose among copies at random. Raises SpecError for a file of counts that
    is not one.
    """
    model, ranks = s.model, s.layout.ep
    experts, top_k = model.num_experts or 0, model.num_experts_per_tok or 1
    sent = tokens * top_k
    served = _Served(routing, experts, top_k, skew)
    if "imbalance" in routing.model_fields_set:
        fullest = routing.imbalance
    elif routing.placement == "balanced" or routing.balance in BY_EXPERT:
        fullest = placed_fullest(served, ranks, model.n_group or 1, s.layout.expert_group.domains)
    else:
        fullest = fullest_rank(experts, top_k, skew, ranks)
    rows = sent / ranks * fullest
    touched = touched_slots(served, tokens) / ranks
    return ExpertLoad(
        rows=rows,
        mean_rows=sent / ranks,
        held_rows=rows,
        touched=min(max(1.0, touched), max(1.0, rows)),
        local_experts=(experts + routing.redundant_experts) / ranks,
        sent_rows=sent,
        dropped_fraction=0.0,
    )


BY_EXPERT = frozenset({"counts", "power_law"})
"""Distributions that say which expert is how popular; the others only how popular they are."""


class _Served(NamedTuple):
    """What popularity follows from."""

    routing: Routing
    experts: int
    top_k: int
    skew: float


@lru_cache(maxsize=64)
def _preferred(served: _Served) -> NDArray[np.float64]:
    """Probability of each expert to be among a token's top-k: an array (layers known apart, experts).

    Where nobody says which expert is how popular, they are dealt at random.
    """
    routing, experts, top_k, skew = served
    if routing.balance in BY_EXPERT:
        return np.array([capped(row, top_k) for row in popularities(routing, experts)])
    return np.random.default_rng(routing.seed).permutation(chosen(experts, top_k, skew))[None]


@lru_cache(maxsize=64)
def placed_fullest(served: _Served, ranks: int, groups: int, domains: int) -> float:
    """Rows of the fullest rank over their mean, mean over layers, where it is known which rank holds which expert.

    A balancer's statistics are taken to hold.
    """
    routing, found = served.routing, []
    for layer in _preferred(served):
        placed = (
            balanced(layer, ranks, redundant=routing.redundant_experts, groups=groups, nodes=domains)
            if routing.placement == "balanced"
            else as_numbered(layer.size, ranks)
        )
        rows = placed.rows(layer, ranks)
        found.append(float(rows.max() / rows.mean()))
    return sum(found) / len(found)


def touched_slots(served: _Served, tokens: float) -> float:
    """Expected experts of a layer, copies counted one by one, that at least one of `tokens` is routed to."""
    routing, experts, top_k, skew = served
    if not routing.redundant_experts and routing.balance not in BY_EXPERT:
        return touched_experts(experts, top_k, skew, tokens)
    q = _preferred(served)
    times = _copies(served)
    return float((times * (1 - (1 - q / times) ** tokens)).sum() / len(q))


@lru_cache(maxsize=64)
def _copies(served: _Served) -> NDArray[np.int64]:
    return np.array([replicate(layer, served.routing.redundant_experts) for layer in _preferred(served)])
