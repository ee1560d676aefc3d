"""One change of a run: terms that add up, errors that cancel where nothing moves, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import sqrt

import pytest
from conftest import Outcome

from simulator.answer import WhatIf
from simulator.assembly.uncertainty import MODEL_ERROR, Z90
from simulator.errors import SpecError
from simulator.planning.difference import share_errors, terms
from simulator.planning.what_if import what_if, what_ifs
from simulator.simulation import simulate
from simulator.spec.base import data_root
from simulator.spec.run import read_run

RUN = data_root() / "workloads/runs/mixtral-8x7b-64xh100.yaml"
SERVING = data_root() / "workloads/runs/mixtral-8x7b-inference-2xh100.yaml"


@pytest.fixture(scope="module")
def wider() -> WhatIf:
    return what_if(RUN, ["hardware.network.bandwidth=800 Gb/s"])


def test_the_terms_add_up_to_the_difference(wider: WhatIf) -> None:
    before, after = (simulate(read_run(RUN, s)) for s in ((), ["hardware.network.bandwidth=800 Gb/s"]))
    assert before.step_time_s is not None
    assert after.step_time_s is not None
    assert wider.key == "step_time_s"
    assert sum(term.change.value for term in wider.terms) == pytest.approx(wider.total.value)
    assert wider.total.value == pytest.approx(after.step_time_s.value - before.step_time_s.value)
    assert sum(term.before for term in wider.terms) == pytest.approx(before.step_time_s.value)


def test_what_does_not_move_has_no_error(wider: WhatIf) -> None:
    assert wider.shared
    gemms = next(term for term in wider.terms if term.label == "Expert GEMMs")
    assert (gemms.change.value, gemms.change.low, gemms.change.high) == (0.0, 0.0, 0.0)
    step = next(change for change in wider.figures if change.key == "step_time_s")
    # The step is known to 20 %, the difference to a few percent of the step and never to less than its own share.
    assert wider.total.high - wider.total.low < 0.1 * (step.before.high - step.before.low)
    assert wider.total.low < wider.total.value < wider.total.high < 0


def test_the_interval_of_the_whole_is_that_of_its_parts_and_the_model(wider: WhatIf) -> None:
    parts = sum(((term.change.high - term.change.low) / 2 / Z90) ** 2 for term in wider.terms)
    sd = sqrt(parts + (MODEL_ERROR["moe"] * wider.total.value) ** 2)
    assert wider.total.high - wider.total.value == pytest.approx(Z90 * sd)


def test_figures_follow_the_time(wider: WhatIf) -> None:
    of = {change.key: change for change in wider.figures}
    step, days, rate = of["step_time_s"], of["days"], of["tokens_per_s"]
    share = step.difference.value / step.before.value
    for end in ("value", "low", "high"):
        assert getattr(days.difference, end) / days.before.value == pytest.approx(
            getattr(step.difference, end) / step.before.value
        )
    # What takes (1 + x) of the time yields 1/(1 + x) of the rate.
    assert rate.difference.value / rate.before.value == pytest.approx(1 / (1 + share) - 1)
    assert rate.difference.low < rate.difference.value < rate.difference.high
    assert of["peak_memory_gib"].difference.value == 0


def test_two_devices_share_no_errors() -> None:
    one, two = (simulate(read_run(RUN, s)) for s in ((), ["hardware.device=b200-sxm"]))
    assert not share_errors(one, two)
    for term in terms(one, two):
        if term.before and term.after:
            assert term.change.high > term.change.value or term.label == "Uneven stages"


def test_no_change_is_no_difference() -> None:
    same = what_if(RUN, ["parallelism.tp=1"])
    assert same.total.value == same.total.low == same.total.high == 0
    with pytest.raises(SpecError, match=r"nothing changes; give --set path=value or --vary path=\[values\]"):
        what_if(RUN, [])


def test_each_value_is_compared_with_the_run_as_set() -> None:
    found = list(what_ifs(SERVING, ["inference.concurrency=32"], "inference.concurrency=[32, 64]"))
    assert [dict(each.settings) for each in found] == [{"inference.concurrency": 32}, {"inference.concurrency": 64}]
    assert found[0].total.value == 0
    assert found[1].key == "tpot_s"
    assert found[1].total.value > 0
    with pytest.raises(SpecError, match="gives no list of values"):
        list(what_ifs(SERVING, [], "inference.concurrency=32"))


def test_the_command_prints_the_difference(moesim: Callable[..., Outcome]) -> None:
    done = moesim("what-if", "mixtral-8x7b-64xh100", "--set", "parallelism.tp=2")
    assert done.code == 0
    assert "mixtral-8x7b-64xh100 with parallelism.tp: 2" in done.out
    assert "Tensor-parallel collectives" in done.out
    data = json.loads(moesim("what-if", "mixtral-8x7b-64xh100", "--set", "parallelism.tp=2", "--json").out)
    assert data["key"] == "step_time_s"
    assert data["total"]["low"] < data["total"]["value"] < data["total"]["high"]
    refused = moesim("what-if", "mixtral-8x7b-64xh100", "--set", "parallelism.tpp=2")
    assert refused.code == 2
    assert "unknown key 'tpp'. Did you mean 'tp' or 'pp' or 'vpp'?" in refused.err
