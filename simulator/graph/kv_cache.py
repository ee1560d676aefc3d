"""The KV cache: bytes one sequence takes on one GPU, layers with a sliding window apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf

from simulator.graph.layers import Portion, stack_of
from simulator.graph.parallel import Layout
from simulator.graph.precision import element_bytes
from simulator.spec.model import ModelSpec
from simulator.spec.run import Run


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Bytes of one sequence: each token in layers that see all of it, and the last `window` in those that slide."""

    open_bytes: float
    window_bytes: float
    window: float = inf

    @property
    def bytes_per_token(self) -> float:
        """Of a token no window has passed yet."""
        return self.open_bytes + self.window_bytes

    def bytes(self, tokens: float) -> float:
        """Of a sequence of so many tokens; engines give back what has left the window."""
        return self.open_bytes * tokens + self.window_bytes * min(tokens, self.window)

    def joined(self, other: CacheShape, times: float = 1.0) -> CacheShape:
        """Both, the other `times`; a window of another length counts as none."""
        slides = other.window == self.window
        seen = other.open_bytes if slides else other.bytes_per_token
        return CacheShape(
            self.open_bytes + times * seen,
            self.window_bytes + times * (other.window_bytes if slides else 0.0),
            self.window,
        )


def kv_precision(run: Run) -> str:
    """Precision of the KV cache: stated, or fp8 where the checkpoint brings its scales, or 16 bits.

    Checkpoints in nvfp4 do; those in 8 bits where the engine says so.
    """
    work = run.inference
    assert work is not None
    eight_bit = work.precision in ("fp8", "fp8_block", "mxfp8") and run.defaults.kv_follows_weights
    return work.kv_cache_precision or ("fp8" if eight_bit or work.precision == "nvfp4" else "bf16")


def cache_shape(run: Run, layout: Layout, stage: int | None = None) -> CacheShape:
    """The cache of a sequence on one GPU of a stage; of the stage that holds most of it where none is named."""
    token = element_bytes(kv_precision(run)) * cache_width(run.model, layout.tp)
    stages = _sliding_layers(run.model, layout.pp)
    whole, sliding = max(stages) if stage is None else stages[stage]
    window = run.model.sliding_window
    return CacheShape(token * whole, token * sliding, inf if window is None else float(window))


def sequence_cache(run: Run) -> CacheShape:
    """The cache of a sequence in all layers, each of its elements once: what moves from one instance to another."""
    sliding = sum(window is not None for window in run.model.attention_windows)
    token = element_bytes(kv_precision(run)) * run.model.kv_cache_width
    window = run.model.sliding_window
    return CacheShape(
        token * (run.model.num_hidden_layers - sliding), token * sliding, inf if window is None else float(window)
    )


def cache_width(model: ModelSpec, tp: int) -> float:
    """Elements a token leaves on one tensor rank and layer.

    A key-value head lies on at least one rank; the latent of MLA on all of them.
    """
    if model.is_mla:
        return float(model.kv_cache_width)
    return 2.0 * max(model.kv_dim / tp, model.head_dim)


@lru_cache(maxsize=1024)
def _sliding_layers(model: ModelSpec, pp: int) -> tuple[tuple[int, int], ...]:
    """(layers that see all, layers that slide) of each stage."""
    return tuple(_counts(portion) for portion in stack_of(model, pp, 1, pads=False).stages)


def _counts(portion: Portion) -> tuple[int, int]:
    sliding = sum(count for layer, count in portion if layer.window is not None)
    return sum(count for _, count in portion) - sliding, sliding
