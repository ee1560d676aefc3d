"""Recorded measurements of an H100 replayed through `calibrate`, as a GPU's go: measured, fitted, used by a run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import ROOT

from simulator import read_run, simulate
from simulator.calibration import kernels, power, session
from simulator.calibration.kernels_device import DeviceInfo
from simulator.calibration.live_profile import catalog_device, in_forms
from simulator.calibration.protocol import Case
from simulator.calibration.session import SessionReport, calibrate
from simulator.calibration.table import read_table
from simulator.errors import CalibrationError, SpecError
from simulator.report.calibration_page import render_calibration
from simulator.spec.evidence import evidence
from simulator.spec.forms import COLUMNS
from simulator.spec.hardware import load_device
from simulator.spec.profile import Profile, read_profile
from simulator.units import MIB

RECORDED = read_table(ROOT / "hardware_profiles/measured/h100-sxm.csv")
INFO = DeviceInfo(
    device="nvidia-h100-80gb-hbm3", library="torch", version="2.13.0", driver="CUDA 13.0", threads=1, dtype="bf16",
    sms=132, memory_bytes=80994 * MIB,
)  # fmt: skip


def rows(op: str) -> pd.DataFrame:
    """Recorded bf16 rows of an operation's first kernel."""
    mine = RECORDED[(RECORDED["op"] == op) & (RECORDED["dtype"] == "bf16")]
    return mine[mine["kernel"] == mine["kernel"].iloc[0]]


def case(op: str, kernel: str, seconds: float, shape: Mapping[str, float], **how: Any) -> Case:
    """A point whose run takes what was recorded."""
    return Case(op, kernel, "bf16", shape, lambda _: SimpleNamespace(seconds=seconds), **how)


def recorded_cases() -> Iterator[Case]:
    """Recorded kernels under the names a live session gives them."""
    for row in rows("gemm").to_dict("records"):
        yield case("gemm", "nt", row["latency_s"], {name: row[name] for name in ("m", "n", "k")} | {"reuse": 0.0})
    for row in rows("moe").to_dict("records"):
        yield case("moe", "grouped_mm", row["latency_s"], {name: row[name] for name in COLUMNS["moe"]})
    for op, queries in (("prefill", None), ("decode", 1.0)):
        full = rows(op)
        for row in full[full["window"] == 0].to_dict("records"):
            shape = {name: row[name] for name in ("batch", "heads", "kv_heads", "head_dim")}
            shape |= {"queries": queries or row["seq"], "keys": row["seq"], "causal": float(queries is None)}
            yield case("attention", "sdpa", row["latency_s"], shape)


def lawful_cases() -> Iterator[Case]:
    """What the recorded table lacks, by simple laws: 3 us and 3 TB/s, and a host that issues an operator in 5 us."""
    for kernel, operands in (("copy_", 2), ("add", 3), ("mul", 3)):
        for elements in (2.0**e for e in range(12, 30, 3)):
            shape = {"elements": elements, "rows": 1.0, "reuse": 0.0}
            yield case("elementwise", kernel, 3e-6 + operands * 2 * elements / 3e12, shape)
    for kernel in ("view", "module", "chain_inference", "chain_forward", "chain_training", "chain_leaves"):
        yield case("host", kernel, 5e-6 * 24, {"calls": 24.0}, clock="host")
    for size in (2.0**e for e in range(12, 30, 3)):
        yield case("transfer", "host_to_device", 1e-5 + size / 5e10, {"bytes": size})

    def too_large(_: object) -> Callable[[], object]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 GiB.")

    yield Case("gemm", "nt", "bf16", {"m": 2.0**20, "n": 2.0**20, "k": 1.0, "reuse": 0.0}, too_large)


class Replay:
    """A GPU whose runs take what was recorded, give or take a percent."""

    kind, statistic, info = "cuda", "median", INFO
    dtype = torch.bfloat16

    def __init__(self) -> None:
        self.random = random.Random(1)

    def seconds(self, run: Any, repeats: int) -> float:
        return float(run.seconds) * self.random.gauss(1.0, 0.01)

    host_seconds = seconds

    def failure(self, error: Exception) -> str | None:
        return f"out of memory: {error}" if isinstance(error, torch.OutOfMemoryError) else None


