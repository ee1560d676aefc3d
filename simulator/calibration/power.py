"""Power of a GPU while one operator runs again and again, and the clock it holds: NVML through nvidia-ml-py.

Power is the energy counter's difference over a window of a second (NVML API reference: millijoules since the driver was
loaded, Volta and newer; the power reading itself is an average over up to a second). A single kernel's power can't be
read, only that of many alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from simulator.calibration.journal import Journal
from simulator.calibration.protocol import Case
from simulator.errors import CalibrationError

if TYPE_CHECKING:
    from simulator.calibration.cuda import CudaDevice

WINDOW_S, LEAD_S, BATCH_S = 1.0, 0.2, 0.02
"""Measured; run before that; issued before the host waits for the device."""
SUSTAINED_WINDOWS = 5
SHORTEST_S = 100e-6
"""Operators shorter than this leave gaps between launches: their power is not that of the kernel."""
_HELD = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown")
"""Reasons to hold the clock down: power, and heat."""


@dataclass(frozen=True)
class Window:
    """What one second of one operator drew."""

    watts: float
    clock_hz: float
    seconds: float
    """Of one run in the window."""
    throttled: bool
    """The driver held the clock down for power or heat."""


class PowerMeter:
    """NVML's view of the GPU a torch device is."""

    def __init__(self, device: CudaDevice) -> None:
        """Raises CalibrationError without nvidia-ml-py, without a driver, or on a slice of a GPU."""
        try:
            import pynvml
        except ModuleNotFoundError:
            raise CalibrationError("measuring power needs nvidia-ml-py: pip install 'moesim[calibrate]'") from None
        self._nvml, self._device = pynvml, device
        try:
            pynvml.nvmlInit()
            # NVML counts GPUs by bus, CUDA by speed and by CUDA_VISIBLE_DEVICES: only the UUID is common to both.
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{device.properties.uuid}")
            self._millijoules()
        except pynvml.NVMLError as error:
            raise CalibrationError(f"NVML doesn't answer: {error}") from None

    def window(self, run: Callable[[], object], once: float) -> Window:
        """Run for a second after a lead and say what was drawn; `once` is about the seconds of one run."""
        batch = max(1, round(BATCH_S / once))
        self._loop(run, batch, LEAD_S)
        before, start = self._millijoules(), time.perf_counter()
        runs = self._loop(run, batch, WINDOW_S)
        elapsed, after = time.perf_counter() - start, self._millijoules()
        nvml = self._nvml
        clock = nvml.nvmlDeviceGetClockInfo(self._handle, nvml.NVML_CLOCK_SM) * 1e6  # MHz
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)
        held = any(reasons & getattr(nvml, f"nvmlClocksThrottleReason{name}") for name in _HELD)
        return Window((after - before) * 1e-3 / elapsed, clock, elapsed / runs, held)

    def _loop(self, run: Callable[[], object], batch: int, seconds: float) -> int:
        """Runs done in that time, `batch` at a time, between which the queue is empty for some microseconds."""
        runs, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(batch):
                run()
            runs += batch
            self._device.wait()
        return runs

    def _millijoules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))


def measure_power(
    device: CudaDevice, points: Iterable[tuple[Case, float]], journal: Journal, *, seconds: float
) -> None:
    """Note in the journal a window for each point (case, seconds of a run) long enough, until `seconds` have passed.

    Raises CalibrationError where power can't be read.
    """
    meter, end = PowerMeter(device), time.monotonic() + seconds
    for case, once in points:
        if once >= SHORTEST_S and case.key not in journal.notes:
            if time.monotonic() > end:
                return
            journal.note(case.key, asdict(meter.window(case.build(device), once)))


def measure_sustained(device: CudaDevice, case: Case, once: float, journal: Journal) -> None:
    """Note windows of one operator run without a pause: how far clock and rate fall under load.

    Raises CalibrationError where power can't be read.
    """
    if "sustained|0" in journal.notes:
        return
    meter, run = PowerMeter(device), case.build(device)
    for place in range(SUSTAINED_WINDOWS):
        journal.note(f"sustained|{place}", asdict(meter.window(run, once)))
