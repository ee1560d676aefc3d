"""Demand that grows: what a replica bears, when a cluster is too small, the fleet, its money, and bad questions."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import cache
from math import exp
from pathlib import Path
from typing import Any

import pytest
import toy
from conftest import Outcome
from report_html import Page

from simulator.assembly import uncertainty as u
from simulator.errors import InfeasibleError, SpecError
from simulator.fleet import FleetAnswer, FleetMonth
from simulator.planning.bearing import FULL, Service, capacity_of
from simulator.planning.fleet_money import Machines, repaid_in
from simulator.planning.growth import grow, replicas_for
from simulator.report import growth_words as words
from simulator.report.growth_page import render_growth
from simulator.result import Number
from simulator.spec.growth import Demand, later, price_in, read_growth
from simulator.spec.run import Run
from simulator.units import MONTH

RUN = """
  name: chat
  kind: inference
  model: llama3-70b
  hardware: {device: h100-sxm, gpus: 16}
  parallelism: {tp: 4}
  inference: {isl: 1000, osl: 300, request_rate: 4, precision: fp8}
  framework: vllm
  economics: {electricity: 0.1 USD/kWh, pue: 1.2}
"""
QUESTION = f"""name: chat
title: A <chat> that grows
run: {RUN}
demand: {{unit: requests/s, start: 2026-01, first: 8, growth: 0.25, months: 8, peak: 2}}
objectives: {{ttft: 500 ms, tpot: 30 ms}}
rent: rental-2025
buy: {{price: 40000 USD, life: 4 years, hosting: 100 USD/kW/month}}
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "growth.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@cache
def answer_of(*changes: str) -> FleetAnswer:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return grow(read_growth(written(Path(folder), QUESTION), changes))


@cache
def service() -> Service:
    return Service(toy.inference(gpus=1, work={"request_rate": 1.0}))


# What a replica bears


def test_under_a_slack_objective_the_full_batch_gives_way() -> None:
    found = capacity_of(service(), tpot=1e3, ttft=None)
    assert found.first in ("kv_cache", "sequences")
    assert [each.rate is None for each in found.ceilings] == [False, True]
    assert found.rate.value == pytest.approx(service().most / service().replicas)


def test_at_the_rate_of_an_objective_the_latency_is_the_objective() -> None:
    full = service().state(service().most * FULL)
    alone = service().state(service().most * 1e-4)
    goal = (alone.tpot + full.tpot) / 2
    found = capacity_of(service(), tpot=goal, ttft=None)
    assert found.first == "decode"
    assert found.tpot == pytest.approx(goal, rel=1e-4)
    assert service().state(found.rate.value * service().replicas).tpot == pytest.approx(goal, rel=1e-4)


def test_the_interval_is_that_of_all_times_longer_or_shorter() -> None:
    full, alone = service().state(service().most * FULL), service().state(service().most * 1e-4)
    goal = (alone.tpot + full.tpot) / 2
    rate = next(c.rate for c in capacity_of(service(), tpot=goal, ttft=None).ceilings if c.name == "decode")
    assert rate is not None
    factor = exp(u.Z90 * service().evidence.whole)
    slower = service().rate_within("decode", goal / factor) / factor / service().replicas
    assert rate.low == pytest.approx(slower)
    assert rate.low < rate.value < rate.high


def test_a_tighter_objective_bears_less() -> None:
    rates = [capacity_of(Service(run_of()), tpot=tpot, ttft=None).rate.value for tpot in (0.02, 0.03, 0.05)]
    assert rates[0] < rates[1] < rates[2]


def run_of() -> Run:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return read_growth(written(Path(folder), QUESTION)).run


def test_replicas_share_the_load_evenly() -> None:
    one, four = (answer_of(f"hardware.gpus={gpus}").capacity for gpus in (4, 16))
    assert one.rate.value == pytest.approx(four.rate.value, rel=1e-5)
    assert (one.gpus, four.gpus) == (4, 4)