def meter(device: Replay) -> Any:
    """Power of a GPU that slows down by a tenth within five seconds."""
    windows = iter(range(10**6))

    def window(run: Any, once: float) -> power.Window:
        slow = 1 + 0.02 * min(5, next(windows))
        return power.Window(watts=650.0, clock_hz=1.9e9 / slow, seconds=run.seconds * slow, throttled=slow > 1)

    return SimpleNamespace(window=window)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionReport]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "open_device", lambda _: Replay())
        patch.setattr(kernels, "cases", lambda plan, dtype: [*recorded_cases(), *lawful_cases()])
        patch.setattr(power, "PowerMeter", meter)
        yield calibrate("cuda:0", tmp_path_factory.mktemp("mine"), minutes=5, ranks=())


@pytest.fixture(scope="module")
def profile(report: SessionReport) -> Profile:
    assert report.profile_file is not None
    return read_profile(str(report.profile_file), device="h100-sxm")


@pytest.mark.parametrize(("op", "most"), [("gemm", 0.05), ("prefill", 0.08), ("decode", 0.08), ("moe", 0.08)])
def test_the_profile_says_what_was_recorded(profile: Profile, op: str, most: float) -> None:
    fit = profile.find(op, "bf16")[0]
    recorded = rows(op)
    recorded = recorded[recorded["window"].fillna(0) == 0]
    assert fit.measurements == len(recorded)
    shape = {name: recorded[name].fillna(0.0) for name in fit.covered}
    error = abs(profile.model(fit).predict(shape).seconds / recorded["latency_s"] - 1)
    assert float(error.median()) < most


def test_shapes_held_out_are_known_about_as_well_as_from_the_shipped_table(profile: Profile) -> None:
    mine, shipped = profile.find("gemm", "bf16")[0], read_profile("h100-sxm").find("gemm", "bf16")[0]
    # Forty points instead of thirty thousand: the study of learning curves has 7 % at 48.
    assert shipped.held_out["new (n, k)"].mean_absolute < mine.held_out["new (n, k)"].mean_absolute < 0.12


def test_a_run_takes_the_times_of_this_machine(report: SessionReport) -> None:
    def seconds(profile: str) -> float:
        run = read_run(ROOT / "workloads/runs/mixtral-8x7b-64xh100.yaml", [f"profile={profile}"])
        return float(simulate(run).step_time_s.value)

    mine, shipped, none = seconds(str(report.profile_file)), seconds("h100-sxm"), seconds("none")
    assert mine != none
    assert mine == pytest.approx(shipped, rel=0.1)  # of the same GPU, fitted on a hundred times as many points


def test_what_was_not_measured_here_comes_from_the_shipped_profile_of_the_device(report: SessionReport) -> None:
    known = evidence(load_device("h100-sxm"), str(report.profile_file))
    assert known is not None
    found = {(op, dtype): known.find(op, dtype) for op, dtype in (("gemm", "bf16"), ("gemm", "fp8"))}
    assert [f and f.fit.library for f in found.values()] == [
        "torch",
        read_profile("h100-sxm").find("gemm", "fp8")[0].library,
    ]
    assert all(f and f.profile.device == "h100-sxm" and not f.fit.carried_from for f in found.values())
    own = known.find("prefill", "bf16", kernels=("flash_attention", "sdpa"))
    assert own is not None
    assert own.fit.kernel == "sdpa"


def test_points_that_do_not_fit_are_listed(report: SessionReport) -> None:
    words = "out of memory: CUDA out of memory. Tried to allocate 90.00 GiB."
    assert list(report.measured.skipped.values()) == [words]
    assert f"skipped gemm|nt|bf16|m=1.04858e+06,n=1.04858e+06,k=1,reuse=0: {words}" in report.summary()


def test_power_and_the_clock_under_load_stand_in_table_and_page(report: SessionReport) -> None:
    table = read_table(report.folder / "measured.csv")
    long = table[(table["op"] == "gemm") & (table["latency_s"] > 2e-4)]
    assert len(long) > 3
    assert (long["power_w"] == 650.0).all()
    assert table[table["latency_s"] < 9e-5]["power_w"].isna().all()
    sustained = table[table["op"] == "sustained"]
    assert sustained["clock_hz"].is_monotonic_decreasing
    html = render_calibration(report.page())
    assert "After 5 seconds of one product its time has changed by +8.0" in html
    assert "Windows of a second" in html


