"""The page of one run: what it says, that it adds up, and that the odd runs read well."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest
import report_samples as samples
from report_html import Page, widths

from simulator.report.findings import breakdown_finding
from simulator.report.page import render_run
from simulator.report.verdict import verdict
from simulator.result import BreakdownItem, Number, OperatorRow, Result

ODD: dict[str, Callable[[], Result]] = {
    "ordinary": samples.training,
    "one_gpu": samples.one_gpu,
    "huge": samples.huge,
    "dense": lambda: samples.training(dense=True),
    "no_pipeline": lambda: samples.training(stages=1),
    "all_datasheet": samples.all_datasheet,
    "hostile": samples.hostile,
    "infeasible": samples.infeasible,
    "inference": samples.inference,
    "bare": samples.bare,
}
SECTIONS = [
    *("verdict", "figures", "time", "timeline", "memory", "roofline"),
    *("traffic", "energy", "levers", "basis", "validation", "runfile"),
]


@cache
def page_of(name: str) -> str:
    return render_run(ODD[name]())


@pytest.fixture(scope="module")
def ordinary() -> tuple[Result, str]:
    return samples.training(), page_of("ordinary")


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize("name", ODD)
def test_every_run_gives_a_whole_page(name: str) -> None:
    html = page_of(name)
    page = Page(html)
    assert page.unclosed == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.anchors) <= set(page.ids)
    assert page.tags["h1"] == 1
    assert len(html.encode()) < 1_000_000
    assert not re.search(r"\b(None|nan|inf|undefined)\b|\{\{|Number\(", page.all_text())
    assert all(text.strip().endswith(".") for text in page.findings), page.findings
    assert "!" not in " ".join(page.findings).replace("<!--", "")


@pytest.mark.parametrize("name", [name for name in ODD if name != "infeasible"])
def test_the_twelve_sections_stand_in_order(name: str) -> None:
    page = Page(page_of(name))
    assert [anchor for anchor in page.anchors if anchor in SECTIONS][: len(SECTIONS)] == SECTIONS
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS


def test_the_same_result_gives_the_same_bytes() -> None:
    assert render_run(samples.training()) == page_of("ordinary")


def test_nothing_is_fetched(ordinary: tuple[Result, str]) -> None:
    html = ordinary[1]
    assert not re.search(r"""(src|href)=["'](?!#)""", html)
    assert "url(http" not in html
    assert "default-src 'none'" in html


def test_user_text_is_never_markup() -> None:
    result = samples.hostile()
    html = render_run(result)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert "\\u003cscript\\u003ealert" in html
    assert html.count("<script") == html.count("</script>") == 2
    assert result.run_file in Page(html).text["runfile"]


def test_the_download_has_a_name_any_system_takes() -> None:
    html = render_run(samples.hostile())
    name = re.search(r'data-save="([^"]*)"', html)
    assert name
    assert re.fullmatch(r"[\w.-]{1,90}\.yaml", name.group(1))


def test_a_verdict_says_whether_failures_are_in_its_days() -> None:
    failing = samples.training().model_copy(update={"goodput": samples.near(0.9)})
    assert plain(verdict(failing).sentence).endswith("about $212,000, failures and restarts included.")
    assert "Time that moves a training forward" in render_run(failing)


def test_the_verdict_speaks_to_a_planner(ordinary: tuple[Result, str]) -> None:
    said = verdict(ordinary[0])
    assert plain(said.sentence) == (
        "Training Mixtral 8x7B on 2 trillion tokens with these 64 GPUs takes about 47 days and costs about $212,000, "
        "if nothing interrupts it."
    )
    assert plain(said.interval) == (
        "We are 90 % sure that the true figures lie between 43 and 51 days, and $195,000 and $230,000. "
        "Published runs most like this one were predicted to within 6.8 % on average."
    )
    assert said.caution == ""
    assert [plain(f"{fact.lead} {fact.rest}") for fact in said.facts] == [
        "It fits. The fullest GPU needs 52.1 of 80 GiB, so about a third stays free.",
        "Matrix arithmetic is the limit. It fills 71 % of the step. Waiting takes 8 %.",
        "Best change to try: FP8 expert GEMMs. Saves about 10 days and $44,900. "
        "Tensor cores +10 % saves 5.9 % of the step.",
    ]


def test_the_verdict_of_a_run_without_tokens_is_one_step() -> None:
    said = verdict(samples.one_gpu())
    assert plain(said.sentence) == (
        "One step of training Llama 3.1 8B with this one GPU takes about 1.42 s, which is 723 k tokens/s."
    )
    assert plain(said.interval) == (
        "We are 90 % sure that it lies between 1.31 s and 1.54 s. "
        "No published run near this one was found to check against."
    )


def test_the_verdict_of_inference_is_what_users_see() -> None:
    said = verdict(samples.inference())
    assert plain(said.sentence) == (
        "Serving Llama 3.1 70B with these 4 GPUs to 64 users at once shows the first token after about 310 ms, "
        "writes 48.1 tokens/s for each of them and costs about $1.07 per million output tokens."
    )


