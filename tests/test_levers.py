"""What would help: levers are the run again with one thing changed, and nothing that already is so is offered."""

from __future__ import annotations

from typing import Any

import pytest
import toy

from simulator.explanation.levers import find_levers
from simulator.explanation.precedents import nearest_precedents
from simulator.result import Lever, Result
from simulator.simulation import simulate
from simulator.spec.run import Run, run_from_mapping, with_field

MOE = {"gpus": 16, "model": toy.MOE_MODEL, "training": {"global_batch": 16}}


def levers(run: Run, result: Result | None = None) -> dict[str, Lever]:
    return {f"{lever.path}={lever.change}": lever for lever in find_levers(run, result or simulate(run))}


def step(run: Run) -> float:
    seconds = simulate(run).step_time_s
    assert seconds is not None
    return seconds.value


def test_a_lever_is_the_difference_to_the_run_with_the_change() -> None:
    run = toy.run(gpus=8, training={"recompute": "full"})
    lever = levers(run)["training.recompute=none"]
    assert lever.feasible
    assert lever.step_time_s.value == pytest.approx(step(with_field(run, "training.recompute", "none")) - step(run))
    assert lever.step_time_s.value < 0
    assert lever.step_time_s.low < lever.step_time_s.value < lever.step_time_s.high < 0


def test_better_hardware_never_hurts() -> None:
    found = levers(toy.run(gpus=64, training={"global_batch": 64}))
    better = {lever.path: lever for lever in found.values() if lever.kind == "hardware"}
    assert list(better) == sorted(better, key=lambda path: better[path].step_time_s.value)
    assert set(better) == {
        "hardware.device.peak",
        "hardware.device.tdp",
        "hardware.device.memory.bandwidth",
        "hardware.device.scale_up.bandwidth",
        "hardware.network.bandwidth",
    }
    assert all(lever.step_time_s.value <= 0 and lever.feasible for lever in better.values())
    assert better["hardware.device.peak"].step_time_s.value < 0


def test_links_that_are_not_there_are_no_levers() -> None:
    one, node = levers(toy.run()), levers(toy.run(gpus=8))
    assert "hardware.device.scale_up.bandwidth=+10 %" not in one
    assert "hardware.device.scale_up.bandwidth=+10 %" in node
    assert "hardware.network.bandwidth=+10 %" not in node


@pytest.mark.parametrize(
    ("run", "present", "absent"),
    [
        ({"training": {"recompute": "none"}}, "training.precision=fp8", "training.recompute=none"),
        ({"training": {"precision": "fp8"}}, "training.micro_batch=2", "training.precision=fp8"),
        ({"gpus": 2, "parallelism": {"tp": 2}, "framework": "nemo"}, "parallelism.tp=1", "execution.tp_overlap=true"),
        (
            {**MOE, "parallelism": {"ep": 8}, "execution": {"moe_dispatcher": "deepep"}},
            "execution.a2a_overlap=true",
            "execution.moe_dispatcher=deepep",
        ),
        ({"gpus": 4, "parallelism": {"pp": 4}}, "parallelism.pp=2", "execution.a2a_overlap=true"),
        ({"gpus": 4, "parallelism": {"pp": 4}}, "training.schedule=zb-h1", "training.schedule=1f1b"),
        (
            {"gpus": 4, "parallelism": {"pp": 4}, "training": {"schedule": "zb-h1"}},
            "parallelism.pp=2",
            "training.schedule=zb-h1",
        ),
        ({"device": {"peak": {"bf16": "1 TFLOP/s"}}}, "training.micro_batch=2", "training.precision=fp8"),
    ],
)
def test_what_already_is_so_is_not_offered(run: dict[str, Any], present: str, absent: str) -> None:
    found = levers(toy.run(**run))
    assert present in found
    assert absent not in found


def test_a_recipe_of_eight_bits_is_not_offered_another() -> None:
    device = {"device": "b200-sxm", "gpus": 8}
    run = toy.run(training={"precision": "mxfp8"}, hardware=device)
    assert "training.precision=fp8" not in levers(run)


def test_a_change_that_cannot_be_says_why_and_comes_last() -> None:
    found = list(levers(toy.run(gpus=8, training={"global_batch": 8})).values())
    assert found[-1].path == "training.micro_batch"
    assert [lever.feasible for lever in found] == [True] * (len(found) - 1) + [False]
    assert found[-1].reason == "global_batch 8 must be a multiple of dp x micro_batch = 8 x 2"
    assert found[-1].step_time_s.value == 0


def test_money_moves_with_the_step() -> None:
    run = toy.run(gpus=8, training={"tokens": 5120, "recompute": "full"}, economics={"gpu_hour": "3.6 USD/h"})
    result = simulate(run)
    lever = levers(run, result)["training.recompute=none"]
    assert lever.cost_usd is not None
    assert result.cost_usd is not None
    assert lever.cost_usd.value == pytest.approx(lever.step_time_s.value * 10 * 8 * 1e-3)  # ten steps of eight GPUs
    assert levers(toy.run(gpus=8))["hardware.device.peak=+10 %"].cost_usd is None


def test_levers_of_inference_act_on_a_decode_step() -> None:
    found = levers(toy.inference())
    memory = found["hardware.device.memory.bandwidth=+10 %"]
    assert memory.step_time_s.value < 0
    assert "inference.precision=fp8" in found


def test_levers_of_serving_are_a_narrow_cache_and_the_models_own_drafts() -> None:
    def asked(**work: Any) -> Run:
        return run_from_mapping(
            {
                "name": "asked",
                "kind": "inference",
                "model": "deepseek-v3",
                "hardware": {"device": "h200-sxm", "gpus": 8},
                "parallelism": {"tp": 8},
                "inference": {"isl": 500, "osl": 200, "concurrency": 8, "precision": "fp8", **work},
            }
        )

    found = levers(asked())
    drafts = found["inference.speculative={tokens: 1, acceptance: 0.85}"]
    assert drafts.step_time_s.value < 0
    assert found["inference.kv_cache_precision=fp8"].step_time_s.value < 0
    again = levers(asked(kv_cache_precision="fp8", speculative={"acceptance": 0.85}))
    assert not any("speculative" in lever or "kv_cache" in lever for lever in again)


def test_published_runs_like_this_one() -> None:
    run = toy.run(
        gpus=64,
        model="mixtral-8x7b",
        training={"global_batch": 256, "seq_len": 4096},
        parallelism={"ep": 8},
        hardware={"device": "h100-sxm", "gpus": 64},
    )
    found = nearest_precedents(run)
    assert len(found) == 8
    assert [p.distance for p in found] == sorted(p.distance for p in found)
    assert "h100-sxm" in found[0].name
    assert all(p.low < p.ratio < p.high for p in found)
    assert nearest_precedents(toy.inference()) == []
