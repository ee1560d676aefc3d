"""Options simulated again in full, and what would change the answer, on the toy machine."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import toy
from report_html import data_of
from test_plan_search import CHEAP, FAST, make

from simulator.answer import Answer
from simulator.planning import checks, sensitivity
from simulator.planning.plan import solve
from simulator.planning.space import run_of
from simulator.report import plan_grounds as grounds
from simulator.report.plan_page import render_plan
from simulator.simulation import simulate

SERVING: dict[str, Any] = {
    "name": "service",
    "kind": "serving",
    "model": toy.MODEL,
    "hardware": {"device": CHEAP, "gpus": 8, "gpus_per_node": 8, "network": toy.NETWORK},
    "inference": {"isl": 64, "osl": 32, "request_rate": 20},
    "serving": {"requests": 200, "ttft_slo": "1 s"},
    "framework": "vllm",
}


def service(**constraints: Any) -> Answer:
    plan = make(
        run=SERVING,
        vary={"hardware.device": [CHEAP, FAST], "inference.request_rate": [20, 2000]},
        splits={"tp": [1, 2], "pp": [1]},
        constraints=constraints,
        objectives=["money", "time"],
    )
    return solve(plan)


def test_what_the_answer_speaks_of_was_played_with_events() -> None:
    """The table then holds the event engine's figures, and what was not played can only be slower than it says."""
    answer = solve(make(constraints={"gpus": 8}))
    assert answer.settled
    played = {check.number: check for check in answer.checks}
    assert answer.best is not None
    assert {answer.best.number, *(option.number for option in answer.firsts)} <= set(played)
    assert {cost.best.number for cost in answer.costs} <= set(played)
    for number, check in played.items():
        assert check.how in ("certified", "events")
        assert check.longer >= -1e-12
        settings = {path: answer.table.at[number, path] for path in answer.axes}
        options = {o.number: o for o in (*answer.listed, *answer.firsts)}
        if number in options:
            settings = dict(options[number].settings)
            step = simulate(run_of(answer.base, settings), engine="auto").step_time_s
            assert step is not None
            assert answer.table.at[number, "step_time_s"] == pytest.approx(step.value, rel=1e-12)


def test_an_option_that_events_slow_down_no_longer_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    before = solve(make())
    assert before.best is not None
    second = before.ranked[1]
    honest = checks._stepped

    def slow(number: int, run: Any, table: pd.DataFrame) -> Any:
        check, figures = honest(number, run, table)
        if number == before.ranked[0]:
            return checks.Check(number, "events", 1.0), {"cost_usd": 2 * table.at[number, "cost_usd"]}
        return check, figures

    monkeypatch.setattr(checks, "_stepped", slow)
    after = solve(make())
    assert after.best is not None
    assert after.best.number == second
    assert second in {check.number for check in after.checks}
    assert "shared links add up to 100" in grounds.checked(after)


def test_the_checks_end_somewhere_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MOST_STEPS", 0)
    answer = solve(make())
    assert answer.checks == ()
    assert not answer.settled


def test_goodput_and_late_percentiles_are_simulated_request_by_request() -> None:
    answer = service(goodput=15, ttft_p99="2 s")
    best = answer.best
    assert best is not None
    assert {check.how for check in answer.checks} == {"requests"}
    assert set(answer.table.index) == {check.number for check in answer.checks}
    found = simulate(run_of(answer.base, best.settings)).serving
    assert found is not None
    assert found.goodput_requests_per_s is not None
    assert best.figures["goodput_requests_per_s"] == found.goodput_requests_per_s.model_copy(
        update={"basis": best.basis}
    )
    assert best.figures["ttft_p99_s"].value == found.ttft_s.p99.value <= 2
    assert best.figures["goodput_requests_per_s"].value >= 15
    assert "simulated request by request; others are not ranked." in grounds.checked(answer)
    limits = {limit["name"]: limit for limit in data_of(render_plan(answer, ""), "plan-data")["limits"]}
    assert limits["goodput"]["stops"][limits["goodput"]["start"]] == 15
    assert limits["ttft_p99"]["stops"][limits["ttft_p99"]["start"]] == 2


def test_a_service_that_cannot_be_says_what_has_to_give() -> None:
    answer = service(ttft_p99="1 us")
    assert answer.best is None
    (way,) = answer.relaxations
    assert way.limits[0].name == "ttft_p99"
    assert way.limits[0].value == answer.table["ttft_p99_s"].min() > 1e-6


def test_another_price_changes_the_machine_exactly_where_costs_cross() -> None:
    """The faster device costs 3 times the rent. Make its run barely dearer: a tenth off its rival's rent decides."""
    answer = solve(make(vary={"hardware.device": [CHEAP, FAST]}))
    costs = {option.device: option.figures["cost_usd"].value for option in answer.firsts}
    ratio = costs["fast"] / costs["cheap"]
    for factor, moves in ((1.05, True), (1.2, False)):  # how much dearer the fast device then is
        rents = {"cheap": "1 USD/h", "fast": f"{3 * factor / ratio} USD/h"}
        near = solve(make(vary={"hardware.device": [CHEAP, FAST]}, prices=rents))
        assert near.best is not None
        assert near.best.device == "cheap"
        (rent,) = [row for row in near.sensitivity if row.kind == "price"]
        assert rent.label == "rent of cheap"
        assert rent.lower is not None
        assert rent.higher is not None
        assert rent.lower.same
        assert rent.lower.figure == pytest.approx(0.9 * near.best.figures["cost_usd"].value)
        assert rent.higher.moved is moves
        assert rent.matters == ("machine" if moves else "nothing")
        assert rent.higher.option.device == ("fast" if moves else "cheap")
        assert ("rent of cheap were 10" in grounds.sensitive(near)) is moves


def test_hardware_is_simulated_again_and_other_devices_stay_as_they_are() -> None:
    answer = solve(make())
    best = answer.best
    assert best is not None
    rows = {row.label: row for row in answer.sensitivity if row.kind == "hardware"}
    assert set(rows) >= {"peak FLOP/s", "power limit", "HBM bandwidth", "memory", "scale-up bandwidth"}
    peak = rows["peak FLOP/s"]
    assert peak.lower is not None
    assert peak.higher is not None
    assert peak.higher.figure < best.figures["cost_usd"].value < peak.lower.figure
    # With 10 % less peak a step takes at most 1/0.9 of the time, and the answer no more than the next option.
    assert peak.lower.figure <= best.figures["cost_usd"].value / 0.9
    memory = rows["memory"]  # a tenth of a TiB matters to nobody here
    assert memory.matters == "nothing"
    assert memory.lower is not None
    assert memory.lower.figure == pytest.approx(best.figures["cost_usd"].value)


def test_a_kind_of_operator_that_is_slower_than_thought_moves_all_options_by_its_share() -> None:
    answer = solve(make(vary={"hardware.gpus": [8]}, splits={"tp": [1], "pp": [1], "ep": [1, 8]}))
    best = answer.best
    assert best is not None
    row = next(row for row in answer.sensitivity if row.label == "expert")
    share = best.seconds["expert"] / sum(best.seconds.values())
    assert row.higher is not None
    assert row.higher.same
    assert row.higher.figure == pytest.approx(best.figures["cost_usd"].value * (1 + row.change * share))
    assert {each.label for each in answer.sensitivity if each.kind == "model"} <= set(sensitivity._ERRING)
