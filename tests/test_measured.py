"""A run may name a calibrated profile: plain 16-bit GEMMs then take their time from it."""

from __future__ import annotations

import pytest

from simulator import read_run, simulate
from simulator.cost.machine import build_machine
from simulator.cost.measured import gemm_fit, profiled_gemm_seconds
from simulator.errors import CalibrationError
from simulator.graph.operator import Gemm, WeightGrad
from simulator.spec.hardware import resolve_hardware

H100 = resolve_hardware({"device": "h100-sxm", "gpus": 8})


def test_a_profile_times_plain_wide_gemms_only() -> None:
    machine = build_machine(H100, profile="h100-sxm")
    plain = Gemm(4096, 4096, 4096, "bf16")
    grad = WeightGrad(4096, 4096, 4096, "bf16", 1, 2, 8)
    assert gemm_fit(machine, plain) is not None
    assert gemm_fit(machine, grad) is not None
    assert gemm_fit(machine, plain._replace(precision="fp8")) is None
    assert gemm_fit(machine, plain._replace(groups=8, grouped="host")) is None
    assert gemm_fit(build_machine(H100), plain) is None


def test_a_profile_agrees_with_the_priors_of_its_architecture_to_a_fifth() -> None:
    works = [Gemm(8192, n, k, "bf16") for n in (4096, 8192, 28672) for k in (4096, 8192, 28672)]
    with_profile = profiled_gemm_seconds([(build_machine(H100, profile="h100-sxm"), work) for work in works])
    without = profiled_gemm_seconds([(build_machine(H100), work) for work in works])
    assert with_profile == pytest.approx(without, rel=0.2)
    assert (with_profile != without).all()


def test_a_result_says_which_profile_it_rests_on() -> None:
    result = simulate(read_run("workloads/runs/mixtral-8x7b-64xh100.yaml", ["profile=h100-sxm"]))
    assert result.provenance.profile == "hopper priors, profile h100-sxm"
    projections = next(row for row in result.basis if row.kind == "Attention projections")
    assert projections.basis == "interpolated"
    assert projections.measurements > 1000


def test_the_profile_of_another_device_is_refused() -> None:
    with pytest.raises(CalibrationError, match="a profile of b200-sxm, where h100-sxm is meant"):
        build_machine(H100, profile="b200-sxm")
