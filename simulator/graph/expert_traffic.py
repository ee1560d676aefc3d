"""How many experts a step touches, and how many rows they compute, under uneven popularity.

Text prefers some experts. With popularity p_e after Zipf (p_e proportional to e^-s) an expert is chosen by a token with
q_e = min(1, k p_e), the excess spread over the others, and T tokens touch sum_e 1 - (1 - q_e)^T experts.
"""

from __future__ import annotations

from functools import lru_cache
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from simulator.graph.moe import ExpertLoad
from simulator.graph.placement import balanced, replicate
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
    """The fullest expert rank when `tokens` are routed together with popularity x^-`skew`.

    A stated imbalance overrides what popularity implies. Experts lie anywhere, or where a load balancer puts them and
    copies of the popular ones; their sources choose among copies at random.
    """
    model, ranks = s.model, s.layout.ep
    experts, top_k = model.num_experts or 0, model.num_experts_per_tok or 1
    copies = routing.redundant_experts
    sent = tokens * top_k
    if "imbalance" in routing.model_fields_set:
        fullest = routing.imbalance
    elif routing.placement == "balanced":
        domains = s.layout.expert_group.domains
        fullest = placed_fullest(experts, top_k, skew, ranks, copies, model.n_group or 1, domains)
    else:
        fullest = fullest_rank(experts, top_k, skew, ranks)
    rows = sent / ranks * fullest
    touched = touched_slots(experts, top_k, skew, tokens, copies) / ranks
    return ExpertLoad(
        rows=rows,
        mean_rows=sent / ranks,
        held_rows=rows,
        touched=min(max(1.0, touched), max(1.0, rows)),
        local_experts=(experts + copies) / ranks,
        sent_rows=sent,
        dropped_fraction=0.0,
    )


@lru_cache(maxsize=64)
def placed_fullest(
    experts: int, top_k: int, skew: float, ranks: int, redundant: int, groups: int, domains: int
) -> float:
    """Rows of the fullest rank over their mean where experts and copies of them are placed by popularity.

    The groups of experts are dealt to the popular and the others at random; a balancer's statistics are taken to hold.
    """
    dealt = np.random.default_rng(0).permutation(chosen(experts, top_k, skew))
    placed = balanced(dealt, ranks, redundant=redundant, groups=groups, nodes=domains)
    rows = placed.rows(dealt, ranks)
    return float(rows.max() / rows.mean())


def touched_slots(experts: int, top_k: int, skew: float, tokens: float, redundant: int) -> float:
    """Expected experts, copies counted one by one, that at least one of `tokens` is routed to."""
    if not redundant:
        return touched_experts(experts, top_k, skew, tokens)
    q = chosen(experts, top_k, skew)
    times = replicate(q, redundant)
    return float((times * (1 - (1 - q / times) ** tokens)).sum())
