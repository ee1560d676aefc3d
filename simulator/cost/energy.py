"""Power of a device against its load, and the joules of a step.

P = min(1, floor + a u_f^alpha + b u_m^beta) x TDP, u_f and u_m being the fractions of peak FLOP/s and memory bandwidth
in use over the step. An idle-plus-linear model is wrong on current parts: active but stalled they draw half their
limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.cost.machine import Machine

DEFAULT_LINK_PJ_PER_BIT = 5.0
"""NVLink class links; 1.3 to 5 pJ/bit are quoted (unconfirmed). Link energy is below one percent of a step's."""
DEFAULT_NETWORK_PJ_PER_BIT = 18.75
"""A 15 W DSP optic moving 800 Gb/s."""


WAITING_DROP = 0.6
"""Of the TDP, by which the floor falls for a unit share of waiting: fit of ML.ENERGY v3
(workloads/validation/inference.csv)."""


@dataclass(frozen=True, slots=True)
class Joules:
    """Joules of all GPUs together in one step, and of what stands around them."""

    compute: float
    memory: float
    network: float
    static: float
    facility: float

    @property
    def device(self) -> float:
        """What the GPUs themselves draw."""
        return self.compute + self.memory + self.static

    @property
    def total(self) -> float:
        """At the meter."""
        return self.device + self.network + self.facility


@dataclass(frozen=True, slots=True)
class Load:
    """What one GPU does in a step, mean over the GPUs."""

    seconds: float
    flops: float
    peak: float
    memory_bytes: float
    link_bytes: float
    network_bytes: float
    waiting: float = 0.0


def device_power(
    machine: Machine, flops_share: float, memory_share: float, waiting: float = 0.0
) -> tuple[float, float, float]:
    """Watts of one busy device: (floor, compute part, memory part); their sum never exceeds the TDP.

    `waiting` is the share of time of a serving step in which it waits for other devices.
    """
    curve, tdp = machine.curves.power, machine.hardware.device.tdp
    compute = curve.a * min(1.0, flops_share) ** curve.alpha
    memory = curve.b * min(1.0, memory_share) ** curve.beta
    floor = curve.floor - WAITING_DROP * waiting
    wanted = floor + compute + memory
    scale = min(1.0, (1 - floor) / (compute + memory)) if wanted > 1 else 1.0
    return floor * tdp, compute * scale * tdp, memory * scale * tdp


def step_joules(machine: Machine, load: Load, pue: float) -> Joules:
    """Joules of a step of the whole cluster."""
    hardware = machine.hardware
    bandwidth = machine.memory_bandwidth
    floor, compute, memory = device_power(
        machine, load.flops / (load.peak * load.seconds), load.memory_bytes / (bandwidth * load.seconds), load.waiting
    )
    network_pj = hardware.network.link_energy
    per_bit = DEFAULT_NETWORK_PJ_PER_BIT * 1e-12 if network_pj is None else network_pj
    network = 8 * (load.link_bytes * DEFAULT_LINK_PJ_PER_BIT * 1e-12 + load.network_bytes * per_bit)
    gpus, seconds = hardware.gpus, load.seconds
    overhead = hardware.device.node.overhead_power / hardware.device.node.gpus * gpus * seconds
    inside = (floor + compute + memory) * gpus * seconds + network * gpus + overhead
    facility = overhead + (pue - 1) * inside
    return Joules(compute * gpus * seconds, memory * gpus * seconds, network * gpus, floor * gpus * seconds, facility)