def test_an_objective_no_load_keeps_is_refused() -> None:
    with pytest.raises(
        InfeasibleError, match=r"^objectives.tpot: a token of a request that meets no others takes"
    ) as e:
        answer_of("objectives.tpot=1 ms")
    assert "no number of GPUs makes that 1 ms" in str(e.value)
    assert e.value.needed is not None
    assert e.value.needed > 1e-3


# The fleet


@pytest.mark.parametrize(("rate", "replicas"), [(0.0, 1), (9.9, 1), (10.0, 1), (10.1, 2), (30.0, 3), (30.0001, 4)])
def test_replicas_are_whole(rate: float, replicas: int) -> None:
    assert replicas_for(rate, 10.0) == replicas


def test_every_month_bears_its_busiest_time_and_no_more() -> None:
    answer = answer_of()
    bears = answer.capacity.rate.value
    for number, month in enumerate(answer.months):
        assert month.month == later("2026-01", number)
        assert month.demand == pytest.approx(8 * 1.25**number)
        assert month.busiest == pytest.approx(2 * month.demand)
        assert (month.replicas - 1) * bears < month.busiest <= month.replicas * bears
        assert month.gpus == 4 * month.replicas
        assert month.use == pytest.approx(month.demand / (month.replicas * bears))
        assert month.replicas_range[0] <= month.replicas <= month.replicas_range[1]


def test_the_month_todays_cluster_is_too_small() -> None:
    answer = answer_of()
    bears = answer.capacity.rate.value * answer.today_replicas
    first = next(month.month for month in answer.months if month.busiest > bears)
    assert answer.stops == first
    early, late = answer.stops_range
    assert early is not None
    assert early <= first
    assert late is None or late >= first


def test_a_pessimist_sizes_for_the_low_end() -> None:
    careful = answer_of("decide_on=pessimistic")
    assert [m.replicas for m in careful.months] == [m.replicas_range[1] for m in answer_of().months]
    assert careful.stops == answer_of().stops_range[0]


def test_tokens_a_day_are_the_same_demand() -> None:
    tokens = 8 * 300 * 86400
    other = answer_of("demand.unit=output tokens/day", f"demand.first={tokens}")
    assert [m.gpus for m in other.months] == [m.gpus for m in answer_of().months]


def test_a_curve_is_the_same_as_its_formula() -> None:
    curve = {later("2026-01", i): 8 * 1.25**i for i in range(8)}
    answer = answer_of(f"demand={json.dumps({'unit': 'requests/s', 'peak': 2, 'curve': curve})}")
    assert [m.gpus for m in answer.months] == [m.gpus for m in answer_of().months]


def test_energy_follows_load_and_an_idle_fleet_idles() -> None:
    answer = answer_of('demand={"unit": "requests/s", "curve": {"2026-01": 0, "2026-02": 1, "2026-03": 2}}')
    idle, light, twice = (month.energy_j.value for month in answer.months)
    device = run_of().hardware.device
    waiting = (device.idle_power + device.node.overhead_power / device.node.gpus) * 1.2
    assert idle == pytest.approx(waiting * 4 * MONTH)
    assert idle < light < twice


# Money


def test_rent_is_the_price_in_that_month_for_all_its_hours() -> None:
    answer = answer_of('rent={"2025-07": "3 USD/h", "2026-03": "2 USD/h"}')
    for month in answer.months:
        assert month.rent_usd == pytest.approx(month.gpus * (3 if month.month < "2026-03" else 2) * 730.5)


def test_purchases_fill_the_fleet_in_whole_servers() -> None:
    answer = answer_of()
    for before, month in zip(answer.months, answer.months[1:], strict=False):
        assert month.owned == before.owned + month.bought
    for month in answer.months:
        assert month.owned - 8 < month.gpus <= month.owned
        assert month.bought % 8 == 0
        assert month.purchase_usd == month.bought * 40000


def test_machines_leave_at_the_end_of_their_life() -> None:
    machines = Machines(life=12)
    assert machines.fill(0, 8, 100.0) == 8
    assert machines.fill(6, 10, 50.0, server=4) == 4
    assert (machines.owned(11), machines.owned(12)) == (12, 4)
    assert machines.value(11) == 8 * 100 + 4 * 50
    assert machines.worth(6, 0.0) == 8 * 100 / 2 + 4 * 50
    assert machines.worth(6, 1.0) == 8 * 100 + 4 * 50
    assert machines.fill(12, 10, 50.0) == 6


