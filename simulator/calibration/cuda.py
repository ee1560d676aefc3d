"""A CUDA device to measure on. Everything that is CUDA's own is here and in `power`; points and protocol know neither.

Device time is taken with events around replays of a captured graph, so that the host's pace does not enter
(docs.pytorch.org, "CUDA semantics", sections on graphs and events). Each graph holds several runs in a row; a point
with cold operands takes other ones in each, from a pool several times the L2 cache.
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

RUNS_PER_GRAPH = 16
WARM_RUNS = 3
HOT_SHARE, MAX_HOT = 0.25, 8 * GIB
"""Of the device's memory, and at most."""
COLD_PER_L2 = 8
MIN_COLD = 2 * GIB


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
        self.torch_device = torch.device("cuda", int(index))
        self.dtype = torch.bfloat16
        torch.cuda.set_device(self.torch_device)
        properties = torch.cuda.get_device_properties(self.torch_device)
        hot = min(MAX_HOT, int(HOT_SHARE * properties.total_memory))
        cold = max(COLD_PER_L2 * int(getattr(properties, "L2_cache_size", 0)), min(MIN_COLD, hot))
        generator = torch.Generator(device=self.torch_device).manual_seed(0)
        self._hot, self._cold = (
            torch.randn(size // 2, device=self.torch_device, dtype=self.dtype, generator=generator)
            for size in (hot, cold)
        )
        # By what runs a point: its graph, or None where it can't be captured (it waits for the host inside).
        self._graphs: WeakKeyDictionary[Callable[[], object], torch.cuda.CUDAGraph | None] = WeakKeyDictionary()

    @property
    def info(self) -> DeviceInfo:
        name = "".join(c if c.isalnum() else "-" for c in torch.cuda.get_device_name(self.torch_device).lower())
        return DeviceInfo(
            device=name,
            library="torch",
            version=str(torch.__version__),
            driver=f"CUDA {torch.version.cuda}",
            threads=1,
            dtype="bf16",
        )

    def operands(self) -> Operands:
        return Operands(self._hot, self._cold)

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        """Device seconds of one run, averaged over at least `repeats`."""
        if run not in self._graphs:
            self._graphs[run] = self._capture(run)
        graph = self._graphs[run]
        if graph is None:
            return self._between_events(run, repeats) / repeats
        replays = -(-repeats // RUNS_PER_GRAPH)
        return self._between_events(graph.replay, replays) / (replays * RUNS_PER_GRAPH)

    def host_seconds(self, run: Callable[[], object], repeats: int) -> float:
        """Seconds the host takes to issue one run, the device's queue empty before and emptied after."""
        torch.cuda.synchronize(self.torch_device)
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        issued = time.perf_counter() - start
        torch.cuda.synchronize(self.torch_device)
        return issued / repeats

    def seconds_after(self, before: Callable[[], object], run: Callable[[], object]) -> float:
        """Not measured: kernels queue behind the host, so what came before one costs nothing."""
        raise Skip("kernels of a GPU queue behind the host")

    def failure(self, error: Exception) -> str | None:
        """Why a point is skipped: no memory for it, or no such kernel on this GPU."""
        text = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, torch.cuda.OutOfMemoryError):
            torch.cuda.empty_cache()
            return f"out of memory: {text}"
        if isinstance(error, NotImplementedError) or "not implemented for" in text or "not supported" in text:
            return f"no such kernel on this GPU: {text}"
        return None

    def _capture(self, run: Callable[[], object]) -> torch.cuda.CUDAGraph | None:
        """A graph of several runs; the runs before it, on a side stream, tune and allocate."""
        side = torch.cuda.Stream(self.torch_device)
        side.wait_stream(torch.cuda.current_stream(self.torch_device))
        with torch.cuda.stream(side):
            for _ in range(WARM_RUNS):
                run()
        torch.cuda.current_stream(self.torch_device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for _ in range(RUNS_PER_GRAPH):
                    run()
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError:  # an operator that waits for the host can't be captured
            torch.cuda.synchronize(self.torch_device)
            return None
        return graph

    def _between_events(self, run: Callable[[], object], repeats: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3  # milliseconds
