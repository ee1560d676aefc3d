"""Efficiency curves of a device: what fraction of its data sheet an operator of a given size reaches.

A fitted profile (written by calibration) replaces the priors of the device's architecture, operator by operator.
Peaks and bandwidths stay in the device's file; here are only fractions, latencies and shape parameters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from pydantic import Field

from simulator.result import Basis
from simulator.spec.base import Spec, data_root, read_document, validate


class GemmCurve(Spec):
    """t = t0 + tk min(k, 8192)/4096 + [(F/R)^p + (B/(em BW))^p]^(1/p), R = ec peak, held by the power limit.

    F = 2mnk, B = bytes of the operands and the result. Source: fit of 12 million kernel timings (docs/design.md).
    """

    ec: float
    em: float
    t0_us: float
    p: float
    tk_us: float
    relative_error: float
    basis: Basis
    measurements: int = 0
    source: str


class AttentionCurve(Spec):
    """Fraction of peak a fused attention kernel reaches on long sequences at head dimension 128."""

    forward: float
    backward: float
    relative_error: float = 0.15
    source: str


class MemoryCurve(Spec):
    """HBM-bound kernels: bytes / (efficiency x bandwidth) + t0."""

    efficiency: float
    gather_efficiency: float
    """Random rows of a few KiB: embeddings and PEER experts."""
    t0_us: float
    relative_error: float
    source: str


class GroupedGemmCurve(Spec):
    """A grouped GEMM of g groups: g x (GEMM of one group without overheads + group_us) / (1 - loss (1 - 1/g))."""

    loss: float
    group_us: float
    """Time to start one group where the host launches them."""
    device_loss_share: float
    """Share of the loss that remains where groups are scheduled on the device (full CUDA graphs)."""
    device_group_us: float
    fused_loss: float = 0.0
    """Inference: loss of compute rate where one kernel runs all experts."""
    relative_error: float
    source: str


class CollectiveCurve(Spec):
    """Fractions of the link's data-sheet bandwidth that ever larger collectives approach, and their latencies.

    Latency a and transfer b join as t = (a^q + b^q)^(1/q). The fractions are those of the limit, so that the curve
    itself, and not they, goes through what was measured at 512 MB.
    """

    ring: float
    ring_own: float = 0.0
    """Part of a rank's own chunk, in time of sending it, that no sending hides: NCCL's ring kernel has one primitive
    more than it sends chunks (src/device/all_reduce.h)."""
    in_network: float
    """Bus bandwidth of an all-reduce where the switch adds (NVLS), as a fraction of the link."""
    in_network_us: float
    all_to_all: float
    all_to_all_own: float = 0.0
    """The same of an all-to-all, which copies a rank's own part."""
    all_to_all_us: float
    base_us: float
    hop_us: float
    """For each step of a ring inside a scale-up domain."""
    q: float
    relative_error: float
    source: str


class ExchangeCurve(Spec):
    """A kernel that dispatches or combines the tokens of experts.

    t = us + node_us log2(nodes) + [L^p + N^p + S^p]^(1/p): bytes over the scale-up link, over the NICs, and through the
    SMs that copy them, S = (inside / sm_gb + inter-node, own node included, / sm_network_gb) / SMs.
    """

    us: float
    node_us: float = 0.0
    link: float
    """Fraction of the scale-up link."""
    own: float = 0.0
    """Copies a rank makes of what it keeps, at the same speed."""
    nic: float = 1.0
    """Fraction of a NIC."""
    sm_gb: float | None = None
    """GB/s one SM copies inside a node; absent where SMs don't limit."""
    sm_network_gb: float | None = None
    """GB/s one SM moves between nodes."""
    p: float
    """Sharpness with which the slowest of the three sets the time."""


class ExchangeCurves(Spec):
    """Both directions of one kernel: a combine also adds."""

    dispatch: ExchangeCurve
    combine: ExchangeCurve
    sms: int | None = None
    """SMs it is given."""
    source: str


class NetworkCurve(Spec):
    """The same for the scale-out network."""

    efficiency: float
    base_us: float
    """For each level of a tree of domains, and for a send."""
    ring_us: float
    """For each step of a ring from one domain to the next: NCCL's cost model (src/graph/tuning.cc, LL128)."""
    all_to_all_us: float
    relative_error: float
    source: str


class PowerCurve(Spec):
    """Sustained rate P = (TDP - p0) / (energy per FLOP), and draw = min(1, floor + a u_f^alpha + b u_m^beta) x TDP.

    u_f and u_m are the fractions of peak FLOP/s and of memory bandwidth in use.
    """

    limits_clock: bool
    """False where no throttling is seen (A100 and older)."""
    serves_in_bursts: bool = False
    """Serving steps alternate compute with memory-bound kernels and stay below the limit, so that GEMMs run
    unthrottled."""
    p0_w: float
    pj_per_flop: dict[str, float]
    measured_pj_per_flop: dict[str, float] = Field(default_factory=dict)
    """The same beside measured bursts: `pj_per_flop` is fitted together with the curves' own, lower, rates."""
    floor: float
    a: float
    alpha: float
    b: float
    beta: float
    relative_error: float
    source: str


class Curves(Spec):
    """All curves of one device or architecture."""

    name: str
    basis: Basis
    gemm: dict[str, GemmCurve]
    """By compute precision: bf16 (also fp16), fp8, fp4, fp32."""
    grouped: GroupedGemmCurve
    attention: dict[str, AttentionCurve]
    memory: MemoryCurve
    collective: CollectiveCurve
    exchange: dict[Literal["deepep", "deepep_ll", "two_sided"], ExchangeCurves] = Field(default_factory=dict)
    """Kernels made for the exchange of tokens; NCCL's all-to-all stands in where one is absent."""
    network: NetworkCurve
    power: PowerCurve


# Architectures that share the kernels, and so the curves, of another.
_SIBLINGS = {"blackwell-ultra": "blackwell"}


def generation(architecture: str) -> str:
    """The architecture whose kernels a device runs: `blackwell` for blackwell-ultra."""
    return _SIBLINGS.get(architecture, architecture)


@lru_cache(maxsize=64)
def read_priors(architecture: str, *, on_pcie: bool = False) -> Curves:
    """The priors of an architecture; those of `default` where it has none of its own.

    GPUs `on_pcie` share buses and sockets, whatever they are: their collectives have priors of their own.
    """
    folder = data_root() / "hardware_profiles/priors"
    if on_pcie:
        shared = validate(CollectiveCurve, read_document(folder / "pcie.yaml"))
        return read_priors(architecture).model_copy(update={"collective": shared})
    file = folder / f"{generation(architecture)}.yaml"
    return validate(Curves, read_document(file if file.is_file() else folder / "default.yaml"))
