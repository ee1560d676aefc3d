"""How full links were over time, and who met on them: closed forms, conservation, and what a result holds of it."""

from __future__ import annotations

import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from simulator import simulate
from simulator.assembly.fabric import carried_bytes
from simulator.assembly.totals import stage_totals
from simulator.engine.contention import play
from simulator.engine.fast import execute
from simulator.engine.flows import Transfer
from simulator.engine.folding import fold_links
from simulator.engine.loads import link_loads
from simulator.engine.runner import retime
from simulator.engine.streams import Carried, Do, Launch
from simulator.spec.run import Run


def move(size: float, name: str = "transfer", link: int = 0, load: float = 1.0, cap: float = 1.0) -> Transfer:
    return Transfer(name, "all_to_all", 0.0, size, cap, ((link, load),))


def test_a_transfer_fills_the_columns_it_takes() -> None:
    loads = link_loads([(2.5, 12.5, move(10.0, load=2.0), "a")], [4.0], 20.0, columns=4)
    assert loads.tolist() == [pytest.approx([0.25, 0.5, 0.25, 0.0])]


def test_what_lies_beyond_the_end_is_cut() -> None:
    loads = link_loads([(5.0, 15.0, move(10.0), "a"), (20.0, 30.0, move(10.0), "a")], [1.0], 10.0, columns=2)
    assert loads.tolist() == [pytest.approx([0.0, 1.0])]


@given(st.lists(st.tuples(st.floats(0, 90), st.floats(0.01, 10), st.floats(0.1, 100)), max_size=20), st.integers(1, 50))
def test_all_bytes_are_in_the_columns(spans: list[tuple[float, float, float]], columns: int) -> None:
    carried: list[Carried] = [(start, start + length, move(size), "a") for start, length, size in spans]
    loads = link_loads(carried, [3.0], 100.0, columns)
    assert (loads >= 0).all()
    assert loads.sum() * 3.0 * 100.0 / columns == pytest.approx(sum(size for *_, size in spans), abs=1e-6)


def test_those_who_meet_are_named_with_what_it_costs() -> None:
    """Both at half speed until the shorter is done at 10 s: each loses half a second a second."""
    streams = {"a": [Do(0.0, move(10.0, "long"))], "b": [Do(0.0, move(5.0, "short"))]}
    played = play(streams, [1.0])
    (meeting,), (cost,) = played.meetings.keys(), played.meetings.values()
    assert meeting.transfers == (("long", "a"), ("short", "b"))
    assert (cost.seconds, cost.delay) == (10.0, 10.0)
    assert [(start, end, stream) for start, end, _, stream in played.carried] == [(0.0, 10.0, "b"), (0.0, 15.0, "a")]


def test_a_transfer_that_asks_too_much_alone_meets_nobody() -> None:
    played = play({"a": [Do(0.0, move(10.0, load=2.0))]}, [1.0])
    (meeting,), (cost,) = played.meetings.keys(), played.meetings.values()
    assert meeting.transfers == (("transfer", "a"),)
    assert (cost.seconds, cost.delay) == (20.0, 10.0)


def test_meetings_of_three_and_of_two_are_apart() -> None:
    streams = {name: [Launch(move(size, name)), Do(0.0)] for name, size in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    played = play(streams, [1.0])
    seconds = {len(who.transfers): cost.seconds for who, cost in played.meetings.items()}
    assert seconds == {3: pytest.approx(3.0), 2: pytest.approx(2.0)}
    assert played.full_seconds == (pytest.approx(5.0),)


def moe_run() -> Run:
    parallelism = {"pp": 2, "ep": 8}
    return toy.run(gpus=32, model=toy.MOE_MODEL, parallelism=parallelism, training={"global_batch": 64})


def test_links_carry_in_a_play_what_the_operators_of_a_step_send() -> None:
    """Counted from the operators for the fast engine, and moved by the event engine: the same bytes, link by link."""
    _, costed = toy.costed(moe_run())
    counted = carried_bytes(fold_links(costed), stage_totals(costed))
    uses = retime(costed, execute(costed, 32), engine="events").links
    for way in ("out", "in"):
        for kind in ("scale-up", "ports"):
            mine = [(use.bytes, n) for use, n in zip(uses, counted, strict=True) if use.link.kind == kind]
            played, expected = (sum(column) for column in zip(*mine, strict=True))
            assert played == pytest.approx(expected), (kind, way)


def test_a_result_holds_the_fabric_and_its_loads() -> None:
    fast, events = simulate(moe_run()), simulate(moe_run(), engine="events")
    assert fast.traffic is not None
    assert events.traffic is not None
    quiet, played = fast.traffic.fabric, events.traffic.fabric
    assert quiet is not None
    assert played is not None
    assert [(place.stage, place.node) for place in quiet.places] == [(0, 0), (1, 2)]
    assert (quiet.nodes, quiet.leaves, quiet.sharing_s, quiet.meetings) == (4, 1, None, [])
    assert all(link.load == [] and link.full_s is None for link in quiet.links)
    for link in played.links:
        assert np.mean(link.load) == pytest.approx(link.utilisation, rel=0.02, abs=1e-3)
    assert events.step_time_s is not None
    assert fast.step_time_s is not None
    assert played.sharing_s == pytest.approx(events.step_time_s.value - fast.step_time_s.value)
    assert played.meetings
    assert events.timeline is not None
    assert {flow.stage for flow in events.timeline.flows} == {0, 1}
    assert fast.timeline is not None
    assert fast.timeline.flows == []


def test_one_gpu_has_no_fabric() -> None:
    result = simulate(toy.run())
    assert result.traffic is not None
    assert result.traffic.fabric is None
