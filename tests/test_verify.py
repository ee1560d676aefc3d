"""Calibrate and verify from end to end, on a plan of few points, and what verification reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.calibration import kernels_host
from simulator.calibration.kernels import CPU_PLAN
from simulator.calibration.prices import HostCosts, MemoryLevels, Prices, write_prices
from simulator.calibration.protocol import Case, Point
from simulator.calibration.session import SessionReport, calibrate, open_device
from simulator.calibration.step_prices import Priced
from simulator.calibration.table import read_table
from simulator.calibration.verify import verify, with_host
from simulator.calibration.verify_cases import VerifyCase, dense
from simulator.calibration.verify_report import Comparison, VerifyReport, errors_of
from simulator.errors import CalibrationError
from simulator.report.calibration_page import render_calibration
from simulator.spec.profile import read_profile

FEW = replace(
    CPU_PLAN,
    gemm=replace(
        CPU_PLAN.gemm, points=4, max_flops=1e7, largest=64, weights=((64, 64), (64, 128)), few_rows=(2, 8, 32),
        batched=(), vectors=(), grouped=(), reuses=(),
    ),
    attention=replace(CPU_PLAN.attention, prefill=CPU_PLAN.attention.prefill[:4], decode=(), reuses=()),
    memory=replace(
        CPU_PLAN.memory, elements=(256, 1024, 4096, 16384), few_elements=(256, 2048), parameters=((4, 1024), (8, 4096)),
        rows=((4, 64), (32, 64), (64, 128)), cold=(), reuses=(), state_reuses=(), transfers=(),
    ),
    routing=replace(
        CPU_PLAN.routing, gathers=((16, 64, 128), (32, 64, 1000)), top_k=(), sums=(), sorts=(), retrievals=(),
        layers=((4, 32, 32, 2, 4), (16, 32, 32, 2, 4)),
    ),
)  # fmt: skip


SHEET = """architecture: other
peak: {fp32: 0.1 TFLOP/s}
memory: {capacity: 16 GiB, bandwidth: 40 GB/s}
tdp: 100 W
idle_power: 20 W
scale_up: {kind: pcie, bandwidth: 4 GB/s, domain: 2}
node: {gpus: 2, network: pcie-only, overhead_power: 50 W}
"""


@pytest.fixture(scope="module", autouse=True)
def short_host_points() -> Iterator[None]:
    """Points of the host that follow milliseconds of work, or take as long, are left out: minutes go into them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, values in (("BEFORE_ROWS", (4, 32)), ("STRETCHES", (1, 4)), ("SMALL_STRETCHES", (1, 8))):
            patch.setattr(kernels_host, name, values)
        yield


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> SessionReport:
    sheet = tmp_path_factory.mktemp("sheet") / "this-cpu.yaml"
    sheet.write_text(SHEET, encoding="utf-8")
    return calibrate("cpu", tmp_path_factory.mktemp("profile"), minutes=0.02, plan=FEW, ranks=(), like=str(sheet))


def test_a_calibration_leaves_a_table_a_profile_and_its_journal(calibration: SessionReport) -> None:
    written = {"journal.jsonl", "measured.csv", "prices.yaml", "this-cpu.yaml", "this-cpu.npz"}
    assert {path.name for path in calibration.folder.iterdir()} == written
    table = read_table(calibration.folder / "measured.csv")
    assert len(table) == len(calibration.measured.points)
    assert set(table["op"]) >= {"gemm", "attention", "attention_backward", "elementwise", "gather", "host"}
    assert (table["latency_s"] > 0).all()
    first = calibration.summary().splitlines()[0]
    assert first.endswith("fp32, 1 thread: predicts the minimum time")


def test_a_cpu_with_a_data_sheet_gets_a_profile_that_knows_its_products(calibration: SessionReport) -> None:
    profile = read_profile(str(calibration.profile_file), device="this-cpu")
    assert {fit.op for fit in profile.fits} >= {"gemm", "prefill", "memory"}
    products = [p for p in calibration.measured.points if p.case.op == "gemm" and p.case.kernel == "nt"]
    m, n, k = np.array([[p.case.shape[name] for name in ("m", "n", "k")] for p in products]).T
    ratio = profile.gemm_seconds("fp32", m, n, k).seconds / [p.seconds for p in products]
    assert 0.5 < float(np.median(ratio)) < 2.0


def test_a_second_calibration_goes_on_from_the_first(calibration: SessionReport) -> None:
    before = {p.case.key: len(p.trials) for p in calibration.measured.points}
    again = calibrate("cpu", calibration.folder, minutes=1e-6, plan=FEW, ranks=())
    assert {p.case.key: len(p.trials) for p in again.measured.points} == before


