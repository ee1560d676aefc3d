"""Faults: what a slow or failed link or GPU costs a step, in both engines and on the fabric, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simulator import simulate
from simulator.cost.conditions import (
    HEALTHY,
    Condition,
    check_joined,
    even_share,
    impair,
    stage_conditions,
    weakened,
)
from simulator.cost.machine import Machine
from simulator.engine.exchange import exchange_seconds
from simulator.engine.expansion import expand
from simulator.engine.fabric import Fabric, build_fabric
from simulator.engine.fast import execute
from simulator.engine.runner import Engine, retime
from simulator.errors import InfeasibleError, SpecError
from simulator.simulation import training_step
from simulator.spec.hardware import resolve_hardware
from simulator.spec.run import Run, run_from_mapping

GB = 1e9
RAIL = {"topology": "rail-optimised-fat-tree"}
ONE_PLACE = "a fault names one of gpu, node and leaf, as in {node: 3, port: 0, left: 0}"
BOTH = pytest.mark.parametrize("engine", ["fast", "events"])


def faulty(*faults: dict[str, Any], gpus: int = 32, network: dict[str, Any] | None = None, **blocks: Any) -> Run:
    """The toy mixture of experts in two stages of two nodes each, on a machine with faults."""
    hardware = {"device": toy.DEVICE, "gpus": gpus, "gpus_per_node": 8, "network": {**toy.NETWORK, **(network or {})}}
    return run_from_mapping(
        {
            "name": "faulty",
            "kind": "training",
            "model": toy.MOE_MODEL,
            "hardware": {**hardware, "faults": list(faults)},
            "parallelism": {"pp": 2, "ep": 8},
            "training": {**toy.TRAINING, "global_batch": 64},
            **blocks,
        }
    )


def conditions(*faults: dict[str, Any], **options: Any) -> tuple[Condition, ...]:
    run = faulty(*faults, **options)
    b, costed = toy.costed(run)
    return stage_conditions(costed, b.layout)


def fabric(gpus: int, *faults: dict[str, Any], **network: Any) -> Fabric:
    hardware = {"device": toy.DEVICE, "gpus": gpus, "gpus_per_node": 8, "network": {**toy.NETWORK, **network}}
    return build_fabric(Machine(resolve_hardware({**hardware, "faults": list(faults)}), toy.curves()))


def even(gpus: int) -> NDArray[np.float64]:
    return np.full((gpus, gpus), GB)


def test_a_machine_without_faults_is_healthy() -> None:
    assert conditions() == (HEALTHY, HEALTHY)


def test_a_fault_is_its_stages() -> None:
    # stage 0 is nodes 0 and 1, GPUs 0 to 15; stage 1 nodes 2 and 3
    assert conditions({"gpu": 13, "left": 0.5}) == (Condition(link=0.5), HEALTHY)
    assert conditions({"gpu": 16, "speed": 0.8}) == (HEALTHY, Condition(slowdown=1.25))
    assert conditions({"node": 1, "port": 3, "left": 0}) == (Condition(ports=7 / 8), HEALTHY)
    assert conditions({"node": 3, "left": 0.25}) == (HEALTHY, Condition(ports=0.25))
    # one leaf stands above all four nodes of a plain tree
    assert conditions({"leaf": 0, "left": 0.5}) == (Condition(uplinks=0.5), Condition(uplinks=0.5))


def test_faults_of_one_place_multiply_and_of_one_stage_the_worst_counts() -> None:
    assert conditions({"gpu": 1, "left": 0.5}, {"gpu": 1, "left": 0.5}, {"gpu": 2, "left": 0.4})[0].link == 0.25
    assert conditions({"gpu": 1, "speed": 0.5}, {"gpu": 2, "speed": 0.8})[0].slowdown == 2.0


def test_a_failed_port_takes_no_share_and_a_slow_one_holds_up_all() -> None:
    assert even_share([0.0, 1.0, 1.0, 1.0]) == 0.75
    assert even_share([0.5, 1.0, 1.0, 1.0]) == 0.5
    assert even_share([0.0, 0.5, 1.0, 1.0]) == pytest.approx(0.375)
    assert even_share([0.0, 0.0]) == 0.0


def test_links_are_weakened_by_what_is_left() -> None:
    machine = weakened(toy.machine(64, network={"oversubscription": 2.0}), Condition(1.0, 0.5, 0.5, 1.0))
    assert machine.link == 0.5 * GB
    assert machine.nic == 0.5 * GB
    assert machine.hardware.network.oversubscription == 1.0  # half of what comes in fits through half of the uplinks
    fewer = weakened(toy.machine(64, network={"oversubscription": 2.0}), Condition(uplinks=0.25))
    assert fewer.hardware.all_to_all_bandwidth_per_gpu == pytest.approx(GB / 8)


def test_a_healthy_graph_costs_what_it_did() -> None:
    _, costed = toy.costed(faulty())
    same = impair(costed, (HEALTHY, HEALTHY))
    assert execute(same, 32).duration == execute(costed, 32).duration
    assert set(same.graph.programs) == set(costed.graph.programs)


@BOTH
def test_a_slow_gpu_slows_all_compute_of_its_pipeline(engine: Engine) -> None:
    """One stage, no host: all but the gradients' reduction is compute."""
    _, costed = toy.costed(toy.run(gpus=8, execution={"dp_overlap": False}))
    alone = retime(costed, execute(costed, 8), engine=engine).stages[0]
    half = impair(costed, (Condition(slowdown=2.0),))
    slow = retime(half, execute(half, 8), engine=engine).stages[0]
    for item, seconds in alone.busy.exposed.items():
        factor = 1.0 if item in ("host", "sharing") else 2.0
        assert slow.busy.exposed[item] == pytest.approx(factor * seconds)
    assert slow.tail.exposed["gradient_sync"] == pytest.approx(alone.tail.exposed["gradient_sync"])
    assert slow.tail.exposed["optimizer"] == pytest.approx(2 * alone.tail.exposed["optimizer"])