def test_a_run_on_weak_ground_says_so_beside_the_verdict() -> None:
    page = Page(page_of("all_datasheet"))
    assert "Most of this figure is taken from data sheets; treat it as ±55 %." in plain(page.text["verdict"])


def test_an_infeasible_run_says_what_is_missing_and_what_would_do() -> None:
    page = Page(render_run(samples.infeasible()))
    assert plain(page.findings[0]) == (
        "It doesn't fit: the fullest GPU needs 91.2 of 80 GiB. Nearest change that fits: parallelism.pp: 8."
    )
    assert "21.7 GiB" in plain(page.text["memory"])
    assert "name: mixtral-8x7b" in page.text["runfile"]


def test_an_infeasible_run_without_sizes_gives_its_reason() -> None:
    result = samples.infeasible()
    assert result.infeasible is not None
    bad = result.infeasible.model_copy(
        update={"needed_gib": None, "breakdown_gib": {}, "reason": "32 layers do not divide into 3 stages"}
    )
    page = Page(render_run(result.model_copy(update={"infeasible": bad})))
    assert page.findings[0] == (
        "This run is infeasible: 32 layers do not divide into 3 stages. Nearest change that fits: parallelism.pp: 8."
    )
    assert "memory" not in page.ids


def spent(**seconds: float) -> list[BreakdownItem]:
    """A breakdown by colour."""
    groups = {"a2a": "communicating", "comm": "communicating", "wait": "waiting", "host": "host"}
    return [
        BreakdownItem.model_validate(
            {
                "key": color,
                "label": color,
                "group": groups.get(color, "computing"),
                "color": color,
                "seconds": Number.exact(value),
            }
        )
        for color, value in seconds.items()
    ]


@pytest.mark.parametrize(
    ("seconds", "lead", "rest"),
    [
        ({"expert": 6, "a2a": 4}, "Matrix arithmetic", "It fills 60 % of the step. The network holds it up for 40 %."),
        ({"dense": 3, "mem": 7}, "Memory bandwidth", "It takes 70 % of the step."),
        ({"expert": 4, "a2a": 3, "comm": 3}, "The network", "It takes 60 % of the step; computing fills 40 %."),
        ({"expert": 4, "wait": 6}, "Waiting", "It takes 60 % of the step; computing fills 40 %."),
        ({"expert": 1, "mem": 1, "host": 3}, "The host", "It takes 60 % of the step; computing fills 40 %."),
    ],
)
def test_the_limit_is_found_by_rule(seconds: dict[str, float], lead: str, rest: str) -> None:
    fact = verdict(samples.training(breakdown=spent(**seconds), operators=[])).facts[1]
    assert (fact.lead, plain(fact.rest)) == (f"{lead} is the limit.", rest)


def test_matrix_operators_that_wait_for_memory_count_as_memory() -> None:
    row = samples.operators(1.0)[1]
    rows: list[OperatorRow] = [row.model_copy(update={"bound": "memory", "seconds": 1.0})]
    result = samples.training(breakdown=spent(dense=10), operators=rows)
    assert verdict(result).facts[1].lead == "Memory bandwidth is the limit."


def hidden(seconds: float, of: float) -> BreakdownItem:
    """Communication, of which so many seconds cost time and so many more hide."""
    return spent(comm=seconds)[0].model_copy(update={"hidden_s": of})


@pytest.mark.parametrize(
    ("items", "finding"),
    [
        (spent(expert=5, wait=5), "Expert GEMMs take 50 % of the 10.0 s step; nothing is sent."),
        (
            spent(expert=9, a2a=1),
            "Expert GEMMs take 90 % of the 10.0 s step; communication takes 10 %, none of it hidden.",
        ),
        (
            [*spent(expert=6, mem=4), hidden(0, of=1)],
            "Expert GEMMs take 60 % of the 10.0 s step; communication adds nothing, "
            "because all of it hides behind compute.",
        ),
        (
            [*spent(dense=9), hidden(1, of=3)],
            "GEMMs take 90 % of the 10.0 s step; communication adds 10 %, because 75 % of it hides behind compute.",
        ),
    ],
)
def test_the_finding_on_time(items: list[BreakdownItem], finding: str) -> None:
    assert plain(breakdown_finding(samples.training(breakdown=items))) == finding


def test_verdict_cards_and_tables_agree_to_the_digit(ordinary: tuple[Result, str]) -> None:
    text = {name: plain(part) for name, part in Page(ordinary[1]).text.items()}
    for place in ("verdict", "figures", "energy"):
        assert "$212,000" in text[place]
    for place in ("figures", "time"):
        assert "2.12 s" in text[place]
    for place in ("verdict", "figures", "memory"):
        assert "52.1" in text[place]
    assert "105 MWh" in text["figures"]
    assert "105 MWh" in text["energy"]


