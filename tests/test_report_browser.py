"""The pages in a real browser: quiet, offline, nothing too wide or too small, and the controls work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import report_samples as samples
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

from simulator.report.compare_page import render_compare
from simulator.report.page import render_run
from simulator.report.sweep_page import render_sweep

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
FLAGS += ("--disable-dev-shm-usage", "--disable-component-update", "--hide-scrollbars")
WIDTHS = (360, 768, 1280)


def sweep(points: int) -> pd.DataFrame:
    """A grid of devices, GPUs and splits with invented figures."""
    rows = []
    for i in range(points):
        step, cost = 1 + (i * 7 % 13) / 3, 100 + (i * 11 % 17) * 9.0
        row: dict[str, Any] = {
            "hardware.device": ("h100-sxm", "b200-sxm", "a b <c>")[i % 3],
            "parallelism.tp": i,
            "status": "ok",
        }
        for key, value in (("step_time_s", step), ("cost_usd", cost), ("mfu", 0.4)):
            row |= {key: value, f"{key}.low": 0.9 * value, f"{key}.high": 1.1 * value}
        rows.append(row)
    return pd.DataFrame(rows)


PAGES: dict[str, Callable[[], str]] = {
    "training": lambda: render_run(samples.training()),
    "one_gpu": lambda: render_run(samples.one_gpu()),
    "huge": lambda: render_run(samples.huge()),
    "all_datasheet": lambda: render_run(samples.all_datasheet()),
    "hostile": lambda: render_run(samples.hostile()),
    "links": lambda: render_run(samples.played("mixtral-8x7b-64xh100", *samples.PODS)),
    "torus": lambda: render_run(samples.played("glam-64b-64e-1024xtpuv4")),
    "inference": lambda: render_run(samples.inference()),
    "serving": lambda: render_run(samples.serving()),
    "infeasible": lambda: render_run(samples.infeasible()),
    "compare": lambda: render_compare([samples.training(), samples.hostile(), samples.infeasible()]),
    "sweep": lambda: render_sweep(sweep(60), title="A sweep"),
}


MANY = {"many": lambda: render_sweep(sweep(4000), title="Many points")}


@cache
def html_of(name: str) -> str:
    return (PAGES | MANY)[name]()


class Browser:
    """A headless Chromium that opens pages of this module at a width."""

    def __init__(self, folder: Path) -> None:
        options = webdriver.ChromeOptions()
        for flag in FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.folder = folder
        self.driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        self.tell("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def tell(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def open(self, name: str, width: int = 1280, *, dark: bool = False, media: str = "") -> Browser:
        return self.show(html_of(name), name, width, dark=dark, media=media)

    def show(self, html: str, name: str, width: int = 1280, *, dark: bool = False, media: str = "") -> Browser:
        file = self.folder / f"{name}.html"
        file.write_text(html, encoding="utf-8")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.tell("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.driver.get_log("browser")
        self.driver.get(file.as_uri())
        return self

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def text(self, selector: str) -> str:
        return str(self.run(f"return document.querySelector({selector!r}).textContent"))

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({selector!r}).click()")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("pages"))
    yield opened
    opened.driver.quit()


SMALL_TEXT = """
var small = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), node;
while (node = walk.nextNode()) {
  var box = node.parentElement;
  if (!node.data.trim() || /^(SCRIPT|STYLE|TITLE|NOSCRIPT)$/i.test(box.tagName) || !box.checkVisibility()) continue;
  var size = parseFloat(getComputedStyle(box).fontSize), scale = box.getScreenCTM ? box.getScreenCTM() : null;
  if (scale) size *= Math.hypot(scale.a, scale.b);
  if (size < 11.99) small.push(node.data.trim().slice(0, 40) + ' ' + size);
}
return small"""

CLIPPED = """
var out = [];
document.querySelectorAll('.stack > span, .trk > .seg, table.mx td, table.mx th').forEach(function (box) {
  if (box.checkVisibility() && box.textContent.trim() && box.scrollWidth > box.clientWidth + 1 &&
      !box.querySelector('.vh')) out.push(box.textContent + ' ' + box.scrollWidth + '>' + box.clientWidth);
});
return out"""

TOUCHING = """
var out = [];
document.querySelectorAll('svg[role=img]').forEach(function (view) {
  if (!view.checkVisibility()) return;
  var boxes = [].slice.call(view.querySelectorAll('text:not([transform])')).map(function (t) {
    var b = t.getBoundingClientRect();
    return { left: b.left + 1, right: b.right - 1, top: b.top + 4, bottom: b.bottom - 4, words: t.textContent };
  });
  boxes.forEach(function (a, i) { boxes.slice(i + 1).forEach(function (b) {
    var apart = a.left >= b.right || b.left >= a.right || a.top >= b.bottom || b.top >= a.bottom;
    if (!apart) out.push(a.words + ' | ' + b.words);
  }); });
});
return out"""

TOO_SMALL_TARGETS = """
return [].slice.call(document.querySelectorAll('button, select, summary')).filter(function (control) {
  var box = control.getBoundingClientRect();
  return control.checkVisibility() && (box.height < 24 || box.width < 24);
}).map(function (control) { return control.outerHTML.slice(0, 80); })"""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_and_offline(browser: Browser, name: str) -> None:
    browser.open(name)
    assert browser.driver.get_log("browser") == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    dead = "return [].filter.call(document.querySelectorAll('a'), a => !document.querySelector(a.hash)).length"
    assert browser.run(dead) == 0
    assert browser.run("return document.querySelectorAll('script').length") <= 2


@pytest.mark.parametrize(
    ("name", "width"), [*((name, width) for name in PAGES for width in WIDTHS), ("training", 390), ("training", 1600)]
)
def test_nothing_is_too_wide_too_small_or_cut(browser: Browser, name: str, width: int) -> None:
    browser.open(name, width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(SMALL_TEXT) == []
    assert browser.run(CLIPPED) == []
    assert browser.run(TOUCHING) == []
    assert browser.run(TOO_SMALL_TARGETS) == []


def test_the_timeline_moves_by_buttons_keys_and_choice(browser: Browser) -> None:
    browser.open("training")

    def ends() -> tuple[float, float]:
        start, _, rest = browser.text("#window-range").partition(" to ")
        return float(start.replace(",", "")), float(rest.split(" ")[0].replace(",", ""))

    first = ends()
    browser.click('[data-move="later"]')
    later = ends()
    assert later[0] == pytest.approx((first[0] + first[1]) / 2, abs=0.2)
    browser.click('[data-move="out"]')
    wide = ends()
    assert wide[1] - wide[0] == pytest.approx(2 * (later[1] - later[0]), abs=1.5)
    browser.driver.find_element("id", "detail").send_keys(Keys.ARROW_LEFT)
    assert ends()[0] < wide[0]
    browser.driver.find_element("id", "detail").send_keys("+")
    assert ends()[1] - ends()[0] < wide[1] - wide[0]
    browser.run("var s = document.getElementById('stage'); s.selectedIndex = 3; s.dispatchEvent(new Event('change'))")
    assert browser.text("#window-stage") == "3"
    for _ in range(9):
        browser.click('[data-move="out"]')
    assert ends()[0] == 0
    assert browser.run("return document.querySelectorAll('#detail svg rect').length") > 100


def test_the_run_file_downloads_as_it_was(browser: Browser) -> None:
    browser.open("training")
    browser.click("[data-save]")
    file = browser.folder / "mixtral-8x7b-64xh100.yaml"
    deadline = time.monotonic() + 10
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert file.read_text(encoding="utf-8") == samples.RUN_FILE


def test_dark_pages_print_light(browser: Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert browser.open("training").run(ground) == "rgb(255, 255, 255)"
    assert browser.open("training", dark=True).run(ground) == "rgb(16, 21, 27)"
    browser.open("training", dark=True, media="print")
    assert browser.run(ground) == "rgb(255, 255, 255)"
    assert browser.run("return getComputedStyle(document.querySelector('nav.toc')).display") == "none"
    browser.tell("Emulation.setEmulatedMedia", media="")


def test_without_scripts_every_section_still_reads(browser: Browser) -> None:
    browser.tell("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open("training")
    finally:
        browser.tell("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.run("return document.querySelectorAll('section .finding').length") == 11
    assert "A script draws this window" in browser.text("#detail .d")
    assert browser.run("return document.querySelectorAll('svg.ov path').length") > 20


def test_the_sweep_follows_the_reader(browser: Browser) -> None:
    browser.open("sweep")
    best = browser.text("#chosen-name")
    browser.run("document.querySelectorAll('#ranked button')[1].click()")
    second = browser.text("#chosen-name")
    assert second != best
    assert browser.run("return document.activeElement.textContent") == "2"
    settings = browser.text("#chosen-settings")
    assert settings.startswith(("--set hardware.device=", "--set 'hardware.device=a b <c>'"))
    choose = (
        "var s = document.getElementById('metric-y'); s.value = 'step_time_s'; s.dispatchEvent(new Event('change'))"
    )
    browser.run(choose)
    assert browser.text("#listing-y") == "Step time"
    assert browser.text("#ranked tbody tr td.num").replace("\u00a0", " ") == "1.00 s"
    assert browser.driver.get_log("browser") == []


def test_many_points_are_drawn_on_a_canvas(browser: Browser) -> None:
    assert browser.open("sweep").run("return document.querySelectorAll('#points canvas').length") == 0
    assert browser.open("many").run("return document.querySelectorAll('#points canvas').length") == 1
    assert browser.run("return document.querySelectorAll('#points svg path').length") < 200
