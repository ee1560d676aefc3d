"""Claims: how a published figure is read and judged, ratios and their intervals, bad files, and the shipped ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from math import exp, hypot, inf, sqrt
from pathlib import Path

import pytest
import toy
from conftest import Outcome
from hypothesis import given
from hypothesis import strategies as st
from report_html import Page

from simulator.assembly import uncertainty as u
from simulator.errors import SpecError
from simulator.planning.claims import Simulations, judge, judged, ratio_error, result_of
from simulator.planning.figures import figure
from simulator.planning.pair_errors import pair_errors
from simulator.report.claims_page import bare, render_claims, verdict
from simulator.report.energy_factors import energy_factors, product
from simulator.report.octaves import LogAxis
from simulator.result import Number, Result
from simulator.simulation import simulate
from simulator.spec.base import data_root
from simulator.spec.claims import Side, known_figures, published_range, read_claims
from simulator.verdicts import Judged

SHIPPED = data_root() / "workloads/claims.yaml"
RUN = "mixtral-8x7b-64xh100"
CLAIM = """title: Some <claims>
claims:
  - id: size
    topic: Sizes
    claim: It is <b>large</b>.
    source: somebody
    published: "46.7"
    unit: billion
    figure: parameters
    of: {model: mixtral-8x7b}
