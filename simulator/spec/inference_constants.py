"""The few constants of inference, each with its meaning, value and source; one file, one place."""

from __future__ import annotations

from functools import lru_cache

from simulator.spec.base import Spec, data_root, read_document, validate


class InferenceConstants(Spec):
    """Read from hardware_profiles/priors/inference.yaml, where each value's meaning and source stand beside it."""

    routing_skew: float
    expert_tile_rows: float
    expert_kernel_loss: float
    expert_kernels: float
    expanded_per_sm: float
    kernel_us: float
    decode_core_us: float
    reduce_us: float
    reduce_hop_us: float
    reduce_ring: float
    moe_prompt_layers: float


@lru_cache(maxsize=1)
def read_inference_constants() -> InferenceConstants:
    """The shipped constants."""
    return validate(InferenceConstants, read_document(data_root() / "hardware_profiles/priors/inference.yaml"))
