"""Parameters one rank holds, dense ones apart from experts: they are cut and replicated differently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from simulator.graph.layers import Layer
from simulator.graph.parallel import Layout
from simulator.spec import parameters as counts
from simulator.spec.model import ModelSpec


def layer_held(model: ModelSpec, layout: Layout, layer: Layer) -> tuple[float, float]:
    """(dense parameters, expert parameters) of one layer on one rank, before any ZeRO sharding.

    Matrices are cut by tp; norms, routers and what finds PEER's experts are not. Experts are cut by ep x etp; those of
    layers that share a set count in proportion.
    """
    parts = counts.layer_parameters(model, layer.kind, encoder=layer.encoder)
    replicated = parts.ffn if layer.kind == "peer" else 0
    dense = (parts.attention + parts.ffn - replicated) / layout.tp + replicated + parts.router + parts.norms
    share = model.experts_shared_layers if layer.kind == "moe" else 1
    return dense, parts.experts * layout.expert_copies / share / (layout.ep * layout.etp)


def stage_held(
    model: ModelSpec, layout: Layout, layers: Iterable[Layer] | Mapping[Layer, int], stage: int
) -> tuple[float, float]:
    """The same for all layers of a stage, with the embedding on the first and norm and head on the last.

    `layers` are those of the stage, or how many of each it has. A tied head is a second copy of the embedding where
    both lie on different stages.
    """
    dense = expert = 0.0
    for layer, times in Counter(layers).items():
        one_dense, one_expert = layer_held(model, layout, layer)
        dense += one_dense * times
        expert += one_expert * times
    if stage == 0:
        dense += embedding_held(model, layout)
    if stage == layout.pp - 1:
        dense += head_held(model, layout)
    return dense, expert


def rank_held(
    model: ModelSpec, layout: Layout, stages: Sequence[Mapping[Layer, int]], stage: int
) -> tuple[float, float]:
    """The same for all that a rank of a stage holds: with DualPipe the part of the mirrored stage too."""
    dense, expert = stage_held(model, layout, stages[stage], stage)
    if layout.parts_held == 1:
        return dense, expert
    mirror = layout.pp - 1 - stage
    other_dense, other_expert = stage_held(model, layout, stages[mirror], mirror)
    return dense + other_dense, expert + other_expert


def embedding_held(model: ModelSpec, layout: Layout) -> float:
    """Parameters of the embedding on one rank."""
    return counts.embedding_parameters(model) / layout.tp


def head_held(model: ModelSpec, layout: Layout) -> float:
    """Parameters of the final norm and the head on one rank of the last stage, where a tied head may be a copy."""
    head = counts.head_parameters(model)
    if model.tie_word_embeddings and layout.pp > 1:
        head += model.vocab_size * model.hidden_size
    return counts.final_norm_parameters(model) + head / layout.tp
