"""Seconds of kernels by hand on 1 TFLOP/s and 1 TB/s, and the shape of the fitted curves."""

from __future__ import annotations

from typing import Any

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from simulator.cost.annotation import work_seconds
from simulator.cost.compute import attention_seconds, gemm_seconds, host_transfer_seconds, traffic_seconds
from simulator.cost.machine import Machine, build_machine
from simulator.errors import SpecError
from simulator.graph.operator import Attention, Collective, Gemm, Group, HostTransfer, Traffic, WeightGrad
from simulator.spec.hardware import resolve_hardware

US = 1e-6
SQUARE = Gemm(1000, 1000, 1000, "bf16")  # 2 GFLOP, 6 MB: 2 ms and 6 us
DEVICES = st.sampled_from(["h100-sxm", "a100-sxm-80gb", "b200-sxm", "v100-sxm2-32gb", "tpu-v4", "l40s", "mi300x"])


def gemm(work: Gemm | WeightGrad, **gemm_curve: Any) -> float:
    curves = {name: {**toy.CURVES["gemm"][name], **gemm_curve} for name in toy.CURVES["gemm"]}
    machine = Machine(toy.hardware(), toy.curves(gemm=curves))
    return float(gemm_seconds([(machine, work)])[0])


def on(machine: Machine, work: Gemm | WeightGrad) -> float:
    return float(gemm_seconds([(machine, work)])[0])


def test_a_gemm_takes_its_compute_and_its_memory_time() -> None:
    assert gemm(SQUARE) == pytest.approx(2e-3 + 6e-6, rel=1e-12)
    assert gemm(SQUARE, ec=0.5) == pytest.approx(4e-3 + 6e-6, rel=1e-12)
    assert gemm(SQUARE, em=0.5) == pytest.approx(2e-3 + 12e-6, rel=1e-12)


def test_the_norm_joins_compute_and_memory() -> None:
    """3 ms of compute and 4 ms of memory make 5 with p = 2."""
    work = Gemm(1000, 1000, 1500, "bf16", weight_bytes=2000, row_bytes=0, out_bytes=1000)
    assert (work.flops, work.bytes) == (3e9, 4e9)
    assert gemm(work, p=2.0) == pytest.approx(5e-3, rel=1e-12)


def test_start_up_grows_with_the_inner_dimension_up_to_8192() -> None:
    def start(k: float) -> float:
        return gemm(Gemm(0, 0, k, "bf16"), t0_us=3.0, tk_us=2.0)

    assert start(4096) == pytest.approx(5 * US)
    assert start(8192) == start(50_000) == pytest.approx(7 * US)
    assert gemm(WeightGrad(4096, 0, 0, "bf16", 1, 2, 8), t0_us=3.0, tk_us=2.0) == pytest.approx(5 * US)  # its rows


def test_groups_run_apart_with_a_start_each_and_lose_a_share() -> None:
    """Four groups of 1 ms each, 10 us to start one, a quarter of the time lost with many groups."""
    work = Gemm(1000, 1000, 2000, "bf16", 4, 0, 0, 0, "host")
    curve = {"group_us": 10.0, "loss": 0.25, "device_group_us": 1.0, "device_loss_share": 0.5}
    machine = toy.machine(grouped=curve)
    assert on(machine, work) == pytest.approx(4 * (1e-3 + 10 * US) / (1 - 0.25 * 0.75), rel=1e-12)
    assert on(machine, work._replace(grouped="device")) == pytest.approx(
        4 * (1e-3 + 1 * US) / (1 - 0.125 * 0.75), rel=1e-12
    )
    assert on(machine, work._replace(grouped="")) == pytest.approx(4e-3, rel=1e-12)  # one batched kernel
    assert on(machine, work._replace(groups=1.0)) == pytest.approx(4e-3, rel=1e-12)


def test_a_memory_bound_operator_takes_its_bytes() -> None:
    machine = toy.machine(memory={"t0_us": 1.0})
    seconds = traffic_seconds([(machine, Traffic(1e6)), (machine, Traffic(1e6, gather=True))])
    assert seconds.tolist() == pytest.approx([2 * US, 3 * US])  # scattered rows at half of the rate


