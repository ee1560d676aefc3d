"""The measuring plans: which points are measured. CPU and GPU share every point's code and differ in sizes."""

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
from simulator.units import MIB


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


# A point takes up to some 20 ms, so that a round over all of them takes seconds. Reuse distances are those of a level-3
# cache, of its end, which others on the machine bring nearer than its data sheet says, and of memory.
CPU_REUSES = (8 * MIB, 24 * MIB, 192 * MIB)

CPU_PLAN = Plan(
    gemm=GemmSizes(
        points=28,
        low=(33, 16, 16),
        high=(2048, 4096, 4096),
        min_flops=1e5,
        max_flops=1.2e9,
        largest=1024,
        reuse=0,
        weights=((64, 64), (128, 512), (512, 128), (256, 256), (1024, 512), (512, 2048), (2048, 1024), (4096, 1024)),
        few_rows=(1, 2, 3, 4, 8, 12, 16, 32),
        reuses=CPU_REUSES,
        batched=((2, 64, 64, 32), (2, 512, 64, 32), (2, 2048, 128, 64), (2, 1024, 256, 64), (2, 512, 512, 32)),
        vectors=(
            (16, 16, 64), (64, 16, 128), (32, 64, 64), (128, 32, 96), (64, 64, 128), (96, 96, 192), (64, 128, 128),
            (256, 64, 64), (128, 64, 256), (64, 128, 256), (32, 128, 512), (128, 128, 128), (48, 48, 384),
            (16, 256, 64),
        ),
        grouped=((4, 64, 256, 128), (8, 256, 512, 256), (8, 64, 512, 256)),
    ),
    attention=AttentionSizes(
        prefill=(
            (1, 1, 1, 16, 32), (1, 4, 2, 32, 16), (1, 2, 1, 48, 32), (3, 4, 2, 24, 32), (4, 4, 2, 96, 32),
            (2, 6, 3, 96, 64), (1, 4, 2, 128, 64), (4, 8, 4, 48, 64), (2, 4, 2, 64, 32), (1, 8, 8, 64, 64),
            (4, 4, 4, 64, 64), (1, 8, 2, 128, 64), (2, 8, 8, 128, 64), (1, 4, 4, 256, 32), (1, 16, 4, 256, 64),
            (2, 4, 4, 256, 128), (1, 8, 8, 512, 64), (1, 4, 2, 1024, 64), (1, 2, 2, 2048, 128),
        ),
        decode=(
            *product((1, 4), (4,), (4,), (16, 128, 1024), (32, 64)),
            (1, 2, 1, 64, 32), (1, 4, 2, 256, 32), (4, 4, 2, 128, 64), (2, 8, 4, 400, 64), (8, 8, 4, 700, 64),
            (8, 2, 1, 48, 32), (1, 8, 2, 256, 64), (8, 8, 8, 128, 64), (4, 16, 4, 512, 64), (1, 16, 16, 2048, 64),
            (2, 8, 8, 1024, 128), (16, 4, 4, 64, 32), (1, 8, 8, 4096, 64),
        ),
        reuses=CPU_REUSES,
    ),
    memory=MemorySizes(
        elements=(256, 2**11, 2**13, 2**15, *(2**e for e in range(16, 23))),
        few_elements=(2**10, 2**14, 2**17, 2**20),
        rows=((4, 64), (64, 128), (64, 1024), (512, 256), (256, 4096), (2048, 512), (2048, 16), (4096, 64), (128, 64)),
        cold=(2**15, 2**17, 2**19, 2**21),
        reuses=(2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB, 24 * MIB, 48 * MIB, 192 * MIB),
        state_reuses=(24 * MIB, 192 * MIB),
        parameters=(
            (4, 2**10), (16, 2**12), (64, 2**10), (32, 2**13), (8, 2**15), (24, 2**15), (12, 2**17), (2, 2**20),
            (8, 2**19),
        ),
        transfers=tuple(4**e * 1024 for e in range(8)),
    ),
    routing=RoutingSizes(
        gathers=(
            (16, 64, 2048), (64, 256, 1024), (128, 128, 2048), (512, 256, 1024), (1024, 512, 1024), (2048, 128, 4096),
            (4096, 64, 16384), (8192, 128, 65536), (2048, 256, 65536), (8192, 32, 4096), (16384, 128, 16384),
            (64, 512, 4096), (4096, 256, 4096), (4096, 256, 16384), (1024, 128, 65536), (4096, 128, 131072),
            (1024, 64, 9216), (2048, 192, 36864), (256, 96, 4096), (512, 1, 512), (4096, 1, 4096),
        ),
        top_k=(
            (16, 8, 2), (64, 8, 2), (256, 8, 2), (128, 16, 2), (1024, 16, 2), (64, 64, 8), (1024, 64, 8),
            (256, 64, 16), (512, 96, 16), (512, 128, 16), (256, 128, 4), (512, 128, 8), (1024, 192, 4),
            (128, 256, 16), (1024, 256, 16), (512, 256, 4), (256, 320, 4), (64, 320, 4), (2048, 128, 8),
            (256, 512, 16), (256, 512, 8), (512, 1024, 32), (512, 1024, 16), (4096, 64, 4), (512, 64, 8),
            (256, 144, 12), (512, 320, 8), (128, 32, 4), (1024, 256, 8), (512, 256, 16),
        ),
        sums=((128, 4), (512, 4), (64, 8), (256, 8), (1024, 8), (128, 12), (64, 16), (256, 16), (512, 16), (1024, 16)),
        sorts=((32, 8), (128, 8), (256, 8), (512, 16), (1024, 16), (4096, 8), (16384, 64)),
        retrievals=((32, 2, 4096, 8, 64), (128, 4, 16384, 8, 64), (64, 8, 65536, 16, 128)),
        layers=tuple(
            (tokens, *model) for model in ((64, 128, 2, 4), (128, 256, 2, 8), (256, 256, 2, 16), (64, 64, 4, 32))
            for tokens in (1, 8, 64, 256)
        ),
    ),
)  # fmt: skip