def test_the_stacked_bar_is_the_whole_step(ordinary: tuple[Result, str]) -> None:
    result, html = ordinary
    stack = html[html.index('class="stack"') : html.index('class="brk"')]
    parts = [float(w) for w in re.findall(r"width:([\d.]+)%", stack)]
    assert sum(parts) == pytest.approx(100, abs=0.05)
    assert result.step_time_s is not None
    assert sum(item.seconds.value for item in result.breakdown) == pytest.approx(result.step_time_s.value)


def test_the_solid_bars_add_up_to_the_step(ordinary: tuple[Result, str]) -> None:
    html = ordinary[1]
    section = html[html.index('<section id="time"') : html.index('<section id="timeline"')]
    solid = [
        float(width)
        for kind, width in re.findall(r'class="(seg[^"]*)" style="left:[\d.-]+%;width:([\d.]+)%', section)
        if "hid" not in kind
    ]
    # The axis ends at 1.5 s, the step is 2.1172 s long.
    assert sum(solid) / 100 * 1.5 == pytest.approx(2.1172, rel=1e-3)


def test_memory_bars_add_up_to_the_peak(ordinary: tuple[Result, str]) -> None:
    html = ordinary[1]
    row = html[html.index("Stage 0<small>") :]
    row = row[: row.index('class="val"')]
    # The axis ends at 80 GiB, the parts of the fullest GPU are 52.1 GiB.
    assert sum(widths(row, "seg")) / 100 * 80 == pytest.approx(52.1, abs=0.02)


def test_the_scale_of_the_cards_widens_for_all_when_one_needs_it(ordinary: tuple[Result, str]) -> None:
    assert "−20 % to +20 %" in plain(Page(ordinary[1]).text["figures"])
    assert "−100 % to +100 %" in plain(Page(page_of("all_datasheet")).text["figures"])


def test_no_bar_or_whisker_leaves_its_track() -> None:
    for name in ("ordinary", "all_datasheet", "huge"):
        for left, width in re.findall(r'class="(?:seg|wh)[^"]*" style="left:([\d.-]+)%;width:([\d.]+)%', page_of(name)):
            assert float(left) >= -0.01
            assert float(left) + float(width) <= 100.3  # the thinnest mark is a quarter of a per cent wide


def test_absent_parts_are_said_to_be_absent() -> None:
    text = {name: plain(part) for name, part in Page(page_of("bare")).text.items()}
    assert "No timeline was kept for this run." in text["timeline"]
    assert "Memory was not counted for this run." in text["memory"]
    assert "No published run near this one." in text["validation"]
    assert "No change was tried on this run." in text["levers"]
    assert "Energy and money were not asked for." in text["energy"]


def test_a_single_gpu_sends_nothing() -> None:
    text = Page(page_of("one_gpu")).text
    assert "One GPU: nothing crosses a link." in text["traffic"]
    assert "No stage waits for another in this step." in text["timeline"]


def test_a_change_that_cannot_be_told_from_none_says_so(ordinary: tuple[Result, str]) -> None:
    text = plain(Page(ordinary[1]).text["levers"])
    assert "can't be told from 0" in text
    assert "Infeasible: Pipeline parallel 3: 32 layers do not divide into 3 stages." in text


def test_a_precedent_outside_its_interval_says_so(ordinary: tuple[Result, str]) -> None:
    text = plain(Page(ordinary[1]).text["validation"])
    assert (
        "Over the 4 published runs most like this one the mean absolute error is 6.8 %, "
        "and 3 lie inside their 90 % interval." in text
    )
    assert text.count("outside its interval") == 2  # in the chart and in its table


def test_many_nodes_are_folded_and_no_byte_is_lost() -> None:
    from simulator.report.traffic_tables import _folded

    traffic = samples.traffic(64)
    labels, cells = _folded(traffic.between_nodes)
    assert labels[0] == "0–3"
    assert len(labels) == len(cells) == 16
    assert sum(map(sum, cells)) == pytest.approx(sum(map(sum, traffic.between_nodes.bytes)))


def test_electricity_held_in_rent_is_shown_and_not_added() -> None:
    result = samples.training()
    bill = [result.bill[0], result.bill[1].model_copy(update={"usd": Number.exact(9000), "included": True})]
    text = plain(Page(render_run(result.model_copy(update={"bill": bill}))).text["energy"])
    assert "($9,000)" in text
    assert "If the GPU-hour cost" in text


def test_alike_stages_share_a_row() -> None:
    text = plain(Page(page_of("huge")).text["memory"])
    assert "Stages 8 to 62" in text


def test_tpus_are_called_so() -> None:
    result = samples.training(summary=samples.summary(device="tpu-v4", gpus=1024))
    page = Page(render_run(result))
    assert "with these 1,024 TPUs takes about" in plain(page.findings[0])
    assert "Throughput per TPU" in page.text["figures"]
    words = page.all_text().replace("GPUs rented for", "").replace("GPU-hour", "")
    assert "GPU" not in words.replace("NVLink, per GPU", "").replace("InfiniBand rail, per GPU", "")
