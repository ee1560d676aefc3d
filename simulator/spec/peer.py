"""What a PEER layer is made of; where it stands and what it counts is the model's business."""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from simulator.spec.base import Spec
from simulator.spec.dimensions import Count


class PeerSpec(Spec):
    """Parameter Efficient Expert Retrieval (arXiv 2407.04153): k of N one-neuron experts found by product keys."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    num_experts: Count
    """Experts in the layer, a square number: two sets of sqrt(N) sub-keys address them."""
    num_heads: Count = 8
    """Retrieval heads; they share experts and keys, each has its own query network."""
    top_k: Count = 16
    """Experts each head retrieves per token."""
    query_dim: Count
    """Width of one head's query; each sub-key has half of it."""
    layers: tuple[Annotated[int, Field(ge=0, lt=10_000)], ...] = Field(min_length=1)
    """Decoder layers (from 0) whose feed-forward network is replaced."""
    query_batch_norm: bool = True
    """Batch normalisation of the queries, which evens out the use of the experts."""

    @property
    def keys_per_set(self) -> int:
        """sqrt(num_experts)."""
        return math.isqrt(self.num_experts)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.keys_per_set**2 != self.num_experts:
            raise ValueError(f"num_experts must be a square number (product keys), got {self.num_experts}")
        if self.query_dim % 2:
            raise ValueError(f"query_dim must be even (one half per key set), got {self.query_dim}")
        if self.top_k > self.keys_per_set:
            raise ValueError(f"top_k ({self.top_k}) exceeds the {self.keys_per_set} keys of a set")
        if len(set(self.layers)) != len(self.layers):
            raise ValueError("layers names a layer twice")
        return self
