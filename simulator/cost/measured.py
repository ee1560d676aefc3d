"""Seconds of operators from measured fits, where a run's evidence covers them; from the curves elsewhere.

What is measured are forward kernels timed alone. The rest follows from them:
* the gradients of a GEMM are GEMMs of their own shapes;
* a grouped GEMM runs g times the GEMM of one group, with the start-up and loss of the curves;
* the backward pass of attention does 2.5 times the FLOPs at the rate of the forward one times the published ratio of
  the two (FlashAttention-2 and -3, the curves' `backward` over `forward`);
* attention of a shape that wasn't measured as such (a context-parallel share, heads whose keys and values differ) runs
  at the rate of whole sequences of that length.
Kernels were timed in bursts; the power limit bends their peak as it bends the curves'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simulator.cost.collective import collective_seconds
from simulator.cost.compute import Array, attention_seconds, gemm_seconds, grouping
from simulator.cost.machine import Machine
from simulator.graph.operator import Attention, Collective, Experts, Gemm, WeightGrad
from simulator.result import Basis
from simulator.spec.evidence import Found
from simulator.spec.forms import COLUMNS, K_CAP, K_UNIT
from simulator.spec.forms_attention import latent_shape
from simulator.spec.profile import Fit
from simulator.units import US

DTYPES = {
    "bf16": "bf16",
    "fp16": "bf16",
    "fp8": "fp8",
    "mxfp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
}
"""Run precision -> the measured format whose kernels have its rate."""
KERNELS = {
    "flash2": ("vllm_flash_attn", "vllm_flash_attn_fa2", "flash_attention", "sdpa"),
    "flash3": ("vllm_flash_attn_fa3", "fa3"),
    "cudnn": ("vllm_flash_attn_fa3", "fa3", "vllm_flashinfer_trtllmprefill", "trtllm_mha"),
}
"""Attention kernels of training -> the measured kernels of that generation; torch's own fused attention, as a live
calibration times it, is FlashAttention-2. cuDNN's are as fast as FlashAttention-3 on Hopper (arXiv 2407.08608 figures 5
and 6); TensorRT-LLM's fused ones stand for them on Blackwell."""


DIRECT_ALL_REDUCE = "vllm_custom_graph"
"""The measured all-reduce over peer memory that stands for those of serving engines."""


class Shaped(NamedTuple):
    """A work with the fit that times it and its shape in the fit's columns."""

    found: Found
    shape: tuple[float, ...]


def measured_gemm_seconds(works: Sequence[tuple[Machine, Gemm | WeightGrad]]) -> Array:
    """Seconds of GEMMs and weight gradients on their machines, each if alone on the GPU."""
    seconds = gemm_seconds(works)
    for found, places, columns in _by_fit(works, _gemm):
        machine = works[places[0]][0]
        m, n, k = columns
        limit = machine.power_limit(works[places[0]][1].precision, measured=True)
        model = found.model if machine.serves else found.model.unquantised()
        alone = model.predict({"m": m, "n": n, "k": k}, limit).seconds
        overhead = _overhead(found.fit.parameters, k)
        groups, group_s, loss = np.array([grouping(machine, works[i][1]) for i in places]).T
        seconds[places] = groups * (alone - overhead + group_s) / (1 - loss * (1 - 1 / groups)) + overhead
    return seconds


def _overhead(parameters: Mapping[str, float], k: Array) -> Array:
    """Seconds of a GEMM that don't grow with its groups: launch, and the depth of its pipeline."""
    return (parameters["t0_us"] + parameters["tk_us"] * np.minimum(k, K_CAP) / K_UNIT) * US


def _gemm(machine: Machine, work: Gemm | WeightGrad) -> Shaped | None:
    assert machine.evidence is not None
    if work.groups > 1 and not work.grouped:
        return None  # batched kernels were not measured
    dtype = DTYPES.get(work.precision)
    if isinstance(work, Gemm):
        if work.weight_bytes < 1 <= work.row_bytes:
            dtype = "int4_weights"
        shape = work.m / work.groups, work.n, work.k
    else:
        shape = work.n, work.k, work.m / work.groups
    if not all(shape):
        return None  # a model without a head multiplies nothing
    found = dtype and machine.evidence.find("gemm", dtype, library=machine.library)
    return Shaped(found, shape) if found else None


def measured_attention_seconds(works: Sequence[tuple[Machine, Attention]]) -> Array:
    """Seconds of fused attention kernels."""
    seconds = attention_seconds(works)
    for found, places, columns in _by_fit(works, _attention):
        machine, first = works[places[0]]
        limit = None if first.decode else machine.power_limit(first.precision, measured=True)
        shape = dict(zip(COLUMNS[found.fit.op], columns, strict=True))
        alone = found.model.predict(shape, limit).seconds
        if first.decode:
            seconds[places] = alone
            continue
        whole = latent_shape(shape, decode=False) if first.latent else shape
        share = np.array([works[i][1].flops for i in places]) / _whole_flops(whole)
        seconds[places] = alone * share * np.array([_slower(*works[i]) for i in places])
    return seconds


def _attention(machine: Machine, work: Attention) -> Shaped | None:
    assert machine.evidence is not None
    if work.kernel in ("unfused", "flash1") or work.sequences <= 0 or work.length <= 0 or work.precision not in DTYPES:
        return None
    dtype = "fp8_cache" if work.cache_bytes < 2 else "bf16"
    op = "decode" if work.decode else "prefill"
    batch = work.sequences if work.decode else max(1.0, work.sequences)
    if work.latent:
        found = machine.evidence.find(f"mla_{op}", dtype, library=machine.library)
        return Shaped(found, (batch, work.length, work.heads)) if found else None
    kernels = () if machine.serves else KERNELS[work.kernel]
    found = machine.evidence.find(op, dtype, library=machine.library, kernels=kernels)
    return Shaped(found, (batch, work.length, work.heads, work.kv_heads, work.head_dim, work.window)) if found else None


