"""Power of a GPU while one operator runs again and again, and the clock it holds: NVML through nvidia-ml-py.

NVML averages power over tens of milliseconds, so a window of a second is taken and its beginning left out; energy
counters are preferred where the GPU has one. A single kernel's power can't be read, only that of many alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from simulator.calibration.protocol import Case
from simulator.errors import CalibrationError

WINDOW_S, LEAD_S, SAMPLE_S = 1.0, 0.2, 0.02
SUSTAINED_S = 3.0
SHORTEST_S = 100e-6
"""Operators shorter than this leave gaps between launches: their power is not that of the kernel."""


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
    """NVML's view of one GPU."""

    def __init__(self, index: int) -> None:
        """Raises CalibrationError without nvidia-ml-py or without a driver."""
        try:
            import pynvml
        except ModuleNotFoundError:
            raise CalibrationError("measuring power needs nvidia-ml-py: pip install 'moesim[calibrate]'") from None
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            raise CalibrationError(f"NVML doesn't answer: {error}") from None

    def close(self) -> None:
        """End the NVML session."""
        self._nvml.nvmlShutdown()

    def window(self, run: Callable[[], object], wait: Callable[[], None], *, seconds: float = WINDOW_S) -> Window:
        """Run for `seconds` after a lead, waiting for the device now and then, and read what was drawn."""
        self._loop(run, wait, LEAD_S)
        before, start = self._millijoules(), time.perf_counter()
        runs, samples = self._loop(run, wait, seconds)
        elapsed = time.perf_counter() - start
        after = self._millijoules()
        if before is not None and after is not None:
            watts = (after - before) * 1e-3 / elapsed
        else:
            watts = sum(samples) / len(samples)
        clock = self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM) * 1e6
        return Window(watts, clock, elapsed / runs, self._throttled())

    def _loop(self, run: Callable[[], object], wait: Callable[[], None], seconds: float) -> tuple[int, list[float]]:
        """Runs done in that time, and power samples in watts."""
        runs, samples, end = 0, [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            until = time.perf_counter() + SAMPLE_S
            while time.perf_counter() < until:
                run()
                runs += 1
            wait()
            samples.append(self._nvml.nvmlDeviceGetPowerUsage(self._handle) * 1e-3)  # milliwatts
        return runs, samples

    def _millijoules(self) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError:  # before Volta
            return None

    def _throttled(self) -> bool:
        reasons = self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)
        held = self._nvml.nvmlClocksThrottleReasonSwPowerCap | self._nvml.nvmlClocksThrottleReasonHwSlowdown
        return bool(reasons & (held | self._nvml.nvmlClocksThrottleReasonSwThermalSlowdown))


def measure_power(device: Any, cases: Iterable[Case], seconds_of: Callable[[str], float | None]) -> dict[str, float]:
    """Watts by key of the cases long enough to be measured; `seconds_of` gives a case's time, None where unmeasured."""
    import torch

    meter = PowerMeter(device.torch_device.index)
    try:
        watts = {}
        for case in cases:
            known = seconds_of(case.key)
            if known is not None and known >= SHORTEST_S:
                run = case.build(device)
                watts[case.key] = meter.window(run, lambda: torch.cuda.synchronize(device.torch_device)).watts
        return watts
    finally:
        meter.close()


def sustained(device: Any, case: Case) -> tuple[Window, Window]:
    """The first and the last second of one operator run without a pause: how far the clock falls under load."""
    import torch

    meter = PowerMeter(device.torch_device.index)
    try:
        run = case.build(device)

        def wait() -> None:
            torch.cuda.synchronize(device.torch_device)

        first = meter.window(run, wait)
        meter.window(run, wait, seconds=SUSTAINED_S)
        return first, meter.window(run, wait)
    finally:
        meter.close()
