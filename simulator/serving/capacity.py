"""What an engine budgets: tokens of KV cache, and how many requests may be in flight."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.cost.capacity import inference_memory
from simulator.errors import InfeasibleError
from simulator.graph.inference import kv_bytes_per_token, prepare_inference
from simulator.graph.inference_layers import data_ranks
from simulator.spec.run import Run
from simulator.units import GIB


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one instance of an engine."""

    kv_tokens: float
    """Tokens the KV cache holds, over all attention ranks."""
    sequences: int
    step_tokens: int
    instances: int
    data_ranks: int


def budget(run: Run) -> Budget:
    """The limits of one instance. Raises InfeasibleError where the weights leave no room for a KV cache."""
    b = prepare_inference(run, "decode", 1.0)
    layout, engine = b.layout, run.defaults
    capacity = run.hardware.device.memory.capacity
    fullest = max(inference_memory(b), key=lambda stage: stage.parameters)
    fixed = fullest.parameters + fullest.activations + fullest.buffers
    if engine.memory_after_weights:
        room = engine.memory_fraction * (capacity - fixed - fullest.framework)
    else:
        room = engine.memory_fraction * capacity - fixed
    if room <= 0:
        raise InfeasibleError(
            f"weights and work space leave no KV cache: they need {fixed / GIB:.1f} of {capacity / GIB:.1f} GiB a GPU",
            path="hardware.device",
            needed=fixed / GIB,
            available=capacity / GIB,
            breakdown=fullest.parts(),
        )
    ranks = data_ranks(layout) if run.model.num_experts else 1
    return Budget(
        kv_tokens=room / kv_bytes_per_token(b.run, layout) * ranks,
        sequences=engine.max_sequences * ranks,
        step_tokens=engine.step_tokens * ranks,
        instances=max(1, layout.dp // ranks),
        data_ranks=ranks,
    )
