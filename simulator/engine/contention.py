"""The event engine: streams played in SimPy, their transfers sharing links.

SimPy advances the streams and the clock; flows get their rates from `Links`. Only what can be disturbed costs events:
one for a stretch of compute with the latency that follows it, two for a transfer. A transfer that finds room runs at
its cap and disturbs nobody; otherwise the flows joined to it by links share anew and their timers are set again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

from simulator.engine.flows import Flow, Links, Transfer
from simulator.engine.moving import Moving
from simulator.engine.streams import (
    Carried,
    Do,
    Instruction,
    Join,
    Key,
    Launch,
    Played,
    Signal,
    Streams,
    Wait,
    deadlock,
)


def play(streams: Streams, capacity: Sequence[float], slowdown: float = 0.0) -> Played:
    """When things happen if transfers share links of `capacity` bytes/s.

    `slowdown` is the share of compute throughput that a stream loses while a transfer it launched is under way: the
    SMs that communication kernels take. Raises DeadlockError where streams wait for each other. Deterministic.
    """
    import simpy

    stage = _Stage(simpy.Environment(), Links(capacity), slowdown)
    players = {name: _Player(stage, name, stream) for name, stream in streams.items()}
    stage.environment.run()
    waiting = {name: player.waits for name, player in players.items() if player.end is None}
    if waiting:
        raise deadlock(waiting)
    ends = {name: player.end for name, player in players.items() if player.end is not None}
    links = stage.links
    return Played(
        ends, stage.signals, stage.marks, tuple(links.moved), tuple(links.full_seconds), stage.carried, links.meetings
    )


class _Stage(Moving):
    """The clock, the links, and the signals given so far."""

    def __init__(self, environment: Any, links: Links, slowdown: float) -> None:
        super().__init__(environment, links)
        self.slowdown = slowdown
        self.signals: dict[Key, float] = {}
        self.marks: dict[Key, float] = {}
        self.awaited: dict[Key, list[Any]] = {}
        self.carried: list[Carried] = []

    def signal(self, key: Key) -> None:
        """Note the time and wake who waits."""
        self.signals[key] = self.environment.now
        for event in self.awaited.pop(key, ()):
            event.succeed()

    def arrived(self, flow: Flow, now: float) -> None:
        self.carried.append((flow.start, now, flow.transfer, flow.stream))


class _Player:
    """A stream being played: a SimPy process, and the transfers it launched."""

    def __init__(self, stage: _Stage, name: str, instructions: Iterable[Instruction]) -> None:
        self.stage, self.name = stage, name
        self.lanes: dict[str, list[Any]] = {}
        self.beside = 0
        self.changed: Any = None
        self.waits: Key = None
        self.end: float | None = None
        stage.environment.process(self._run(instructions))

    def _run(self, instructions: Iterable[Instruction]) -> Generator[Any, Any, None]:
        stage, environment = self.stage, self.stage.environment
        for instruction in instructions:
            kind = type(instruction)
            if kind is Do:
                yield from self._do(instruction.seconds, instruction.transfer)  # type: ignore[union-attr]
            elif kind is Launch:
                self._launch(instruction)  # type: ignore[arg-type]
            elif kind is Join:
                yield from self._join(instruction.lane)  # type: ignore[union-attr]
            elif kind is Wait:
                yield from self._wait(instruction.key)  # type: ignore[union-attr]
            elif kind is Signal:
                stage.signal(instruction.key)  # type: ignore[union-attr]
            else:
                stage.marks[instruction.key] = environment.now  # type: ignore[union-attr]
        for lane in list(self.lanes):
            yield from self._join(lane)
        self.end = environment.now

    def _do(self, seconds: float, transfer: Transfer | None) -> Generator[Any, Any, None]:
        environment = self.stage.environment
        if self.stage.slowdown and seconds:
            yield from self._compute(seconds)
            seconds = 0.0
        if transfer is not None:
            seconds += transfer.latency
        if seconds:
            yield environment.timeout(seconds)
        if transfer is not None and transfer.bytes:
            yield self.stage.move(transfer, self.name)

    def _compute(self, seconds: float) -> Generator[Any, Any, None]:
        """Compute at a pace that changes whenever transfers of this stream start or end beside it."""
        environment = self.stage.environment
        left = seconds
        while left > 0:
            pace = 1.0 - self.stage.slowdown if self.beside else 1.0
            self.changed, start = environment.event(), environment.now
            finished = environment.timeout(left / pace)
            yield finished | self.changed
            if finished.processed:
                break
            left -= (environment.now - start) * pace
        self.changed = None

    def _launch(self, launch: Launch) -> None:
        environment = self.stage.environment
        done = environment.event()
        self.lanes.setdefault(launch.lane, []).append(done)
        self._count(1)

        def arrived(_: object) -> None:
            self._count(-1)
            done.succeed()
            if launch.key is not None:
                self.stage.signal(launch.key)

        def started(_: object) -> None:
            if launch.transfer.bytes:
                self.stage.move(launch.transfer, self.name).callbacks.append(arrived)
            else:
                arrived(None)

        if launch.transfer.latency:
            environment.timeout(launch.transfer.latency).callbacks.append(started)
        else:
            started(None)

    def _count(self, change: int) -> None:
        before, self.beside = self.beside, self.beside + change
        if self.changed is not None and not self.changed.triggered and (before == 0) != (self.beside == 0):
            self.changed.succeed()

    def _join(self, lane: str) -> Generator[Any, Any, None]:
        for done in self.lanes.pop(lane, ()):
            if not done.processed:
                yield done

    def _wait(self, key: Key) -> Generator[Any, Any, None]:
        stage = self.stage
        if key not in stage.signals:
            event = stage.environment.event()
            stage.awaited.setdefault(key, []).append(event)
            self.waits = key
            yield event
            self.waits = None
