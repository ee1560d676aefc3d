"""The CUDA device and the power meter against stubs that note the order of calls: checked without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from simulator.calibration import cuda, power
from simulator.calibration.cuda import RUNS_PER_GRAPH, CudaDevice
from simulator.calibration.power import PowerMeter
from simulator.calibration.protocol import Skip
from simulator.errors import CalibrationError


class Stub:
    """torch.cuda as far as the device uses it; 2 ms pass between any two events."""

    class OutOfMemoryError(RuntimeError):
        pass

    def __init__(self) -> None:
        self.log: list[str] = []
        stub = self

        class Event:
            def __init__(self, *, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                stub.log.append("record")

            def synchronize(self) -> None:
                stub.log.append("wait for event")

            def elapsed_time(self, end: Event) -> float:
                assert stub.log[-1] == "wait for event"
                return 2.0

        class CUDAGraph:
            def replay(self) -> None:
                stub.log.append("replay")

        class Stream:
            def __init__(self, device: object = None) -> None:
                pass

            def wait_stream(self, other: object) -> None:
                stub.log.append("wait for stream")

        self.Event, self.CUDAGraph, self.Stream = Event, CUDAGraph, Stream
        self.capturable = True

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def set_device(self, device: object) -> None:
        self.log.append(f"set {device}")

    def get_device_properties(self, device: object) -> Any:
        return SimpleNamespace(total_memory=2**22, L2_cache_size=2**10)

    def get_device_name(self, device: object) -> str:
        return "NVIDIA H100 80GB"

    def current_stream(self, device: object) -> Any:
        return self.Stream()

    @contextmanager
    def stream(self, stream: object) -> Any:
        yield

    @contextmanager
    def graph(self, graph: object) -> Any:
        self.log.append("capture")
        if not self.capturable:
            raise RuntimeError("operation not permitted when stream is capturing")
        yield
        self.log.append("captured")

    def synchronize(self, device: object) -> None:
        self.log.append("wait for device")

    def empty_cache(self) -> None:
        self.log.append("empty cache")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()
    monkeypatch.setattr(cuda.torch, "cuda", made)
    monkeypatch.setattr(cuda.torch, "randn", lambda size, **where: torch.zeros(size))
    monkeypatch.setattr(cuda.torch, "Generator", lambda device: SimpleNamespace(manual_seed=lambda seed: None))
    return made


def noted(stub: Stub) -> Callable[[], object]:
    return lambda: stub.log.append("run")


def test_device_time_is_that_of_graph_replays_between_events(stub: Stub) -> None:
    device = CudaDevice("cuda:1")
    run = noted(stub)
    stub.log.clear()
    # Two replays of sixteen runs take 2 ms by the stub's clock.
    assert device.seconds(run, 2 * RUNS_PER_GRAPH - 3) == pytest.approx(2e-3 / 32)
    warm, captured = ["wait for stream", *["run"] * 3, "wait for stream"], ["capture", *["run"] * 16, "captured"]
    assert stub.log == [*warm, *captured, "record", "replay", "replay", "record", "wait for event"]
    stub.log.clear()
    device.seconds(run, 1)
    assert stub.log == ["record", "replay", "record", "wait for event"]


def test_what_cannot_be_captured_is_run_between_events(stub: Stub) -> None:
    device = CudaDevice("cuda:0")
    stub.capturable = False
    run = noted(stub)
    assert device.seconds(run, 4) == pytest.approx(0.5e-3)
    assert stub.log[-8:] == ["wait for device", "record", *["run"] * 4, "record", "wait for event"]


def test_host_time_begins_with_an_empty_queue(stub: Stub) -> None:
    device = CudaDevice("cuda:0")
    stub.log.clear()
    assert device.host_seconds(noted(stub), 2) > 0
    assert stub.log == ["wait for device", "run", "run", "wait for device"]


def test_running_out_of_memory_skips_the_point_and_frees_what_is_held(stub: Stub) -> None:
    device = CudaDevice("cuda:0")

    def run() -> object:
        raise stub.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 GiB.\nMore words.")

    with pytest.raises(stub.OutOfMemoryError) as error:
        device.seconds(run, 1)
    assert device.failure(error.value) == "out of memory: CUDA out of memory. Tried to allocate 90.00 GiB."
    assert stub.log[-1] == "empty cache"
    assert device.failure(NotImplementedError("no bf16")) == "no such kernel on this GPU: no bf16"
    assert device.failure(RuntimeError("illegal memory access")) is None


def test_the_device_names_itself_and_refuses_what_is_not_there(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    info = CudaDevice("cuda:0").info
    assert (info.device, info.dtype) == ("nvidia-h100-80gb", "bf16")
    with pytest.raises(CalibrationError, match=r"^no device 'cuda:2': there are 2, counted from cuda:0$"):
        CudaDevice("cuda:2")
    with pytest.raises(Skip):
        CudaDevice("cuda:0").seconds_after(lambda: None, lambda: None)
    monkeypatch.setattr(stub, "is_available", lambda: False)
    with pytest.raises(CalibrationError, match=r"^no CUDA device here: torch\.cuda\.is_available\(\) is false$"):
        CudaDevice("cuda")


def test_the_cold_pool_is_larger_than_the_cache(stub: Stub) -> None:
    device = CudaDevice("cuda:0")
    turn = device.operands().cold(64, 64, reuse=2**20)
    assert len({next(turn).data_ptr() for _ in range(1000)}) * 64 * 64 * 2 >= 8 * 2**10


class Nvml:
    """NVML that draws 500 W: the counter grows by the clock it is given."""

    NVML_CLOCK_SM = 1
    nvmlClocksThrottleReasonSwPowerCap, nvmlClocksThrottleReasonHwSlowdown = 4, 8
    nvmlClocksThrottleReasonSwThermalSlowdown = 32

    class NVMLError(Exception):
        pass

    def __init__(self, now: Callable[[], float], *, counter: bool = True, reasons: int = 0) -> None:
        self.now, self.counter, self.reasons = now, counter, reasons

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 480_000  # milliwatts

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if not self.counter:
            raise self.NVMLError("Not Supported")
        return round(500e3 * self.now())  # millijoules

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return 1755  # MHz

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return self.reasons


class Clock:
    """A clock that moves only when something runs."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def run(self) -> None:
        self.now += 2e-3


