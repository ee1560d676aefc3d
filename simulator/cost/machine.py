"""Hardware and curves brought together: the rates that formulas need, in SI units, each computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from simulator.errors import SpecError
from simulator.spec.curves import Curves, GemmCurve, read_priors
from simulator.spec.evidence import NONE, Evidence, evidence
from simulator.spec.hardware import Hardware
from simulator.spec.workload import AllReduce
from simulator.units import US

THROTTLE_EXPONENT = 4.0
"""Sharpness of the transition between the rate a kernel could reach and the rate the power limit sustains."""
MAX_FLOOR_SHARE = 0.4
"""The active floor of a device with a much lower limit than the one it was fitted on is at most this share of it."""


@dataclass(frozen=True, slots=True)
class GemmRate:
    """GEMM parameters of one precision: FLOP/s, bytes/s, seconds."""

    rate: float
    bandwidth: float
    t0: float
    tk: float
    p: float
    curve: GemmCurve


@dataclass(frozen=True)
class Machine:
    """A cluster with its curves; `gemm` and `attention` rates are looked up by precision and kernel."""

    hardware: Hardware
    curves: Curves
    serves: bool = False
    """It runs the steps of a serving engine, on which the power limit may not bear."""
    evidence: Evidence | None = None
    """Measured timings that replace the curves where they cover an operator."""
    library: str = ""
    """The serving engine whose kernels it runs, as measured tables name it; empty in training."""
    all_reduce: AllReduce = "auto"
    """The algorithm of all-reduces, where the run says which."""

    def sustained(self, precision: str, rate: float) -> float:
        """FLOP/s of a long kernel that could reach `rate` if power did not limit the clock.

        R = (rate^-4 + P^-4)^(-1/4) with P = (TDP - P0) / (energy per FLOP). A fit over parts of 500 to 1400 W
        (docs/design.md); no limit where none is seen.
        """
        limit = self.power_limit(precision)
        if limit is None:
            return rate
        return float((rate**-THROTTLE_EXPONENT + limit**-THROTTLE_EXPONENT) ** (-1 / THROTTLE_EXPONENT))

    def power_limit(self, precision: str, *, measured: bool = False) -> float | None:
        """FLOP/s that the power limit sustains, of curves or of `measured` bursts; None where it limits nothing."""
        device, power = self.hardware.device, self.curves.power
        known = {**power.pj_per_flop, **power.measured_pj_per_flop} if measured else power.pj_per_flop
        energy = known.get(device.compute_precision(precision))
        limits = power.limits_clock or measured
        if (self.serves and power.serves_in_bursts) or not limits or energy is None:
            return None
        floor = min(power.p0_w, MAX_FLOOR_SHARE * device.tdp)
        return (device.tdp - floor) / (energy * 1e-12)

    def gemm(self, precision: str) -> GemmRate:
        """The rates of GEMMs in a run precision."""
        return _gemm_rate(self, precision)

    def attention(self, kernel: str, precision: str, phase: str) -> float:
        """FLOP/s of a long attention kernel at head dimension 128, before saturation and the power limit."""
        curve = self.curves.attention[kernel]
        share = curve.forward if phase == "forward" else curve.backward
        return share * self.hardware.device.peak_for(precision)

    @property
    def link(self) -> float:
        """Bytes/s, one direction, of a GPU's scale-up link."""
        return self.hardware.device.scale_up.bandwidth

    @property
    def nic(self) -> float:
        """Bytes/s, one direction, of a GPU's share of its node's NICs."""
        return self.hardware.node_bandwidth_per_gpu

    @property
    def memory_bandwidth(self) -> float:
        """Bytes/s of device memory."""
        return self.hardware.device.memory.bandwidth

    def __hash__(self) -> int:
        return hash((id(self.hardware), id(self.curves)))

    def __eq__(self, other: object) -> bool:
        return self is other


@lru_cache(maxsize=4096)
def _gemm_rate(machine: Machine, precision: str) -> GemmRate:
    device = machine.hardware.device
    name = device.compute_precision(precision)
    curve = machine.curves.gemm.get(name) or machine.curves.gemm["bf16"]
    rate = machine.sustained(precision, curve.ec * device.peak_for(precision))
    bandwidth = curve.em * device.memory.bandwidth
    return GemmRate(rate, bandwidth, curve.t0_us * US, curve.tk_us * US, curve.p, curve)


@lru_cache(maxsize=256)
def build_machine(
    hardware: Hardware,
    *,
    serves: bool = False,
    profile: str = NONE,
    engine: str = "",
    all_reduce: AllReduce = "auto",
) -> Machine:
    """The machine of a run: its hardware with the priors of its architecture, and what was measured (`evidence`).

    Runs on the same hardware share it. Raises SpecError and CalibrationError for a profile that is wrong or damaged,
    and SpecError for in-switch reduction where there is none.
    """
    device = hardware.device
    if all_reduce == "nvls" and not device.scale_up.in_network_reduction:
        raise SpecError(
            f"nvls needs switches that add, and those of {device.name} don't: take auto, ring, tree or hierarchical",
            path="execution.all_reduce",
        )
    library = engine.split("-")[0]  # `trtllm-0.9` is a release of trtllm
    curves = read_priors(device.architecture, on_pcie=device.scale_up.kind == "pcie")
    return Machine(hardware, curves, serves, evidence(device, profile), library, all_reduce)
