"""Streams played with events: closed forms of sharing, and thousands of random ones against a longest path."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.certificate import overloaded
from simulator.engine.contention import play
from simulator.engine.flows import Load, Transfer
from simulator.engine.streams import Do, Instruction, Join, Launch, Mark, Signal, Wait, play_alone
from simulator.errors import DeadlockError

Program = dict[str, list[Instruction]]


def move(size: float, cap: float = 1.0, loads: tuple[Load, ...] = ((0, 1.0),), latency: float = 0.0) -> Transfer:
    return Transfer("transfer", "all_to_all", latency, size, cap, loads)


def test_a_transfer_alone_takes_its_latency_and_its_bytes() -> None:
    played = play({"a": [Do(1.0), Do(2.0, move(10.0, latency=0.5)), Do(1.0)]}, [1.0])
    assert played.ends == {"a": 14.5}
    assert played.moved == (10.0,)
    assert played.full_seconds == (0.0,)


def test_two_flows_on_one_link_share_it() -> None:
    # both at 1/2 until the shorter has moved its 5 bytes at 10 s; then the longer has 5 left at full speed
    played = play({"a": [Do(0.0, move(10.0))], "b": [Do(0.0, move(5.0))]}, [1.0])
    assert played.ends == {"a": 15.0, "b": 10.0}
    assert played.full_seconds == (10.0,)


def test_a_latecomer_slows_what_is_under_way() -> None:
    played = play({"a": [Do(0.0, move(10.0))], "b": [Do(4.0, move(2.0))]}, [1.0])
    assert played.ends == {"a": 12.0, "b": 8.0}


def test_transfers_on_links_of_their_own_do_not_meet() -> None:
    played = play({"a": [Do(0.0, move(10.0))], "b": [Do(0.0, move(5.0, loads=((1, 1.0),)))]}, [1.0, 1.0])
    assert played.ends == {"a": 10.0, "b": 5.0}


def test_a_launched_transfer_runs_beside_compute_until_it_is_joined() -> None:
    played = play({"a": [Launch(move(3.0), "lane"), Do(2.0), Mark("computed"), Join("lane"), Do(1.0)]}, [1.0])
    assert played.marks == {"computed": 2.0}
    assert played.ends == {"a": 4.0}


def test_lanes_are_joined_apart_and_all_of_them_at_the_end() -> None:
    stream = [Launch(move(1.0), "short"), Launch(move(8.0, loads=((1, 1.0),)), "long"), Join("short"), Mark("joined")]
    played = play({"a": stream}, [1.0, 1.0])
    assert played.marks == {"joined": 1.0}
    assert played.ends == {"a": 8.0}


def test_a_blocking_transfer_shares_the_link_with_a_launched_one() -> None:
    # the launched one moves 1 byte in 2 s beside the blocking one's 1, then 2 alone
    played = play({"a": [Launch(move(3.0)), Do(0.0, move(1.0)), Mark("moved"), Join()]}, [1.0])
    assert played.marks == {"moved": 2.0}
    assert played.ends == {"a": 4.0}


def test_signals_are_kept_for_those_who_come_late() -> None:
    streams: Program = {"a": [Do(1.0), Signal("ready")], "b": [Wait("ready"), Do(1.0)], "c": [Do(5.0), Wait("ready")]}
    played = play(streams, [])
    assert played.ends == {"a": 1.0, "b": 2.0, "c": 5.0}
    assert played.signals == {"ready": 1.0}


def test_a_launched_transfer_signals_when_it_has_arrived() -> None:
    streams: Program = {"a": [Launch(move(4.0, latency=1.0), key="here"), Do(1.0)], "b": [Wait("here"), Do(1.0)]}
    assert play(streams, [1.0]).ends == {"a": 5.0, "b": 6.0}


def test_communication_takes_sms_from_the_compute_beside_it() -> None:
    # at 4/5 of its pace for 10 s compute gets 8 s done, the other 2 at full pace
    streams: Program = {"a": [Launch(move(10.0)), Do(10.0), Join()]}
    assert play(streams, [1.0], 0.2).ends == {"a": 12.0}
    # beside no transfer nothing is taken
    assert play({"a": [Do(10.0, move(10.0))]}, [1.0], 0.2).ends == {"a": 20.0}
    # compute shorter than the transfer: 4 s of work take 5
    assert play({"a": [Launch(move(10.0)), Do(4.0), Mark("computed"), Join()]}, [1.0], 0.2).marks == {"computed": 5.0}


def test_a_deadlock_names_who_waits_for_what() -> None:
    streams: Program = {
        "a": [Wait("b done"), Signal("a done")],
        "b": [Wait("a done"), Signal("b done")],
        "c": [Do(1.0)],
    }
    message = "the streams can't go on: a for b done, b for a done"
    with pytest.raises(DeadlockError, match=message):
        play(streams, [])
    with pytest.raises(DeadlockError, match=message):
        play_alone(streams)


def test_a_ring_all_reduce_step_by_step_takes_its_closed_form() -> None:
    """2 (p-1) steps of S/p bytes from each rank to the next, at 1 byte/s and 1 s a step."""
    ranks, size = 4, 8.0
    streams: Program = {}
    for rank in range(ranks):
        stream: list[Instruction] = []
        for step in range(2 * (ranks - 1)):
            stream += [Launch(move(size / ranks, loads=((rank, 1.0),), latency=1.0), key=(rank, step))]
            stream += [Join(), Wait(((rank - 1) % ranks, step))]
        streams[f"rank {rank}"] = stream
    played = play(streams, [1.0] * ranks)
    assert played.duration == pytest.approx(2 * (ranks - 1) / ranks * size + 2 * (ranks - 1))
    assert played.moved == (12.0,) * ranks
    assert play_alone(streams).played.duration == pytest.approx(played.duration)


def test_the_certificate_is_about_capacity_not_about_company() -> None:
    half = [Do(0.0, move(5.0, cap=0.5))]
    assert overloaded(play_alone({"a": half, "b": half}), [1.0]) is None
    assert overloaded(play_alone({"a": half, "b": half, "c": half}), [1.0]) == 0
    # one ends where the other starts
    one_by_one: Program = {"a": [Do(0.0, move(5.0))], "b": [Do(5.0, move(5.0))]}
    assert overloaded(play_alone(one_by_one), [1.0]) is None


def random_streams(seed: int) -> tuple[Program, list[float]]:
    """Up to four streams over up to four links; they compute, move, launch, join and wait for what was signalled."""
    draw = random.Random(seed)
    capacity = [draw.choice([1.0, 2.0, 4.0]) for _ in range(draw.randint(1, 4))]

    def transfer() -> Transfer:
        links = draw.sample(range(len(capacity)), draw.randint(1, len(capacity)))
        loads = tuple((link, draw.choice([0.25, 0.5, 1.0])) for link in links)
        widest = min(capacity[link] / load for link, load in loads)
        size, latency = draw.choice([0.0, 0.5, 1.0, 2.0, 3.0]), draw.choice([0.0, 0.1, 0.3])
        return move(size, widest * draw.choice([0.25, 0.5, 1.0]), loads, latency)

    streams: Program = {f"stream {i}": [] for i in range(draw.randint(1, 4))}
    keys: list[int] = []
    for number in range(draw.randint(1, 30)):
        stream = streams[draw.choice(list(streams))]
        match draw.choice(["do", "move", "launch", "launch", "join", "wait", "signal"]):
            case "do":
                stream.append(Do(draw.choice([0.0, 0.5, 1.0, 2.0])))
            case "move":
                stream.append(Do(draw.choice([0.0, 0.5]), transfer()))
            case "launch":
                stream.append(Launch(transfer(), draw.choice("ab"), number))
                keys.append(number)
            case "join":
                stream.append(Join(draw.choice("ab")))
            case "wait" if keys:
                stream.append(Wait(draw.choice(keys)))
            case _:
                stream.append(Signal(number))
                keys.append(number)
    return streams, capacity


def bytes_by_link(streams: Program, links: int) -> list[float]:
    moved = [0.0] * links
    for stream in streams.values():
        for instruction in stream:
            if isinstance(instruction, Do | Launch) and instruction.transfer is not None:
                for link, load in instruction.transfer.loads:
                    moved[link] += load * instruction.transfer.bytes
    return moved


def test_thousands_of_random_streams() -> None:
    """Certified implies identical; sharing never speeds anything up; no byte is lost."""
    certified = disturbed = 0
    for seed in range(2000):
        streams, capacity = random_streams(seed)
        alone, shared = play_alone(streams), play(streams, capacity)
        assert shared.moved == pytest.approx(bytes_by_link(streams, len(capacity))), seed
        for name, end in alone.played.ends.items():
            assert shared.ends[name] >= end * (1 - 1e-12), seed
        if overloaded(alone, capacity) is None:
            certified += 1
            assert shared.ends == pytest.approx(alone.played.ends, rel=1e-9), seed
            assert shared.signals == pytest.approx(alone.played.signals, rel=1e-9), seed
        elif shared.duration > alone.played.duration * (1 + 1e-9):
            disturbed += 1
    assert certified > 700
    assert disturbed > 350


@settings(max_examples=150)
@given(st.integers(0, 10**9), st.sampled_from([0.1, 0.5]))
def test_taking_sms_never_speeds_anything_up(seed: int, slowdown: float) -> None:
    streams, capacity = random_streams(seed)
    full, less = play(streams, capacity), play(streams, capacity, slowdown)
    for name, end in play_alone(streams).played.ends.items():
        assert less.ends[name] >= end * (1 - 1e-12)
    assert less.moved == pytest.approx(full.moved)


@settings(max_examples=100)
@given(st.integers(0, 10**9))
def test_a_play_is_the_same_every_time(seed: int) -> None:
    streams, capacity = random_streams(seed)
    assert play(streams, capacity) == play(streams, capacity)
