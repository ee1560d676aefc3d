"""Uneven routing in training: from a distribution over experts to the fullest expert rank.

A popularity (Zipf, a power law, or measured counts) gives every expert a probability of being among a token's top-k.
Token counts of a layer are drawn from it, summed over the experts of each rank, and the fullest rank sets the time of
that layer in that micro-batch; the mean over draws is what a step sees. With a capacity factor each expert drops what
exceeds it. Seeded.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.errors import SpecError
from simulator.graph.moe import ExpertLoad
from simulator.graph.placement import balanced
from simulator.graph.transformer import Shapes
from simulator.spec.workload import Routing

Array = NDArray[np.float64]
DRAWS = 128
"""Layers and micro-batches drawn; the mean of the fullest rank is then known to about one percent."""
POWER_LAW_RANGE = 100.0
"""Most over least popular expert of a power law, before chance: its density x^-s is cut off there."""


def routed_load(s: Shapes, routing: Routing) -> ExpertLoad:
    """What the fullest expert rank receives in a micro-batch, mean over layers and micro-batches.

    Raises SpecError for a file of counts that is not one.
    """
    model, layout = s.model, s.layout
    experts, top_k = model.num_experts or 0, model.num_experts_per_tok or 1
    sent = s.tokens / layout.tp * top_k
    layers = -(-model.layer_kinds.count("moe") // layout.pp)
    drawn = _drawn(routing, experts, top_k, layout.ep, round(sent * layout.ep * layout.etp), layers)
    return ExpertLoad(
        rows=drawn.fullest,
        touched=drawn.touched,
        local_experts=experts / layout.ep,
        sent_rows=sent,
        dropped_fraction=drawn.dropped,
        mean_rows=drawn.mean,
        held_rows=drawn.held,
    )


class _Drawn(NamedTuple):
    """Means over the draws: rows of the fullest rank in a layer, of any rank, and by layer of the rank that is fullest
    over all layers of a stage; experts a rank touches; share of rows dropped."""

    fullest: float
    mean: float
    held: float
    touched: float
    dropped: float


@lru_cache(maxsize=256)
def _drawn(routing: Routing, experts: int, top_k: int, ranks: int, rows: int, layers: int) -> _Drawn:
    """`rows` routed together to `experts` on `ranks`, of which a stage holds `layers` layers."""
    popularity = popularities(routing, experts)
    counts = _draws(popularity, top_k, rows, routing.seed)
    limit = np.inf if routing.capacity_factor is None else routing.capacity_factor * rows / experts
    kept = np.minimum(counts, limit)
    by_rank = _by_rank(kept, popularity, ranks, routing.placement)
    together = min(layers, DRAWS)
    by_stage = by_rank[: DRAWS // together * together].reshape(-1, together, ranks).mean(axis=1)
    return _Drawn(
        fullest=float(by_rank.max(axis=1).mean()),
        mean=float(by_rank.mean()),
        held=float(by_stage.max(axis=1).mean()),
        touched=max(1.0, float((counts > 0).sum(axis=1).mean()) / ranks),
        dropped=float(1 - kept.sum() / counts.sum()),
    )


def popularities(routing: Routing, experts: int) -> Array:
    """How often each expert is chosen relative to the others: an array (layers known apart, experts) whose rows sum to
    1."""
    match routing.balance:
        case "zipf":
            order = _uniform(routing, experts).argsort(axis=1).argsort(axis=1)
            weight = (order + 1.0) ** -(routing.skew or 0.0)
        case "power_law":
            weight = _power_law(_uniform(routing, experts), routing.skew or 0.0)
        case "counts":
            assert routing.counts is not None
            weight = read_counts(routing.counts, experts)
        case "uniform":
            weight = np.ones((1, experts))
    shares: Array = weight / weight.sum(axis=1, keepdims=True)
    return shares


def _uniform(routing: Routing, experts: int) -> Array:
    """Where each expert of each layer stands among all, from 0 to 1: an array (DRAWS, experts).

    An expert keeps a place that is its own in all layers with probability sqrt(c), and stands anywhere else: two layers
    then both keep it with probability c, which is the rank correlation of their experts.
    """
    generator = np.random.default_rng(routing.seed)
    own = generator.random((DRAWS, experts))
    keeps = generator.random((DRAWS, experts)) < sqrt(routing.correlation)
    return np.where(keeps, generator.random(experts), own)


def _power_law(uniform: Array, exponent: float) -> Array:
    """Draws from a density x^-s between 1 and POWER_LAW_RANGE, by inversion."""
    if exponent == 1:
        return np.asarray(POWER_LAW_RANGE**uniform)
    power = 1 - exponent
    return np.asarray((1 + uniform * (POWER_LAW_RANGE**power - 1)) ** (1 / power))


def _draws(popularity: Array, top_k: int, rows: int, seed: int) -> Array:
    """Rows of each expert in DRAWS layers and micro-batches: an array (draws, experts)."""
    generator = np.random.default_rng(seed + 1)
    layers = popularity[np.arange(DRAWS) % len(popularity)]
    chosen = np.array([capped(row, top_k) for row in layers])
    drawn = generator.multinomial(rows, chosen / top_k)
    return np.minimum(drawn, rows / top_k)  # chance may not send an expert more rows than there are tokens


def capped(popularity: Array, top_k: int) -> Array:
    """Probability of each expert to be among a token's top-k: at most 1, what exceeds it goes to the others."""
    chosen = popularity * top_k
    while (over := chosen > 1).any():
        free = chosen < 1
        excess = float((chosen[over] - 1).sum())
        chosen[over] = 1.0
        chosen[free] += excess * chosen[free] / chosen[free].sum()
    return chosen