def test_a_link_at_half_rate_takes_twice_as_long_for_its_bytes() -> None:
    b, costed = toy.costed(faulty({"gpu": 13, "left": 0.5}))
    slow = impair(costed, stage_conditions(costed, b.layout))
    program = next(p for p in costed.graph.programs if any(op.item == "all_to_all" for op in p.serial))
    at = next(i for i, op in enumerate(program.serial) if op.item == "all_to_all")
    where = [row[0].programs for row in slow.graph.forward]
    seconds = [slow.of(next(p for p, _ in programs if p.name == program.name)).serial[at] for programs in where]
    latency = program.serial[at].calls * 1e-6
    assert seconds[1] == costed.of(program).serial[at]
    assert seconds[0] - latency == pytest.approx(2 * (seconds[1] - latency))


@BOTH
def test_a_port_that_fails_slows_what_leaves_its_node(engine: Engine) -> None:
    """Gradients are summed between two nodes: seven of eight ports take 8/7 of the time for them."""
    quiet = {"execution": {"dp_overlap": False}, "parallelism": {"pp": 1, "ep": 8}, "gpus": 16}
    slow_ports = {"network": {"bandwidth": "1 MB/s"}}
    whole = training_step(faulty(**quiet, **slow_ports), engine=engine)
    less = training_step(faulty({"node": 1, "port": 0, "left": 0}, **quiet, **slow_ports), engine=engine)
    before, after = (step.timeline.stages[0].tail.exposed["gradient_sync"] for step in (whole, less))
    assert after == pytest.approx(before * 8 / 7, rel=1e-3)
    assert less.healthy is not None
    assert less.healthy.timeline.duration == pytest.approx(whole.timeline.duration, rel=1e-12)


@BOTH
def test_what_faults_cost_is_an_item_and_the_parts_still_add_up(engine: Engine) -> None:
    well, ill = simulate(faulty(), engine=engine), simulate(faulty({"gpu": 3, "speed": 0.5}), engine=engine)
    seconds = {item.key: item.seconds.value for item in ill.breakdown}
    assert ill.step_time_s is not None
    assert well.step_time_s is not None
    assert seconds["impaired"] == pytest.approx(ill.step_time_s.value - well.step_time_s.value)
    assert sum(seconds.values()) == pytest.approx(ill.step_time_s.value)
    rows = {row.name: row.value for row in ill.assumptions}
    assert rows["Slow GPUs and links"] == "GPU 3 computes at 0.5 of its speed"
    assert ill.run["hardware"]["faults"] == [{"gpu": 3, "speed": 0.5}]


