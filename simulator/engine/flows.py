"""Max-min fair sharing of links among transfers.

Every transfer would like to run at its cap. Where the transfers of a link ask for more than it carries, all of them
get the same rate, and what one can't use because it is held up elsewhere goes to the others (progressive filling:
Bertsekas and Gallager, Data Networks, 2nd ed., section 6.5.2). A transfer may load a link by more or less than its
own rate: eight folded ranks load their node's port eight times over, a ring leaves a node only once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Load = tuple[int, float]
"""A link by index, and bytes it carries for each byte of the transfer."""
SLACK = 1e-12
"""Relative excess over a link's capacity that is rounding and not congestion."""


class Transfer(NamedTuple):
    """Bytes to move: `latency` seconds first, then at most `cap` bytes/s; each of them loads links with so many
    bytes."""

    name: str
    item: str
    latency: float
    bytes: float
    cap: float
    loads: tuple[Load, ...]

    @property
    def seconds(self) -> float:
        """How long it takes alone."""
        return self.latency + (self.bytes / self.cap if self.bytes else 0.0)

    def at(self, speed: float) -> Transfer:
        """The same transfer at a fraction of its speed, latency included."""
        return self._replace(latency=self.latency / speed, cap=self.cap * speed)

    def part(self, share: float) -> Transfer:
        """A share of it, latency included."""
        return self._replace(latency=self.latency * share, bytes=self.bytes * share)


class Flow:
    """A transfer of a stream under way since `start`: bytes left as of `since`, and its rate from then on."""

    __slots__ = ("cap", "done", "left", "loads", "rate", "since", "start", "stream", "timer", "transfer")

    def __init__(self, transfer: Transfer, now: float = 0.0, done: object = None, stream: str = "") -> None:
        self.transfer, self.loads, self.cap = transfer, transfer.loads, transfer.cap
        self.left, self.rate, self.since, self.start = transfer.bytes, 0.0, now, now
        self.done, self.stream, self.timer = done, stream, 0


class Meeting(NamedTuple):
    """Transfers that asked one link for more than it carries, by name and stream."""

    link: int
    transfers: tuple[tuple[str, str], ...]


class Cost(NamedTuple):
    """How long it went on, and how many seconds later the transfers it held up got done, all together."""

    seconds: float
    delay: float


def fair_rates(flows: Sequence[Flow], capacity: Sequence[float]) -> tuple[list[float], set[int]]:
    """Bytes/s of each flow in max-min fair sharing, and the links that hold some of them up."""
    rates: dict[int, float] = {}
    free = dict(enumerate(flows))
    wanted: dict[int, float] = {}
    room: dict[int, float] = {}
    for flow in flows:
        for link, load in flow.loads:
            wanted[link] = wanted.get(link, 0.0) + load
            room[link] = capacity[link]
    full: set[int] = set()
    while free:
        level = min(flow.cap for flow in free.values())
        for link, load in wanted.items():
            if load > 0 and room[link] < level * load:
                level = room[link] / load
        held = {link for link, load in wanted.items() if load > 0 and room[link] <= level * load * (1 + SLACK)}
        frozen = [i for i, flow in free.items() if flow.cap <= level or any(link in held for link, _ in flow.loads)]
        for i in frozen:
            flow = free.pop(i)
            rates[i] = level
            held_up = flow.cap > level * (1 + SLACK)
            for link, load in flow.loads:
                if held_up and link in held:
                    full.add(link)
                room[link] -= level * load
                wanted[link] -= load
        left = {link for flow in free.values() for link, _ in flow.loads}
        wanted = {link: load for link, load in wanted.items() if link in left}
    return [rates[i] for i in range(len(flows))], full


class Links:
    """The links of a machine and the flows on them; flows join and leave, and only those that notice get a new
    rate."""

    def __init__(self, capacity: Iterable[float]) -> None:
        self.capacity = tuple(capacity)
        self.load = [0.0] * len(self.capacity)
        self.flows: list[dict[Flow, None]] = [{} for _ in self.capacity]
        self.full: dict[int, tuple[float, Meeting, float]] = {}
        """Since when a link is full, who meets there, and by how much slower they are, summed."""
        self.full_seconds = [0.0] * len(self.capacity)
        self.moved = [0.0] * len(self.capacity)
        self.meetings: dict[Meeting, Cost] = {}

    def join(self, flow: Flow, now: float) -> list[tuple[Flow, float]]:
        """Put a flow on its links. Returns the flows whose rate changes, itself first where nothing is shared."""
        fits = True
        for link, load in flow.loads:
            self.flows[link][flow] = None
            fits = fits and self.load[link] + load * flow.cap <= self.capacity[link] * (1 + SLACK)
        if not fits:
            return self._share([flow], now)
        for link, load in flow.loads:
            self.load[link] += load * flow.cap
        return [(flow, flow.cap)]

    def leave(self, flow: Flow, now: float) -> list[tuple[Flow, float]]:
        """Take a finished flow off its links. Returns the flows whose rate changes."""
        freed = False
        for link, load in flow.loads:
            flows = self.flows[link]
            del flows[flow]
            self.moved[link] += flow.transfer.bytes * load
            self.load[link] = self.load[link] - load * flow.rate if flows else 0.0
            freed = freed or link in self.full
        if not freed:
            return []
        seeds = [other for link, _ in flow.loads for other in self.flows[link]]
        for link, _ in flow.loads:
            self._close(link, now)
        return self._share(seeds, now) if seeds else []

    def _share(self, seeds: list[Flow], now: float) -> list[tuple[Flow, float]]:
        """New rates of all flows that are joined to the seeds by links."""
        together, links = self._joined(seeds)
        rates, full = fair_rates(together, self.capacity)
        for link in links:
            self.load[link] = 0.0
            self._close(link, now)
        changed = []
        for flow, rate in zip(together, rates, strict=True):
            for link, load in flow.loads:
                self.load[link] += load * rate
            if rate != flow.rate:
                changed.append((flow, rate))
        if full:
            self._open(full, dict(zip(together, rates, strict=True)), now)
        return changed

    def _joined(self, seeds: list[Flow]) -> tuple[list[Flow], list[int]]:
        together = dict.fromkeys(seeds)
        links: dict[int, None] = {}
        pending = list(together)
        while pending:
            for link, _ in pending.pop().loads:
                if link not in links:
                    links[link] = None
                    new = [flow for flow in self.flows[link] if flow not in together]
                    together.update(dict.fromkeys(new))
                    pending += new
        return list(together), list(links)

    def _open(self, full: Iterable[int], rates: Mapping[Flow, float], now: float) -> None:
        for link in full:
            flows = self.flows[link]
            who = tuple(sorted([(flow.transfer.name, flow.stream) for flow in flows]))
            self.full[link] = now, Meeting(link, who), sum(1 - rates[flow] / flow.cap for flow in flows)

    def _close(self, link: int, now: float) -> None:
        if link in self.full:
            since, meeting, slower = self.full.pop(link)
            seconds = now - since
            before = self.meetings.get(meeting, Cost(0.0, 0.0))
            self.full_seconds[link] += seconds
            self.meetings[meeting] = Cost(before.seconds + seconds, before.delay + seconds * slower)