def _by_rank(rows: Array, popularity: Array, ranks: int, placement: str) -> Array:
    """Rows of each rank: an array (draws, ranks).

    `balanced` deals experts by popularity. Which rank takes the fullest pack is free: another one in each layer, so
    that none holds the most activations throughout.
    """
    draws, experts = rows.shape
    if placement == "as_numbered":
        return np.asarray(rows.reshape(draws, ranks, experts // ranks).sum(axis=2))
    placed = [balanced(row, ranks) for row in popularity]
    return np.array([np.roll(placed[i % len(placed)].rows(rows[i], ranks), i) for i in range(draws)])


@lru_cache(maxsize=16)
def read_counts(file: str, experts: int) -> Array:
    """Measured rows of every expert: an array (layers, experts).

    A CSV with columns `expert,count`, or `layer,expert,count`; every expert of every layer once, counted from 0.
    Raises SpecError.
    """
    try:
        with Path(file).open(encoding="utf-8", newline="") as text:
            rows = list(csv.reader(text))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"no file of expert counts: {error}", path="routing.counts") from None
    header, body = (rows[0], rows[1:]) if rows else ([], [])
    if header not in (["expert", "count"], ["layer", "expert", "count"]):
        raise SpecError(f"{file} needs columns expert,count or layer,expert,count", path="routing.counts")
    found: dict[tuple[int, int], float] = {}
    for line, cells in enumerate(body, start=2):
        layer, expert, count = _counted(file, line, cells, len(header))
        if expert >= experts or (layer, expert) in found:
            what = f"the model has {experts} experts" if expert >= experts else "it is counted twice"
            raise SpecError(f"{file}:{line}: expert {expert}, but {what}", path="routing.counts")
        found[layer, expert] = count
    layers = sorted({layer for layer, _ in found})
    missing = [(layer, e) for layer in layers for e in range(experts) if (layer, e) not in found]
    if missing or not layers:
        which = f"expert {missing[0][1]} of layer {missing[0][0]}" if missing else "every expert"
        raise SpecError(f"{file} lacks {which}", path="routing.counts")
    counts = np.array([[found[layer, e] for e in range(experts)] for layer in layers])
    if not (counts.sum(axis=1) > 0).all():
        raise SpecError(f"{file} has a layer in which no expert was chosen", path="routing.counts")
    return counts


def _counted(file: str, line: int, cells: list[str], width: int) -> tuple[int, int, float]:
    """(layer, expert, count) of one row."""
    try:
        *where, count = cells
        layer, expert = (int(where[0]) if width == 3 else 0), int(where[-1])
        value = float(count)
        if len(cells) == width and layer >= 0 and expert >= 0 and np.isfinite(value) and value >= 0:
            return layer, expert, value
    except (ValueError, IndexError):
        pass
    raise SpecError(f"{file}:{line}: expected whole numbers and a count, not {','.join(cells)}", path="routing.counts")