def month_of(rent: float, purchase: float, running: float) -> FleetMonth:
    none = Number.exact(0.0)
    return FleetMonth(
        month="", demand=1, busiest=1, replicas=1, replicas_range=(1, 1), gpus=1, use=1, energy_j=none, carbon_kg=none,
        rent_usd=rent, bought=1, owned=1, purchase_usd=purchase, running_usd=running,
    )  # fmt: skip


def test_buying_is_repaid_once_it_stays_ahead() -> None:
    from dataclasses import replace

    # rent 10 a month; 25 to buy, 1 to run: 26, 27, 28 against 10, 20, 30; a second purchase in month 4 throws it back
    months = [replace(month_of(10, purchase, 1), month=str(i)) for i, purchase in enumerate((25, 0, 0, 30, 0, 0, 0, 0))]
    assert repaid_in(months[:3]) == "2"
    assert repaid_in(months[:5]) is None
    assert repaid_in(months) == "6"
    assert repaid_in([replace(month, bought=0) for month in months]) is None


def test_a_price_holds_until_the_next() -> None:
    dated = {"2025-06": 3.0, "2026-02": 2.0}
    assert [price_in(dated, month) for month in ("2025-06", "2026-01", "2026-02", "2027-12")] == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("month", "by", "other"), [("2026-01", 0, "2026-01"), ("2026-12", 1, "2027-01"), ("2026-05", 20, "2028-01")]
)
def test_months_go_on(month: str, by: int, other: str) -> None:
    assert later(month, by) == other


# Bad questions


def refused(tmp_path: Path, old: str, new: str) -> str:
    assert old in QUESTION
    with pytest.raises(SpecError) as caught:
        read_growth(written(tmp_path, QUESTION.replace(old, new)))
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "growth.yaml"))
    return text.removeprefix(str(tmp_path / "growth.yaml"))


DEMAND = "{unit: requests/s, start: 2026-01, first: 8, growth: 0.25, months: 8, peak: 2}"


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        (
            "{curve: {2026-01: 4, 2026-02: 5, 2026-04: 7}}",
            ":13: demand.curve: 2026-03 is missing between 2026-02 and 2026-04",
        ),
        ("{curve: {2026-02: 4, 2026-01: 5}}", ":13: demand.curve: 2026-01 stands after 2026-02; months go forward"),
        ("{curve: {}}", ":13: demand.curve: expected at least one month"),
        (
            "{curve: {2026-01: -4}}",
            ":13: demand.curve.2026-01: Input should be greater than or equal to 0, got -4",
        ),
        ("{curve: {Jan 2026: 4}}", ":13: demand.curve.Jan 2026: 'Jan 2026' is no month; write it like '2026-01'"),
        ("{curve: {2026-13: 4}}", ":13: demand.curve.2026-13: '2026-13' is no month; write it like '2026-01'"),
        (
            "{start: 2026-01, first: 8}",
            ":13: demand: expected a curve, or start, first, growth and months; missing: growth, months",
        ),
        ("{curve: {2026-01: 4}, growth: 0.1}", ":13: demand: a curve says all of it; leave out growth"),
        (
            "{start: 2026/01, first: 8, growth: 0.1, months: 3}",
            ":13: demand.start: '2026/01' is no month; write it like '2026-01'",
        ),
        (
            "{start: 2026-01, first: -8, growth: 0.1, months: 3}",
            ":13: demand.first: Input should be greater than or equal to 0, got -8",
        ),
    ],
)
def test_bad_demands_are_refused(tmp_path: Path, demand: str, message: str) -> None:
    assert refused(tmp_path, DEMAND, demand) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "device: h100-sxm",
            "device: gb300",
            ":15: rent: no price for gb300 in rental-2025 "
            "(there are prices for: a100-sxm-40gb, b200-sxm, gb200, h100-sxm, h200-sxm)",
        ),
        (
            "rent: rental-2025",
            "rent: rental-2024",
            ":15: rent: unknown price table 'rental-2024'. Did you mean 'rental-2025'?",
        ),
        (
            "rent: rental-2025",
            "rent: 3 EUR/h",
            ":15: rent: '3 EUR/h' is not a price per hour; write it like '2.95 USD/h'",
        ),
        (
            "rent: rental-2025",
            "rent: {2026-03: 3 USD/h}",
            ":15: rent: no price for 2026-01, the first month of the demand",
        ),
        (
            "rent: rental-2025",
            "rent: {March: 3 USD/h}",
            ":15: rent: 'March' is no month; write it like '2026-01'",
        ),
        (
            "device: h100-sxm, gpus: 16}",
            "device: h200-sxm, gpus: 16}",
            ":16: buy.price: no price for h200-sxm in purchase-2025 (there are prices for: b200-sxm, gb200, h100-sxm)",
        ),
        ("rent: rental-2025\n", "", ":15: buy: nothing to buy against: give `rent`, or economics.gpu_hour in the run"),
        ("life: 4 years", "life: 0 years", ":16: buy: life must be above 0"),
        ("life: 4 years", "life: 4", ":16: buy.life: 4 has no unit; a time is written like '2 us'"),
        ("objectives: {", "objectivs: {", ":14: objectivs: unknown key 'objectivs'. Did you mean 'objectives'?"),
    ],
)
def test_bad_prices_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = QUESTION
    if "h200" in new:
        old, new, text = old, new, QUESTION.replace("price: 40000 USD", "price: purchase-2025")
    assert old in text
    with pytest.raises(SpecError) as caught:
        read_growth(written(tmp_path, text.replace(old, new)))
    assert str(caught.value).removeprefix(str(tmp_path / "growth.yaml")) == message


