"""Results side by side, and the points of a sweep."""

from __future__ import annotations

import pandas as pd
import pytest
import report_samples as samples
from report_html import Page, data_of

from simulator.report.compare_page import render_compare
from simulator.report.compare_tables import difference
from simulator.report.metrics import METRICS
from simulator.report.sweep_data import front, ranked, read
from simulator.report.sweep_page import render_sweep
from simulator.result import Number


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_the_interval_of_a_difference_adds_in_squares() -> None:
    a = Number(value=10, low=7, high=14, basis="measured")
    b = Number(value=5, low=1, high=8, basis="measured")
    gap = difference(a, b)
    # Down: 3 and 3; up: 4 and 4.
    assert gap.value == 5
    assert gap.low == pytest.approx(5 - (9 + 9) ** 0.5)
    assert gap.high == pytest.approx(5 + (16 + 16) ** 0.5)


def sure(days: float, dollars: float, name: str) -> object:
    result = samples.training(name=name)
    return result.model_copy(update={"days": samples.near(days, 0.01), "cost_usd": samples.near(dollars, 0.01)})


def test_a_clear_winner_is_named_once() -> None:
    page = Page(render_compare([sure(60, 270e3, "slow"), sure(40, 180e3, "quick")]))  # type: ignore[list-item]
    assert plain(page.findings[0]) == (
        "quick is the fastest and the cheapest: 40.0 days against 60.0 days and $180,000 against $270,000 for slow."
    )
    assert page.unclosed == []


def test_two_winners_get_a_sentence_each() -> None:
    page = Page(render_compare([sure(60, 100e3, "cheap"), sure(40, 180e3, "quick")]))  # type: ignore[list-item]
    assert plain(page.findings[0]) == (
        "quick is the fastest: 40.0 days against 60.0 days for cheap. "
        "cheap is the cheapest: $100,000 against $180,000 for quick."
    )


def test_runs_that_differ_by_less_than_their_error_cannot_be_told_apart() -> None:
    page = Page(render_compare([samples.training(), samples.training(stages=2, name="two stages")]))
    assert plain(page.findings[0]) == (
        "two stages and mixtral-8x7b-64xh100 can't be told apart as the fastest and the cheapest: "
        "44.1 days against 46.7 days and $200,000 against $212,000."
    )
    assert "parallelism.pp" in page.text["settings"]
    assert "parallelism.tp" not in page.text["settings"]


def test_an_infeasible_run_is_said_to_be_and_does_not_count() -> None:
    page = Page(render_compare([samples.training(), samples.infeasible()]))
    assert page.findings[0] == "Only mixtral-8x7b-64xh100 is feasible; there is nothing to compare it with."
    assert "needs 91.2 of 80" in plain(page.text["verdict"])
    assert Page(render_compare([samples.infeasible()])).findings[0] == "None of these runs is feasible."


def test_runs_of_one_name_are_numbered() -> None:
    page = Page(render_compare([samples.training(), samples.training()]))
    assert "mixtral-8x7b-64xh100 (1)" in page.text["figures"]
    assert "mixtral-8x7b-64xh100 (2)" in page.text["figures"]


def test_kinds_of_work_can_be_mixed_and_names_are_never_markup() -> None:
    html = render_compare([samples.hostile(), samples.inference(), samples.one_gpu()])
    assert "<script>alert" not in html
    assert Page(html).unclosed == []
    assert html == render_compare([samples.hostile(), samples.inference(), samples.one_gpu()])


def test_nothing_is_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="nothing to compare: give at least one result"):
        render_compare([])


