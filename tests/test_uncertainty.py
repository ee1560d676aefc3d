"""Intervals: shared errors add, those of different kinds add as squares, and the model's own comes on top."""

from __future__ import annotations

from math import exp, hypot, log

import pytest
import toy

from simulator.assembly import uncertainty as u
from simulator.assembly.items import ITEM_ORDER, style
from simulator.graph.operator import COLORS
from simulator.simulation import simulate

ERRORS = {"ffn_gemm": 0.3, "all_to_all": 0.4}


def test_shares_weigh_the_errors_of_different_kinds() -> None:
    """0.3 and 0.4 of equal parts: half of 0.5."""
    assert u.combined_error({"ffn_gemm": 1.0, "all_to_all": 1.0}, ERRORS, 0.0) == pytest.approx(0.25)
    assert u.combined_error({"ffn_gemm": 5.0}, ERRORS, 0.4) == pytest.approx(0.5)


def test_waiting_follows_from_the_rest() -> None:
    seconds = {"ffn_gemm": 1.0, "bubble": 9.0}
    assert u.combined_error(seconds, ERRORS, 0.0) == pytest.approx(0.3)
    assert u.combined_error({"bubble": 9.0}, ERRORS, 0.1) == 0.1


def test_an_interval_is_ninety_percent_of_a_log_normal() -> None:
    number = u.number(2.0, 0.1, "measured")
    assert number.high == pytest.approx(2 * exp(0.1645))
    assert number.low == pytest.approx(2 / exp(0.1645))
    assert u.number(2.0, 0.0, "exact").low == 2.0


def test_power_has_a_limit() -> None:
    assert u.limited(90.0, 0.5, 100.0).high == 100.0
    assert u.limited(90.0, 0.01, 100.0).high == pytest.approx(90 * exp(0.01645))


def test_every_kind_of_time_has_a_name_and_every_operator_an_error() -> None:
    errors = u.item_errors(toy.machine(), "bf16")
    assert set(COLORS) <= set(errors)
    assert set(errors) <= set(ITEM_ORDER)
    assert {style(item).group for item in ITEM_ORDER} == {"computing", "communicating", "waiting", "host"}


def test_noise_is_less_certain_than_the_step() -> None:
    result = simulate(toy.run(gpus=64, training={"global_batch": 64}))
    noise = next(item.seconds for item in result.breakdown if item.key == "noise")
    step = result.step_time_s
    assert step is not None
    assert noise.high / noise.value == pytest.approx(exp(1.645 * u.NOISE_ERROR))
    assert step.high / step.value < noise.high / noise.value


def test_a_mixture_of_experts_is_less_certain_than_a_dense_model() -> None:
    assert u.MODEL_ERROR["moe"] > u.MODEL_ERROR["dense"]


def test_carbon_is_as_uncertain_as_time_power_and_grid_together() -> None:
    result = simulate(toy.run())
    step, carbon = result.step_time_s, result.carbon_kg
    assert step is not None
    assert carbon is not None
    time = log(step.high / step.value) / u.Z90
    assert log(carbon.high / carbon.value) / u.Z90 == pytest.approx(hypot(time, u.POWER_ERROR, u.CARBON_ERROR))
