"""The few global constants of the model, each with its meaning, value and source; one file, one place."""

from __future__ import annotations

from functools import lru_cache

from simulator.spec.base import Spec, data_root, read_document, validate


class Constants(Spec):
    """Read from hardware_profiles/priors/constants.yaml, where each value's meaning and source stand beside it."""

    overlap_rate: float
    tensor_skew_us: float
    a2a_hidden: float
    a2a_hidden_batched: float
    ring_residue: float
    prefetch_residue: float
    jitter_per_doubling: float
    jitter_ranks: int
    host_module_us: float
    host_launch_us: float
    host_micro_batch_us: float
    host_step_us: float
    host_backward_ratio: float
    host_graphed_share: float
    host_dense_modules: int
    host_unfused_attention_modules: int
    host_fp8_modules: int
    host_moe_modules: int
    host_expert_launches: float
    host_fp8_expert_launches: float
    host_overlap_exponent: float
    host_synchronous_exponent: float


@lru_cache(maxsize=1)
def read_constants() -> Constants:
    """The shipped constants."""
    return validate(Constants, read_document(data_root() / "hardware_profiles/priors/constants.yaml"))