def test_owned_machines_need_a_price_of_electricity(tmp_path: Path) -> None:
    file = written(tmp_path, QUESTION.replace("electricity: 0.1 USD/kWh, ", ""))
    with pytest.raises(SpecError, match=r"^economics.electricity: an owned machine pays its electricity"):
        grow(read_growth(file))


def test_training_has_no_demand(tmp_path: Path) -> None:
    file = written(tmp_path, QUESTION.replace(f"run: {RUN}", "run: mixtral-8x7b-64xh100\n"))
    with pytest.raises(SpecError, match=r"run: demand grows for a serving run; this one is of kind training$"):
        read_growth(file)


def test_demand_ends_in_time() -> None:
    with pytest.raises(ValueError, match="less than or equal to 240"):
        Demand(start="2026-01", first=1.0, growth=0.1, months=241)


# The command and the page


def test_the_shipped_question(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = moesim("grow", "chat-on-llama3-70b", "--out", "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert "16 h100-sxm serve llama3-70b as promised until" in outcome.out
    assert "What gives way first is" in outcome.out
    with (tmp_path / "out/months.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 24
    assert rows[0]["month"] == "2026-01"
    assert float(rows[0]["requests_per_s"]) == 8.0
    assert (tmp_path / "out/report.html").stat().st_size < 500_000


def test_json_is_the_answer(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    data: dict[str, Any] = json.loads(moesim("grow", str(written(tmp_path, QUESTION)), "--json").out)
    assert data["stops"] == answer_of().stops
    assert len(data["months"]) == 8
    assert data["capacity"]["rate"]["value"] == pytest.approx(answer_of().capacity.rate.value)


def test_set_changes_question_and_run(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    file = str(written(tmp_path, QUESTION))
    outcome = moesim("grow", file, "--set", "demand.growth=0", "--set", "hardware.gpus=32", "--json")
    data = json.loads(outcome.out)
    assert data["today_gpus"] == 32
    assert len({month["gpus"] for month in data["months"]}) == 1


def test_an_objective_out_of_reach_ends_with_three(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = moesim("grow", str(written(tmp_path, QUESTION)), "--set", "objectives.tpot=1 ms")
    assert outcome.code == 3
    assert "Nearest change that fits: objectives.tpot:" in outcome.err


def test_the_page_says_what_the_answer_says() -> None:
    answer = answer_of()
    html = render_growth(answer, QUESTION)
    assert html == render_growth(answer, QUESTION)
    page = Page(html)
    assert "A &lt;chat&gt; that grows" in html
    assert words.verdict(answer) in page.text["verdict"]
    assert words.breaks_first(answer) in page.text["breaks"]
    assert page.unclosed == []
    for month in answer.months:
        assert f"{words.month_name(month.month)}: {words.gpus(month.gpus)}".replace("\u00a0", " ") in html.replace(
            "\u00a0", " "
        )


def test_parts_of_owning_add_up() -> None:
    found = answer_of().ownership
    assert found is not None
    assert found.rent == pytest.approx(2.95 * 730.5)
    assert found.parts["Capital"] == pytest.approx(40000 / 48)
    assert found.parts["Hosting"] == pytest.approx(100 * (700 + run_of().hardware.device.node.overhead_power / 8) / 1e3)
    assert found.parts["Upkeep"] == 0
    assert 0 < found.parts["Electricity"] < 150


def test_without_a_purchase_nothing_is_said_of_one(tmp_path: Path) -> None:
    answer = grow(read_growth(written(tmp_path, QUESTION.split("buy:")[0])))
    assert answer.ownership is None
    html = render_growth(answer, "")
    assert "Buying was not asked about" in html
    assert "GPUs bought" not in html


SERVED = QUESTION.replace("kind: inference", "kind: serving").replace(
    "  framework: vllm", "  serving: {ttft_slo: 2 s, tpot_slo: 25 ms}\n  framework: vllm"
)


def test_a_serving_run_brings_its_objectives(tmp_path: Path) -> None:
    stated = read_growth(written(tmp_path, SERVED)).growth.objectives
    assert (stated.ttft, stated.tpot) == (0.5, 0.03)
    own = read_growth(written(tmp_path, SERVED.replace("objectives: {ttft: 500 ms, tpot: 30 ms}\n", "")))
    assert (own.growth.objectives.ttft, own.growth.objectives.tpot) == (2.0, 0.025)
    assert grow(own).capacity.first == "decode"


def test_a_trace_has_no_closed_form(tmp_path: Path) -> None:
    text = SERVED.replace("serving: {", "serving: {trace: requests.csv, ")
    with pytest.raises(SpecError, match=r"run: serving.trace has no closed form, which growth is read from$"):
        read_growth(written(tmp_path, text))


def test_prompts_found_in_the_cache_leave_room_for_more(tmp_path: Path) -> None:
    hit = grow(read_growth(written(tmp_path, SERVED.replace("serving: {", "serving: {prefix_hit: 0.5, "))))
    assert hit.capacity.rate.value > grow(read_growth(written(tmp_path, SERVED))).capacity.rate.value


def test_an_objective_at_the_edge_may_be_out_of_reach(tmp_path: Path) -> None:
    question = read_growth(written(tmp_path, QUESTION))
    service = Service(question.run)
    alone = service.state(service.most * 1e-4).tpot
    edge = [f"objectives.tpot={alone * 1050:.6g} ms"]
    answer = grow(read_growth(written(tmp_path, QUESTION), edge))
    assert answer.capacity.rate.low == 0.0
    assert {month.replicas_range[1] for month in answer.months} == {None}
    assert "no number" in render_growth(answer, "")
    with pytest.raises(InfeasibleError, match=r"^decide_on: at the pessimistic end of the interval no number of GPUs"):
        grow(read_growth(written(tmp_path, QUESTION), [*edge, "decide_on=pessimistic"]))


def test_the_page_keeps_what_was_set(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    moesim("grow", str(written(tmp_path, QUESTION)), "--set", "demand.growth=0.1", "--out", "out")
    assert "# --set demand.growth=0.1" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (("2026-03", "2026-07"), "gets too small between March 2026 and July 2026"),
        (("2026-03", "2026-03"), "sure of that month"),
        (("2026-03", None), "lasts until March 2026 at least"),
        ((None, None), "no month is too much"),
    ],
)
def test_how_sure_the_month_is(ends: tuple[str | None, str | None], said: str) -> None:
    from dataclasses import replace

    assert said in words.interval(replace(answer_of(), stops_range=ends)).replace("\u00a0", " ")