NETWORKS = ({}, RAIL, {"oversubscription": 4.0}, {"routing": "ecmp"}, {"pods": {"nodes": 2, "oversubscription": 4.0}})


@st.composite
def faults(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A few faults of a machine of 64 GPUs that cut nothing off."""
    share = st.sampled_from([0.2, 0.5, 0.9])
    gpu, node, port = st.integers(0, 63), st.integers(0, 7), st.integers(0, 7)
    kinds = (
        st.fixed_dictionaries({"gpu": gpu, "left": share}),
        st.fixed_dictionaries({"gpu": gpu, "speed": share}),
        st.fixed_dictionaries({"node": node, "left": share}),
        st.fixed_dictionaries({"node": node, "port": port, "left": st.sampled_from([0.0, 0.5])}),
        st.fixed_dictionaries({"leaf": st.just(0), "left": share}),
    )
    return draw(st.lists(st.one_of(*kinds), min_size=1, max_size=3))


@settings(max_examples=25, deadline=None)
@given(faults(), st.sampled_from(NETWORKS), st.sampled_from([1, 2, 4]), st.sampled_from(["none", "zero1", "zero3"]))
def test_no_fault_shortens_a_step_and_events_are_never_below_fast(
    found: list[dict[str, Any]], network: dict[str, Any], pp: int, sharding: str
) -> None:
    blocks: dict[str, Any] = {
        "parallelism": {"pp": pp, "ep": 8},
        "training": {**toy.TRAINING, "global_batch": 64 * 4, "sharding": sharding},
        "network": network,
    }
    well, ill = faulty(gpus=64, **blocks), faulty(*found, gpus=64, **blocks)
    times = {}
    for engine in ("fast", "events"):
        before, after = (training_step(run, engine=engine).timeline.duration for run in (well, ill))  # type: ignore[arg-type]
        assert after >= before * (1 - 1e-9)
        times[engine] = after
    assert times["events"] >= times["fast"] * (1 - 1e-9)


def test_events_give_an_impaired_stage_the_links_it_has() -> None:
    b, costed = toy.costed(faulty({"gpu": 3, "left": 0.5}, {"node": 2, "left": 0.25}))
    ill = impair(costed, stage_conditions(costed, b.layout))
    links = expand(ill, execute(ill, 32)).links
    assert [links.links[direction.port].bandwidth for direction in links.out] == [0.5 * GB, GB]
    ports = [links.links[direction.nic].bandwidth for direction in links.out if direction.nic is not None]
    assert ports == [8 * GB, 2 * GB]


def test_traffic_goes_around_a_port_that_failed() -> None:
    broken = fabric(64, {"node": 0, "port": 3, "left": 0}, **RAIL)
    dead = {broken.names.index(f"node 0 network port 3 {way}") for way in ("out", "in")}
    everyone = np.arange(64)
    sources, targets = np.repeat(everyone, 64), np.tile(everyone, 64)
    assert not dead & set(broken.routes(sources, targets).link.tolist())
    # 56 GB to GPUs of other nodes through 7 ports of 8: 8/7 of 56 s
    assert exchange_seconds(fabric(64, **RAIL), even(64)) == pytest.approx(56.0)
    assert exchange_seconds(broken, even(64)) == pytest.approx(64.0)


def test_a_port_at_half_rate_holds_up_an_even_exchange() -> None:
    assert exchange_seconds(fabric(64, {"node": 0, "port": 3, "left": 0.5}, **RAIL), even(64)) == pytest.approx(112.0)
    assert exchange_seconds(fabric(8, {"gpu": 3, "left": 0.5}), even(8)) == pytest.approx(14.0)


def test_traffic_of_a_rail_whose_leaf_is_cut_off_takes_another() -> None:
    broken = fabric(512, {"leaf": 3, "left": 0}, **RAIL)
    named = [broken.names[link] for link in broken.route(0, 256 + 3)]
    assert "leaf uplinks 3 out" not in named
    assert named[-2:] == ["GPU 256 out", "GPU 259 in"]  # from the GPU whose port it came in by
    inside = [broken.names[link] for link in broken.route(0, 8 + 3)]  # under the leaf nothing changes
    assert inside == ["GPU 0 out", "GPU 3 in", "node 0 network port 3 out", "node 1 network port 3 in"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            {"gpu": 5, "left": 0},
            "GPU 5 has no scale-up link left and can't reach the 7 GPUs that it is joined to by them",
        ),
        ({"node": 2, "left": 0}, "node 2 has no network port left: GPUs 16-23 can't reach the other 24"),
    ],
)
def test_a_failed_link_that_cuts_a_job_in_two_is_refused(fault: dict[str, Any], message: str) -> None:
    expected = f"hardware.faults: the machine falls apart: {message}. Mend it, or run on fewer GPUs"
    with pytest.raises(InfeasibleError) as error:
        simulate(faulty(fault))
    assert str(error.value) == expected
    with pytest.raises(InfeasibleError) as error:
        fabric(32, fault)
    assert str(error.value) == expected


def test_a_tray_of_a_rack_without_ports_is_refused() -> None:
    hardware = {"device": "gb200", "gpus": 144, "faults": [{"node": 2, "left": 0}]}
    with pytest.raises(InfeasibleError) as error:
        check_joined(resolve_hardware(hardware))
    assert str(error.value) == (
        "hardware.faults: node 2 has no network port left, and a detour through other nodes of its rack is not modelled"
    )


def test_leaves_that_are_cut_off_are_refused() -> None:
    every = [{"leaf": leaf, "left": 0} for leaf in range(8, 16)]
    with pytest.raises(InfeasibleError) as error:
        fabric(512, *every, **RAIL)
    assert str(error.value) == (
        "hardware.faults: the machine falls apart: the leaves of nodes 32-63 have no uplink left: GPUs 256-511 can't "
        "reach the other 256. Mend it, or run on fewer GPUs"
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"left": 0.5}, ONE_PLACE),
        ({"gpu": 1, "node": 1, "left": 0.5}, ONE_PLACE),
        ({"gpu": 1, "port": 1, "left": 0.5}, "port needs the node it belongs to"),
        ({"gpu": 1}, "a fault says what is left of a link (left: 0.5) or how fast a GPU computes (speed: 0.9)"),
        ({"node": 1, "speed": 0.5}, "only a gpu has a speed; of links say what is left"),
        ({"gpu": 1, "left": 1.5}, "Input should be less than or equal to 1, got 1.5"),
        ({"gpu": 1, "left": -0.5}, "Input should be greater than or equal to 0, got -0.5"),
        ({"gpu": 1, "speed": 0}, "Input should be greater than 0, got 0"),
    ],
)
def test_faults_that_say_nothing_are_refused(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        faulty(fault)
    assert error.value.message == message
    assert (error.value.path or "").startswith("hardware.faults.0")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"gpu": 32, "left": 0.5}, "fault 0 is at gpu 32, but this machine has 32 of them, numbered from 0"),
        ({"node": 4, "left": 0.5}, "fault 0 is at node 4, but this machine has 4 of them, numbered from 0"),
        ({"node": 0, "port": 8, "left": 0}, "fault 0 is at port 8, but this machine has 8 of them, numbered from 0"),
        ({"leaf": 1, "left": 0}, "fault 0 is at leaf 1, but this machine has 1 of them, numbered from 0"),
    ],
)
def test_faults_of_other_machines_are_refused(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        faulty(fault)
    assert str(error.value) == f"<mapping>: hardware: {message}"


def test_serving_on_a_faulty_machine_is_refused() -> None:
    hardware = {"device": toy.DEVICE, "gpus": 8, "network": toy.NETWORK, "faults": [{"gpu": 0, "left": 0.5}]}
    work = {"isl": 64, "osl": 32, "concurrency": 8}
    with pytest.raises(SpecError) as error:
        run_from_mapping(
            {"name": "a", "kind": "inference", "model": toy.MODEL, "hardware": hardware, "inference": work}
        )
    assert error.value.message == "faults and stragglers of the hardware are played in training runs only"
