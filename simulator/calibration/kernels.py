"""The measuring plan: which points are measured. CPU and GPU share every point's code and differ in sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from simulator.calibration.kernels_attention import AttentionSizes, attention_cases
from simulator.calibration.kernels_gemm import GemmSizes, gemm_cases
from simulator.calibration.kernels_host import host_cases
from simulator.calibration.kernels_memory import MemorySizes, memory_cases
from simulator.calibration.kernels_routing import RoutingSizes, routing_cases
from simulator.calibration.protocol import Case


@dataclass(frozen=True)
class Plan:
    """Sizes of all points of a session."""

    gemm: GemmSizes
    attention: AttentionSizes
    memory: MemorySizes
    routing: RoutingSizes


def cases(plan: Plan, dtype: str) -> Iterator[Case]:
    """Every point of a plan."""
    yield from gemm_cases(plan.gemm, dtype)
    yield from attention_cases(plan.attention, dtype)
    yield from memory_cases(plan.memory, dtype)
    yield from routing_cases(plan.routing, dtype)
    yield from host_cases(dtype)


def plan_of(kind: str) -> Plan:
    """The plan of a kind of device, `cpu` or `cuda`."""
    from simulator.calibration.kernels_plans import CPU_PLAN, CUDA_PLAN

    return CUDA_PLAN if kind == "cuda" else CPU_PLAN
