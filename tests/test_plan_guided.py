"""Searches of a part of a space: the same with the same seed, resumed as if never interrupted, and what they prove."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest
from test_plan_search import CHEAP, FAST, make

from simulator.answer import Proof
from simulator.errors import SpecError
from simulator.planning import guided, proof
from simulator.planning.bounds import least
from simulator.planning.plan import solve
from simulator.planning.proof import prove
from simulator.planning.question import question_of
from simulator.planning.space import Combinations, build_space
from simulator.report import plan_grounds as grounds
from simulator.shards.store import open_store
from simulator.shards.work import Progress
from simulator.spec.plan import Plan

# 2 devices x 8 clusters x 2 micro-batches x 3 recomputes x 3 shardings = 288 combinations.
WIDE: dict[str, Any] = {
    "hardware.device": [CHEAP, FAST],
    "hardware.gpus": {"from": 8, "to": 64, "step": 8},
    "training.micro_batch": [1, 2],
    "training.recompute": ["none", "selective", "full"],
    "training.sharding": ["none", "zero1", "zero3"],
}


def wide(points: int, seed: int = 0, **changes: Any) -> Plan:
    return make(
        vary=WIDE, splits={"tp": [1, 2], "pp": [1], "ep": [1, 8]}, search={"points": points, "seed": seed}, **changes
    )


@pytest.fixture(autouse=True)
def small_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided, "GENERATION", 10)


def test_a_part_of_the_space_is_timed_and_the_rest_is_bounded() -> None:
    plan = wide(200)
    answer, whole = solve(plan), solve(plan, force=True)
    assert answer.proof is not None
    assert whole.proof is None
    assert answer.best is not None
    assert whole.best is not None
    steps = dict(answer.steps)
    assert steps["Combinations of what varies"] == answer.proof.combinations == 288
    assert 150 < steps["Timed"] < len(whole.table)
    assert answer.proof.left == 288 - steps["Combinations looked at"] > 0
    best, optimum = answer.best.figures["cost_usd"].value, whole.best.figures["cost_usd"].value
    assert answer.proof.bound is not None
    assert answer.proof.bound <= optimum <= best <= 1.05 * optimum
    assert grounds.proved(answer).startswith(
        f"{answer.proof.left} of 288 combinations were left out; none of them has a cost"
    )


def found(plan: Plan, folder: Path, *, resume: bool = False, progress: Progress | None = None) -> guided.Found:
    store = open_store(folder, {}, resume=resume)
    return guided.guided_search(plan, question_of(plan, Combinations(plan).base), store=store, progress=progress)


def test_the_same_seed_finds_the_same_points(tmp_path: Path) -> None:
    first, again, other = (found(wide(100, seed), tmp_path / str(n)) for n, seed in enumerate((0, 0, 1)))
    assert first.tried == again.tried
    assert first.points == again.points >= 100
    assert first.tried.keys() != other.tried.keys()


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    alone, folder = found(wide(150), tmp_path / "alone"), tmp_path / "cut"

    def stop(done: int, total: int) -> None:
        if done > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found(wide(150), folder, progress=stop)
    kept = {file.name: file.stat().st_mtime_ns for file in (folder / "points").glob("*.parquet")}
    again = found(wide(150), folder, resume=True)
    assert again.tried == alone.tried
    assert again.names == alone.names
    assert 0 < len(kept) < len(again.names)
    assert all((folder / "points" / name).stat().st_mtime_ns == when for name, when in kept.items())


def test_a_small_space_is_searched_to_its_end() -> None:
    plan = make(search={"points": 1000})
    answer, whole = solve(plan), solve(plan, force=True)
    assert answer.proof == Proof(4, 0, inf)
    assert len(answer.table) == len(whole.table)
    assert grounds.proved(answer) == "Every combination was looked at."


def test_the_bound_of_what_is_left_is_the_least_of_its_groups() -> None:
    """Cost at the peak: 1 USD/h for 1 TFLOP/s against 3 USD/h for 4, whatever the number of GPUs."""
    plan = wide(1)
    runs = Combinations(plan)
    places = [(d, g, m, r, s) for d in range(2) for g in range(8) for m in range(2) for r in range(3) for s in range(3)]
    costs = [least(runs.run(place), "cost_usd") for place in ((0, 0, 0, 0, 0), (0, 7, 0, 0, 0), (1, 3, 0, 0, 0))]  # type: ignore[arg-type]
    assert costs[0] == pytest.approx(costs[1])
    assert costs[2] == pytest.approx(0.75 * costs[0])  # type: ignore[operator]
    assert prove(plan, "cost_usd", places[:144]).bound == pytest.approx(costs[2])
    assert prove(plan, "cost_usd", places[144:]).bound == pytest.approx(costs[0])  # all of the faster one was looked at
    assert prove(plan, "cost_usd", places) == Proof(288, 0, inf)
    assert prove(plan, "gpus", places[:1]).bound == 8
    assert prove(plan, "carbon_kg", places[:1]).bound is None


def test_what_breaks_a_limit_by_its_bound_needs_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = wide(1, constraints={"gpus": 8})
    eights = [(d, 0, m, r, s) for d in range(2) for m in range(2) for r in range(3) for s in range(3)]
    assert prove(plan, "cost_usd", eights) == Proof(288, 252, inf)
    monkeypatch.setattr(proof, "MOST_BOUNDS", 15)
    assert prove(plan, "cost_usd", eights) == Proof(288, 252, None)


def test_a_space_beyond_the_limit_names_the_ways_out() -> None:
    plan = make(vary={"hardware.gpus": list(range(8, 9600, 8)), "training.global_batch": list(range(8, 9600, 8))},
                prices=None, objectives="time")  # fmt: skip
    with pytest.raises(SpecError) as error:
        build_space(plan)
    ways = "narrow it, have a part of it searched (search: {points: 50000}), or force it"
    assert str(error.value) == f"vary: the plan has 1,437,601 combinations before any is split; {ways}"
    some = plan.model_copy(update={"search": wide(60).search})
    told: list[str] = []
    answer = solve(some, announce=told.append)
    assert told == ["1,437,601 combinations; 60 points are searched, seed 0."]
    assert answer.best is not None


def test_where_nothing_can_be_the_reason_is_said() -> None:
    plan = make(vary={"hardware.gpus": [12, 20]}, prices=None, objectives="time", search={"points": 10})
    with pytest.raises(SpecError, match=r"none of 2 combinations tried can be. 1 of them: hardware: gpus \(20\) must"):
        solve(plan)


def test_strained_combinations_are_worth_less_than_any_that_keeps_the_limits(tmp_path: Path) -> None:
    plan = wide(150, constraints={"gpus": 24})
    broken = {place: outcome[1] for place, outcome in found(plan, tmp_path).tried.items()}
    assert all((strain == 0) == (place[1] < 3) for place, strain in broken.items() if strain < inf)
    assert min(broken.values()) == 0
