"""Number formats of measured kernels: which peak they compute at and how many bytes their elements take."""

from __future__ import annotations

from typing import NamedTuple

from simulator.errors import SpecError, nearest
from simulator.spec.forms import Sheet
from simulator.spec.hardware import Device, load_network

SCALED_FP8 = 1.0 + 4.0 / 128.0
"""An fp8 value and its share of a 32-bit scale per 128 values."""
NVFP4 = 0.5 + 1.0 / 16.0
"""A 4-bit value and its share of an 8-bit scale per 16 values."""
MXFP4 = 0.5 + 1.0 / 32.0


class Format(NamedTuple):
    """Precision whose peak counts, and bytes of a weight and of a row element (of attention: a cached element)."""

    precision: str
    weight_bytes: float
    row_bytes: float
    quantised: bool = False
    """Rows arrive in 16 bits and the kernel's time includes bringing them down."""


FORMATS = {
    "fp32": Format("fp32", 4.0, 4.0),
    "tf32": Format("tf32", 4.0, 4.0),
    "fp16": Format("fp16", 2.0, 2.0),
    "bf16": Format("bf16", 2.0, 2.0),
    "fp8": Format("fp8", 1.0, 1.0, quantised=True),
    "fp8_block": Format("fp8", 1.0, SCALED_FP8, quantised=True),
    "nvfp4": Format("nvfp4", NVFP4, NVFP4, quantised=True),
    "int4_weights": Format("bf16", 0.5, 2.0),
    "mxfp4_weights": Format("bf16", MXFP4, 2.0),
    "fp8_cache": Format("bf16", 2.0, 1.0),
    "bytes": Format("", 1.0, 1.0),
}
"""`fp8_cache` is attention that computes in 16 bits on an fp8 cache; `bytes` is for collectives, which only move
them."""


def sheet_of(device: Device, dtype: str, op: str) -> Sheet:
    """The data-sheet figures a form of `op` needs. Raises SpecError for a format nobody knows or the chip
    lacks.
    """
    if dtype not in FORMATS:
        raise SpecError(f"unknown dtype '{dtype}'.{nearest(dtype, FORMATS)}")
    form = FORMATS[dtype]
    if form.precision == "bf16" and not device.supports("bf16"):
        form = form._replace(precision="fp16")  # both 16-bit formats have one rate, and what is measured is bf16
    if form.precision and not device.supports(form.precision):
        raise SpecError(f"{device.name} has no {form.precision} arithmetic, which {op} in {dtype} needs")
    sent = SCALED_FP8 if op in ("dispatch", "combine") and dtype == "fp8" else form.row_bytes
    return Sheet(
        peak=device.peak_for(form.precision) if form.precision else 1.0,
        bandwidth=device.memory.bandwidth,
        sms=device.sms or 1,
        link=device.scale_up.bandwidth,
        nic=_nic(device),
        weight_bytes=form.weight_bytes,
        row_bytes=sent,
    )


def _nic(device: Device) -> float:
    network = load_network(device.node.network)
    if network.nics_per_node is None:
        return 0.0
    return network.bandwidth * network.nics_per_node / device.node.gpus
