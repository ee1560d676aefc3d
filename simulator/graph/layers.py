"""The layers of a model in order, and what distinguishes one from another."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.spec.model import LayerKind
from simulator.spec.run import Run


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its feed-forward network and what its queries see."""

    kind: LayerKind
    window: int | None
    encoder: bool = False
    """Its queries see the whole sequence, not only what came before."""
    cross_attention: bool = False


def layers_of(run: Run) -> list[Layer]:
    """The layers of a model in order; an encoder's first."""
    model = run.model
    cross = model.num_encoder_layers > 0
    encoder = [Layer(kind, None, encoder=True) for kind in model.encoder_layer_kinds]
    decoder = zip(model.layer_kinds, model.attention_windows, strict=True)
    return encoder + [Layer(kind, window, cross_attention=cross) for kind, window in decoder]
