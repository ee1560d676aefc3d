"""How fast serving is simulated and swept on this machine, and how much memory a long stream of requests takes.

    python benchmarks/serving.py

CPU-seconds of this process, so that other load on the machine matters little. Nothing is asserted.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from simulator.serving.served import serve_requests
from simulator.simulation import inference_batch
from simulator.spec.run import Run, run_from_mapping

MIB = 2**20


def run(requests: int, *, gpus: int = 4, serving: dict[str, Any] | None = None, **inference: Any) -> Run:
    """Llama 3 70B in fp8 on H100 with vLLM: eight requests a second of about 1,000 tokens in and 300 out."""
    work = {"isl": 1000, "osl": 300, "request_rate": 8, "precision": "fp8", "lengths": "uniform_0.8_1"}
    split = {} if serving else {"parallelism": {"tp": 4}}
    return run_from_mapping(
        {
            "name": "serving",
            "kind": "serving",
            "model": "llama3-70b",
            "hardware": {"device": "h100-sxm", "gpus": gpus},
            "inference": {**work, "framework": "vllm", **inference},
            "serving": {"requests": requests, **(serving or {})},
            **split,
        }
    )


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU-seconds of one call."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def peak_mib() -> float:
    """The most memory this process has taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def main() -> None:
    """Print the table."""
    table = Table("serving", "CPU-seconds", "most memory, MiB", box=None)
    drafts = {"tokens": 3, "acceptance": 0.8, "draft_model": "llama3.2-1b"}
    pools = {"prefill": {"gpus": 4, "tp": 4}, "decode": {"gpus": 4, "tp": 4}}
    serve_requests(run(100))
    cases: list[tuple[str, Run]] = [
        ("10,000 requests", run(10_000)),
        ("10,000 requests with a draft of three tokens", run(10_000, speculative=drafts)),
        ("10,000 requests through two pools", run(10_000, gpus=8, serving={"disaggregated": pools}, request_rate=6)),
        ("a closed loop of 256, 10,000 requests", run(10_000, request_rate=None, concurrency=256)),
        ("1,000,000 requests", run(1_000_000)),
    ]
    for name, asked in cases:
        before = peak_mib()
        seconds = cpu_seconds(lambda asked=asked: serve_requests(asked))  # type: ignore[misc]
        table.add_row(name, f"{seconds:.2f}", f"{peak_mib():.0f} (+{peak_mib() - before:.0f})")
    points = [run(1, request_rate=None, concurrency=1 + i % 500, isl=500 + i) for i in range(1000)]
    seconds = cpu_seconds(lambda: [inference_batch(point, closed_form=True) for point in points])
    table.add_row("1,000 points in closed form", f"{seconds:.2f}", f"{peak_mib():.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