"""


def number(value: float, low: float, high: float) -> Number:
    return Number(value=value, low=low, high=high, basis="measured")


# Reading a figure


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("46.7", 46.65, 46.75),
        ("1.2", 1.15, 1.25),
        ("1,287", 1286.5, 1287.5),
        ("10", 9.5, 10.5),
        ("3.14e23", 3.135e23, 3.145e23),
        ("2.664e6", 2.6635e6, 2.6645e6),
        ("0.354", 0.3535, 0.3545),
        ("20 to 30", 19.5, 30.5),
        ("< 1", -inf, 1.0),
        ("> 10", 10.0, inf),
    ],
)
def test_a_figure_is_what_reads_like_it(text: str, low: float, high: float) -> None:
    assert published_range(text) == pytest.approx((low, high))


@pytest.mark.parametrize("text", ["about 3", "", "3x", "< 1 to 2", "30 to 20", "1 to", "ten", "-3"])
def test_what_is_no_figure_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no figure; write it like|goes down"):
        published_range(text)


# Judging


@pytest.mark.parametrize(
    ("found", "published", "neutral", "verdict_"),
    [
        (number(1.0, 0.9, 1.1), (1.05, 1.15), None, "holds"),
        (number(1.0, 0.9, 1.1), (1.1, 1.2), None, "holds"),  # the ends touch
        (number(1.0, 0.9, 1.1), (1.2, 1.3), None, "doesn't"),
        (number(3.0, 2.0, 4.0), (9.5, 10.5), 1.0, "in part"),  # faster, not ten times
        (number(0.8, 0.7, 0.9), (9.5, 10.5), 1.0, "doesn't"),  # slower
        (number(1.2, 0.9, 1.6), (9.5, 10.5), 1.0, "doesn't"),  # perhaps faster
        (number(0.8, 0.7, 0.9), (0.45, 0.55), 1.0, "in part"),
        (number(1.2, 1.1, 1.3), (0.45, 0.55), 1.0, "doesn't"),
        (number(0.5, 0.4, 0.9), (-inf, 1.0), None, "holds"),
        (number(0.9, 0.7, 1.2), (-inf, 1.0), None, "in part"),
        (number(1.1, 0.9, 1.3), (-inf, 1.0), None, "doesn't"),
        (number(40.0, 35.0, 50.0), (30.0, inf), None, "holds"),
        (Number.exact(46.7028), (46.65, 46.75), None, "holds"),
        (Number.exact(46.8), (46.65, 46.75), None, "doesn't"),
    ],
)
def test_verdicts(found: Number, published: tuple[float, float], neutral: float | None, verdict_: str) -> None:
    assert judged(found, published, neutral) == verdict_


@given(value=st.floats(0.1, 10), width=st.floats(1.0, 3.0), at=st.floats(0.1, 10))
def test_a_published_value_within_the_interval_always_holds(value: float, width: float, at: float) -> None:
    found = number(value, value / width, value * width)
    inside = found.low <= at <= found.high
    assert (judged(found, (at, at), None) == "holds") is inside
    assert (judged(found, (at, at), 1.0) == "holds") is inside


# Figures


@cache
def trained() -> Result:
    return simulate(toy.run(gpus=8, training={"tokens": 5120}, economics={"pue": 1.5}))


def test_figures_that_follow_from_others() -> None:
    result = trained()  # 8 x 64 tokens a step: ten steps
    assert result.step_time_s is not None
    assert result.energy_total_j is not None
    assert result.flops_per_token is not None
    hours = 10 * result.step_time_s.value / 3600
    assert figure(result, "hours").value == pytest.approx(hours)
    assert figure(result, "gpu_hours").value == pytest.approx(8 * hours)
    assert figure(result, "training_flops").value == pytest.approx(5120 * result.flops_per_token.value)
    assert figure(result, "forward_flops_per_token").value == pytest.approx(result.flops_per_token.value / 3)
    assert figure(result, "six_nd").value == 6 * result.summary.active_parameters * 5120
    assert figure(result, "pue").value == 1.5
    watts = figure(result, "watts_per_gpu").value
    assert watts * 1.5 * 8 * hours * 3600 == pytest.approx(result.energy_total_j.value)
    parts = [item.seconds.value for item in result.breakdown if item.group == "computing"]
    assert figure(result, "computing_s").value == pytest.approx(sum(parts))
    assert figure(result, "breakdown.no_such_item").value == 0.0
    with pytest.raises(KeyError):
        figure(result, "tpot_s")


def test_every_known_figure_is_one_of_a_result() -> None:
    known = known_figures()
    assert {"tpot_s", "memory_gib.parameters", "communication_s.all_to_all.exposed", "six_nd"} <= set(known)
    found = set(trained().numbers())
    assert {name for name in known if name in found} == found


def test_the_interval_of_a_ratio_is_what_two_runs_do_not_share() -> None:
    dense = trained()
    other = dense.model_copy(update={"summary": dense.summary.model_copy(update={"device": "other"})})
    sparse = dense.model_copy(
        update={"summary": dense.summary.model_copy(update={"model": "sparse", "active_parameters": 1})}
    )
    both, pairs = (Number.exact(1.0), Number.exact(1.0)), pair_errors()
    assert ratio_error(dense, dense, "step_time_s", both) == pairs.same_device
    assert ratio_error(dense, other, "step_time_s", both) == pairs.other_device
    assert ratio_error(dense, other, "energy_total_j", both) == pytest.approx(
        hypot(pairs.other_device, u.POWER_ERROR * sqrt(2))
    )
    errors = (pairs.same_device, u.MODEL_ERROR["dense"], u.MODEL_ERROR["moe"])
    assert ratio_error(dense, sparse, "step_time_s", both) == pytest.approx(hypot(*errors))
    assert ratio_error(dense, dense, "peak_memory_gib", both) == u.MEMORY_ERROR


def test_unlike_serving_runs_are_independent() -> None:
    one = result_of(toy.inference())
    two = one.model_copy(update={"summary": one.summary.model_copy(update={"model": "other"})})
    numbers = number(1.0, exp(-1.645 * 0.3), exp(1.645 * 0.3)), number(1.0, exp(-1.645 * 0.4), exp(1.645 * 0.4))
    assert ratio_error(one, two, "tpot_s", numbers) == pytest.approx(0.5)
    assert ratio_error(one, one, "tpot_s", numbers) == pair_errors().same_device


# Energy, factor by factor


def test_the_factors_multiply_to_the_ratio_of_energies() -> None:
    one = trained()
    two = simulate(
        toy.run(gpus=4, training={"tokens": 2560, "global_batch": 4}, device={"tdp": "150 W"}, economics={"pue": 1.2})
    )
    factors = energy_factors(one, two)
    assert one.energy_total_j is not None
    assert two.energy_total_j is not None
    assert product(factors) == pytest.approx(two.energy_total_j.value / one.energy_total_j.value)
    ratios = {factor.name: factor.ratio for factor in factors}
    assert ratios["Tokens"] == 0.5
    assert ratios["PUE"] == pytest.approx(0.8)
    assert ratios["FLOPs per token"] == pytest.approx(1.0)


def test_factors_need_a_length_and_training() -> None:
    endless = simulate(toy.run(gpus=8))
    assert energy_factors(trained(), endless) == []
    assert energy_factors(result_of(toy.inference()), result_of(toy.inference())) == []


def test_failures_are_a_factor_of_their_own() -> None:
    reliability = {"gpu_mtbf": "100 h", "checkpoint_time": "10 s", "restart_time": "100 s"}
    steady, failing = (
        simulate(toy.run(gpus=8, training={"tokens": 5120}, economics={"pue": 1.5}, **more))
        for more in ({}, {"reliability": reliability})
    )
    factors = {factor.name: factor for factor in energy_factors(steady, failing)}
    assert factors["Time that moves it forward"].ratio > 1
    assert steady.energy_total_j is not None
    assert failing.energy_total_j is not None
    assert product(list(factors.values())) == pytest.approx(failing.energy_total_j.value / steady.energy_total_j.value)


def test_a_logarithmic_axis() -> None:
    axis = LogAxis.over([0.3, 3.0])
    assert [label for _, label in axis.ticks()] == ["0.25×", "0.5×", "1×", "2×", "4×"]
    assert [axis.at(value) for value in (0.25, 1.0, 2.0, 4.0)] == pytest.approx([0, 50, 75, 100])
    wide = LogAxis.over([1e-3, 1e3])
    assert wide.step == 10
    assert wide.at(1.0) == pytest.approx(50)


# Files


def claims_file(folder: Path, text: str) -> Path:
    file = folder / "claims.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"46.7"',
            '"about 47"',
            ":7: claims.0.published: 'about 47' is no figure; write it like '46.7', '20 to 30', '< 1' or '> 10'",
        ),
        ("billion", "gazillion", ":8: claims.0.unit: unknown unit 'gazillion'. Did you mean 'billion' or 'trillion'?"),
        (
            "figure: parameters",
            "figure: parametres",
            ":9: claims.0.figure: no figure 'parametres'. Did you mean 'parameters'",
        ),
        (
            "figure: parameters",
            "figure: step_time_s",
            ":3: claims.0: a model by itself has active_parameters and parameters; step_time_s needs a run",
        ),
        (
            "{model: mixtral-8x7b}",
            "{model: mixtral-8x7}",
            ":10: claims.0.of: unknown model 'mixtral-8x7'. Did you mean",
        ),
        ("{model: mixtral-8x7b}", "{}", ":10: claims.0.of: expected either a run or a model"),
        (
            "{model: mixtral-8x7b}",
            "{run: no-such-run}",
            ":10: claims.0.of: run: no shipped run 'no-such-run', and a path ends in .yaml",
        ),
        (
            "{model: mixtral-8x7b}",
            f"{{run: {RUN}, set: {{parallelism.pq: 3}}}}",
            ":10: claims.0.of: parallelism.pq: unknown key 'pq'. Known: cp",
        ),
        ("{model: mixtral-8x7b}", "{model: mixtral-8x7b, set: {a: 1}}", ":10: claims.0.of: a model has nothing to set"),
    ],
)
def test_bad_claims_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = claims_file(tmp_path, CLAIM.replace(old, new))
    with pytest.raises(SpecError) as caught:
        read_claims(file)
    assert str(caught.value).removeprefix(str(file)).startswith(message)


def test_an_id_stands_once(tmp_path: Path) -> None:
    again = CLAIM + CLAIM[CLAIM.index("  - id") :]
    with pytest.raises(SpecError, match="the id size stands twice"):
        read_claims(claims_file(tmp_path, again))


def test_a_run_that_cannot_be_is_a_verdict_with_its_reason(tmp_path: Path) -> None:
    text = CLAIM.replace(
        "{model: mixtral-8x7b}", f"{{run: {RUN}, set: {{hardware.gpus: 8, model: gpt3-175b, parallelism: {{}}}}}}"
    )
    found = judge(read_claims(claims_file(tmp_path, text)), tmp_path).verdicts[0]
    assert found.judgement == "not simulated"
    assert found.found is None
    assert "it doesn't fit" in found.reason
    assert "not simulated" in render_claims(Judged("t", (found,), (), "0"))


def test_a_figure_the_run_lacks_is_named(tmp_path: Path) -> None:
    text = CLAIM.replace("figure: parameters", "figure: tpot_s").replace("{model: mixtral-8x7b}", f"{{run: {RUN}}}")
    found = judge(read_claims(claims_file(tmp_path, text)), tmp_path).verdicts[0]
    assert found.reason == "size: a run of kind training has no tpot_s"


def serving_side(**at: object) -> Side:
    run = toy_run()
    return Side.model_validate({"run": run, "at": at})


def toy_run() -> dict[str, object]:
    return {
        "name": "toy", "kind": "inference", "model": toy.MODEL, "framework": "vllm",
        "hardware": {"device": toy.DEVICE, "gpus": 1, "gpus_per_node": 8, "network": toy.NETWORK},
        "inference": {"isl": 64, "osl": 32, "concurrency": 1, "batching": "continuous"},
    }  # fmt: skip


def test_held_at_a_latency_as_many_requests_as_keep_it(tmp_path: Path) -> None:
    simulations = Simulations(tmp_path)

    def tpot(requests: int) -> float:
        side = Side.model_validate({"run": toy_run(), "set": {"inference.concurrency": requests}})
        found = simulations.result(side).tpot_s
        assert found is not None
        return found.value

    limit = tpot(10)
    held = simulations.result(serving_side(seconds=limit))
    assert held.tpot_s is not None
    assert held.tpot_s.value <= limit
    assert held.run["inference"]["concurrency"] >= 10
    assert tpot(held.run["inference"]["concurrency"] + 1) > limit


def test_the_best_of_several_settings_counts(tmp_path: Path) -> None:
    slow = {"inference.isl": 4096}
    held = Simulations(tmp_path).result(serving_side(seconds=1.0, among=[slow, {}]))
    assert held.run["inference"]["isl"] == 64


# The shipped claims


@cache
def shipped() -> Judged:
    return judge(read_claims(SHIPPED), SHIPPED.parent)


def test_every_shipped_claim_is_simulated() -> None:
    found = shipped()
    assert [each.id for each in found.verdicts if each.judgement == "not simulated"] == []
    assert len(found.verdicts) >= 35
    assert len(found.untested) >= 8


def test_counted_claims_have_the_verdicts_of_arithmetic() -> None:
    verdicts = {each.id: each for each in shipped().verdicts}
    for name in ("mixtral-parameters", "mixtral-active", "glam-parameters", "glam-active", "gpt3-training-flops"):
        assert verdicts[name].judgement == "holds", name
    assert verdicts["glam-training-flops"].judgement == "doesn't"  # of 600 billion tokens, not 280
    assert verdicts["kilowatt-hours"].judgement == "doesn't"
    assert verdicts["graph-density"].judgement == "doesn't"
    assert verdicts["moe-saves-memory"].judgement == "doesn't"
    found = verdicts["eight-bits-halve-weights"].found
    assert found is not None
    assert found.value == pytest.approx(0.5, abs=0.005)


def test_verdicts_follow_from_what_the_page_shows() -> None:
    for each in shipped().verdicts:
        assert each.found is not None
        low, high = each.range
        if each.judgement == "holds" and abs(low) < inf and abs(high) < inf:
            assert each.found.low <= high
            assert each.found.high >= low
        if len(each.sides) == 2:
            ratio = each.sides[0][1].value / each.sides[1][1].value
            assert each.found.value * (0.01 if each.unit == "%" else 1.0) == pytest.approx(ratio)


def test_the_page(tmp_path: Path) -> None:
    html = render_claims(shipped())
    page = Page(html)
    assert page.unclosed == []
    assert verdict(shipped()) in page.text["verdict"]
    assert len(page.ids) == len(set(page.ids))
    assert set(page.anchors) <= set(page.ids) | {"main"}
    for each in shipped().verdicts:
        assert each.id in page.text["all"]
    for claim, _, why in shipped().untested:
        assert claim in page.text["untested"]
        assert why in page.text["untested"]
    assert len(html) < 500_000


def test_what_a_user_writes_is_escaped(tmp_path: Path) -> None:
    html = render_claims(judge(read_claims(claims_file(tmp_path, CLAIM)), tmp_path))
    assert "It is &lt;b&gt;large&lt;/b&gt;." in html
    assert "Some &lt;claims&gt;" in html


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.354, "0.354"), (1287.0, "1,290"), (3.143e23, "3.14e23"), (2985000.0, "2.98e6"), (0.0007, "0.000700")],
)
def test_figures_are_written_short(value: float, text: str) -> None:
    assert bare(value) == text


def test_the_command(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    file = claims_file(tmp_path, CLAIM)
    outcome = moesim("claims", str(file), "--out", "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Of 1 claims that a simulator of machines can test, 1 holds." in outcome.out
    assert (tmp_path / "out/report.html").is_file()
    data = json.loads(moesim("claims", str(file), "--json").out)
    assert data["verdicts"][0]["judgement"] == "holds"
    assert data["verdicts"][0]["range"] == pytest.approx([46.65, 46.75])


def test_a_missing_file_is_said(moesim: Callable[..., Outcome]) -> None:
    outcome = moesim("claims", "no-such.yaml")
    assert (outcome.code, outcome.err.strip()) == (2, "error: no-such.yaml: no such file")
