"""Bytes that a low-precision recipe moves: stored operands and quantisation passes."""

from __future__ import annotations

from simulator.spec.workload import ELEMENT_BYTES

WIDE = frozenset({"fp32", "tf32", "fp16", "bf16"})

# Bytes a training recipe moves for every element it quantises (reads bf16, writes row-wise and column-wise copies with
# scales). Hopper fp8: read 2, write 1 + 1. Blackwell per-tensor fp8 reads a transposed operand, so writes one copy.
# mxfp8: two copies with scales along each direction. nvfp4: two 4-bit copies, after a Hadamard transform and a pass
# for the scale. Source: Transformer Engine, docs/examples/fp8_primer; byte counts derived in docs/design.md.
_QUANTISE_BYTES = {"fp8": 4.0, "fp8_block": 4.0, "mxfp8": 4.0, "nvfp4": 5.1, "mxfp4": 5.1}
_QUANTISE_BYTES_NO_TRANSPOSE = 3.0


def is_wide(precision: str) -> bool:
    """Whether the precision needs no quantisation."""
    return precision in WIDE


def wide(precision: str) -> str:
    """What attention, router and logits are computed in: bf16 in a low-precision recipe, else the run's own."""
    return precision if is_wide(precision) else "bf16"


def element_bytes(precision: str) -> float:
    """Bytes of one element of a GEMM operand; tf32 is stored as fp32."""
    return ELEMENT_BYTES[precision]


def quantise_bytes(precision: str, *, transposed_operands: bool) -> float:
    """Bytes moved per quantised element; 0 for wide precisions."""
    if is_wide(precision) or precision.startswith("int"):
        return 0.0
    if precision == "fp8" and transposed_operands:
        return _QUANTISE_BYTES_NO_TRANSPOSE
    return _QUANTISE_BYTES[precision]