def live(**columns: Any) -> dict[str, Any]:
    return {"device": "x", "dtype": "bf16", "source": "x", "latency_s": 1e-3, "group_size": 1, **columns}


def test_rows_become_those_of_the_forms() -> None:
    common = {"m": 2.0, "n": 3.0, "k": 5.0, "op": "gemm"}
    heads = {"batch": 2.0, "heads": 8.0, "kv_heads": 4.0, "head_dim": 64.0, "op": "attention", "kernel": "sdpa"}
    found = in_forms(pd.DataFrame([
        live(kernel="tn", reuse=0.0, **common), live(kernel="nt", reuse=0.0, **common),
        live(kernel="nt", reuse=1e9, **{**common, "latency_s": 2e-3}),
        live(queries=7.0, keys=7.0, causal=1.0, **heads), live(queries=1.0, keys=9.0, causal=0.0, reuse=1e9, **heads),
        live(op="attention_backward", kernel="sdpa", queries=7.0, keys=7.0),
        live(op="elementwise", kernel="copy_", elements=1e6, rows=1.0), live(op="rowwise", kernel="softmax", rows=4.0),
        live(op="all_reduce", kernel="nccl", bytes=1e6, group_size=8),
        live(op="all_to_all", kernel="nccl after work", bytes=1e6, group_size=8),
    ]), "h100-sxm").to_dict("records")  # fmt: skip
    assert [(r["op"], r["kernel"], r["dtype"]) for r in found] == [
        ("gemm", "nt", "bf16"), ("gemm", "tn", "bf16"), ("prefill", "sdpa", "bf16"), ("decode", "sdpa", "bf16"),
        ("memory", "copy_", "bf16"), ("all_reduce", "nccl", "bytes"),
    ]  # fmt: skip
    assert [r["latency_s"] for r in found[:2]] == [2e-3, 1e-3]  # of equal shapes the one from memory
    assert [r["seq"] for r in found[2:4]] == [7.0, 9.0]
    assert found[4]["bytes"] == 2 * 2e6  # read and written, two bytes an element
    assert {r["device"] for r in found} == {"h100-sxm"}


@pytest.mark.parametrize(
    ("name", "sms", "mib", "device"),
    [
        ("NVIDIA A100-SXM4-80GB", 108, 81153, "a100-sxm-80gb"),
        ("NVIDIA A100 80GB PCIe", 108, 81153, "a100-pcie-80gb"),
        ("NVIDIA A100-SXM4-40GB", 108, 40442, "a100-sxm-40gb"),
        ("NVIDIA H100 80GB HBM3", 132, 80994, "h100-sxm"),
        ("NVIDIA H200", 132, 143156, "h200-sxm"),
        ("NVIDIA L40S", 142, 45487, "l40s"),
    ],
)
def test_gpus_of_the_catalog_are_recognised(name: str, sms: int, mib: int, device: str) -> None:
    words = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    found = catalog_device(DeviceInfo(words, "torch", "2.13", "", 1, "bf16", sms, mib * MIB))
    assert found is not None
    assert found.name == device


def test_what_is_not_in_the_catalog_has_to_be_named() -> None:
    half = DeviceInfo("nvidia-h100-80gb-hbm3-mig-3g-40gb", "torch", "2.13", "", 1, "bf16", 60, 40 * 2**30)
    with pytest.raises(CalibrationError) as error:
        catalog_device(half)
    assert str(error.value).startswith(
        "no device of the catalog is a nvidia-h100-80gb-hbm3-mig-3g-40gb with 60 SMs and 40 GiB: name one with --as"
    )
    named = catalog_device(half, "h100-sxm")
    assert named is not None
    assert named.name == "h100-sxm"
    with pytest.raises(SpecError, match=r"^unknown device 'h100'\. Did you mean"):
        catalog_device(half, "h100")
    assert catalog_device(DeviceInfo("cpu-x", "torch", "2.13", "", 1, "fp32")) is None
