"""Joules, money and carbon by hand: a GPU of 100 W that draws half of it when active."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from simulator.cost.energy import Joules, Load, device_power, step_joules
from simulator.cost.machine import Machine, build_machine
from simulator.cost.price import carbon_grams_per_joule, electricity_usd, rent_usd
from simulator.errors import SpecError
from simulator.simulation import simulate
from simulator.spec.base import data_root
from simulator.spec.formats import FORMATS
from simulator.spec.hardware import resolve_hardware
from simulator.spec.run import Run, read_run
from simulator.spec.workload import Economics

IDLE = Load(seconds=10.0, flops=0.0, peak=1e12, memory_bytes=0.0, link_bytes=0.0, network_bytes=0.0)


def test_power_is_a_floor_and_what_compute_and_memory_add() -> None:
    machine = toy.machine()  # P = (0.5 + 0.3 u_f + 0.2 u_m) x 100 W
    assert device_power(machine, 0.0, 0.0) == (50, 0, 0)
    assert device_power(machine, 0.5, 0.25) == pytest.approx((50, 15, 5))
    assert device_power(machine, 1.0, 1.0) == pytest.approx((50, 30, 20))
    assert device_power(machine, 7.0, 7.0) == pytest.approx((50, 30, 20))  # no rate exceeds its peak


def test_the_limit_caps_the_draw_and_scales_its_parts_alike() -> None:
    machine = toy.machine(power={"a": 0.6, "b": 0.4})
    assert device_power(machine, 1.0, 1.0) == pytest.approx((50, 30, 20))


def test_joules_of_a_step() -> None:
    """Eight GPUs for 10 s; the node draws 80 W besides them, and the building adds 20 % to everything."""
    load = replace(IDLE, flops=5e12, memory_bytes=2.5e12, link_bytes=1e12 / 8, network_bytes=1e12 / 8)
    joules = step_joules(toy.machine(8), load, 1.2)
    link, network = 8 * 1e12 * 5e-12, 8 * 1e12 * 10e-12
    assert joules.static == pytest.approx(8 * 50 * 10)
    assert joules.compute == pytest.approx(8 * 15 * 10)
    assert joules.memory == pytest.approx(8 * 5 * 10)
    assert joules.network == pytest.approx(link + network)
    inside = joules.device + joules.network + 80 * 10
    assert joules.facility == pytest.approx(80 * 10 + 0.2 * inside)
    assert joules.total == pytest.approx(1.2 * inside)


def test_half_a_node_has_half_of_its_overhead() -> None:
    assert step_joules(toy.machine(4), IDLE, 1.0).facility == pytest.approx(400)


@given(
    st.sampled_from(["h100-sxm", "a100-sxm-80gb", "b200-sxm", "gb300", "tpu-v4", "l4"]),
    st.floats(0, 3),
    st.floats(0, 3),
)
def test_no_device_draws_less_than_its_floor_or_more_than_its_limit(device: str, compute: float, memory: float) -> None:
    machine = build_machine(resolve_hardware({"device": device, "gpus": 1}))
    floor, *rest = device_power(machine, compute, memory)
    assert min(rest) >= 0
    assert floor + sum(rest) <= machine.hardware.device.tdp * (1 + 1e-12)


def test_power_of_kernels_measured_alone() -> None:
    """The form was fitted on served tokens (ML.ENERGY); B200 kernels longer than a millisecond are measured apart."""
    table = pd.read_csv(data_root() / "workloads/validation/power.csv")
    machine = build_machine(resolve_hardware({"device": "b200-sxm", "gpus": 1}))
    device = machine.hardware.device
    peak = table["dtype"].map(lambda dtype: device.peak_for(FORMATS[dtype].precision))
    compute, memory = table["flops"] / table["latency_s"] / peak, table["bytes"] / table["latency_s"]
    watts = [sum(device_power(machine, *u)) for u in zip(compute, memory / machine.memory_bandwidth, strict=True)]
    error = watts / table["power_w"] - 1
    assert abs(error.mean()) < 0.10
    assert error.abs().mean() < 0.25
    assert (table["power_w"] > 0.97 * device.tdp).mean() > 0.2  # so many run into the limit, which caps the form


def test_rent_and_electricity() -> None:
    economics = Economics.model_validate({"gpu_hour": "3.60 USD/h", "electricity": "0.36 USD/kWh"})
    assert rent_usd(8, 3600.0, economics) == pytest.approx(28.8)
    assert electricity_usd(3.6e6, economics) == pytest.approx(0.36)
    assert rent_usd(8, 3600.0, Economics()) is None
    assert electricity_usd(3.6e6, Economics()) is None


def test_carbon_is_stated_or_the_worlds() -> None:
    stated = Economics.model_validate({"carbon_intensity": "360 g/kWh"})
    assert carbon_grams_per_joule(stated) == (pytest.approx(1e-4), "stated in the run")
    grams, source = carbon_grams_per_joule(Economics())
    assert grams * 3.6e6 == pytest.approx(475)
    assert source == "world mean, codecarbon's table (IEA)"


def test_a_region_without_its_table_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.resources.files", absent)
    with pytest.raises(SpecError) as caught:
        carbon_grams_per_joule(Economics(region="ARG"))
    assert str(caught.value) == (
        "economics.region: the table energy-2025 has no carbon of 'ARG', and more regions need the extra `carbon` "
        "(pip install 'moesim[carbon]'); or state economics.carbon_intensity"
    )


PRICED = {
    "economics": {
        "gpu_hour": "3.6 USD/h",
        "electricity": "0.36 USD/kWh",
        "pue": 1.25,
        "carbon_intensity": "360 g/kWh",
    }
}


def test_the_parts_of_a_step_sum_to_the_meter() -> None:
    result = simulate(toy.run(gpus=8, **PRICED))
    assert result.energy_j is not None
    assert result.energy_total_j is not None
    parts = Joules(**{name: getattr(result.energy_j, name).value for name in type(result.energy_j).model_fields})
    assert parts.total == pytest.approx(result.energy_total_j.value, rel=1e-12)
    assert result.average_power_w_per_gpu is not None
    assert result.step_time_s is not None
    assert result.average_power_w_per_gpu.value == pytest.approx(parts.device / result.step_time_s.value / 8)


@pytest.mark.parametrize(("tokens", "steps"), [(None, 1), (51200, 100)])
def test_a_training_of_stated_length_pays_for_all_of_its_steps(tokens: int | None, steps: int) -> None:
    result = simulate(toy.run(gpus=8, training={"tokens": tokens}, **PRICED))
    once = simulate(toy.run(gpus=8, **PRICED))
    assert result.energy_total_j is not None
    assert once.energy_total_j is not None
    assert result.step_time_s is not None
    assert result.carbon_kg is not None
    joules = result.energy_total_j.value
    assert joules == pytest.approx(steps * once.energy_total_j.value)
    assert result.carbon_kg.value == pytest.approx(joules * 1e-4 / 1e3)
    rent = {price.item: price for price in result.bill}
    assert rent["Electricity"].usd.value == pytest.approx(joules * 1e-7)
    if tokens is None:
        assert result.days is result.cost_usd is None
        return
    seconds = steps * result.step_time_s.value
    assert result.days is not None
    assert result.cost_usd is not None
    assert result.days.value == pytest.approx(seconds / 86400)
    assert result.cost_usd.value == pytest.approx(8 * seconds * 1e-3)  # 3.6 USD/h are 1e-3 USD/s
    assert rent["Rent"].usd == result.cost_usd


def joules_of(run: Run) -> float:
    total = simulate(run).energy_total_j
    assert total is not None
    return total.value


def test_published_energy_of_a_training() -> None:
    """GLaM 64B/64E: 456 MWh for 600 billion tokens on 1,024 TPU v4 (arXiv 2112.06905); the time on TPUs is a prior."""
    run = read_run(data_root() / "workloads/runs/glam-64b-64e-1024xtpuv4.yaml")
    assert 0.75 < joules_of(run) / 3.6e9 / 456 < 1.33


def test_twice_the_gpus_take_twice_the_energy() -> None:
    load = replace(IDLE, flops=1e12, network_bytes=1e9)
    few, many = (step_joules(Machine(toy.hardware(n), toy.curves()), load, 1.1).total for n in (8, 16))
    assert many == pytest.approx(2 * few)
