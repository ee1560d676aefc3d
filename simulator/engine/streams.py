"""What streams do: the instructions both engines of this package can play, and the record of a play.

A stream runs its instructions in issue order, as a CUDA stream does. It computes and moves data, starts transfers
beside itself and joins them, and waits for signals of other streams. Streams are iterables, so that long ones need no
memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from simulator.engine.flows import Cost, Meeting, Transfer
from simulator.errors import DeadlockError

Key = Hashable


class Do(NamedTuple):
    """Compute for `seconds`, then move `transfer` and wait for it."""

    seconds: float
    transfer: Transfer | None = None


class Launch(NamedTuple):
    """Start a transfer beside the stream and go on; it signals `key` when done. `Join` of its lane waits for it."""

    transfer: Transfer
    lane: str = ""
    key: Key = None


class Join(NamedTuple):
    """Wait for all transfers that this stream launched in a lane."""

    lane: str = ""


class Wait(NamedTuple):
    """Wait for a signal, which may have been given before."""

    key: Key


class Signal(NamedTuple):
    """Say that everything before in this stream is done."""

    key: Key


class Mark(NamedTuple):
    """Write down when the stream came here."""

    key: Key


Instruction = Do | Launch | Join | Wait | Signal | Mark
Streams = Mapping[str, Iterable[Instruction]]


Carried = tuple[float, float, Transfer, str]
"""A transfer's first and last second on its links, and the stream that started it."""


@dataclass(frozen=True, slots=True)
class Played:
    """When things happened, in seconds from the start: streams ended, signals were given, marks were passed.

    `moved` are bytes by link, and `full_seconds` how long each was asked for more than it carries; `carried` are all
    transfers in the order they ended, `meetings` those that held each other up.
    """

    ends: dict[str, float]
    signals: dict[Key, float]
    marks: dict[Key, float]
    moved: tuple[float, ...] = ()
    full_seconds: tuple[float, ...] = ()
    carried: list[Carried] = field(default_factory=list)
    meetings: dict[Meeting, Cost] = field(default_factory=dict)

    @property
    def duration(self) -> float:
        """When the last stream ended."""
        return max(self.ends.values(), default=0.0)


def deadlock(waiting: Mapping[str, Key]) -> DeadlockError:
    """The error that says which stream waits for what."""
    held = ", ".join(f"{stream} for {key}" for stream, key in waiting.items())
    return DeadlockError(f"the streams can't go on: {held}")


class Interval(NamedTuple):
    """A transfer in time, if nothing held it up."""

    start: float
    end: float
    transfer: Transfer


@dataclass(frozen=True, slots=True)
class Alone:
    """A play in which every transfer has its links to itself."""

    played: Played
    transfers: list[Interval]


def play_alone(streams: Streams) -> Alone:
    """When things happen if every transfer takes the time it takes alone: a longest path through the streams.

    Raises DeadlockError where streams wait for each other.
    """
    plays = {name: _Play(iter(stream)) for name, stream in streams.items()}
    signals: dict[Key, float] = {}
    marks: dict[Key, float] = {}
    transfers: list[Interval] = []
    pending = dict(plays)
    while pending:
        done = [name for name, play in pending.items() if play.advance(signals, marks, transfers)]
        for name in done:
            del pending[name]
        if not done and all(play.waits not in signals for play in pending.values()):
            raise deadlock({name: play.waits for name, play in pending.items()})
    return Alone(Played({name: play.now for name, play in plays.items()}, signals, marks), transfers)


class _Play:
    """One stream's clock and what it launched."""

    def __init__(self, instructions: Iterable[Instruction]) -> None:
        self.instructions = iter(instructions)
        self.now = 0.0
        self.lanes: dict[str, float] = {}
        self.waits: Key = None

    def advance(self, signals: dict[Key, float], marks: dict[Key, float], transfers: list[Interval]) -> bool:
        """Run as far as the signals given so far allow; True at the end of the stream."""
        if self.waits is not None:
            if self.waits not in signals:
                return False
            self.now, self.waits = max(self.now, signals[self.waits]), None
        for instruction in self.instructions:
            match instruction:
                case Do(seconds, transfer):
                    self.now += seconds
                    if transfer is not None:
                        self.now = _place(transfer, self.now, transfers)
                case Launch(transfer, lane, key):
                    end = _place(transfer, self.now, transfers)
                    self.lanes[lane] = max(self.lanes.get(lane, 0.0), end)
                    if key is not None:
                        signals[key] = end
                case Join(lane):
                    self.now = max(self.now, self.lanes.pop(lane, 0.0))
                case Wait(key):
                    if key not in signals:
                        self.waits = key
                        return False
                    self.now = max(self.now, signals[key])
                case Signal(key):
                    signals[key] = self.now
                case Mark(key):
                    marks[key] = self.now
        self.now = max([self.now, *self.lanes.values()])
        return True


def _place(transfer: Transfer, now: float, transfers: list[Interval]) -> float:
    start, end = now + transfer.latency, now + transfer.seconds
    if end > start:
        transfers.append(Interval(start, end, transfer))
    return end
