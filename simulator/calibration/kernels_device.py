"""The CPU as a device to measure on, and where operands come from.

Operands are views of two arenas, so thousands of points share a few hundred MiB: a hot arena every point begins at, and
a cold pool whose views are cycled, so that a cold operand was last used a pool's worth of bytes ago.
"""

from __future__ import annotations

import ctypes
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Protocol

import torch

from simulator.calibration.protocol import Device, Skip, Statistic
from simulator.units import MIB

HOT_BYTES, COLD_BYTES = 160 * MIB, 192 * MIB
MAX_VIEWS = 2**14
PAIRS = 5
"""Runs of a point that follows another, whose median is a trial."""
_GAP = 17 * 64
"""Bytes between operands: an odd number of cache lines, so they don't fall into the same cache sets."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc


@dataclass(frozen=True)
class DeviceInfo:
    """What a measurement depends on beside its shape."""

    device: str
    library: str
    version: str
    driver: str
    threads: int
    dtype: str
    sms: int = 0
    """Multiprocessors of a GPU, and its memory; 0 for a CPU."""
    memory_bytes: int = 0

    def header(self) -> dict[str, object]:
        """As a journal's header."""
        return asdict(self)


class TorchDevice(Device, Protocol):
    """A device of torch, on which points can allocate their operands."""

    kind: str
    dtype: torch.dtype
    torch_device: torch.device

    @property
    def info(self) -> DeviceInfo:
        """What it is, for the table and the journal."""

    def operands(self) -> Operands:
        """Operands of one point, laid out from the beginning of the arenas."""

    def groups(self) -> tuple[int, ...]:
        """Numbers of processes to measure collectives between."""


class Operands:
    """Operands of one point."""

    def __init__(self, hot: torch.Tensor, cold: torch.Tensor) -> None:
        self._hot, self._cold, self._used = hot, cold, 0

    def hot(self, *shape: int) -> torch.Tensor:
        """A tensor that stays in the cache as far as the cache allows, for every call is given the same one."""
        size = prod(shape)
        if self._used + size > self._hot.numel():
            raise Skip(
                f"operands of {(self._used + size) * self._hot.element_size() / MIB:.0f} MiB: more than the arena"
            )
        view = self._hot[self._used : self._used + size].view(shape)
        self._used += size + _GAP // self._hot.element_size()
        return view

    def cold(self, *shape: int, reuse: int, transposed: bool = False) -> Iterator[torch.Tensor]:
        """Tensors in turn, each last used about `reuse` bytes ago; views are made here, not in the timed call."""
        size = prod(shape)
        bytes_each = size * self._cold.element_size()
        count = min(MAX_VIEWS, self._cold.numel() // size, max(2, reuse // bytes_each))
        if count < 2:
            raise Skip(f"a cold operand of {bytes_each / MIB:.0f} MiB: more than half the pool")
        views = [self._cold[i * size : (i + 1) * size].view(shape) for i in range(count)]
        return itertools.cycle([view.mT for view in views] if transposed else views)


class CpuDevice:
    """This machine's CPU on one thread, in the state in which times repeat: memory stays with the process."""

    kind = "cpu"
    statistic: Statistic = "minimum"

    def __init__(self) -> None:
        torch.set_num_threads(1)
        keep_memory()
        self.torch_device = torch.device("cpu")
        self.dtype = torch.float32
        reads = [time.thread_time_ns() for _ in range(1000)]
        self._clock_ns = min(b - a for a, b in itertools.pairwise(reads))

    @property
    def info(self) -> DeviceInfo:
        return DeviceInfo(
            device=processor_name(),
            library="torch",
            version=str(torch.__version__),
            driver=torch.backends.cpu.get_cpu_capability(),
            threads=torch.get_num_threads(),
            dtype="fp32",
        )

    @cached_property
    def _arenas(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        hot, cold = (torch.randn(size // 4, generator=generator) for size in (HOT_BYTES, COLD_BYTES))
        return hot, cold

    def operands(self) -> Operands:
        return Operands(*self._arenas)

    def groups(self) -> tuple[int, ...]:
        return (2,)

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        """Seconds of one run on a core of its own, averaged over `repeats` runs in a row.

        The thread's clock, which stands still while another process has the core: on one thread it is the wall clock
        of an idle machine.
        """
        turns = itertools.repeat(None, repeats)
        start = time.thread_time_ns()
        for _ in turns:
            run()
        return max(1, time.thread_time_ns() - start) / repeats * 1e-9

    host_seconds = seconds
    """On a CPU the host does the work."""

    def seconds_after(self, before: Callable[[], object], run: Callable[[], object]) -> float:
        """Seconds of one run right after another that is not timed, the median of a few.

        What a cache still holds is chance: the luckiest run says nothing of the hundred calls of a step.
        """
        took = []
        for _ in range(PAIRS):
            before()
            start = time.thread_time_ns()
            run()
            took.append(time.thread_time_ns() - start)
        return max(1, statistics.median(took) - self._clock_ns) * 1e-9

    def failure(self, error: Exception) -> str | None:
        """Why a point is skipped: no memory for it, or no such kernel on a CPU."""
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, MemoryError) or "can't allocate memory" in text:
            return f"out of memory: {text}"
        if isinstance(error, NotImplementedError) or "not implemented for" in text:
            return f"no such kernel on a CPU: {text}"
        return None


def processor_name() -> str:
    """The processor as the system calls it, in lower case with dashes, such as cpu-amd-epyc."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        parts = (fields.get("model name", ""), fields.get("cpu family", ""), fields.get("model", ""))
        name = " ".join(part for part in parts if part) or name
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return "-".join(["cpu", *(word for word in words if word not in ("r", "tm", "cpu", "processor"))])


def keep_memory() -> None:
    """Keep freed memory in the process, so that large results don't fault their pages in anew at every call.

    glibc gives blocks beyond 32 MiB back to the system and pays six times an operator's time to get them again; other
    C libraries have no such switch and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 * MIB)
