"""What an engine budgets: tokens of KV cache, and how many requests may be in flight."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from simulator.cost.capacity import cache_room, held_cache, inference_memory
from simulator.errors import InfeasibleError
from simulator.graph.inference import prepare_inference
from simulator.graph.inference_layers import data_ranks
from simulator.spec.run import Run
from simulator.units import GIB


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one instance of an engine."""

    kv_tokens: float
    """Tokens the KV cache holds, over all attention ranks, each in every layer."""
    sequences: int
    step_tokens: int
    instances: int
    data_ranks: int
    window: float = inf
    """Tokens that layers with a sliding window keep of a sequence ..."""
    sliding: float = 0.0
    """... and their share of what a token takes."""

    def held(self, tokens: float) -> float:
        """What a sequence of so many tokens takes of `kv_tokens`."""
        return tokens - self.sliding * max(0.0, tokens - self.window)

    @property
    def longest(self) -> float:
        """Tokens of the longest sequence that the cache holds."""
        if self.kv_tokens <= self.window:
            return self.kv_tokens
        return inf if self.sliding == 1 else self.window + (self.kv_tokens - self.window) / (1 - self.sliding)


def budget(run: Run) -> Budget:
    """The limits of one instance. Raises InfeasibleError where the weights leave no room for a KV cache."""
    b = prepare_inference(run, "decode", 1.0)
    layout, engine = b.layout, run.defaults
    stages = inference_memory(b)
    shapes = [held_cache(b, stage) for stage in range(len(stages))]
    rooms = [cache_room(run, stage) / shape.bytes_per_token for stage, shape in zip(stages, shapes, strict=True)]
    tokens = min(rooms)
    if tokens <= 0:
        fullest = stages[rooms.index(tokens)]
        capacity = run.hardware.device.memory.capacity
        fixed = fullest.parameters + fullest.activations + fullest.buffers
        raise InfeasibleError(
            f"weights and work space leave no KV cache: they need {fixed / GIB:.1f} of {capacity / GIB:.1f} GiB a GPU",
            path="hardware.device",
            needed=fixed / GIB,
            available=capacity / GIB,
            breakdown=fullest.parts(),
        )
    shape = shapes[rooms.index(tokens)]
    ranks = data_ranks(layout) if run.model.num_experts else 1
    return Budget(
        kv_tokens=tokens * ranks,
        sequences=engine.max_sequences * ranks,
        step_tokens=engine.step_tokens * ranks,
        instances=max(1, layout.dp // ranks),
        data_ranks=ranks,
        window=shape.window,
        sliding=shape.window_bytes / shape.bytes_per_token,
    )
