"""A CUDA device to measure on. Everything that is CUDA's own is here and in `power`; points and protocol know neither.

Device time is taken with events around replays of a captured graph, so that the host's pace does not enter
(docs.pytorch.org, "CUDA semantics": CUDA graphs, graph memory management, asynchronous execution). Everything runs on
one stream of its own, since a backward pass runs on the stream of its forward pass and the default stream can't be
captured. A graph lasts milliseconds: in that time a point with cold operands, which takes other ones in each of its
runs, reads several times what the L2 cache holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch

from simulator.calibration.kernels_device import DeviceInfo, Operands
from simulator.calibration.protocol import Skip, Statistic
from simulator.errors import CalibrationError
from simulator.units import GIB

GRAPH_S = 2e-3
FEWEST_RUNS, MOST_RUNS = 4, 512
"""Of a point in one graph."""
WARM_RUNS = 3
HOT_SHARE, MAX_HOT = 0.25, 8 * GIB
"""Of the device's memory, and at most."""
COLD_PER_L2, MIN_COLD = 8, 2 * GIB


class CudaDevice:
    """One GPU, in bf16."""

    kind = "cuda"
    statistic: Statistic = "median"

    def __init__(self, name: str) -> None:
        """Raises CalibrationError where there is no such GPU."""
        if not torch.cuda.is_available():
            raise CalibrationError("no CUDA device here: torch.cuda.is_available() is false")
        index = name.partition(":")[2] or "0"
        if not index.isdigit() or int(index) >= torch.cuda.device_count():
            raise CalibrationError(f"no device '{name}': there are {torch.cuda.device_count()}, counted from cuda:0")
        self.torch_device, self.dtype = torch.device("cuda", int(index)), torch.bfloat16
        torch.cuda.set_device(self.torch_device)
        self._stream = torch.cuda.Stream(self.torch_device)
        torch.cuda.set_stream(self._stream)
        self.properties = torch.cuda.get_device_properties(self.torch_device)
        hot = min(MAX_HOT, int(HOT_SHARE * self.properties.total_memory))
        cold = max(COLD_PER_L2 * self.properties.L2_cache_size, min(MIN_COLD, hot))
        generator = torch.Generator(device=self.torch_device).manual_seed(0)
        self._hot, self._cold = (
            torch.randn(size // 2, device=self.torch_device, dtype=self.dtype, generator=generator)
            for size in (hot, cold)
        )
        self._pool = torch.cuda.graph_pool_handle()
        # By what runs a point: its graph and the runs in it, or None where it can't be captured.
        self._graphs: WeakKeyDictionary[Callable[[], object], tuple[torch.cuda.CUDAGraph, int] | None]
        self._graphs = WeakKeyDictionary()

    @property
    def info(self) -> DeviceInfo:
        return DeviceInfo(
            device="-".join("".join(c if c.isalnum() else " " for c in self.properties.name.lower()).split()),
            library="torch",
            version=str(torch.__version__),
            driver=f"CUDA {torch.version.cuda}",
            threads=1,
            dtype="bf16",
            sms=self.properties.multi_processor_count,
            memory_bytes=self.properties.total_memory,
        )

    def operands(self) -> Operands:
        return Operands(self._hot, self._cold)

    def groups(self) -> tuple[int, ...]:
        return tuple(size for size in (2, 4, 8) if size <= torch.cuda.device_count())

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        """Device seconds of one run, averaged over at least `repeats`."""
        if run not in self._graphs:
            self._graphs[run] = self._capture(run)
        captured = self._graphs[run]
        if captured is None:
            return between_events(run, repeats) / repeats
        graph, runs = captured
        replays = -(-repeats // runs)
        return between_events(graph.replay, replays) / (replays * runs)

    def host_seconds(self, run: Callable[[], object], repeats: int) -> float:
        """Seconds the host takes to issue one run, the device's queue empty before and emptied after."""
        self.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        issued = time.perf_counter() - start
        self.wait()
        return issued / repeats

    def seconds_after(self, before: Callable[[], object], run: Callable[[], object]) -> float:
        """Not measured: kernels queue behind the host, so what came before one costs nothing."""
        raise Skip("kernels of a GPU queue behind the host")

    def wait(self) -> None:
        """Return once everything issued has run."""
        torch.cuda.synchronize(self.torch_device)

    def failure(self, error: Exception) -> str | None:
        """Why a point is skipped: no memory for it, or no such kernel on this GPU."""
        text = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text:
            torch.cuda.empty_cache()
            return f"out of memory: {text}"
        if isinstance(error, NotImplementedError) or "not implemented for" in text or "supported" in text:
            return f"no such kernel on this GPU: {text}"
        return None

    def _capture(self, run: Callable[[], object]) -> tuple[torch.cuda.CUDAGraph, int] | None:
        """A graph of several runs; the runs before it tune, allocate, and tell how many make a graph.

        Graphs share one pool of memory: what a run allocates is free again when it ends, and no graph reads what
        another wrote. A pool whose capture failed is not used again.
        """
        run()
        once = between_events(run, WARM_RUNS) / WARM_RUNS
        runs = min(MOST_RUNS, max(FEWEST_RUNS, round(GRAPH_S / once)))
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                for _ in range(runs):
                    run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # an operator that waits for the host can't be captured
            self._pool = torch.cuda.graph_pool_handle()
            self.wait()
            return None
        return graph, runs


def between_events(run: Callable[[], object], repeats: int) -> float:
    """Seconds the current stream takes for that many runs."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3  # milliseconds