def sweep() -> pd.DataFrame:
    """Five points: (step time, cost); the second and the third are the front, one does not fit, one does not divide."""
    rows = [(4, 1, 3.0, 9.0), (4, 2, 2.0, 5.0), (8, 1, 1.0, 6.0), (8, 2, 2.5, 7.0)]
    table = [
        {
            "model": "toy",
            "hardware.gpus": gpus,
            "parallelism.tp": tp,
            "step_time_s": step,
            "step_time_s.low": 0.99 * step,
            "step_time_s.high": 1.01 * step,
            "cost_usd": cost,
            "cost_usd.low": 0.99 * cost,
            "cost_usd.high": 1.01 * cost,
            "memory_gib.parameters": 10.0,
            "status": "ok",
            "reason": None,
        }
        for gpus, tp, step, cost in rows
    ]
    for gpus, reason in ((4, "needs 91.2 of 80 GiB"), (8, "needs 85 of 80 GiB")):
        table.append(
            {"model": "toy", "hardware.gpus": gpus, "parallelism.tp": 4, "status": "infeasible", "reason": reason}
        )
    return pd.DataFrame(table)


def test_axes_metrics_and_constants_are_told_apart() -> None:
    data = read(sweep())
    assert data.axes == ("hardware.gpus", "parallelism.tp")
    assert data.fixed == (("model", "toy"),)
    assert [metric.key for metric in data.metrics] == ["step_time_s", "cost_usd"]
    assert len(data.points) == 4


def test_the_front_is_what_nothing_beats_in_both() -> None:
    data = read(sweep())
    edge = front(data.points, METRICS["step_time_s"], METRICS["cost_usd"])
    assert [point.settings for point in edge] == [("8", "1"), ("4", "2")]
    assert ranked(data.points, METRICS["cost_usd"])[0].settings == ("4", "2")


def test_more_is_better_for_throughput() -> None:
    frame = sweep().assign(**{"tokens_per_s": [10.0, 30.0, 20.0, 5.0, None, None]})
    data = read(frame)
    assert ranked(data.points, METRICS["tokens_per_s"])[0].settings == ("4", "2")


def test_the_answer_of_a_sweep_is_a_sentence() -> None:
    page = Page(render_sweep(sweep(), title="Toy"))
    assert plain(page.findings[0]) == (
        "Gpus 4, tp 2 has the lowest cost of 4 feasible points: $5.00, at 2.00 s step time."
    )
    assert "It is ahead of all others by more than the error of the difference." in page.text["verdict"]
    assert page.findings[1] == "2 points are not beaten by any other in both step time and cost."
    assert page.unclosed == []


def test_infeasible_points_are_grouped_by_reason() -> None:
    data = read(sweep())
    assert [(group.count, group.reason, group.shared) for group in data.refusals] == [
        (2, "needs 91.2 of 80 GiB", "parallelism.tp: 4")
    ]
    assert "2 of 6 points are infeasible, all for one reason." in Page(render_sweep(sweep())).text["refused"]


def test_a_sweep_with_nothing_feasible_still_says_why() -> None:
    page = Page(render_sweep(sweep().iloc[4:]))
    assert page.findings[0] == "None of the 2 points is feasible."
    assert "needs 91.2 of 80 GiB" in page.text["refused"]


def test_a_table_without_a_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="the table of a sweep holds no metric to rank its points by"):
        render_sweep(pd.DataFrame({"parallelism.tp": [1, 2], "status": ["ok", "ok"]}))


def test_settings_are_never_markup_and_the_page_repeats() -> None:
    frame = sweep().assign(model=["<script>alert(1)</script>", *["b"] * 5])
    html = render_sweep(frame, title="<b>bold</b>")
    assert "<script>alert" not in html
    assert "<b>bold" not in html
    assert html == render_sweep(frame, title="<b>bold</b>")
    assert data_of(html, "sweep-data")["values"][0][0] == "<script>alert(1)</script>"


def test_days_of_different_amounts_of_work_are_not_compared() -> None:
    short = samples.training(name="short", summary=samples.summary(tokens=1e9))
    quick = short.model_copy(update={"days": samples.near(0.02), "cost_usd": samples.near(90)})
    page = Page(render_compare([samples.training(), quick]))
    assert plain(page.findings[0]) == (
        "mixtral-8x7b-64xh100 and short can't be told apart as the fastest: 495 k tokens/s against 495 k tokens/s."
    )
    assert "Time for all tokens" in page.text["figures"]
