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


def served_load(
    experts: int, top_k: int, *, skew: float, tokens: float, ep: int, imbalance: float | None
) -> ExpertLoad:
    """The fullest of `ep` expert ranks when `tokens` are routed together; `imbalance` overrides what popularity
    implies."""
    fullest = fullest_rank(experts, top_k, skew, ep) if imbalance is None else imbalance
    sent = tokens * top_k
    rows = sent / ep * fullest
    touched = min(max(1.0, touched_experts(experts, top_k, skew, tokens) / ep), max(1.0, rows))
    return ExpertLoad(rows, touched, experts / ep, sent, 0.0)