def _whole_flops(shape: Mapping[str, Array]) -> Array:
    """FLOPs of causal attention over whole sequences, under the window."""
    length = shape["seq"]
    seen = np.where(shape["window"] > 0, np.minimum(shape["window"], length), length)
    pairs = seen * (seen + 1) / 2 + (length - seen) * seen
    flops: Array = 4.0 * shape["batch"] * shape["heads"] * shape["head_dim"] * pairs
    return flops


def _slower(machine: Machine, work: Attention) -> float:
    """Time for each FLOP over that of the forward kernel."""
    curve = machine.curves.attention[work.kernel]
    return 1.0 if work.phase == "forward" else curve.forward / curve.backward


def measured_collective_seconds(works: Sequence[tuple[Machine, Collective]]) -> Array:
    """Seconds of collectives: NCCL's measured curves inside a scale-up domain, and the engine's own all-reduce where it
    is faster."""
    seconds = collective_seconds(works)
    for i, (machine, work) in enumerate(works):
        found = _curve(machine, work)
        if found is not None:
            seconds[i] = _curve_seconds(found, work)
    return seconds


def _curve(machine: Machine, work: Collective) -> Found | None:
    """The fastest measured kernel of a collective; None across domains, and where nothing is sent."""
    if machine.evidence is None or work.group.size == 1 or work.group.domains > 1 or not work.bytes:
        return None
    if work.kind == "send_recv" or work.kernel != "nccl" or machine.all_reduce != "auto":
        return None  # not measured, timed by its own curves, or of another algorithm than NCCL's choice
    kernels = ("nccl", DIRECT_ALL_REDUCE) if work.direct else ("nccl",)
    found = [machine.evidence.find(work.kind, "bytes", kernels=(kernel,)) for kernel in kernels]
    return min((one for one in found if one), key=lambda one: _curve_seconds(one, work), default=None)


def _curve_seconds(found: Found, work: Collective) -> float:
    kind, ranks = work.kind, work.group.size
    size = work.bytes * (ranks / (ranks - 1) if kind == "all_to_all" else 1)  # measured by the full buffer of a rank
    return float(found.profile.collective_seconds(kind, size, ranks, kernel=found.fit.kernel).seconds[0])


def measured_expert_seconds(works: Sequence[tuple[Machine, Experts]], parts: Array) -> Array:
    """Seconds of whole expert layers; `parts` are those of their kernels, for what was not measured."""
    seconds = parts.copy()
    for found, places, columns in _by_fit(works, _experts):
        machine, first = works[places[0]]
        shape = dict(zip(COLUMNS["moe"], columns, strict=True))
        seconds[places] = found.model.predict(shape, machine.power_limit(first.precision, measured=True)).seconds
    return seconds


def _experts(machine: Machine, work: Experts) -> Shaped | None:
    assert machine.evidence is not None
    dtype = {**DTYPES, "int4": "int4_weights", "mxfp4": "mxfp4_weights"}.get(work.stored)
    found = dtype and machine.evidence.find("moe", dtype, library=machine.library)
    if not found:
        return None
    shape = work.tokens, work.hidden, work.inter, work.topk, work.experts, work.tp, work.ep, work.skew, work.gated
    return Shaped(found, tuple(map(float, shape)))


class Timed(NamedTuple):
    """The fit that times a work, what it rests on at the work's shape, and its relative standard error there."""

    fit: Fit
    basis: Basis
    relative_error: float

    @property
    def source(self) -> str:
        """Kernel, library and where its timings come from."""
        fit = self.fit
        carried = f", carried over from {fit.carried_from}" if fit.carried_from else ""
        return f"{fit.kernel}, {fit.library} {fit.version}: {fit.source}{carried}"


def timed_by(machine: Machine, work: object) -> Timed | None:
    """What times a work; None where the curves do."""
    if machine.evidence is None:
        return None
    match work:
        case Gemm() | WeightGrad():
            shaped = _gemm(machine, work)
        case Attention():
            shaped = _attention(machine, work)
        case Experts():
            shaped = _experts(machine, work)
        case Collective():
            curve = _curve(machine, work)
            shaped = Shaped(curve, (work.bytes, float(work.group.size))) if curve else None
        case _:
            return None
    if shaped is None:
        return None
    fit = shaped.found.fit
    predicted = shaped.found.model.predict(dict(zip(COLUMNS[fit.op], shaped.shape, strict=True)))
    basis, error = predicted.basis[0], float(predicted.relative_error[0])
    if isinstance(work, Gemm | WeightGrad) and work.grouped:  # a plain GEMM's time, and how groups are run
        return Timed(fit, "transferred", float(np.hypot(error, machine.curves.grouped.relative_error / 2)))
    return Timed(fit, basis, error)


def _by_fit(
    works: Sequence[tuple[Machine, Any]], find: Callable[[Machine, Any], Shaped | None]
) -> list[tuple[Found, list[int], Array]]:
    """Works that share a machine and a fit: the fit, their places, and their shapes as columns."""
    groups: dict[tuple[int, int], tuple[Found, list[int], list[tuple[float, ...]]]] = {}
    for place, (machine, work) in enumerate(works):
        if machine.evidence is None:
            continue
        shaped = find(machine, work)
        if shaped is not None:
            key = id(machine), id(shaped.found)
            _, places, shapes = groups.setdefault(key, (shaped.found, [], []))
            places.append(place)
            shapes.append(shaped.shape)
    return [(found, places, np.array(shapes, dtype=np.float64).T) for found, places, shapes in groups.values()]
