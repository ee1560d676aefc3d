"""The page of a calibration, of a device measured here and of published measurements: its figures, and in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import exp
from typing import Any

import pytest
from conftest import ROOT
from report_html import Page
from test_report_browser import CLIPPED, SMALL_TEXT, TOO_SMALL_TARGETS, TOUCHING, Browser

from simulator.calibration.calibration import calibrate_table
from simulator.calibration.report_data import imported
from simulator.calibration.table import read_table
from simulator.report.calibration_page import render_calibration
from simulator.spec.hardware import load_device


def point(family: str, kind: str, seconds: float, error: float, **more: Any) -> dict[str, Any]:
    """A point the fit misses by `error`."""
    base = {"family": family, "kind": kind, "shape": "m=64 n=128 k=256", "size": None, "flops": 0.0, "bytes": 0.0}
    return {**base, "measured": seconds, "predicted": seconds * (1 + error), **more}


def measured() -> dict[str, Any]:
    """A small session on an invented GPU: products that are 20 % off when they are long, copies, power."""
    products = [
        point(
            "gemm",
            "gemm",
            1e-6 * 2**i,
            0.02 if i < 8 else 0.2,
            size=(2.0**i, 2.0**14),
            flops=1e6 * 4.0**i,
            bytes=1e4 * 2.0**i,
        )
        for i in range(12)
    ]
    rest = [
        {"name": f"elementwise {i}", "points": 8, "error": 0.05, "inside": None, "range": "elements 1..9"}
        for i in range(14)
    ]
    errors = {"mean_absolute": 0.07, "bias": -0.01, "p50": 0.05, "p90": 0.15, "p99": 0.3, "covered": 0.88}
    clocks = [
        {"second": float(i), "clock_hz": 1.9e9 - 5e7 * i, "seconds": 1.5e-3 * (1 + 0.02 * i), "watts": 690.0 + i}
        for i in range(5)
    ]
    return {
        "device": "toy <gpu>",
        "facts": [["Library", "torch 2.13"], ["Points", "20 fitted, 3 rounds"]],
        "points": [*products, *(point("elementwise add", "elementwise", 2e-6 * 3**i, -0.05) for i in range(8))],
        "families": [{"name": "gemm", "points": 12, "error": 0.08, "inside": 0.9, "range": "m 1..2048"}, *rest],
        "held_out": [{"name": "gemm bf16, nt", "what": "new (n, k)", "rows": 30, **errors}],
        "links": [
            {"operation": "All reduce", "name": "nccl, 8 processes", "measured": saturating(4e11)},
            {
                "operation": "All reduce",
                "name": "a kernel of a very long name, 2 processes",
                "measured": saturating(1e11),
            },
            {"operation": "Transfer", "name": "host to device", "measured": saturating(5e10)},
        ],
        "roofs": [{"name": "roof: data sheet", "flops_per_second": 3e15, "bytes_per_second": 3e12}],
        "power": [{"name": "gemm nt", "shape": "m=8192 n=8192 k=8192", "seconds": 1.5e-3, "watts": 690.0}],
        "sustained": clocks,
        "refused": [["gemm|nt|bf16|m=1", "smallest trials 31% apart"]],
        "skipped": [["gemm|nt|bf16|m=9e9", "out of memory: CUDA out of memory."]],
    }


def saturating(rate: float) -> list[tuple[float, float]]:
    """Bytes and bytes a second that approach a rate."""
    return [(2.0**e, rate / (1 + exp(20 - e))) for e in range(9, 31, 3)]


@cache
def html_of(name: str) -> str:
    if name == "measured":
        return render_calibration(measured())
    table = read_table(ROOT / "hardware_profiles/measured/a100-sxm-80gb.csv")
    few = table[table["op"].isin(["gemm", "prefill", "all_reduce"])]
    return render_calibration(imported(calibrate_table(few, load_device("a100-sxm-80gb"), date="2026-01-01")))


PAGES = ("measured", "imported")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("pages"))
    yield opened
    opened.driver.quit()


def test_the_figures_of_a_session_stand_on_its_page() -> None:
    page = Page(html_of("measured"))
    assert page.unclosed == []
    assert "Calibration of toy <gpu>" in page.all_text()
    assert "20 points of 15 operators: the fit is off by 5.0 % at the median" in page.all_text().replace("\u00a0", " ")
    assert "The highest rate is 2.05 PFLOP/s: gemm at m=64 n=128 k=256." in page.all_text().replace("\u00a0", " ")
    assert "copies: All reduce by nccl, 8 processes reaches 400 GB/s." in page.all_text().replace("\u00a0", " ")
    power = "After 5 seconds of one product its time has changed by +8.0 %, at 694 W and 1,700 MHz."
    assert power in page.all_text().replace("\u00a0", " ")
    assert "1 points were too unstable to use, 1 could not be measured or have no form." in page.text["refused"]
    assert "out of memory: CUDA out of memory." in page.text["refused"]


def test_maps_say_where_the_fit_errs() -> None:
    maps = Page(html_of("measured")).text["maps"].replace("\u00a0", " ")
    words = maps.split("Mean error of matrix products")
    # From 100 us to 1 ms lie 128 us, 2 % off, and 256 and 512 us, 20 % off.
    assert "gemm·none+2%+2%+14%+20%" in words[0].replace("\n", "").replace(" ", "")
    assert "m≥256+20%" in words[1].replace("\n", "").replace(" ", "")
    assert "elementwiseadd·none−5%" in words[0].replace("\n", "").replace(" ", "")


def test_published_measurements_have_the_same_page() -> None:
    page = Page(html_of("imported"))
    assert page.unclosed == []
    assert "Calibration of a100-sxm-80gb" in page.all_text()
    assert "aiconfigurator-core 0.12.0" in page.text["measured"]
    assert "All reduce" in page.text["links"]
    assert "nccl, 8 ranks" in page.text["links"]
    assert "roof: data sheet, bf16" in page.text["roofline"]
    assert "new (n, k)" in page.text["operators"]
    assert "power" not in page.ids
    assert html_of.__wrapped__("imported") == html_of("imported")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_reads_at_every_width_and_in_both_schemes(browser: Browser, name: str, width: int, dark: bool) -> None:
    browser.show(html_of(name), name, width, dark=dark)
    assert browser.driver.get_log("browser") == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.run("return document.documentElement.scrollWidth") <= width
    for fault in (SMALL_TEXT, CLIPPED, TOUCHING, TOO_SMALL_TARGETS, FAINT):
        assert browser.run(fault) == []


# Contrast of words in coloured cells against their ground, WCAG 2.2 section 1.4.3: at least 4.5.
FAINT = """
var canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function light(color) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  var rgb = [].slice.call(canvas.getImageData(0, 0, 1, 1).data, 0, 3).map(function (v) {
    v /= 255; return v <= 0.04045 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); });
  return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
}
return [].slice.call(document.querySelectorAll('table.mx td:not(.z)')).filter(function (cell) {
  var style = getComputedStyle(cell), a = light(style.color), b = light(style.backgroundColor);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
}).map(function (cell) { return cell.textContent; })"""
