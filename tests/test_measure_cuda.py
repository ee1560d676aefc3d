"""The CUDA device and the power meter against stubs that note the order of calls: checked without a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from simulator.calibration import cuda, power
from simulator.calibration.cuda import CudaDevice
from simulator.calibration.journal import Journal
from simulator.calibration.kernels import CUDA_PLAN, cases
from simulator.calibration.kernels_gemm import gemm
from simulator.calibration.power import PowerMeter, measure_power, measure_sustained
from simulator.calibration.protocol import Case, Skip, measure
from simulator.calibration.session import calibrate
from simulator.errors import CalibrationError
from simulator.spec.profile import read_profile


def smallest_of_each() -> list[Case]:
    """The first point of every operator and kernel, hot and cold."""
    found = {
        (case.op, case.kernel, bool(case.shape.get("reuse"))): case for case in reversed(list(cases(CUDA_PLAN, "bf16")))
    }
    return list(found.values())


@pytest.fixture(scope="module")
def real() -> CudaDevice:
    return CudaDevice("cuda:0")


class Stub:
    """torch.cuda as far as the device uses it; 2 ms pass between any two events."""

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
            def __init__(self, device: object) -> None:
                self.device = device

        self.Event, self.CUDAGraph, self.Stream = Event, CUDAGraph, Stream
        self.capturable, self.pools = True, 0
        self.current: object = None

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def set_device(self, device: object) -> None:
        self.log.append(f"set {device}")

    def set_stream(self, stream: object) -> None:
        self.current = stream

    def get_device_properties(self, device: object) -> Any:
        return SimpleNamespace(
            name="NVIDIA H100 80GB HBM3",
            uuid="12ab",
            multi_processor_count=132,
            total_memory=2**22,
            L2_cache_size=2**10,
        )

    def graph_pool_handle(self) -> tuple[int, int]:
        self.pools += 1
        return (0, self.pools)

    @contextmanager
    def graph(self, graph: object, *, pool: tuple[int, int], stream: object) -> Any:
        assert stream is self.current, "a backward pass runs on the stream of its forward pass"
        self.log.append(f"capture into pool {pool[1]}")
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


WARMED = ["run", "record", *["run"] * 3, "record", "wait for event"]
# Three runs in 2 ms by the stub's clock: a graph of 2 ms would hold three, but four is the least.


def test_device_time_is_that_of_graph_replays_between_events(stub: Stub) -> None:
    device = CudaDevice("cuda:1")
    run = noted(stub)
    stub.log.clear()
    # Two replays of four runs take 2 ms.
    assert device.seconds(run, 5) == pytest.approx(2e-3 / 8)
    captured = ["capture into pool 1", *["run"] * 4, "captured"]
    assert stub.log == [*WARMED, *captured, "record", "replay", "replay", "record", "wait for event"]
    stub.log.clear()
    device.seconds(run, 1)
    assert stub.log == ["record", "replay", "record", "wait for event"]


def test_what_cannot_be_captured_is_run_between_events_and_its_pool_left_alone(stub: Stub) -> None:
    device = CudaDevice("cuda:0")
    stub.capturable = False
    run = noted(stub)
    assert device.seconds(run, 4) == pytest.approx(0.5e-3)
    assert stub.log[-8:] == ["wait for device", "record", *["run"] * 4, "record", "wait for event"]
    stub.capturable = True
    device.seconds(noted(stub), 1)
    assert "capture into pool 2" in stub.log


def test_host_time_begins_with_an_empty_queue(stub: Stub) -> None:
    device = CudaDevice("cuda:0")
    stub.log.clear()
    assert device.host_seconds(noted(stub), 2) > 0
    assert stub.log == ["wait for device", "run", "run", "wait for device"]


def test_running_out_of_memory_skips_the_point_and_frees_what_is_held(stub: Stub) -> None:
    device = CudaDevice("cuda:0")

    def build(_: object) -> Callable[[], object]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 GiB.\nMore words.")

    fits = Case("gemm", "nt", "bf16", {"m": 1}, lambda _: noted(stub))
    found = measure([Case("gemm", "nt", "bf16", {"m": 2}, build), fits], device, Journal(None, {}), seconds=1e-9)
    assert found.skipped == {"gemm|nt|bf16|m=2": "out of memory: CUDA out of memory. Tried to allocate 90.00 GiB."}
    assert [point.case for point in found.points] == [fits]
    assert "empty cache" in stub.log
    pinned = RuntimeError("CUDA error: out of memory")
    assert device.failure(pinned) == "out of memory: CUDA error: out of memory"
    assert device.failure(NotImplementedError("no bf16")) == "no such kernel on this GPU: no bf16"
    old = RuntimeError("torch._grouped_mm is only supported on CUDA devices with compute capability >= 9.0")
    assert str(device.failure(old)).startswith("no such kernel on this GPU: torch._grouped_mm is only")
    assert device.failure(RuntimeError("illegal memory access")) is None


def test_running_out_of_memory_while_capturing_is_not_taken_for_an_operator_that_waits(stub: Stub) -> None:
    device, runs = CudaDevice("cuda:0"), iter(range(100))

    def run() -> object:
        if next(runs) > 4:  # the warm-up is through
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return None

    with pytest.raises(torch.OutOfMemoryError):
        device.seconds(run, 1)


def test_the_device_names_itself_and_refuses_what_is_not_there(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    device = CudaDevice("cuda:0")
    info = device.info
    assert (info.device, info.dtype, info.sms) == ("nvidia-h100-80gb-hbm3", "bf16", 132)
    assert device.groups() == (2,)
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

    def __init__(self, now: Callable[[], float], *, reasons: int = 0) -> None:
        self.now, self.reasons = now, reasons

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != "GPU-12ab":
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return round(500e3 * self.now())  # millijoules

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return 1755  # MHz

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self.reasons


class Clock:
    """A clock that moves only when something runs."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def run(self) -> None:
        self.now += 2e-3


