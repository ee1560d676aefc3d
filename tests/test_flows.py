"""Flows joining and leaving links: who gets what, who notices, and what the links carried."""

from __future__ import annotations

import pytest

from simulator.engine.flows import Flow, Links, Load, Transfer
from simulator.engine.folding import combined


def transfer(
    size: float = 10.0, cap: float = 4.0, loads: tuple[Load, ...] = ((0, 1.0),), latency: float = 0.0
) -> Transfer:
    return Transfer("transfer", "all_to_all", latency, size, cap, loads)


def joined(links: Links, *transfers: Transfer) -> list[Flow]:
    """Flows that join one after the other at time 0, at the rates they end up with."""
    flows = [Flow(each) for each in transfers]
    for flow in flows:
        for changed, rate in links.join(flow, 0.0):
            changed.rate = rate
    return flows


def test_a_flow_alone_runs_at_its_cap() -> None:
    (flow,) = joined(Links([5.0]), transfer(cap=4.0))
    assert flow.rate == 4.0


def test_a_flow_alone_is_held_to_the_narrowest_link() -> None:
    (flow,) = joined(Links([5.0, 2.0]), transfer(cap=4.0, loads=((0, 1.0), (1, 1.0))))
    assert flow.rate == 2.0


def test_two_flows_on_one_link_get_half_each() -> None:
    first, second = joined(Links([4.0]), transfer(), transfer())
    assert (first.rate, second.rate) == (2.0, 2.0)


def test_what_one_cannot_use_goes_to_the_others() -> None:
    slow, fast = joined(Links([4.0]), transfer(cap=1.0), transfer(cap=10.0))
    assert (slow.rate, fast.rate) == (1.0, 3.0)


def test_a_flow_held_up_elsewhere_leaves_its_share() -> None:
    both, wide = joined(Links([10.0, 2.0]), transfer(cap=9.0, loads=((0, 1.0), (1, 1.0))), transfer(cap=9.0))
    assert (both.rate, wide.rate) == (2.0, 8.0)


def test_eight_folded_ranks_weigh_eight_times() -> None:
    folded, one = joined(Links([9.0]), transfer(cap=9.0, loads=((0, 8.0),)), transfer(cap=9.0))
    assert (folded.rate, one.rate) == (1.0, 1.0)


def test_who_finds_room_disturbs_nobody() -> None:
    links = Links([8.0, 4.0])
    joined(links, transfer(cap=4.0))
    newcomer = Flow(transfer(cap=4.0, loads=((0, 1.0), (1, 1.0))))
    assert links.join(newcomer, 0.0) == [(newcomer, 4.0)]
    assert links.leave(newcomer, 1.0) == []


def test_who_leaves_a_full_link_makes_room() -> None:
    links = Links([4.0])
    first, second = joined(links, transfer(size=6.0), transfer(size=7.0))
    assert links.leave(first, 3.0) == [(second, 4.0)]
    second.rate = 4.0
    assert links.leave(second, 5.0) == []
    assert links.full_seconds == [3.0]
    assert links.moved == [13.0]


def test_a_full_link_that_stays_full_counts_on() -> None:
    links = Links([4.0])
    first, *_ = joined(links, transfer(), transfer(), transfer())
    for flow, rate in links.leave(first, 2.0):
        flow.rate = rate
    second = next(iter(links.flows[0]))
    links.leave(second, 7.0)
    assert links.full_seconds == [7.0]


def test_a_part_has_its_share_of_latency_and_a_slower_one_takes_longer() -> None:
    whole = transfer(size=8.0, cap=4.0, latency=1.0)
    assert whole.seconds == 3.0
    assert whole.part(0.5).seconds == 1.5
    assert whole.at(0.5).seconds == 6.0
    assert whole.at(0.5).bytes == 8.0


def test_transfers_combined_take_as_long_and_move_as_much() -> None:
    parts = [transfer(8.0, 4.0, ((0, 1.0),), 1.0), transfer(6.0, 2.0, ((0, 0.5), (1, 1.0)), 0.5)]
    both = combined(parts)
    assert both.seconds == pytest.approx(3.0 + 3.5)
    assert both.latency == 1.5
    assert {link: load * both.bytes for link, load in both.loads} == pytest.approx({0: 8.0 + 3.0, 1: 6.0})
