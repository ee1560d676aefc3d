"""Parameters one rank holds, dense ones apart from experts: they are cut and replicated differently."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.graph.parallel import Layout
from simulator.spec import parameters as counts
from simulator.spec.model import LayerKind, ModelSpec


def layer_held(model: ModelSpec, layout: Layout, kind: str) -> tuple[float, float]:
    """(dense parameters, expert parameters) of one layer on one rank, before any ZeRO sharding.

    Matrices are cut by tp; norms and routers are not. Experts are cut by ep x etp; those of layers that share a set
    count in proportion.
    """
    layer = _layer(model, kind)
    dense = (layer.attention + layer.ffn) / layout.tp + layer.router + layer.norms
    share = model.experts_shared_layers if kind == "moe" else 1
    return dense, layer.experts / share / (layout.ep * layout.etp)


def stage_held(model: ModelSpec, layout: Layout, kinds: Sequence[str], stage: int) -> tuple[float, float]:
    """The same for all layers of a stage, with the embedding on the first and norm and head on the last.

    A tied head is a second copy of the embedding where both lie on different stages.
    """
    dense = expert = 0.0
    for kind in set(kinds):
        one_dense, one_expert = layer_held(model, layout, kind)
        dense += one_dense * kinds.count(kind)
        expert += one_expert * kinds.count(kind)
    first, last = stage == 0, stage == layout.pp - 1
    if first:
        dense += counts.embedding_parameters(model) / layout.tp
    if last:
        dense += counts.final_norm_parameters(model)
        head = counts.head_parameters(model)
        if model.tie_word_embeddings and not first:
            head += model.vocab_size * model.hidden_size
        dense += head / layout.tp
    return dense, expert


def _layer(model: ModelSpec, kind: str) -> counts.LayerParameters:
    return counts.layer_parameters(model, kind)  # type: ignore[arg-type]


__all__ = ["LayerKind", "layer_held", "stage_held"]
