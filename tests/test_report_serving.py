"""The section of a serving run: what it says follows from the record, and its charts hold what they draw."""

from __future__ import annotations

import re

import pytest
import report_samples as samples
from report_html import Page

from simulator.report.energy_chart import energy_finding
from simulator.report.page import render_run
from simulator.report.serving_curves import curves_chart
from simulator.report.serving_load import lives_chart, load_chart
from simulator.report.serving_section import figures_table, latency_table, serving_finding
from simulator.report.verdict import verdict
from simulator.result import Energy, Latency, Requests, Result


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def changed(**fields: object) -> Requests:
    return samples.requests().model_copy(update=fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "94 % of the requests meet the objective (first token within 1 s and tokens no slower than 25 ms). "),
        ({"good_share": 1.0, "tpot_slo_s": None}, "All of the requests meet the objective (first token within 1 s). "),
        ({"good_share": 0.999}, "More than 99 % of the requests meet the objective ("),
        ({"good_share": 0.0}, "None of the requests meet the objective ("),
        ({"good_share": None}, "99 % of the requests see their first token within 631 ms. "),
        ({}, "The engine carries 63 % of what it could sustain, so there is room for more."),
        ({"sustainable_requests_per_s": samples.near(7.0)}, "89 % of what it could sustain, which is near its limit."),
        ({"sustainable_requests_per_s": samples.near(6.0)}, "; the engine is at its limit."),
        ({"sustainable_requests_per_s": None, "good_share": None}, "within 631 ms."),
        (
            {"objective_share": 0.9, "objective_requests_per_s": samples.near(7.25)},
            ". At up to 7.2 requests a second, arriving at random, 90 % of them would.",
        ),
        (
            {"objective_share": 0.9, "objective_requests_per_s": samples.near(0.0)},
            "; at no load do 90 % of them.",
        ),
    ],
)
def test_the_finding_follows_from_the_record(fields: dict[str, object], words: str) -> None:
    assert words in plain(serving_finding(changed(**fields)))


def test_the_table_has_a_row_for_each_latency_with_its_objective() -> None:
    table = latency_table(samples.requests())
    rows = [[plain(cell.text) for cell in row] for row in table.rows]
    assert [row[0] for row in rows] == [
        "Time to first token",
        "Time per output token, mean of a request",
        "Time between two tokens",
        "Whole answer",
        "In the queue",
    ]
    assert rows[0][1:5] == ["220 ms", "200 ms", "346 ms", "631 ms"]
    assert [row[-1] for row in rows] == ["1 s", "25 ms", "\u2013", "\u2013", "\u2013"]


def test_figures_that_are_not_known_are_left_out() -> None:
    bare = changed(
        goodput_requests_per_s=None,
        sustainable_requests_per_s=None,
        cached_tokens=0,
        usd_per_million_tokens=None,
        usd_per_million_prompt_tokens=None,
        usd_per_million_answer_tokens=None,
        joules_per_token=None,
        reading_share=0.25,
    )
    crossing = bare.model_copy(update={"handover_bytes": samples.near(1.3e9, 0.0), "handover_s": samples.near(0.002)})
    shown = {row[0].text: plain(row[1].text) for row in figures_table(crossing).rows}
    assert shown["KV cache of a prompt that crosses between them"] == "1.30 GB"
    assert shown["Its way, alone"] == "2.00 ms"
    names = [row[0].text for row in figures_table(bare).rows]
    assert not any("goodput" in name or "rice" in name or "found in the cache" in name for name in names)
    assert "Time in which GPUs that read prompts compute" in names
    assert len(figures_table(samples.requests()).rows) == len(names) + 7 - 1


def test_a_result_without_the_later_figures_is_still_shown() -> None:
    """Written before queues and tokens were counted."""
    old = samples.serving().model_dump(mode="json")
    for later in ("queue_s", "prompt_tokens", "cached_tokens", "output_tokens", "good_share", "objective_share"):
        del old["serving"][later]
    page = Page(render_run(Result.model_validate(old)))
    assert "Whole answer" in page.text["requests"]
    assert "In the queue" not in page.text["requests"]


