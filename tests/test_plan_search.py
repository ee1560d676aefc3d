"""The space of a plan and its answer, on the toy machine."""

from __future__ import annotations

from typing import Any

import pytest
import toy

from simulator.errors import InfeasibleError, SpecError
from simulator.planning.bounds import least_days
from simulator.planning.plan import solve
from simulator.planning.run_file import run_file
from simulator.planning.space import build_space, run_of
from simulator.simulation import simulate
from simulator.spec.base import parse_document
from simulator.spec.plan import Plan
from simulator.spec.run import build_run, run_from_mapping

CHEAP = {**toy.DEVICE, "name": "cheap"}
FAST = {**toy.DEVICE, "name": "fast", "peak": dict.fromkeys(toy.DEVICE["peak"], "4 TFLOP/s")}
RUN: dict[str, Any] = {
    "name": "toy",
    "kind": "training",
    "model": toy.MOE_MODEL,
    "hardware": {"device": CHEAP, "gpus": 8, "gpus_per_node": 8, "network": toy.NETWORK},
    "training": {**toy.TRAINING, "global_batch": 32, "tokens": 1e12},
}


def make(**changes: Any) -> Plan:
    given: dict[str, Any] = {
        "name": "toy plan",
        "run": RUN,
        "prices": {"cheap": "1 USD/h", "fast": "3 USD/h"},
        "vary": {"hardware.device": [CHEAP, FAST], "hardware.gpus": [8, 16]},
        "splits": {"tp": [1, 2], "pp": [1, 2], "ep": [1, 2, 8]},
        "constraints": {},
    }
    return Plan.model_validate(given | changes)


def test_the_space_holds_every_combination_with_its_splits_and_its_rent() -> None:
    space = build_space(make())
    assert list(space.axes) == ["hardware.device", "hardware.gpus", "parallelism", "economics.gpu_hour"]
    assert space.combinations == 4
    assert not len(space.ruled_out)
    grid = space.grid()
    runs = [grid.run(tuple(place)) for place in space.points.tolist()]
    prices = {(run.hardware.device.name, round(run.economics.gpu_hour * 3600, 6)) for run in runs}  # type: ignore[union-attr, operator]
    assert prices == {("cheap", 1.0), ("fast", 3.0)}
    keys = [(run.hardware.device.name, run.hardware.gpus, str(run.parallelism)) for run in runs]  # type: ignore[union-attr]
    assert len(keys) == len(set(keys))


def test_bounds_rule_out_what_no_split_can_save() -> None:
    run = run_from_mapping(RUN)
    days = least_days(run)
    assert days is not None
    # 3 x tokens x FLOPs over 8 GPUs of 1 TFLOP/s; twice the GPUs halve it, the four times faster chip quarters it.
    wide = build_space(make(constraints={"deadline": f"{days * 0.55} d"}))
    grid = wide.grid()
    kept = {(grid.run(tuple(p)).hardware.device.name, grid.run(tuple(p)).hardware.gpus) for p in wide.points.tolist()}  # type: ignore[union-attr]
    assert kept == {("cheap", 16), ("fast", 8), ("fast", 16)}
    assert len(wide.ruled_out)


def test_a_space_too_large_is_refused_before_anything_is_made() -> None:
    values = list(range(8, 8 * 1200, 8))
    plan = make(vary={"hardware.gpus": values, "training.global_batch": values}, prices=None, objectives="time")
    with pytest.raises(SpecError, match="the plan has 1,437,601 combinations before any is split; narrow it, have a"):
        build_space(plan)


def test_a_space_with_no_point_says_why() -> None:
    plan = make(vary={"hardware.gpus": [12]}, prices=None, objectives="time")
    with pytest.raises(SpecError, match=r"none of 1 combinations can be. 1 of them: hardware: gpus \(12\) must be a"):
        build_space(plan)


def test_the_answer_is_the_cheapest_run_of_all() -> None:
    answer = solve(make())
    assert answer.best is not None
    assert answer.best.figures["cost_usd"].value == answer.table["cost_usd"].min()
    assert answer.steps[0] == ("Combinations of what varies", 4)
    assert dict(answer.steps)["Timed"] == len(answer.table) == len(answer.ranked)
    assert answer.front[0] == answer.best.number
    # Its run alone gives the same figures, from its settings and from its run file.
    for run in (run_of(answer.base, answer.best.settings),
                build_run(parse_document(run_file("p", answer.base, answer.best)))):  # fmt: skip
        result = simulate(run, engine="auto")
        assert result.cost_usd is not None
        assert result.cost_usd.value == pytest.approx(answer.best.figures["cost_usd"].value, rel=1e-12)
        assert sum(answer.best.seconds.values()) == pytest.approx(answer.best.figures["step_time_s"].value, rel=1e-9)


def test_power_is_energy_over_time_and_free_memory_what_is_left() -> None:
    best = solve(make()).best
    assert best is not None
    of = {key: number.value for key, number in best.figures.items()}
    assert of["power_w"] == pytest.approx(of["energy_total_j"] / (of["days"] * 86400))
    assert of["headroom_gib"] + of["peak_memory_gib"] == pytest.approx(1024)
    assert of["cost_usd"] == pytest.approx(of["days"] * 24 * best.gpus * {"cheap": 1, "fast": 3}[best.device])


def test_a_limit_costs_what_the_answer_without_it_saves() -> None:
    free = solve(make())
    assert free.best is not None
    days = free.best.figures["days"].value
    # A deadline just short of the best point's days, which a tenth more would hold.
    tight = solve(make(constraints={"deadline": f"{days * 0.95} d"}))
    assert tight.best is not None
    (cost,) = tight.costs
    assert cost.binds
    assert cost.best.number == free.best.number
    gap = tight.best.figures["cost_usd"].value - free.best.figures["cost_usd"].value
    assert cost.saving == pytest.approx(gap)
    assert gap > 0


def test_impossible_limits_name_what_has_to_give() -> None:
    free = solve(make(objectives=["time"]))
    assert free.best is not None
    shortest = free.best.figures["days"].value
    answer = solve(make(constraints={"deadline": f"{shortest / 3} d"}))
    assert answer.best is None
    (way,) = answer.relaxations
    assert way.limits[0].name == "deadline"
    assert way.limits[0].value == pytest.approx(shortest)
    assert [limit.name for limit in answer.conflicts[0]] == ["deadline"]


def test_nothing_fits_says_what_is_nearest() -> None:
    small = {**CHEAP, "memory": {"capacity": "1 GiB", "bandwidth": "1 TB/s"}}
    plan = make(
        vary={"hardware.device": [small]}, splits={"tp": [1], "pp": [1], "ep": [1]}, prices={"cheap": "1 USD/h"}
    )
    with pytest.raises(
        InfeasibleError, match=r"none of 1 points fits; the nearest: .*the fullest GPU needs .* of 1.0 GiB"
    ):
        solve(plan)
