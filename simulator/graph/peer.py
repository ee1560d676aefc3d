"""The forward pass of a PEER layer: a million single-neuron experts found by product keys (arXiv 2407.04153).

Each of h heads maps a token to a query of q dimensions, scores it against two sets of sqrt(N) half-keys, takes the best
k of the k^2 sums, and gathers the k experts (u, v): e(x) = s(u x) v. Nothing is reused between tokens of a small batch,
so the layer reads 2 h k d elements a token: it is bound by memory by construction. Tensor parallelism does not cut it:
every rank finds and reads the experts of its own rows.
"""

from __future__ import annotations

from math import isqrt

from simulator.graph.dispatch import distinct_ranks
from simulator.graph.operator import Collective, Gemm, Operator, Traffic
from simulator.graph.transformer import (
    ACTIVATION_BYTES,
    Shapes,
    elementwise,
    linear,
    norm,
    residual,
)

SCORE_BYTES = 4.0
"""Per half-key score: written and read once in bf16 by the two top-k passes."""
PICK_BYTES = 8.0
"""What a token sends along for each expert it chose: its index and its gate, 4 bytes each."""


def peer_feed_forward(s: Shapes) -> list[Operator]:
    """The PEER layer that stands in the place of the FFN."""
    model = s.model
    assert model.peer is not None
    peer, hidden = model.peer, model.hidden_size
    tokens, keys = s.rows, isqrt(peer.num_experts)
    chosen = peer.num_heads * peer.top_k
    parts = [norm(s, "ffn norm")]
    parts += linear(s, "peer queries", "expert_gemm", peer.num_heads * peer.query_dim, hidden, rows=tokens)
    if peer.query_batch_norm:
        parts.append(elementwise(s, "peer query norm", tokens * peer.num_heads * peer.query_dim * 4.0))
    half_keys = Gemm(2 * tokens * peer.num_heads, keys, peer.query_dim / 2, s.precision, 2.0)
    parts.append(Operator("peer keys", "expert_gemm", half_keys))
    scores = tokens * peer.num_heads * (2 * keys * SCORE_BYTES + peer.top_k**2 * SCORE_BYTES)
    parts.append(Operator("peer top-k", "elementwise", Traffic(scores)))
    parts += _exchange(s, "peer dispatch", PICK_BYTES)
    moved = tokens * chosen * hidden * ACTIVATION_BYTES
    flops = 2.0 * tokens * chosen * hidden
    parts.append(Operator("peer gather down", "gather", Traffic(moved, flops, gather=True)))
    parts.append(elementwise(s, "peer activation", tokens * chosen * 6.0))
    parts.append(Operator("peer gather up", "gather", Traffic(moved, flops, gather=True)))
    parts += _exchange(s, "peer combine", 0.0)
    return [*parts, residual(s, "ffn residual")]


def _exchange(s: Shapes, name: str, picks: float) -> list[Operator]:
    """With the tables of u and v cut over ep ranks, tokens travel to the rows they chose, not the rows to them.

    A token's vector goes to each of the R(1 - (1 - 1/R)^hk) ranks that hold one of its hk experts, with `picks` bytes
    for every expert it chose there, and a partial sum comes back: at most min(R, hk) vectors each way instead of 2 hk
    rows. Half-keys are small and lie on every rank, so that the choice needs nobody else.
    """
    layout, peer = s.layout, s.model.peer
    assert peer is not None
    if layout.ep == 1:
        return []
    group, chosen = layout.expert_group, peer.num_heads * peer.top_k
    row = distinct_ranks(group.size, chosen) * s.model.hidden_size * ACTIVATION_BYTES + chosen * picks
    one = s.rows * row / group.size
    inside, outside = one * (group.per_domain - 1), one * (group.size - group.per_domain)
    return [Operator(name, "all_to_all", Collective("all_to_all", inside, group, outside), module="moe")]
