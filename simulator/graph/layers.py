"""The layers of a model in order, and what distinguishes one from another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from simulator.graph.parallel import split_layers
from simulator.spec.model import LayerKind, ModelSpec
from simulator.spec.run import Run


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its feed-forward network and what its queries see."""

    kind: LayerKind
    window: int | None
    encoder: bool = False
    """Its queries see the whole sequence, not only what came before."""
    cross_attention: bool = False


Portion = tuple[tuple[Layer, int], ...]
"""Layers that run one after the other: each kind once, in order of first use, with how often it occurs."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A model's layers cut for a pipeline. Portions that are alike are one object."""

    layers: tuple[Layer, ...]
    """Each kind once, in order of first use."""
    chunks: tuple[tuple[Portion, ...], ...]
    """What chunk [stage][chunk] holds."""
    stages: tuple[Portion, ...]
    """What each stage holds."""


def layers_of(run: Run) -> list[Layer]:
    """The layers of a model in order; an encoder's first."""
    return list(_layers(run.model))


@lru_cache(maxsize=1024)
def stack_of(model: ModelSpec, pp: int, vpp: int, pads: bool) -> Stack:
    """The layers of a model over `pp` stages of `vpp` chunks each, as `split_layers` cuts them."""
    layers = _layers(model)
    cut = split_layers(len(layers), pp, vpp, pads)
    known: dict[Portion, Portion] = {}

    def portion(indices: list[int]) -> Portion:
        kinds = [layers[i] for i in indices]
        found = tuple((layer, kinds.count(layer)) for layer in dict.fromkeys(kinds))
        return known.setdefault(found, found)

    return Stack(
        tuple(dict.fromkeys(layers)),
        tuple(tuple(portion(list(chunk)) for chunk in stage) for stage in cut),
        tuple(portion([i for chunk in stage for i in chunk]) for stage in cut),
    )


@lru_cache(maxsize=256)
def _layers(model: ModelSpec) -> tuple[Layer, ...]:
    cross = model.num_encoder_layers > 0
    encoder = [Layer(kind, None, encoder=True) for kind in model.encoder_layer_kinds]
    decoder = zip(model.layer_kinds, model.attention_windows, strict=True)
    return (*encoder, *[Layer(kind, window, cross_attention=cross) for kind, window in decoder])
