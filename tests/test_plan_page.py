"""The page of a plan and its command: sentences, sliders that re-rank offline, run files that run, a search killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from conftest import Outcome
from report_html import Page, data_of
from test_report_browser import SMALL_TEXT, TOUCHING, Browser

from simulator.answer import Answer
from simulator.planning.plan import solve
from simulator.planning.run_file import run_file
from simulator.report import plan_words as words
from simulator.report.plan_page import render_plan
from simulator.simulation import simulate
from simulator.spec.base import data_root, parse_document
from simulator.spec.plan import read_plan
from simulator.spec.run import build_run

PLAN = """name: small
title: A <small> plan
run: mixtral-8x7b-64xh100
prices: {h100-sxm: 2.95 USD/h, b200-sxm: 5.50 USD/h}
vary:
  hardware.device: [h100-sxm, b200-sxm]
  hardware.gpus: [64, 128, 256]
splits: {tp: [1, 2], vpp: [1, 2]}
constraints: {deadline: 60 days, budget: 450000 USD, memory_headroom: 4 GiB}
"""
SERVING = """name: serving
run: mixtral-8x7b-inference-2xh100
vary: {inference.concurrency: [8, 64], hardware.gpus: [2, 4]}
splits: {pp: [1]}
constraints: {tpot: 20 ms}
objectives: [money, time]
"""


@cache
def answer_of(text: str, *changes: str) -> Answer:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.yaml"
        file.write_text(text, encoding="utf-8")
        return solve(read_plan(file, changes))


@cache
def html_of(text: str, *changes: str) -> str:
    answer = answer_of(text, *changes)
    return render_plan(answer, run_file(answer.name, answer.base, answer.best) if answer.best else "")


def test_the_page_is_well_formed_and_escapes_names() -> None:
    page = Page(html_of(PLAN))
    assert page.unclosed == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.anchors) <= set(page.ids)
    assert "A <small> plan" in page.text["verdict"]
    assert "<small> plan" not in html_of(PLAN)


def test_sentences_name_the_machine_the_time_and_the_money() -> None:
    answer = answer_of(PLAN)
    best = answer.best
    assert best is not None
    verdict = words.verdict(answer)
    cost = words.figure("cost_usd", best.figures["cost_usd"].value)
    assert verdict.startswith(f"Rent {best.gpus} {best.device}: 2\u00a0trillion tokens take about ")
    assert verdict.endswith(f"days and cost about {cost}.")
    assert Page(html_of(PLAN)).findings[0] == verdict


def test_an_answer_for_requests_speaks_of_tokens() -> None:
    verdict = words.verdict(answer_of(SERVING))
    assert verdict.startswith("Rent ")
    assert " a token takes " in verdict
    assert " and a million output tokens cost $" in verdict


def test_impossible_limits_are_said_with_the_way_out() -> None:
    answer = answer_of(PLAN, "constraints={deadline: 1 d, budget: 100000 USD}")
    assert words.verdict(answer) == ("Nothing keeps all limits: a deadline of 1\u00a0day can't be kept by any point.")
    assert words.way_out(answer).startswith("No single change is enough. The mildest change of several: a deadline of ")
    assert (
        "Nothing keeps all limits"
        in Page(html_of(PLAN, "constraints={deadline: 1 d, budget: 100000 USD}")).text["verdict"]
    )


def test_the_page_holds_every_point_with_its_figures() -> None:
    answer, data = answer_of(PLAN), data_of(html_of(PLAN), "plan-data")
    assert data["numbers"] == answer.table.index.tolist()
    for key in ("days", "cost_usd"):
        assert data["figures"][key]["value"] == pytest.approx(answer.table[key].tolist(), rel=1e-4)
        high = [v * f for v, f in zip(data["figures"][key]["value"], data["figures"][key]["factor"], strict=True)]
        assert high == pytest.approx(answer.table[f"{key}.high"].tolist(), rel=1e-3)
    limits = {limit["name"]: limit for limit in data["limits"]}
    assert limits["deadline"]["stops"][limits["deadline"]["start"]] == 60
    assert limits["gpus"]["stops"] == [64, 128, 256]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("plans"))
    yield opened
    opened.driver.quit()


SLIDE = """
var slider = document.getElementById('limit-' + arguments[0]);
slider.value = arguments[1];
slider.dispatchEvent(new Event('input', {bubbles: true}));
"""


def texts(browser: Browser, selector: str) -> list[str]:
    """The text of every element of a selector."""
    script = "return [].map.call(document.querySelectorAll(arguments[0]), box => box.textContent)"
    return list(browser.driver.execute_script(script, selector))


def front(browser: Browser) -> list[int]:
    """The numbers of the points that are drawn as the front."""
    return list(browser.run("return [].map.call(document.querySelectorAll('[data-front]'), m => +m.dataset.front)"))


def slide(browser: Browser, name: str, stop: int) -> None:
    data = data_of(html_of(PLAN), "plan-data")
    number = [limit["name"] for limit in data["limits"]].index(name)
    browser.driver.execute_script(SLIDE, number, stop)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("text", [PLAN, SERVING], ids=["training", "serving"])
def test_the_page_is_quiet_and_fits(browser: Browser, text: str, width: int) -> None:
    browser.show(html_of(text), f"plan-{width}", width)
    assert browser.driver.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(SMALL_TEXT) == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0


def test_the_page_opens_on_the_plan_s_own_answer(browser: Browser) -> None:
    answer = answer_of(PLAN)
    assert answer.best is not None
    browser.show(html_of(PLAN), "plan")
    assert browser.text("#explore-finding").startswith(f"{len(answer.ranked)} of {len(answer.table)} points keep the")
    assert browser.text("#run-file") == run_file(answer.name, answer.base, answer.best)
    rows = texts(browser, "#ranked tbody tr button")
    assert rows == [words.machine(option) for option in answer.listed]
    marked = [text for text in texts(browser, "#ranked tbody td:first-child") if "≈" in text]
    assert len(marked) == sum(option.number in answer.tied for option in answer.listed)
    assert sorted(front(browser)) == sorted(answer.front)


def test_a_slider_moved_gives_the_answer_of_that_limit(browser: Browser) -> None:
    browser.show(html_of(PLAN), "plan")
    before = front(browser)
    stops = next(x for x in data_of(html_of(PLAN), "plan-data")["limits"] if x["name"] == "deadline")["stops"]
    days = next(stop for stop in stops if stop > 30)
    slide(browser, "deadline", stops.index(days))
    again = answer_of(PLAN, f"constraints.deadline={days} d")
    assert again.best is not None
    assert browser.text("#explore-finding").startswith(f"{len(again.ranked)} of ")
    assert browser.text("#run-file") == run_file(again.name, again.base, again.best)
    after = front(browser)
    assert after != before
    assert sorted(after) == sorted(again.front)


def test_the_pessimist_and_the_choices_are_those_of_the_program(browser: Browser) -> None:
    browser.show(html_of(PLAN), "plan")
    browser.click("[name=end][value=pessimistic]")
    answer = answer_of(PLAN, "decide_on=pessimistic")
    assert browser.text("#explore-finding").startswith(f"{len(answer.ranked)} of ")
    browser.click("[name=end][value=value]")
    browser.click("[data-axis='hardware.device'][value='0']")
    best = answer_of(PLAN).firsts
    other = next(option for option in best if option.device == "b200-sxm")
    assert browser.text("#chosen-name").startswith(words.machine(other))


def test_a_chosen_point_shows_its_breakdown_and_its_run_file_runs(browser: Browser, tmp_path: Path) -> None:
    browser.show(html_of(PLAN), "plan")
    browser.click("#ranked tbody tr:nth-child(3) button")
    assert browser.run("return document.activeElement.textContent") == words.machine(answer_of(PLAN).listed[2])
    assert "Expert GEMMs" in browser.text("#chosen-time ul")
    third = answer_of(PLAN).listed[2]
    played = any(check.number == third.number for check in answer_of(PLAN).checks)
    run = build_run(parse_document(browser.text("#run-file")))
    result = simulate(run, engine="auto" if played else "fast")
    assert result.cost_usd is not None
    assert result.cost_usd.value == pytest.approx(third.figures["cost_usd"].value, rel=1e-9)
    for old in browser.folder.glob("*.yaml"):
        old.unlink()
    browser.click("[data-save]")
    end = time.monotonic() + 10
    while not (found := list(browser.folder.glob("small*.yaml"))) and time.monotonic() < end:
        time.sleep(0.05)
    assert found[0].read_text(encoding="utf-8") == browser.text("#run-file")


def test_nothing_within_the_limits_names_each_way_out(browser: Browser) -> None:
    browser.show(html_of(PLAN), "plan")
    slide(browser, "budget", 0)
    slide(browser, "deadline", 0)
    finding = browser.text("#explore-finding")
    assert finding.startswith("Nothing keeps all limits. Any one of these would do: deadline ")
    assert "; budget $" in finding
    assert browser.text("#run-file") == ""


def test_dark_and_printed_pages_have_no_touching_labels(browser: Browser) -> None:
    browser.show(html_of(PLAN), "plan-dark", 1280, dark=True)
    assert browser.run(TOUCHING) == []


def test_the_command_writes_report_points_and_run(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    done = moesim("plan", "plan.yaml", "--out", "out")
    assert done.code == 0
    answer = answer_of(PLAN)
    assert done.out.startswith(words.verdict(answer))
    steps = dict(answer.steps)
    assert done.err == f"{steps['Legal points, splits included']:,} legal points in 6 combinations.\n"
    assert (tmp_path / "out" / "best.yaml").is_file()
    points = pd.read_parquet(tmp_path / "out" / "points")
    assert points["point"].tolist() == list(range(steps["Legal points, splits included"]))
    assert points.loc[points["status"] == "ok", "point"].tolist() == answer.table.index.tolist()
    again = moesim("plan", "plan.yaml", "--out", "out", "--resume")
    assert again.out == done.out
    changed = moesim("plan", "plan.yaml", "--out", "out", "--resume", "--set", "constraints.deadline=20 d")
    assert changed.code == 2
    assert "constraints.deadline: 5184000.0 -> 1728000.0" in changed.err


def test_impossible_limits_end_with_their_own_code(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    done = moesim("plan", "plan.yaml", "--set", "constraints.deadline=1 d")
    assert done.code == 3
    assert done.out.startswith("Nothing keeps all limits: ")
    assert done.err.endswith("error: no point keeps all limits\n")


def test_a_search_killed_in_the_middle_goes_on(tmp_path: Path) -> None:
    plan = data_root() / "workloads/plans/mixtral-8x22b-30-days.yaml"
    narrow = [
        "--set",
        "vary={hardware.device: [h100-sxm, h200-sxm], hardware.gpus: [256, 512, 1024, 2048]}",
        "--out",
        "out",
    ]
    command = [sys.executable, "-m", "simulator", "plan", str(plan), *narrow]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as first:
        end = time.monotonic() + 60
        while not list(tmp_path.glob("out/points/points-*.parquet")) and time.monotonic() < end:
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    left = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("out/points/points-*.parquet")}
    manifest = json.loads((tmp_path / "out/points/_manifest.json").read_text(encoding="utf-8"))
    assert 0 < len(left) * 1024 < manifest["points"]
    done = subprocess.run(
        [*command, "--resume"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Rent 512 h100-sxm: ")
    rows = pd.concat(pd.read_parquet(file) for file in sorted(tmp_path.glob("out/points/points-*.parquet")))
    assert len(rows) == manifest["points"]
    assert not rows.duplicated(["hardware.device", "hardware.gpus", "parallelism"]).any()
    assert all((tmp_path / "out/points" / name).stat().st_mtime_ns == when for name, when in left.items())
