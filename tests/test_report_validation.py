"""The page of a validated table: its figures, its drawing, and what a reader can do with it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from report_html import Page, data_of
from test_report_browser import CLIPPED, SMALL_TEXT, TOO_SMALL_TARGETS, TOUCHING, Browser

from simulator.cli.validation_page import validation_record
from simulator.report.validation_data import ValidationRecord
from simulator.report.validation_page import render_validation
from simulator.result import Number
from simulator.validation.replay import Comparison, Row, Validation, replay

HOSTILE = "</script><script>alert('x')</script> \"&amp;\" 漢"


def compared(predicted: float, low: float, high: float, measured: float) -> Comparison:
    return Comparison(Number(value=predicted, low=low, high=high, basis="interpolated"), measured)


def row(id: str, arch: str, device: str, gpus: int, quality: str = "A", **rest: Any) -> Row:
    facts = {
        "id": id,
        "kind": "training",
        "name": "toy",
        "framework": "megatron-core",
        "hardware.device": device,
        "hardware.gpus": str(gpus),
        "training.precision": "bf16",
        "parallelism.tp": "2",
        "notes": "said so",
    }
    rest = {"source": "A paper, Table 1", **rest}
    return Row(id=id, group=f"{id.split('-')[0]}/toy/{device}", quality=quality, arch=arch, facts=facts, **rest)


def toys() -> list[Row]:
    """Errors of step time: +5 % and inside, -15 % and outside, +25 % and inside; of memory +10 % and inside."""
    return [
        row(
            "ours-1",
            "dense",
            "h100-sxm",
            8,
            metrics={"step_time_s": compared(10.5, 9, 12, 10), "peak_memory_gib": compared(44, 30, 60, 40)},
            breakdown={"bubble": 4.5, "ffn_gemm": 6.0, "uneven": 1e-15},
        ),
        row("ours-2", "MoE", "h100-sxm", 1024, metrics={"step_time_s": compared(17, 16, 18, 20)}),
        row("theirs-1", "MoE", "a100-sxm-80gb", 64, "B", metrics={"step_time_s": compared(50, 30, 80, 40)}),
        row("theirs-2", "", "a100-sxm-80gb", 64, "B", reason="theirs-2: model: unknown model 'x'"),
    ]


def record(rows: list[Row]) -> ValidationRecord:
    return validation_record(Validation("my-runs.csv", rows), "my-runs.csv")


@cache
def toy_page() -> str:
    return render_validation(record(toys()))


def plain(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


def cells(html: str, name: str) -> list[list[str]]:
    """The body of the table of a name, as text."""
    part = html[html.index(f'aria-label="Table: {name}"') :]
    body = part[part.index("<tbody>") : part.index("</tbody>")]
    rows = re.findall(r"<tr.*?</tr>", body, re.S)
    return [
        [plain(unescape(re.sub(r"<.*?>", "", cell))) for cell in re.findall(r"<td.*?</td>", line, re.S)]
        for line in rows
    ]


def test_the_verdict_is_of_fully_stated_runs_and_then_of_all() -> None:
    text = plain(Page(toy_page()).text["verdict"])
    assert (
        "Step time of 2 fully stated runs is predicted to within 10.0 % on average (median 10.0 %), bias −5.0 %; "
        "50 % of the measurements lie inside the 90 % interval. "
        "All 3 runs, 1 of them of lower quality: 15.0 % on average (median 15.0 %), bias +5.0 %; "
        "67 % of the measurements lie inside the 90 % interval. "
        "Peak memory of 1 fully stated run is predicted to within 10.0 % on average (median 10.0 %), bias +10.0 %; "
        "the measurement lies inside the 90 % interval."
    ) in text


def test_errors_of_each_metric_and_by_group() -> None:
    html = toy_page()
    # The groups ours/h100 and theirs/a100 have mean errors 10 and 25 %, so their macro mean is 17.5 %.
    assert cells(html, "errors of each metric") == [
        ["Step time", "quality A", "2", "10.0 %", "10.0 %", "10.0 %", "−5.0 %", "−15.0 %", "50 %"],
        ["Step time", "all rows", "3", "17.5 %", "15.0 %", "15.0 %", "+5.0 %", "+25.0 %", "67 %"],
        ["Peak memory, fullest GPU", "all rows", "1", "10.0 %", "10.0 %", "10.0 %", "+10.0 %", "+10.0 %", "100 %"],
    ]
    step = "error of step time over all rows by"
    assert [line[:2] for line in cells(html, f"{step} GPUs")] == [
        ["1 to 9", "1"],
        ["10 to 99", "1"],
        ["1,000 to 9,999", "1"],
    ]
    assert cells(html, f"{step} kind of model")[0][:4] == ["MoE", "2", "20.0 %", "20.0 %"]
    for heading, names in {
        "source": ["ours", "theirs"],
        "device": ["a100-sxm-80gb", "h100-sxm"],
        "precision": ["bf16"],
        "framework": ["megatron-core"],
        "quality": ["A", "B"],
    }.items():
        assert [line[0] for line in cells(html, f"{step} {heading}")] == names
    assert [line[0] for line in cells(html, "error of step time over quality A by kind of model")] == ["MoE", "dense"]


def test_findings_name_what_is_best_and_worst() -> None:
    rows = [
        row(f"{source}-{i}", "dense", "h100-sxm", 8, metrics={"step_time_s": compared(predicted, 1, 99, 10)})
        for source, predicted in (("good", 10.5), ("bad", 13.0))
        for i in range(3)
    ]
    findings = [plain(text) for text in Page(render_validation(record([*rows, *toys()[1:2]]))).findings]
    assert "Of 7 runs, 3 are predicted to within 10 % of the measurement and 4 to within 20 %." in findings
    assert "By source the mean error goes from 5.0 % (good, 3 runs) to 30.0 % (bad, 3 runs)." in findings
    assert "The worst of 7 runs is bad-0, off by +30.0 %; these 7 are off by 5.0 % or more." in findings
    few = [plain(text) for text in Page(toy_page()).findings]
    assert "No two groups by source have 3 rows each, too few to compare." in few
    assert "The only run is off by +10.0 %: ours-1." in few


def test_worst_rows_come_first_and_all_rows_in_the_table_s_order() -> None:
    html = toy_page()
    assert [line[0] for line in cells(html, "worst rows in step time of all rows")] == ["theirs-1", "ours-2", "ours-1"]
    assert [line[0] for line in cells(html, "worst rows in step time of quality A")] == ["ours-2", "ours-1"]
    assert cells(html, "all rows measured in step time")[1] == [
        *("ours-2", "−15.0 %", "17.0", "20.0", "no", "toy", "h100-sxm", "1,024", "megatron-core", "bf16", "MoE", "A")
    ]


def test_refused_rows_are_listed_with_their_reason() -> None:
    page = Page(toy_page())
    assert "1 of 4 rows was refused" in plain(page.text["refused"])
    assert cells(page.html, "refused rows") == [["theirs-2", "model: unknown model 'x'", "A paper, Table 1"]]


def test_a_table_without_predictions_says_so() -> None:
    page = Page(render_validation(record([toys()[-1]])))
    assert plain(page.findings[0]) == "No row of the table could be replayed."
    assert "validation-data" not in page.html
    assert set(page.anchors) <= set(page.ids)
    assert "1 of 1 row was refused" in plain(page.text["refused"])
    assert plain(Page(render_validation(record([]))).findings[0]) == "The table has no rows."


def test_marks_stand_where_their_figures_say() -> None:
    drawing = toy_page()[toy_page().index('<div class="w">') :]
    zero, decade = (float(re.search(rf'data-{name}="([-\d.]+)"', drawing)[1]) for name in ("zero", "decade"))  # type: ignore[index]
    marks = re.findall(r'<use href="#mark-(\w+)" x="([\d.]+)" y="([\d.]+)" data-i="(\d)"/>', drawing)[:3]
    at = {i: (shape, float(x), float(y)) for shape, x, y, i in marks}
    assert [at[i][0] for i in "012"] == ["circle", "circle", "triangle"]
    # 10, 20 and 40 s are a factor of two apart.
    assert at["1"][1] - at["0"][1] == pytest.approx(at["2"][1] - at["1"][1], abs=0.2)
    for i, ratio in (("0", 1.05), ("1", 0.85), ("2", 1.25)):
        assert at[i][2] == pytest.approx(zero - decade * math.log10(ratio), abs=0.1)


def test_the_page_s_data_holds_each_row_s_breakdown_and_citation() -> None:
    data = data_of(toy_page(), "validation-data")
    first = data["rows"]["0"]
    named = [(data["parts"][place][0], seconds) for place, seconds in first["parts"]]
    # What rounding leaves of an item that takes no time is left out.
    assert named == [("Dense FFN GEMMs", 6.0), ("Pipeline fill and drain", 4.5)]
    assert first["source"] == "A paper, Table 1"
    assert [plain(str(value)) for value in first["figures"]["step_time_s"]] == [
        *("10.5 s", "9.00 – 12.0 s", "10.0 s", "+5.0 %", "True", "0.9", "1.2")
    ]
    assert set(data["rows"]) == {"0", "1", "2"}


def test_user_text_is_escaped_and_the_page_is_the_same_twice() -> None:
    bad = row(HOSTILE, "MoE", HOSTILE, 8, HOSTILE, source=HOSTILE, metrics={"step_time_s": compared(2, 1, 3, 2)})
    rows = [bad, row(HOSTILE, "", HOSTILE, 8, reason=HOSTILE)]
    html = render_validation(validation_record(Validation("x.csv", rows), HOSTILE))
    page = Page(html)
    assert page.unclosed == []
    assert page.tags["script"] == 2
    assert data_of(html, "validation-data")["rows"]["0"]["source"] == HOSTILE
    assert html == render_validation(validation_record(Validation("x.csv", rows), HOSTILE))


def many(count: int) -> ValidationRecord:
    """A table as long as the shipped ones, with as much said of each row."""
    items = ("expert_gemm", "ffn_gemm", "attention_projection", "attention_core", "logits", "elementwise", "optimizer")
    items += ("all_to_all", "tensor_parallel", "send_recv", "gradient_sync", "bubble", "noise", "host")
    rows = []
    for i in range(count):
        error = (i * 7919 % 61 - 30) / 100
        measured = 0.1 * 1.01**i
        predicted = measured * (1 + error)
        made = row(
            f"S{i % 17}-{i:04}",
            ("dense", "MoE")[i % 2],
            ("h100-sxm", "a100-sxm-80gb", "gb200")[i % 3],
            8 * 2 ** (i % 9),
            "AB"[i % 5 // 3],
            source=f"Some repository docs/performance-summary.md:{i}",
            metrics={
                "step_time_s": compared(predicted, 0.8 * predicted, 1.2 * predicted, measured),
                "peak_memory_gib": compared(40 * (1 + error), 30, 60, 40 + i % 9),
            },
            breakdown={item: predicted / len(items) for item in items},
        )
        made.facts.update({f"training.field_{k}": str(i * k % 13) for k in range(25)})  # type: ignore[attr-defined]
        made.facts["notes"] = f"row {i}: " + "stated in the table's caption; " * 5  # type: ignore[index]
        rows.append(made)
    return record(rows)


def test_a_long_table_makes_a_page_that_can_be_mailed() -> None:
    assert 400_000 < len(render_validation(many(800)).encode()) < 1_500_000


TABLE_ROW = {
    "id": "ours-1",
    "kind": "training",
    "name": "mixtral-8x7b",
    "model.extends": "mixtral-8x7b",
    "hardware.device": "h100-sxm",
    "hardware.gpus": "64",
    "parallelism.pp": "4",
    "parallelism.ep": "8",
    "training.global_batch": "256",
    "training.seq_len": "4096",
    "measured.step_time_s": "3",
}


def test_a_replayed_row_keeps_what_its_step_is_made_of() -> None:
    moe = replay(TABLE_ROW)
    assert (moe.arch, moe.reason) == ("MoE", "")
    assert moe.breakdown["expert_gemm"] > 0
    assert sum(moe.breakdown.values()) == pytest.approx(moe.metrics["step_time_s"].predicted.value, rel=1e-9)
    dense = replay({**TABLE_ROW, "model.extends": "llama2-7b", "parallelism.ep": "1"})
    assert dense.arch == "dense"
    assert "expert_gemm" not in dense.breakdown
    unmeasured = replay({**TABLE_ROW, "measured.step_time_s": ""})
    assert (unmeasured.arch, unmeasured.reason) == ("MoE", "nothing measured that the simulator predicts")
    assert replay({**TABLE_ROW, "model.extends": "no-such"}).arch == ""


def test_validate_writes_the_page(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    lines = [",".join(TABLE_ROW), ",".join(TABLE_ROW.values())]
    (tmp_path / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    outcome = moesim("validate", "table.csv", "--html", "page.html")
    assert outcome.code == 0
    assert outcome.out.endswith("Wrote page.html.\n")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert plain(page.findings[0]).startswith("Step time of 1 run is predicted to within ")
    assert "only rows that stand there too were seen by the fit" in plain(page.text["fitted"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("validation"))
    yield opened
    opened.driver.quit()


@cache
def long_page() -> str:
    return render_validation(many(120))


PAGES = {"toy": toy_page, "long": long_page, "empty": lambda: render_validation(record([toys()[-1]]))}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True), (360, False)])
def test_nothing_is_fetched_too_wide_too_small_or_cut(browser: Browser, name: str, width: int, dark: bool) -> None:
    browser.show(PAGES[name](), name, width, dark=dark)
    browser.run("document.querySelectorAll('#worst tbody button').forEach(function (b) { b.click(); })")
    assert browser.driver.get_log("browser") == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(SMALL_TEXT) == []
    assert browser.run(CLIPPED) == []
    assert browser.run(TOUCHING) == []
    assert browser.run(TOO_SMALL_TARGETS) == []


def test_a_row_opens_to_its_breakdown_and_citation(browser: Browser) -> None:
    browser.show(toy_page(), "toy")
    button = "#rows tr[data-i='0'] button"
    browser.click(button)
    opened = plain(browser.text("#rows .opened"))
    assert "ours-1: toy on 8 h100-sxm, megatron-core, bf16, dense, quality A" in opened
    assert "Predicted step: 10.5 s, mean over the GPUs" in opened
    assert "Dense FFN GEMMs6.00 s 57.1 %Pipeline fill and drain4.50 s 42.9 %" in opened
    assert "Source: A paper, Table 1Notes: said so" in opened
    assert "parallelism.tp: 2" in opened
    assert "moesim validate my-runs.csv --where id=ours-1" in opened
    assert browser.run(f'return document.querySelector("{button}").getAttribute("aria-expanded")') == "true"
    browser.click(button)
    assert browser.run("return document.querySelectorAll('.opened').length") == 0


MARK = """
var view = [].find.call(document.querySelectorAll('#scatter svg[role=img]'), v => v.checkVisibility());
var box = view.querySelector('use[data-i="1"]').getBoundingClientRect();
var at = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true };"""


@pytest.mark.parametrize("width", [1280, 390])
def test_a_mark_shows_its_interval_and_opens(browser: Browser, width: int) -> None:
    browser.show(toy_page(), "toy", width)
    browser.run(MARK + "view.dispatchEvent(new PointerEvent('pointermove', at))")
    said = "ours-2, toy on 1,024 h100-sxm, megatron-core, bf16, MoE, quality A: predicted 17.0 s (16.0 – 18.0 s), "
    assert plain(browser.text(".readout")) == said + "measured 20.0 s, error −15.0 %."
    path, zero, decade = browser.run(
        MARK + "return [view.querySelector('.whisker').getAttribute('d'), view.dataset.zero, view.dataset.decade]"
    )
    ends = [float(y) for y in re.findall(r"(?<=[ V])[\d.]+$|(?<= )[\d.]+(?=V)", path)]
    for end, ratio in zip(ends, (0.8, 0.9), strict=True):
        assert end == pytest.approx(float(zero) - float(decade) * math.log10(ratio), abs=0.1)
    browser.run(MARK + "view.dispatchEvent(new MouseEvent('click', at))")
    assert plain(browser.text(".picked")).startswith("ours-2: toy on 1,024 h100-sxm")


def shown(browser: Browser) -> list[str]:
    script = "return [].filter.call(document.querySelectorAll('#rows tr[data-i]'), r => r.checkVisibility()).map("
    return list(browser.run(script + "r => r.cells[0].textContent)"))


def test_metric_quality_and_words_narrow_what_is_shown(browser: Browser) -> None:
    browser.show(toy_page(), "toy")
    assert shown(browser) == ["ours-1", "ours-2", "theirs-1"]
    assert browser.text("#found") == "3 of 3 rows"
    change = "var s = document.getElementById('{}'); s.value = '{}'; s.dispatchEvent(new Event('{}'))"
    browser.run(change.format("set", "A", "change"))
    assert shown(browser) == ["ours-1", "ours-2"]
    visible = "return [].filter.call(document.querySelectorAll({!r}), e => e.checkVisibility()).length"
    assert browser.run(visible.format("#scatter .w use[data-i]")) == 2
    assert browser.run(visible.format("#groups [data-set=all]")) == 0
    browser.run(change.format("find", "moe PAPER", "input"))
    assert shown(browser) == ["ours-2"]
    assert browser.text("#found") == "1 of 3 rows"
    browser.run(change.format("find", "", "input"))
    browser.run(change.format("metric", "peak_memory_gib", "change"))
    assert shown(browser) == ["ours-1"]
    # The only row is of the best quality, so its tables are those of all rows.
    assert browser.run(visible.format("#groups [data-set=all]")) == 1


def test_headings_sort(browser: Browser) -> None:
    browser.show(toy_page(), "toy")
    heads = "document.querySelectorAll('#rows [data-metric=step_time_s] th button')"
    browser.run(f"{heads}[1].click()")
    assert shown(browser) == ["ours-2", "ours-1", "theirs-1"]
    browser.run(f"{heads}[1].click()")
    assert shown(browser) == ["theirs-1", "ours-1", "ours-2"]
    browser.run(f"{heads}[7].click()")
    assert shown(browser) == ["ours-1", "theirs-1", "ours-2"]
    sorts = browser.run(f"return [].map.call({heads}, b => b.parentNode.getAttribute('aria-sort'))")
    assert sorts == ["none"] * 7 + ["ascending"] + ["none"] * 4


def test_without_scripts_every_metric_and_row_still_reads(browser: Browser) -> None:
    browser.tell("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.show(toy_page(), "toy")
    finally:
        browser.tell("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.run("return document.querySelectorAll('#rows tr[data-i]').length") == 4
    parts = "document.querySelectorAll('[data-metric], [data-set]')"
    assert browser.run(f"return [].every.call({parts}, e => e.checkVisibility())") is True