def test_copies_to_the_host_take_its_link() -> None:
    assert host_transfer_seconds([(toy.machine(), HostTransfer(1e6))])[0] == pytest.approx(1e-3)


def attention(**change: Any) -> float:
    work = Attention(1e9, 0.0, 600, 128, "forward", "flash2")._replace(**change)
    return float(attention_seconds([(toy.machine(), work)])[0])


def test_attention_reaches_half_its_rate_at_600_keys_and_tails_off_in_narrow_heads() -> None:
    assert attention() == pytest.approx(2e-3)
    assert attention(seq=600 * 99) == pytest.approx(1e-3 / 0.99)
    assert attention(phase="backward", seq=900) == pytest.approx(2e-3)
    assert attention(head_dim=24) == pytest.approx(2e-3 * 2 * 128 / 152)
    assert attention(flops=3e9 / 2, bytes=4e9) == pytest.approx(5e-3)  # 3 ms and 4 ms at right angles


def test_decode_attention_reads_its_cache() -> None:
    """At 82 % of the bandwidth, which published kernels reach beyond the L2."""
    times = [attention(decode=True, flops=0.0, bytes=size) for size in (1e9, 2e9)]
    assert times[1] - times[0] == pytest.approx(1e-3 / 0.82)


def test_long_kernels_settle_where_the_power_limit_holds_them() -> None:
    """(R^-4 + P^-4)^(-1/4) with P = (TDP - floor) / energy; 0.6 of 100 W at 60 pJ a FLOP sustain 1 TFLOP/s."""
    power = {"limits_clock": True, "p0_w": 1000.0, "pj_per_flop": {"bf16": 60.0}}
    held = Machine(toy.hardware(), toy.curves(power=power))  # a floor beyond the limit counts as 0.4 of it
    assert held.sustained("bf16", 1e12) == pytest.approx(1e12 / 2**0.25)
    assert held.sustained("bf16", 1e9) == pytest.approx(1e9)
    assert held.sustained("fp8", 1e12) == 1e12  # no energy known, no limit
    free = Machine(toy.hardware(), toy.curves(power={**power, "limits_clock": False}))
    assert free.sustained("bf16", 1e12) == 1e12


def test_a_precision_the_chip_lacks_is_refused() -> None:
    machine = Machine(toy.hardware(peak={"bf16": "1 TFLOP/s"}), toy.curves())
    with pytest.raises(SpecError, match=r"precision 'fp8' is not supported by toy \(it has: bf16\)"):
        machine.gemm("fp8")


def test_works_of_all_kinds_keep_their_order() -> None:
    machine = toy.machine()
    works = [Traffic(1e6), SQUARE, Collective("all_gather", 2e6, Group(2, 2)), HostTransfer(1e6), Traffic(2e6)]
    seconds = work_seconds([(machine, work) for work in works])
    assert seconds == pytest.approx([1 * US, 2006 * US, 1001 * US, 1000 * US, 2 * US])


@given(DEVICES, st.floats(1, 1e6), st.floats(1, 1e5), st.floats(1, 1e5), st.integers(0, 2), st.floats(1, 8))
def test_a_larger_gemm_never_takes_less_time(
    device: str, m: float, n: float, k: float, side: int, factor: float
) -> None:
    machine = build_machine(resolve_hardware({"device": device, "gpus": 1}))
    precision = "bf16" if machine.hardware.device.supports("bf16") else "fp16"
    small = [m, n, k]
    large = [size * (factor if i == side else 1) for i, size in enumerate(small)]
    assert on(machine, Gemm(*small, precision)) <= on(machine, Gemm(*large, precision)) * (1 + 1e-12)


@given(DEVICES, st.floats(64, 1e6), st.floats(1, 64))
def test_no_gemm_beats_the_peak_or_the_memory(device: str, m: float, groups: float) -> None:
    machine = build_machine(resolve_hardware({"device": device, "gpus": 1}))
    precision = "bf16" if machine.hardware.device.supports("bf16") else "fp16"
    for grouped in ("", "host", "device"):
        work = Gemm(m, 4096, 4096, precision, groups, grouped=grouped)  # type: ignore[arg-type]
        bound = max(work.flops / machine.hardware.device.peak_for(precision), work.bytes / machine.memory_bandwidth)
        assert on(machine, work) >= bound