def test_curves_stay_inside_their_panels_with_their_intervals_and_objectives() -> None:
    for wide, width in ((True, 860.0), (False, 330.0)):
        drawing = curves_chart(samples.requests(), label="finding", wide=wide)
        assert drawing.count("<polygon") == drawing.count("<polyline") == 3
        assert drawing.count("stroke-dasharray") == 2
        points = [pair.split(",") for group in re.findall('points="([^"]+)"', drawing) for pair in group.split()]
        assert all(52 <= float(x) <= width for x, _ in points)
        assert 'aria-label="finding"' in drawing


def test_a_latency_that_is_always_the_same_is_still_drawn() -> None:
    flat = Latency(
        mean=samples.near(0.1), p50=samples.near(0.1), p90=samples.near(0.1), p99=samples.near(0.1),
        quantiles=[(0.5, 0.1), (0.99, 0.1)],
    )  # fmt: skip
    exact = flat.model_copy(update={"mean": samples.near(0.1, 0.0)})
    for latency in (flat, exact):
        assert "polyline" in curves_chart(changed(ttft_s=latency), label="x", wide=True)


def test_the_load_is_three_areas_that_end_with_the_run() -> None:
    drawing = load_chart(samples.requests(), label="load", wide=True)
    areas = re.findall('d="(M6 [^"]+z)"', drawing)
    assert len(areas) == 3
    assert all("H856" in area for area in areas)
    assert plain(drawing).count("most ") == 3
    assert load_chart(changed(load=[]), label="load", wide=True) == ""


def test_each_request_is_a_row_of_three_bars() -> None:
    drawing = lives_chart(samples.requests(12), label="lives", wide=True)
    waiting = sum(i % 4 > 0 for i in range(12))
    assert drawing.count("<rect") == 3 + 12 * 2 + waiting
    assert lives_chart(changed(requests=[]), label="lives", wide=True) == ""


def test_the_section_stands_in_the_page_of_a_serving_run_alone() -> None:
    page = Page(render_run(samples.serving()))
    assert "requests" in page.ids
    assert page.unclosed == []
    assert "p99" in page.text["requests"]
    assert "requests" not in Page(render_run(samples.inference())).ids


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"inference": {"concurrency": 64}}, "to 64 users at once shows"),
        ({"inference": {"concurrency": 1}}, "to one user shows"),
        ({"inference": {"concurrency": 1, "request_rate": 6.0}}, "to 6.2 requests a second shows"),
        ({"inference": {"concurrency": 1}, "serving": {"trace": "chat.csv"}}, "to 6.2 requests a second shows"),
        ({"inference": {"concurrency": "max"}}, "these 4 GPUs shows"),
    ],
)
def test_the_verdict_says_whom_it_serves(run: dict[str, object], words: str) -> None:
    assert words in plain(verdict(samples.serving().model_copy(update={"run": run})).sentence)


def test_where_drafts_are_checked_times_are_those_of_a_token() -> None:
    result = samples.serving()
    drafting = result.model_copy(update={"run": {"inference": {"concurrency": 64, "speculative": {"tokens": 1}}}})
    assert "of the 20.8 ms output token" in plain(Page(render_run(drafting)).text["time"])
    assert "of the 20.8 ms decode step" in plain(Page(render_run(result)).text["time"])


def test_the_energy_of_inference_is_told_by_the_million_tokens() -> None:
    """GPUs draw 40 J for a batch at half a joule a token: 80 tokens, for which the meter counts 60 J."""
    parts = {"compute": 10.0, "memory": 10.0, "network": 5.0, "static": 20.0, "facility": 15.0}
    energy = Energy(**{name: samples.near(value) for name, value in parts.items()})
    known = {"energy_j": energy, "joules_per_output_token": samples.near(0.5), "energy_total_j": samples.near(60.0)}
    result = samples.serving().model_copy(update={**known, "carbon_kg": None})
    assert plain(energy_finding(result)) == "A million output tokens cost $1.07 and draw 208 Wh at the meter."
    unpaid = result.model_copy(update={"usd_per_million_output_tokens": None, "carbon_kg": samples.near(0.00008)})
    assert plain(energy_finding(unpaid)) == "A million output tokens draw 208 Wh at the meter and emit 1.00 kg CO₂e."