# Long contexts, the largest sizes, caches beyond the L2: what extrapolates badly is measured.
CUDA_REUSES = (2048 * MIB,)
CUDA_PLAN = Plan(
    gemm=GemmSizes(
        points=96,
        low=(33, 128, 128),
        high=(32768, 16384, 16384),
        min_flops=1e8,
        max_flops=1.2e13,
        largest=16384,
        reuse=CUDA_REUSES[0],
        weights=((1024, 1024), (4096, 4096), (14336, 4096), (4096, 14336), (8192, 1024), (7168, 2048)),
        few_rows=(1, 2, 4, 8, 16, 17, 32),
        reuses=CUDA_REUSES,
        batched=((8, 512, 512, 128), (32, 1024, 1024, 128), (128, 128, 512, 128), (2, 8192, 1024, 128)),
        vectors=((1024, 128, 1024), (4096, 128, 256), (256, 128, 4096)),
        grouped=tuple(product((8, 32, 128), (512, 4096, 32768), (4096,), (2048,))),
    ),
    attention=AttentionSizes(
        prefill=(
            (1, 32, 8, 512, 128), (4, 32, 8, 1024, 128), (1, 32, 32, 2048, 128), (8, 16, 16, 2048, 64),
            (1, 32, 8, 4096, 128), (2, 64, 8, 4096, 128), (1, 32, 8, 8192, 128), (1, 16, 16, 16384, 128),
            (1, 8, 8, 32768, 128), (16, 8, 2, 256, 128), (32, 32, 8, 128, 128), (4, 12, 12, 1024, 64),
            (1, 32, 8, 1024, 128), (1, 32, 8, 2048, 128), (2, 32, 8, 2048, 128), (8, 32, 8, 1024, 128),
            (16, 32, 8, 512, 128), (1, 64, 8, 2048, 128), (1, 8, 1, 4096, 128), (4, 8, 1, 4096, 128),
            (1, 40, 8, 4096, 128), (1, 16, 16, 8192, 64), (2, 16, 2, 16384, 128), (1, 32, 32, 256, 128),
            (64, 8, 8, 128, 64), (1, 32, 8, 32768, 128),
        ),
        decode=(
            *product((1, 16, 128), (32,), (8,), (512, 4096), (128,)),
            (1, 64, 8, 32768, 128), (4, 32, 32, 8192, 128), (1, 32, 8, 131072, 128), (64, 16, 2, 2048, 128),
            (256, 8, 8, 1024, 64), (8, 64, 8, 16384, 128),
            (1, 32, 8, 1024, 128), (4, 32, 8, 2048, 128), (32, 32, 8, 1024, 128), (64, 32, 8, 4096, 128),
            (128, 8, 1, 4096, 128), (8, 8, 1, 32768, 128), (16, 64, 8, 8192, 128), (32, 16, 16, 2048, 64),
            (256, 32, 8, 512, 128), (2, 40, 8, 16384, 128), (512, 8, 1, 1024, 128), (128, 16, 2, 512, 128),
        ),
        reuses=CUDA_REUSES,
    ),
    memory=MemorySizes(
        elements=tuple(2**e for e in range(10, 31, 2)),
        few_elements=(2**14, 2**18, 2**22, 2**26),
        rows=((128, 1024), (1024, 4096), (4096, 4096), (16384, 1024), (4096, 32768), (65536, 128)),
        cold=(2**18, 2**22, 2**26),
        reuses=CUDA_REUSES,
        state_reuses=CUDA_REUSES,
        parameters=((16, 2**14), (64, 2**18), (32, 2**22), (8, 2**26)),
        transfers=tuple(4**e * 1024 for e in range(11)),
    ),
    routing=RoutingSizes(
        gathers=(
            (1024, 1024, 32000), (8192, 4096, 32000), (65536, 1024, 2**20), (131072, 256, 2**20), (16384, 4096, 16384),
            (4096, 7168, 4096), (262144, 1024, 2**20),
        ),
        top_k=(
            (4096, 8, 2), (16384, 64, 6), (16384, 256, 8), (65536, 1024, 16), (32768, 256, 16), (4096, 128, 8),
            (131072, 64, 4), (8192, 512, 16),
        ),
        sums=((8192, 8), (65536, 8), (8192, 16), (65536, 16), (8192, 32)),
        sorts=((8192, 8), (65536, 64), (262144, 256)),
        retrievals=((1024, 8, 2**20, 16, 256), (8192, 8, 2**20, 16, 256)),
        # Mixtral 8x7B, Qwen3-30B-A3B, DeepSeek-V2-Lite, and DeepSeek-V3 split over eight GPUs by tensor parallelism.
        layers=tuple(
            (tokens, *model)
            for model in ((4096, 14336, 2, 8), (2048, 768, 8, 128), (2048, 1408, 6, 64), (7168, 256, 8, 256))
            for tokens in (1, 16, 128, 512, 2048, 8192, 16384)
        ),
    ),
)  # fmt: skip

PLANS = {"cpu": CPU_PLAN, "cuda": CUDA_PLAN}
"""The plan of each kind of device."""
