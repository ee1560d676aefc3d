"""Seconds of compute operators, as arrays.

GEMM: t = t0 + tk min(K, 8192)/4096 + [(F/R)^p + (B/(em BW))^p]^(1/p), the p-norm of its compute and memory time.
Fitted on 12 million published kernel timings; the linear term in K is capped, since uncapped it misses long K by 160
%. Attention: the same norm with a rate that saturates with sequence length and head dimension. HBM-bound operators:
bytes over a fraction of the bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simulator.cost.machine import Machine
from simulator.graph.operator import Attention, Gemm, HostTransfer, Traffic, WeightGrad
from simulator.spec.inference_constants import read_inference_constants
from simulator.units import US

Array = NDArray[np.float64]

K_CAP, K_UNIT = 8192.0, 4096.0
SEQ_HALF_FORWARD, SEQ_HALF_BACKWARD = 600.0, 900.0
"""Sequence length at which attention reaches half of its long-sequence rate."""
HEAD_HALF, HEAD_REFERENCE = 24.0, 128.0
"""Head dimension at which it reaches half, and the one its efficiency is quoted at."""
ACTIVATION_BYTES = 2.0
DECODE_EFFICIENCY = 0.82
"""Fraction of HBM bandwidth decode attention reaches on caches beyond the L2 (published kernel timings, H100 and
B200)."""


def gemm_seconds(works: Sequence[tuple[Machine, Gemm | WeightGrad]]) -> Array:
    """Seconds of GEMMs and weight gradients on their machines, each if alone on the GPU."""
    table = np.array([_gemm_row(machine, work) for machine, work in works], dtype=np.float64)
    depth, flops, moved, rate, bandwidth, t0, tk, p, groups, group_s, loss = table.T
    overhead = t0 + tk * np.minimum(depth, K_CAP) / K_UNIT
    body = ((flops / rate) ** p + (moved / bandwidth) ** p) ** (1 / p)
    grouped: Array = groups * (body + group_s) / (1 - loss * (1 - 1 / groups)) + overhead
    return grouped


def _gemm_row(machine: Machine, work: Gemm | WeightGrad) -> tuple[float, ...]:
    """Depth of the inner product, FLOPs and bytes of one group, rates, and how groups are run.

    A batched GEMM is one kernel over all its groups; a grouped one schedules them apart.
    """
    rate = machine.gemm(work.precision)
    groups, group_s, loss = grouping(machine, work)
    depth = work.k if isinstance(work, Gemm) else work.m / work.groups
    curve = machine.curves.grouped
    reached = work.reached if isinstance(work, Gemm) else 1.0
    return (
        depth,
        work.flops / groups,
        max(work.bytes / groups, _expansion_bytes(machine, work, rate.bandwidth)),
        rate.rate * (1 - curve.fused_loss if reached < 1 else 1.0),
        rate.bandwidth * reached,
        rate.t0,
        rate.tk,
        rate.p,
        groups,
        group_s,
        loss,
    )


def grouping(machine: Machine, work: Gemm | WeightGrad) -> tuple[float, float, float]:
    """(groups run apart, seconds to start one, loss with many) of a grouped GEMM; (1, 0, 0) of a plain or batched
    one.
    """
    if not work.grouped or work.groups <= 1:
        return 1.0, 0.0, 0.0
    curve, on_device = machine.curves.grouped, work.grouped == "device"
    group_s = (curve.device_group_us if on_device else curve.group_us) * US
    return work.groups, group_s, curve.loss * (curve.device_loss_share if on_device else 1.0)


def _expansion_bytes(machine: Machine, work: Gemm | WeightGrad, bandwidth: float) -> float:
    """Bytes that memory could move while weights of four bits expand to the 16 they are multiplied in; else 0.

    A fused expert kernel expands an expert's weights anew for every tile of its rows, so that prompts, too, run at the
    rate of the expansion (vLLM's Marlin kernels take 4.0 ms for 7,373 tokens of Kimi K2 on one of eight B200s, where
    the tensor cores alone would take 0.6).
    """
    sms = machine.hardware.device.sms
    if isinstance(work, WeightGrad) or work.weight_bytes >= 1 or work.row_bytes < ACTIVATION_BYTES or sms is None:
        return 0.0
    constants = read_inference_constants()
    tiles = work.groups if work.reached == 1.0 else max(work.groups, work.m / constants.expert_tile_rows)
    return tiles * work.n * work.k / (constants.expanded_per_sm * sms) * bandwidth


def attention_seconds(works: Sequence[tuple[Machine, Attention]]) -> Array:
    """Seconds of fused attention kernels."""
    table = np.array([_attention_row(machine, work) for machine, work in works], dtype=np.float64)
    flops, moved, rate, bandwidth, t0 = table.T
    seconds: Array = t0 + np.hypot(flops / rate, moved / bandwidth)
    return seconds


def _attention_row(machine: Machine, work: Attention) -> tuple[float, ...]:
    memory = machine.curves.memory
    rate = machine.attention(work.kernel, work.precision, work.phase)
    half = SEQ_HALF_FORWARD if work.phase == "forward" else SEQ_HALF_BACKWARD
    reference = (HEAD_REFERENCE + HEAD_HALF) / HEAD_REFERENCE
    rate *= work.head_dim / (work.head_dim + HEAD_HALF) * reference
    if work.decode:
        t0 = read_inference_constants().decode_core_us * US
        return work.flops, work.bytes, rate, DECODE_EFFICIENCY * machine.memory_bandwidth, t0
    rate = machine.sustained(work.precision, rate * work.seq / (work.seq + half))
    return work.flops, work.bytes, rate, machine.curves.memory.efficiency * machine.memory_bandwidth, memory.t0_us * US


def traffic_seconds(works: Sequence[tuple[Machine, Traffic]]) -> Array:
    """Seconds of HBM-bound operators."""
    served_us = read_inference_constants().kernel_us
    rows = [
        (
            work.bytes,
            m.curves.memory.gather_efficiency if work.gather else m.curves.memory.efficiency,
            m.memory_bandwidth,
            (served_us if work.served else m.curves.memory.t0_us) * US,
        )
        for m, work in works
    ]
    moved, efficiency, bandwidth, t0 = np.array(rows, dtype=np.float64).T
    seconds: Array = t0 + moved / (efficiency * bandwidth)
    return seconds


def host_transfer_seconds(works: Sequence[tuple[Machine, HostTransfer]]) -> Array:
    """Seconds of copies between GPU and host."""
    return np.array([work.bytes / _host_bandwidth(machine) for machine, work in works], dtype=np.float64)


def _host_bandwidth(machine: Machine) -> float:
    device = machine.hardware.device
    bandwidth = device.host.bandwidth if device.host is not None else device.pcie
    return bandwidth if bandwidth is not None else machine.link
