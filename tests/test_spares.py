"""Nodes away for repair: closed forms of waiting and elastic jobs, spare nodes, and what they cost."""

from __future__ import annotations

from math import comb
from typing import Any

import pytest
import toy

from simulator import simulate
from simulator.cost.goodput import goodput
from simulator.cost.spares import availability, paid_gpus, spares_for
from simulator.errors import InfeasibleError, SpecError
from simulator.spec.workload import Reliability


def reliability(**fields: Any) -> Reliability:
    return Reliability.model_validate({"checkpoint_time": "0 s", "restart_time": "0 s", "gpu_mtbf": "80 h", **fields})


MACHINE = toy.hardware(80)
"""Ten nodes of eight: a node fails every 10 hours."""


def test_a_node_that_is_replaced_at_once_costs_no_more_than_the_restart() -> None:
    assert availability(reliability(), MACHINE, 10) == 1.0


def test_a_job_that_waits_runs_while_no_node_is_away() -> None:
    # ten nodes, each away for 1 of 11 hours
    assert availability(reliability(repair_time="1 h"), MACHINE, 10) == pytest.approx((10 / 11) ** 10)


def test_a_spare_node_stands_in_for_one() -> None:
    # eleven nodes fail; one of them away does no harm
    stated = reliability(repair_time="1 h", spare_nodes=1)
    assert availability(stated, MACHINE, 10) == pytest.approx((10 / 11) ** 11 + 11 / 11 * (10 / 11) ** 10)
    assert paid_gpus(stated, MACHINE) == 88
    assert paid_gpus(None, MACHINE) == 80


def test_an_elastic_job_goes_on_with_fewer_replicas() -> None:
    # ten replicas of a node each: the mean of those that are there
    share = availability(reliability(repair_time="1 h", elastic=True), MACHINE, 10)
    assert share == pytest.approx(10 / 11)
    # two replicas of five nodes each: one is lost with one to five nodes
    halves = availability(reliability(repair_time="1 h", elastic=True), MACHINE, 2)
    chance = [comb(10, away) * (1 / 11) ** away * (10 / 11) ** (10 - away) for away in range(6)]
    assert halves == pytest.approx(chance[0] + sum(chance[1:]) / 2)


def test_the_fewest_spares_for_a_share() -> None:
    stated = reliability(repair_time="1 h")
    found = spares_for(stated, MACHINE, 10, 0.99)
    shares = [availability(stated.model_copy(update={"spare_nodes": n}), MACHINE, 10) for n in (found - 1, found)]
    assert shares[0] < 0.99 <= shares[1]


def test_a_job_that_hardly_ever_runs_is_refused_with_the_spares_it_needs() -> None:
    stated = reliability(repair_time="10 h")
    with pytest.raises(InfeasibleError) as error:
        availability(stated, MACHINE, 10)
    assert str(error.value) == (
        "reliability.spare_nodes: 5 nodes are away for repair on average, the job needs 10 and 0 are spare: it runs "
        f"0.1% of the time. Nearest change that fits: reliability.spare_nodes: {spares_for(stated, MACHINE, 10, 0.99)}."
    )


def test_days_and_rent_hold_what_repairs_cost() -> None:
    stated = {"checkpoint_time": "10 s", "restart_time": "1 min", "gpu_mtbf": "1000 h", "repair_time": "10 h"}

    def trained(**more: Any) -> Any:
        economics = {"gpu_hour": "1 USD/h"}
        training = {"tokens": 1e12, "global_batch": 16}
        return simulate(toy.run(gpus=16, training=training, economics=economics, reliability={**stated, **more}))

    none, some = trained(), trained(spare_nodes=1)
    hardware = toy.hardware(16)
    for result, fields in ((none, {}), (some, {"spare_nodes": 1})):
        spec = Reliability.model_validate({**stated, **fields})
        assert result.goodput.value == pytest.approx(goodput(spec, 16) * availability(spec, hardware, 16))
    assert some.days.value < none.days.value
    assert some.cost_usd.value / some.days.value == pytest.approx(1.5 * none.cost_usd.value / none.days.value)
    assert some.bill[0].amount == "24 GPUs at $1.00 per GPU-hour"
    assert "1 spare nodes keep" in {row.name: row.value for row in some.assumptions}["Failures and restarts"]


def test_spares_without_repairs_are_refused() -> None:
    for fields in ({"spare_nodes": 2}, {"elastic": True}):
        with pytest.raises(SpecError) as error:
            toy.run(gpus=8, reliability={"checkpoint_time": "1 s", "restart_time": "1 s", **fields})
        assert str(error.value) == (
            "<mapping>: reliability: spare_nodes and elastic need repair_time: how long a failed node is away, such as "
            "24 h"
        )
