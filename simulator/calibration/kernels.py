"""The measuring plan: which points are measured. CPU and GPU share every point's code and differ in sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

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


# A point takes up to some 20 ms, so that a round over all of them takes seconds.
CPU_PLAN = Plan(
    gemm=GemmSizes(
        points=28,
        low=(33, 16, 16),
        high=(2048, 4096, 4096),
        min_flops=1e5,
        max_flops=1.2e9,
        largest=1024,
        weights=((64, 64), (128, 512), (512, 128), (256, 256), (1024, 512), (512, 2048), (2048, 1024), (4096, 1024)),
        few_rows=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
        batched=(
            (2, 64, 64, 32), (2, 512, 64, 32), (2, 2048, 128, 64), (2, 1024, 256, 64), (2, 512, 512, 32),
        ),
        vectors=(
            (16, 16, 64), (64, 16, 128), (32, 64, 64), (128, 32, 96), (64, 64, 128), (96, 96, 192), (64, 128, 128),
            (256, 64, 64), (128, 64, 256), (64, 128, 256), (32, 128, 512), (128, 128, 128), (48, 48, 384), (16, 256, 64),
        ),
        grouped=((4, 64, 256, 128), (8, 256, 512, 256), (8, 64, 512, 256)),
    ),
    attention=AttentionSizes(
        prefill=(
            (1, 1, 1, 16, 32), (1, 4, 2, 32, 16), (1, 2, 1, 48, 32), (3, 4, 2, 24, 32), (4, 4, 2, 96, 32), (2, 6, 3, 96, 64), (1, 4, 2, 128, 64), (4, 8, 4, 48, 64),
             (2, 4, 2, 64, 32), (1, 8, 8, 64, 64), (4, 4, 4, 64, 64),
            (1, 8, 2, 128, 64), (2, 8, 8, 128, 64), (1, 4, 4, 256, 32), (1, 16, 4, 256, 64), (2, 4, 4, 256, 128),
            (1, 8, 8, 512, 64), (1, 4, 2, 1024, 64), (1, 2, 2, 2048, 128),
        ),
        decode=(
            *product((1, 4), (4,), (4,), (16, 128, 1024), (32, 64)),
            (1, 2, 1, 64, 32), (1, 4, 2, 256, 32), (4, 4, 2, 128, 64), (2, 8, 4, 400, 64), (8, 8, 4, 700, 64), (8, 2, 1, 48, 32),
            (1, 8, 2, 256, 64), (8, 8, 8, 128, 64), (4, 16, 4, 512, 64), (1, 16, 16, 2048, 64), (2, 8, 8, 1024, 128),
            (16, 4, 4, 64, 32), (1, 8, 8, 4096, 64),
        ),
    ),
    memory=MemorySizes(
        elements=(256, 2**11, 2**13, 2**15, *(2**e for e in range(16, 23))),
        few_elements=(2**10, 2**14, 2**17, 2**20),
        rows=((4, 64), (64, 128), (64, 1024), (512, 256), (256, 4096), (2048, 512), (2048, 16), (4096, 64)),
        cold=(2**15, 2**17, 2**19, 2**21),
        parameters=(
            (4, 2**10), (16, 2**12), (64, 2**10), (32, 2**13), (8, 2**15), (24, 2**15), (12, 2**17), (2, 2**20), (8, 2**19),
        ),
    ),
    routing=RoutingSizes(
        gathers=(
            (16, 64, 2048), (64, 256, 1024), (128, 128, 2048), (512, 256, 1024), (1024, 512, 1024), (2048, 128, 4096),
            (4096, 64, 16384), (8192, 128, 65536), (2048, 256, 65536), (8192, 32, 4096), (16384, 128, 16384), (64, 512, 4096),
            (4096, 256, 4096), (4096, 256, 16384), (1024, 128, 65536), (4096, 128, 131072), (1024, 64, 9216), (2048, 192, 36864),
            (256, 96, 4096), (512, 1, 512), (4096, 1, 4096),
        ),
        top_k=(
            (16, 8, 2), (64, 8, 2), (256, 8, 2), (128, 16, 2), (1024, 16, 2), (64, 64, 8), (1024, 64, 8), (256, 64, 16),
            (512, 96, 16), (512, 128, 16), (256, 128, 4), (512, 128, 8), (1024, 192, 4), (128, 256, 16), (1024, 256, 16),
            (512, 256, 4), (2048, 128, 8), (256, 512, 16), (256, 512, 8), (512, 1024, 32), (4096, 64, 4), (512, 64, 8),
            (256, 144, 12), (512, 320, 8), (128, 32, 4),
        ),
        sorts=((32, 8), (256, 8), (1024, 16), (4096, 8), (16384, 64)),
        retrievals=((32, 2, 4096, 8, 64), (128, 4, 16384, 8, 64), (64, 8, 65536, 16, 128)),
    ),
)  # fmt: skip
