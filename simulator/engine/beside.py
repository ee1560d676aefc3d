"""Two jobs on one fabric: their nodes lie between each other's under the same leaves, whose uplinks they share.

Each keeps its own nodes, ports and GPUs. One job does one step while the other does steps over and over, until the
first has ended; both start together. What a leaf's uplinks carry is theirs in max-min fair shares, as for the transfers
of one job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

from simulator.cost.annotation import CostedGraph
from simulator.engine.contention import play
from simulator.engine.expansion import expand
from simulator.engine.fast import StepTimeline
from simulator.engine.flows import Transfer
from simulator.engine.folding import FoldedLink, Tenancy
from simulator.engine.runner import as_played
from simulator.engine.streams import Do, Instruction, Key, Launch, Mark, Played, Signal, Wait


@dataclass(frozen=True, slots=True)
class Job:
    """A training step as the fast engine timed it, on its part of the machine."""

    name: str
    costed: CostedGraph
    fast: StepTimeline
    tenancy: Tenancy


class Shared(NamedTuple):
    """A job's step beside another, and on the same nodes without it."""

    beside: StepTimeline
    alone: StepTimeline


def play_beside(job: Job, other: Job) -> Shared:
    """The step of a job while another runs. Deterministic."""
    mine, theirs = (expand(one.costed, one.fast, one.tenancy) for one in (job, other))
    links, numbers = _joined(mine.links.links, theirs.links.links, other.name)
    own = {name: list(stream) for name, stream in mine.streams.items()}
    second = {name: list(stream) for name, stream in theirs.streams.items()}
    capacity = [link.bandwidth for link in links]
    alone = as_played(mine, job.fast, play(own, capacity), links)
    steps = 1 + ceil(alone.duration / other.fast.duration)
    while True:
        streams = dict(own)
        for name, stream in second.items():
            streams[f"{other.name}: {name}"] = list(_repeated(stream, steps, numbers))
        played = play(streams, capacity)
        end = max(played.ends[name] for name in own)
        if min(played.ends[name] for name in streams if name not in own) >= end:
            break
        steps *= 2
    beside = as_played(mine, job.fast, _seen_by(own, played, end), links)
    return Shared(replace(beside, tenancy=job.tenancy), alone)


def _joined(
    mine: Sequence[FoldedLink], theirs: Sequence[FoldedLink], name: str
) -> tuple[list[FoldedLink], dict[int, int]]:
    """(the links of both jobs, the other's numbers among them): uplinks of the same leaf are one link."""
    links = list(mine)
    uplinks = {link.name: number for number, link in enumerate(mine) if link.kind == "uplinks"}
    numbers = {}
    for number, link in enumerate(theirs):
        if link.kind == "uplinks" and link.name in uplinks:
            numbers[number] = uplinks[link.name]
        else:
            numbers[number] = len(links)
            links.append(link._replace(name=f"{name}: {link.name}", stages=()))
    return links, numbers


def _repeated(stream: Sequence[Instruction], times: int, numbers: dict[int, int]) -> Iterator[Instruction]:
    """A stream over and over, its links and signals those of the other job."""
    known: dict[int, Transfer] = {}

    def moved(transfer: Transfer) -> Transfer:
        if id(transfer) not in known:
            loads = tuple([(numbers[link], load) for link, load in transfer.loads])
            known[id(transfer)] = transfer._replace(loads=loads)
        return known[id(transfer)]

    for turn in range(times):

        def key(of: Key, turn: int = turn) -> Key:
            return None if of is None else (OTHER, turn, of)

        for instruction in stream:
            match instruction:
                case Do(seconds, transfer):
                    yield Do(seconds, None if transfer is None else moved(transfer))
                case Launch(transfer, lane, of):
                    yield Launch(moved(transfer), lane, key(of))
                case Wait(of):
                    yield Wait(key(of))
                case Signal(of):
                    yield Signal(key(of))
                case Mark(_):
                    pass
                case _:
                    yield instruction


OTHER = "other"


def _seen_by(own: Collection[str], played: Played, end: float) -> Played:
    """The play as far as a job went: what was carried until it ended, and the meetings that its transfers had."""
    mine = {who: cost for who, cost in played.meetings.items() if any(stream in own for _, stream in who.transfers)}
    full = [0.0] * len(played.full_seconds)
    for who, cost in mine.items():
        full[who.link] += cost.seconds
    carried = [moved for moved in played.carried if moved[0] < end]
    return replace(played, full_seconds=tuple(full), carried=carried, meetings=mine)


def tenancies(nodes: int, others: int, oversubscription: float) -> tuple[Tenancy, Tenancy]:
    """The parts of two jobs of so many nodes each, dealt evenly to the leaves."""
    both = nodes + others
    return Tenancy(both, nodes / both, oversubscription), Tenancy(both, others / both, oversubscription)


def relaxed(oversubscription: float, share: float) -> float:
    """The oversubscription that a job meets with the other job's nodes below its leaves idle."""
    return max(1.0, oversubscription * share)