class Gpu:
    """A device as far as power needs one."""

    properties = SimpleNamespace(uuid="12ab")

    def __init__(self) -> None:
        self.waits = 0

    def wait(self) -> None:
        self.waits += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(clock))
    monkeypatch.setattr(power.time, "perf_counter", clock)
    return clock


def test_power_is_the_energy_of_a_window_over_its_time(clock: Clock) -> None:
    gpu = Gpu()
    window = PowerMeter(gpu).window(clock.run, once=2e-3)
    assert window.watts == pytest.approx(500.0, rel=1e-3)
    assert window.seconds == pytest.approx(2e-3)
    assert (window.clock_hz, window.throttled) == (1.755e9, False)
    assert clock.now == pytest.approx(1.2, abs=0.05)  # the lead and the window
    assert gpu.waits == 60  # ten runs of 2 ms between two waits


def test_a_clock_held_down_for_power_is_said(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(clock, reasons=4))
    assert PowerMeter(Gpu()).window(clock.run, once=2e-3).throttled


def test_windows_of_long_points_are_noted_once(clock: Clock, tmp_path: Path) -> None:
    long, short = (Case("gemm", name, "bf16", {"m": 1}, lambda _: clock.run) for name in ("long", "short"))
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        measure_power(Gpu(), [(long, 2e-3), (short, 5e-5)], journal, seconds=60.0)
        measure_sustained(Gpu(), long, 2e-3, journal)
        first = clock.now
        measure_power(Gpu(), [(long, 2e-3)], journal, seconds=60.0)
        assert clock.now == first
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        assert list(journal.notes) == [long.key, *(f"sustained|{second}" for second in range(5))]
        assert journal.notes[long.key]["watts"] == pytest.approx(500.0, rel=1e-3)


def test_a_driver_that_does_not_answer_is_an_error(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    slice_of_a_gpu = SimpleNamespace(properties=SimpleNamespace(uuid="other"))
    with pytest.raises(CalibrationError, match=r"^NVML doesn't answer: Not Found$"):
        PowerMeter(slice_of_a_gpu)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(
        CalibrationError, match=r"^measuring power needs nvidia-ml-py: pip install 'moesim\[calibrate\]'$"
    ):
        PowerMeter(Gpu())


@pytest.mark.cuda
def test_a_real_gpu_is_slower_for_more_work() -> None:
    device = CudaDevice("cuda:0")
    small, large = (torch.ones(n, n, device=device.torch_device, dtype=device.dtype) for n in (1024, 4096))
    quick = device.seconds(lambda: torch.mm(small, small), 50)
    slow = device.seconds(lambda: torch.mm(large, large), 50)
    assert 10 * quick < slow
    assert 2 * 4096**3 / slow < 5e15


@pytest.mark.cuda
@pytest.mark.parametrize("case", smallest_of_each(), ids=lambda case: case.key)
def test_every_kind_of_point_runs_on_a_real_gpu(real: CudaDevice, case: Case) -> None:
    """In graphs and out of them: a point is measured, or skipped with a reason, and never anything else."""
    found = measure([case], real, Journal(None, {}), seconds=1e-9)
    reasons = "|".join(found.skipped.values())
    assert len(found.points) + len(found.unstable) == 1 or reasons.startswith(("no such kernel", "kernels of a GPU"))


@pytest.mark.cuda
def test_cold_weights_take_longer_than_those_in_the_cache(real: CudaDevice) -> None:
    """8 MiB of weights by one row: from memory they take at least twice as long as from the L2."""
    hot, cold = (gemm("nt", 1, 2048, 2048, dtype="bf16", reuse=reuse).build(real) for reuse in (0, 2**31))
    assert real.seconds(cold, 1) > 1.5 * real.seconds(hot, 1)


@pytest.mark.cuda
def test_a_real_gpu_draws_power() -> None:
    device = CudaDevice("cuda:0")
    x = torch.ones(4096, 4096, device=device.torch_device, dtype=device.dtype)
    window = PowerMeter(device).window(lambda: torch.mm(x, x), once=2e-4)
    assert 50.0 < window.watts < 2000.0
    assert 2e8 < window.clock_hz < 4e9


@pytest.mark.cuda
def test_a_few_minutes_on_a_real_gpu_make_a_profile(tmp_path: Path) -> None:
    """The whole path: measure, power, fit, write; kill it with Ctrl-C and run it again, and it goes on."""
    report = calibrate("cuda:0", tmp_path, minutes=4.0)
    assert report.profile_file is not None
    profile = read_profile(str(report.profile_file))
    assert {"gemm", "prefill", "decode", "moe", "memory"} <= {fit.op for fit in profile.fits}
    assert not report.remarks