def test_real_models_are_compared_with_their_prediction(calibration: SessionReport) -> None:
    spec = dense(64, 1)
    cases = [VerifyCase("dense forward", spec, "forward", 1, 16), VerifyCase("dense training", spec, "train", 1, 16)]
    report = verify("cpu", calibration.prices, minutes=0.02, cases=cases, parallel=False)
    assert [c.name for c in report.single] == ["dense d64 L1, 1 x 16"] * 2
    forward, training = report.single
    assert training.measured > forward.measured
    assert training.predicted.seconds > forward.predicted.seconds
    assert 0.2 < forward.predicted.seconds / forward.measured < 5


def test_the_report_of_a_calibration_is_a_page(calibration: SessionReport) -> None:
    html = render_calibration(calibration.page())
    assert html == render_calibration(calibration.page())
    assert "<h1>Calibration of cpu-" in html
    assert "torch runs it as separate operators on a CPU" in html
    assert "No collective and no copy was measured." in html
    for name in calibration.prices.families:
        assert f"<td>{name}</td>" in html


def test_names_on_the_page_are_escaped(calibration: SessionReport) -> None:
    html = render_calibration({**calibration.page(), "device": "<script>alert(1)</script>"})
    assert "<script>alert" not in html


def profile(**changes: str) -> Prices:
    host = HostCosts(view=0, module=0, forward_on_tape=0, backward=0, sequence=((1e-7, 0),), stretch=((1e-7, 1),))
    fields = {"device": "other", "dtype": "fp32", "library": "torch", "version": "1", "date": "", **changes}
    memory = MemoryLevels(seconds_per_byte=(1e-11,), knees=())
    return Prices(**fields, statistic="minimum", memory=memory, families={}, host=host)  # type: ignore[arg-type]


def test_a_profile_of_another_device_is_refused(tmp_path: Path) -> None:
    write_prices(profile(), tmp_path / "prices.yaml")
    info = open_device("cpu").info
    with pytest.raises(CalibrationError) as error:
        verify("cpu", tmp_path / "prices.yaml")
    assert str(error.value) == f"the profile is of device other, this is {info.device}: calibrate this one first"
    with pytest.raises(CalibrationError, match=r"^the profile is of library torch 1, this is torch 2"):
        verify("cpu", profile(device=info.device))


def test_what_is_no_device_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"^unknown device 'tpu': cpu, or cuda:0 and so on$"):
        open_device("tpu")
    with pytest.raises(CalibrationError, match=r"^minutes must lie between 0 and 1440, got 0$"):
        calibrate("cpu", Path("x"), minutes=0)


def comparison(predicted: float, measured: float, *, side: str = "inside", group: str = "peer") -> Comparison:
    priced = Priced(predicted, 0.8 * predicted, 1.25 * predicted, {}, 0.0, 0.0, side)  # type: ignore[arg-type]
    return Comparison(group, "a model", priced, measured, (measured, 1.1 * measured))


def test_errors_are_those_of_the_prediction_over_the_measurement() -> None:
    found = errors_of([comparison(1.1, 1.0), comparison(0.9, 1.0), comparison(1.5, 1.0)])
    assert found.n == 3
    assert (found.mape, found.bias, found.worst) == pytest.approx((0.7 / 3, 0.5 / 3, 0.5))
    assert found.coverage == pytest.approx(2 / 3)


def test_the_summary_groups_by_range_and_kind() -> None:
    single = (
        comparison(1.0, 1.0),
        replace(comparison(1.2, 1.0, side="below"), drawn=True),
        comparison(1.0, 2.0, side="above", group="decode"),
    )
    report = VerifyReport("toy", "minimum", 7, single, (comparison(0.9, 1.0, group="expert parallel"),))
    assert {name: e.n for name, e in report.groups().items()} == {
        "all, one process": 3, "chosen by the seed": 1,
        "inside the measured range": 1, "below it": 1, "above it": 1, "peer": 2, "decode": 1,
        "experts over 2 processes": 1,
    }  # fmt: skip
    assert report.floors == pytest.approx((0.0953, 0.0953), abs=1e-4)
    lines = report.summary().splitlines()
    assert lines[0] == "toy: the smallest step time is predicted; seed 7"
    assert lines[4].endswith("-50.0%  800.000 ms to 1250.000 ms  missed (above the range)")
    assert lines[-1] == "floor: two measuring runs of one step differ by 9.5% (median), 9.5% (90th percentile)"


def test_the_host_as_measured_now_replaces_that_of_the_profile() -> None:
    def point(kernel: str, seconds: float) -> Point:
        return Point(Case("host", kernel, "fp32", {"calls": 10}, lambda device: lambda: None), seconds, 0.0, (seconds,))

    chains = [
        point("chain_inference", 1e-5),
        point("chain_forward", 2e-5),
        point("chain_training", 5e-5),
        point("chain_leaves", 9e-5),
    ]
    now = with_host(profile(), [point("view", 3e-5), point("view", 2e-5), point("module", 1e-5), *chains])
    assert now.host.view == pytest.approx(2e-6)
    assert now.host.backward == pytest.approx(2e-6)
    assert with_host(profile(), []) == profile()