def meter(monkeypatch: pytest.MonkeyPatch, clock: Clock, **how: Any) -> PowerMeter:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", Nvml(clock, **how))
    monkeypatch.setattr(power.time, "perf_counter", clock)
    return PowerMeter(0)


def test_power_is_the_energy_of_a_window_over_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    window = meter(monkeypatch, clock).window(clock.run, lambda: None)
    assert window.watts == pytest.approx(500.0, rel=1e-3)
    assert window.seconds == pytest.approx(2e-3)
    assert (window.clock_hz, window.throttled) == (1.755e9, False)
    assert clock.now == pytest.approx(1.2, abs=0.05)  # the lead and the window


def test_without_a_counter_power_samples_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    window = meter(monkeypatch, clock, counter=False, reasons=4).window(clock.run, lambda: None, seconds=0.2)
    assert window.watts == pytest.approx(480.0)
    assert window.throttled


def test_a_driver_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nvml, "nvmlInit", lambda self: (_ for _ in ()).throw(Nvml.NVMLError("Driver Not Loaded")))
    with pytest.raises(CalibrationError, match=r"^NVML doesn't answer: Driver Not Loaded$"):
        meter(monkeypatch, Clock())


@pytest.mark.cuda
def test_a_real_gpu_is_slower_for_more_work() -> None:
    device = CudaDevice("cuda:0")
    small, large = (torch.ones(n, n, device=device.torch_device, dtype=device.dtype) for n in (1024, 4096))
    quick = device.seconds(lambda: torch.mm(small, small), 50)
    slow = device.seconds(lambda: torch.mm(large, large), 50)
    assert 10 * quick < slow
    assert 2 * 4096**3 / slow < 5e15
