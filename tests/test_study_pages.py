"""The pages of growth and of claims, and energy factors of a comparison, in a real browser and for a reader's eyes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import toy
from report_html import Page
from test_claims import shipped
from test_growth import QUESTION, answer_of
from test_report_browser import SMALL_TEXT, Browser

from simulator.report.claims_page import render_claims
from simulator.report.compare_page import render_compare
from simulator.report.growth_page import render_growth
from simulator.simulation import simulate


@cache
def page(name: str) -> str:
    if name == "growth":
        return render_growth(answer_of(), QUESTION)
    if name == "claims":
        return render_claims(shipped())
    runs = [toy.run(gpus=gpus, training={"tokens": 5120, "global_batch": gpus}) for gpus in (8, 4)]
    return render_compare([simulate(run) for run in runs])


PAGES = ("growth", "claims", "factors")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("studies"))
    yield opened
    opened.driver.quit()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_a_page_is_quiet_and_fits(browser: Browser, name: str, width: int) -> None:
    browser.show(page(name), f"{name}-{width}", width)
    assert browser.driver.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(SMALL_TEXT) == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("name", PAGES)
def test_every_link_in_a_page_leads_somewhere(name: str) -> None:
    read = Page(page(name))
    assert read.unclosed == []
    assert set(read.anchors) <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))


def test_bars_of_the_factors_end_to_end_make_the_energy(browser: Browser) -> None:
    browser.show(page("factors"), "factors")
    ends = browser.run(
        "const s = document.querySelector('#energy'), zero = parseFloat(s.querySelector('.zero').style.left);"
        "const sum = [...s.querySelectorAll('.seg')].map(e => {"
        "const left = parseFloat(e.style.left), width = parseFloat(e.style.width);"
        "return left < zero - 0.01 ? -width : width}).reduce((a, b) => a + b, 0);"
        "return [sum, parseFloat(s.querySelector('.dot').style.left) - zero]"
    )
    assert ends[0] == pytest.approx(ends[1], abs=0.3)  # bars of nothing are drawn a hair wide


def test_the_question_can_be_taken_along(browser: Browser) -> None:
    browser.show(page("growth"), "growth")
    assert browser.text("#question-file").strip() == QUESTION.strip()
