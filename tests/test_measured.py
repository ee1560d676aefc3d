"""Measured fits time operators where a run's evidence covers them: a toy profile by hand, and the chain of devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy

from simulator import read_run, simulate
from simulator.cost.annotation import work_seconds
from simulator.cost.machine import Machine, build_machine
from simulator.cost.measured import timed_by
from simulator.errors import CalibrationError, SpecError
from simulator.graph.operator import Attention, Collective, Experts, Gemm, Group, Traffic, WeightGrad, Work
from simulator.spec.base import data_root
from simulator.spec.evidence import AUTO, Evidence, evidence
from simulator.spec.forms import COLUMNS
from simulator.spec.hardware import load_device, resolve_hardware
from simulator.spec.profile import Fit, Profile, Spread

GEMM = {"ec": 0.5, "em": 1.0, "t0_us": 10.0, "p": 8.0, "tk_us": 0.0, "w": 0.0}
PREFILL = {"ec": 0.5, "em": 1.0, "t0_us": 0.0, "tb_us": 0.0, "p": 8.0, "s0": 0.0, "h0": 0.0, "w": 0.0}
FAST = {"peak": 1e12, "bandwidth": 1e15, "sms": 1.0, "link": 1e9, "nic": 0.0, "weight_bytes": 2.0, "row_bytes": 2.0}


def fit(op: str, dtype: str, parameters: dict[str, float], **changes: Any) -> Fit:
    """A fit without tables on a device of 1 TFLOP/s whose memory never limits."""
    free = dict.fromkeys(COLUMNS[op], (0.0, 100.0))  # type: ignore[index]
    data: dict[str, Any] = {
        "op": op, "dtype": dtype, "kernel": "by-hand", "library": "", "version": "1", "source": "made up",
        "measurements": 9, "sheet": FAST, "parameters": parameters, "covered": free, "bounds": {},
        "spread": Spread(known=0.1, inside=0.1, per_octave=0.1), **changes,
    }  # fmt: skip
    return Fit(**data)


def machine(*fits: Fit, serves: bool = False, library: str = "", **curves: dict[str, Any]) -> Machine:
    """The toy cluster of eight with these fits as its own, stated profile."""
    hardware = toy.hardware()
    own = Profile(device=hardware.device.name, date="2026-01-31", source="made up", fits=fits)
    return Machine(hardware, toy.curves(**curves), serves, Evidence(hardware.device, own, stated=True), library)


def seconds(on: Machine, work: Work) -> float:
    return work_seconds([(on, work)])[0]


def test_a_gemm_and_its_gradients_take_the_time_of_their_shapes() -> None:
    on = machine(fit("gemm", "bf16", GEMM))
    body = 2 * 1000 * 2000 * 4000 / 0.5e12
    assert seconds(on, Gemm(1000, 2000, 4000, "bf16")) == pytest.approx(10e-6 + body, rel=1e-6)
    assert seconds(on, Gemm(1000, 2000, 4000, "fp16")) == pytest.approx(10e-6 + body, rel=1e-6)
    assert seconds(on, WeightGrad(1000, 2000, 4000, "bf16", 1, 2, 8)) == pytest.approx(10e-6 + body, rel=1e-6)


def test_groups_repeat_the_gemm_of_one_and_start_up_once() -> None:
    on = machine(fit("gemm", "bf16", GEMM), grouped={"loss": 0.5, "group_us": 5.0})
    one = 2 * 100 * 2000 * 4000 / 0.5e12
    grouped = Gemm(400, 2000, 4000, "bf16", groups=4, grouped="host")
    assert seconds(on, grouped) == pytest.approx(10e-6 + 4 * (one + 5e-6) / (1 - 0.5 * 3 / 4), rel=1e-6)


def test_only_serving_pays_for_quantisation_inside_the_gemm() -> None:
    low = fit("gemm", "fp8", {**GEMM, "tq_us": 7.0, "eq": 1e9})
    work = Gemm(1000, 2000, 4000, "fp8", row_bytes=1, weight_bytes=1)
    assert seconds(machine(low, serves=True), work) - seconds(machine(low), work) == pytest.approx(7e-6)


def test_an_engine_gets_its_own_librarys_kernel_first() -> None:
    fits = [fit("gemm", "bf16", {**GEMM, "t0_us": t0}, library=name) for name, t0 in (("vllm", 1.0), ("trtllm", 3.0))]
    work = Gemm(1, 1, 1, "bf16")
    assert seconds(machine(*fits), work) == pytest.approx(1e-6, rel=1e-3)
    assert seconds(machine(*fits, serves=True, library="trtllm"), work) == pytest.approx(3e-6, rel=1e-3)
    assert seconds(machine(*fits, serves=True, library="sglang"), work) == pytest.approx(1e-6, rel=1e-3)


def core(phase: str, flops: float, sequences: float = 2.0) -> Attention:
    return Attention(
        flops, 0.0, 512.0, 128.0, phase, "flash2", sequences=sequences, length=512.0, heads=4.0, kv_heads=4.0
    )  # type: ignore[arg-type]


WHOLE = 4 * 2 * 4 * 128 * (512 * 513 / 2)
"""FLOPs of causal attention of 2 sequences of 512, 4 heads of 128."""


def test_attention_runs_at_the_measured_rate_and_backward_at_its_published_share_of_it() -> None:
    prefill = fit("prefill", "bf16", PREFILL, kernel="toy:vllm_flash_attn")
    on = machine(prefill, attention={"flash2": {"forward": 0.6, "backward": 0.4, "source": "made up"}})
    forward = WHOLE / 0.5e12
    assert seconds(on, core("forward", WHOLE)) == pytest.approx(forward, rel=1e-4)
    assert seconds(on, core("backward", 2.5 * WHOLE)) == pytest.approx(2.5 * 0.6 / 0.4 * forward, rel=1e-4)
    # Half a sequence on each of two context-parallel ranks: a quarter of the FLOPs of two whole ones.
    assert seconds(on, core("forward", WHOLE / 4, sequences=0.5)) == pytest.approx(forward / 4, rel=1e-4)


def test_another_generations_attention_kernel_stays_with_the_curves() -> None:
    measured = machine(fit("prefill", "bf16", PREFILL, kernel="toy:fa3"))
    assert seconds(measured, core("forward", WHOLE)) == seconds(toy.machine(), core("forward", WHOLE))
    assert timed_by(measured, core("forward", WHOLE)) is None


RING = fit("all_gather", "bytes", {"a_us": 10.0, "b": 0.5, "q": 1.0}, kernel="nccl", group_size=8)


def test_collectives_follow_the_measured_curve_inside_a_domain() -> None:
    on = machine(RING)
    work = Collective("all_gather", 8e6, Group(8, 8))
    assert seconds(on, work) == pytest.approx(10e-6 + 7 / 8 * 8e6 / 0.5e9)
    across = Collective("all_gather", 8e6, Group(8, 4))
    assert seconds(on, across) == seconds(toy.machine(), across)


def test_experts_take_the_whole_layers_time_and_else_that_of_their_kernels() -> None:
    parts = ((Gemm(64, 64, 64, "bf16"), 2.0), (Traffic(1e6), 1.0))
    work = Experts(64, 128, 256, 2, 8, 1, 1, 0.0, True, "bf16", "bf16", parts)
    apart = 2 * seconds(toy.machine(), parts[0][0]) + seconds(toy.machine(), parts[1][0])
    assert seconds(toy.machine(), work) == pytest.approx(apart)
    moe = {"ec": 0.5, "em": 1.0, "t0_us": 30.0, "p": 8.0, "ti": 0.0, "tg": 0.0, "tm_us": 0.0, "u": 1.0, "us": 0.0,
           "m0": 1e-6, "b": 0.0, "c": 0.0}  # fmt: skip
    whole = 30e-6 + 6 * 64 * 2 * 128 * 256 / 0.5e12
    assert seconds(machine(fit("moe", "bf16", moe)), work) == pytest.approx(whole, rel=1e-4)


def test_what_a_device_lacks_comes_from_its_architecture_then_from_others_with_wider_errors() -> None:
    own, sibling, other = (
        evidence(load_device(name), AUTO).find("gemm", "bf16")  # type: ignore[union-attr]
        for name in ("h100-sxm", "h800-sxm", "v100-sxm2-32gb")
    )
    assert own is not None
    assert sibling is not None
    assert other is not None
    assert own.fit.carried_from == ""
    assert sibling.fit.carried_from in ("h100-sxm", "h200-sxm")
    assert other.fit.carried_from != ""
    assert own.fit.spread.inside < sibling.fit.spread.inside < other.fit.spread.inside
    assert not other.fit.tables
    assert evidence(load_device("mi300x"), AUTO).find("gemm", "bf16") is None  # type: ignore[union-attr]


def test_kernels_of_a_librarys_release_count_only_where_the_profile_is_named() -> None:
    device = load_device("h100-sxm")
    shared, stated = evidence(device, AUTO), evidence(device, "h100-sxm")
    assert shared is not None
    assert stated is not None
    for op, dtype in (("moe", "bf16"), ("gemm", "fp8"), ("decode", "bf16"), ("all_reduce", "bytes")):
        assert shared.find(op, dtype) is None
        assert stated.find(op, dtype) is not None
    assert shared.find("prefill", "bf16") is not None
    assert evidence(device, "none") is None


def test_a_device_that_differs_from_its_profiles_is_a_transfer() -> None:
    """A what-if on memory bandwidth moves a measured decode GEMM with it."""
    twice = resolve_hardware(
        {"device": {"extends": "h100-sxm", "memory": {"capacity": "80 GiB", "bandwidth": "6.7 TB/s"}}, "gpus": 1}
    )
    small = Gemm(1, 16384, 16384, "bf16")
    found = timed_by(build_machine(twice, profile=AUTO), small)  # H200 is more alike, but this extends H100
    assert found is not None
    assert (found.fit.carried_from, found.basis) == ("h100-sxm", "transferred")
    before = seconds(build_machine(resolve_hardware({"device": "h100-sxm", "gpus": 1}), profile="h100-sxm"), small)
    after = seconds(build_machine(twice, profile="h100-sxm"), small)
    assert after == pytest.approx(before / 2, rel=0.05)


def test_training_rests_on_priors_and_inference_on_shared_kernels_unless_told() -> None:
    training = read_run("workloads/runs/mixtral-8x7b-64xh100.yaml")
    serving = read_run("workloads/runs/mixtral-8x7b-inference-2xh100.yaml")
    assert (training.profile, serving.profile) == ("none", "auto")
    result = simulate(read_run("workloads/runs/mixtral-8x7b-64xh100.yaml", ["profile=h100-sxm"]))
    assert result.provenance.profile == "hopper priors, profile h100-sxm"
    projections = next(row for row in result.basis if row.kind == "Attention projections")
    assert projections.basis == "interpolated"
    assert projections.measurements > 30_000
    assert projections.source.startswith("cublas, torch")


def test_measured_bursts_agree_with_the_priors_of_their_architecture_to_a_fifth() -> None:
    hardware = resolve_hardware({"device": "h100-sxm", "gpus": 8})
    for n in (4096, 8192, 28672):
        for k in (4096, 8192, 28672):
            work = Gemm(8192, n, k, "bf16")
            measured, prior = (seconds(build_machine(hardware, profile=name), work) for name in ("auto", "none"))
            assert measured == pytest.approx(prior, rel=0.2)
            assert measured != prior


@pytest.mark.parametrize(
    ("profile", "error", "message"),
    [
        ("b200-sxm", CalibrationError, "profile 'b200-sxm' is of b200-sxm, where h100-sxm is meant"),
        ("h100", SpecError, "unknown profile 'h100'. Did you mean 'h100-sxm'?"),
    ],
)
def test_a_wrong_profile_is_refused(profile: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        build_machine(resolve_hardware({"device": "h100-sxm", "gpus": 8}), profile=profile)
    assert str(raised.value) == message


def test_a_run_refuses_a_profile_cut_short(tmp_path: Path) -> None:
    whole = (data_root() / "hardware_profiles/fitted/l40s.yaml").read_text()
    cut = tmp_path / "mine.yaml"
    cut.write_text(whole[: len(whole) // 2])
    run = read_run("workloads/runs/mixtral-8x7b-64xh100.yaml", [f"profile={cut}"])
    with pytest.raises(CalibrationError, match=r"mine\.yaml: damaged or half-written: "):
        simulate(run)
