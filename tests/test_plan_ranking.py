"""Ranking by hand: limits, ends of intervals, fronts, ties, and what would have to give."""

from __future__ import annotations

import pandas as pd
import pytest

from simulator.answer import Limit, PairErrors
from simulator.planning import ranking
from simulator.planning.pair_errors import pair_errors

ERRORS = PairErrors(same_device=0.05, other_device=0.2, same_pairs=1, other_pairs=1)
KEYS = ("cost_usd", "days")
# Point: days, cost, free GiB, device. The interval of days and cost is a factor of 1.1, that of memory 2 GiB.
POINTS = {
    10: (10.0, 400.0, 8.0, "a"),
    11: (20.0, 300.0, 1.0, "a"),
    12: (20.0, 310.0, 20.0, "a"),
    13: (40.0, 290.0, 30.0, "b"),
    14: (15.0, 500.0, 9.0, "b"),
}


@pytest.fixture
def table() -> pd.DataFrame:
    rows = {}
    for number, (days, cost, free, device) in POINTS.items():
        row: dict[str, object] = {"option.device": device, "option.model": "m"}
        for key, value in (("days", days), ("cost_usd", cost)):
            row |= {key: value, f"{key}.low": value / 1.1, f"{key}.high": value * 1.1}
        rows[number] = row | {"headroom_gib": free, "headroom_gib.low": free - 2, "headroom_gib.high": free + 2}
    return pd.DataFrame.from_dict(rows, orient="index")


def deadline(days: float) -> Limit:
    return Limit("deadline", "days", days)


def budget(usd: float) -> Limit:
    return Limit("budget", "cost_usd", usd)


def headroom(gib: float) -> Limit:
    return Limit("memory_headroom", "headroom_gib", gib)


def ranked(table: pd.DataFrame, *limits: Limit, end: str = "value") -> list[int]:
    return ranking.ranked(table, ranking.keeps(table, limits, end), KEYS, end)  # type: ignore[arg-type]


def test_the_cheapest_that_keeps_all_limits_comes_first(table: pd.DataFrame) -> None:
    assert ranked(table) == [13, 11, 12, 10, 14]
    assert ranked(table, deadline(20)) == [11, 12, 10, 14]
    assert ranked(table, deadline(20), headroom(2)) == [12, 10, 14]
    assert ranked(table, deadline(20), headroom(2), budget(310)) == [12]


def test_the_pessimist_wants_the_bad_end_within_the_limits(table: pd.DataFrame) -> None:
    # 20 days may be 22; 20 GiB free may be 18.
    assert ranked(table, deadline(21), end="pessimistic") == [10, 14]
    assert ranked(table, deadline(19), end="optimistic") == [11, 12, 10, 14]
    assert ranked(table, headroom(19), end="pessimistic") == [13]
    assert ranked(table, headroom(22), end="optimistic") == [13, 12]


def test_equal_points_stay_in_the_order_of_the_search(table: pd.DataFrame) -> None:
    table.loc[12] = table.loc[11]
    assert ranked(table, deadline(20))[:2] == [11, 12]


def test_the_front_holds_what_nothing_beats(table: pd.DataFrame) -> None:
    mask = ranking.keeps(table, [], "value")
    assert ranking.front(table, mask, KEYS, "value") == [13, 11, 10]
    # Free memory as a third objective, more is better: 12 is beaten in neither, 14 by 10 in all but memory.
    assert ranking.front(table, mask, (*KEYS, "headroom_gib"), "value") == [13, 11, 12, 10, 14]


def test_points_are_tied_within_the_error_of_their_ratio(table: pd.DataFrame) -> None:
    # log(310/300) = 0.033 and log(400/300) = 0.288 against 1.645 x 0.05 = 0.082 on the same device, 0.329 on another,
    # which holds log(300/290) but not log(500/300) = 0.51.
    assert ranking.tied(table, [11, 12, 10, 14], "cost_usd", ERRORS) == [12]
    assert ranking.tied(table, [13, 11, 12, 10, 14], "cost_usd", ERRORS) == [11, 12, 10]
    assert ranking.tied(table, [], "cost_usd", ERRORS) == []


def test_another_model_counts_as_another_device(table: pd.DataFrame) -> None:
    table.loc[10, "option.model"] = "n"
    assert ranking.tied(table, [11, 12, 10, 14], "cost_usd", ERRORS) == [12, 10]


def test_the_least_relaxation_of_each_single_limit(table: pd.DataFrame) -> None:
    limits = [deadline(20), budget(295)]
    found = ranking.least_relaxations(table, limits, KEYS, "value")
    # Within 295 USD there is only 40 days; within 20 days the cheapest is 300 USD.
    assert found == [((deadline(40),), 13), ((budget(300),), 11)]
    assert ranking.conflicts(table, limits, "value") == [tuple(limits)]


def test_several_limits_give_together_where_no_single_one_does(table: pd.DataFrame) -> None:
    limits = [deadline(9), budget(280), headroom(25)]
    # Point 13 strains the deadline by 40/9; 12 by 20/9 and memory by 5/25; 10 by 10/9, 400/280 and (25 - 8)/25 = 0.68:
    # 12 log(20/9) = 0.80, 10 max(0.105, 0.357, 0.68) = 0.68, 14 max(0.51, 0.58, 0.64) = 0.64.
    ((needed, number),) = ranking.least_relaxations(table, limits, KEYS, "value")
    assert number == 14
    assert needed == (deadline(15), budget(500), headroom(9))
    assert ranking.conflicts(table, limits, "value") == [(deadline(9),), (budget(280),)]


def test_limits_ease_to_their_own_side() -> None:
    assert deadline(30).relaxed(1.1).value == pytest.approx(33)
    assert headroom(4.4).relaxed(1.1).value == pytest.approx(4)


def test_published_runs_say_how_wrong_a_comparison_is() -> None:
    errors = pair_errors()
    assert errors.same_pairs > 100
    assert errors.other_pairs > 50
    # Two runs on one device share more than two on different ones, and both share something.
    assert 0.01 < errors.same_device < errors.other_device < 0.3
