"""How points are measured: rounds over all points in shuffled order, short trials, and what counts as settled.

Slow states of a shared machine come and go over tens of milliseconds, so trials of one point are spread over the
whole session instead of taken in one burst. A visit warms the point up and takes a few trials, each a loop of about a
third of a millisecond. A point is settled once its smallest trials agree. On a CPU the estimate is the smallest trial:
the time on the undisturbed machine, which repeats far better than the median; on a GPU it is the median, since noise
is small there and the smallest may be a burst clock.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from simulator.calibration.journal import Journal, Visit
from simulator.errors import CalibrationError

Statistic = Literal["minimum", "median"]
Progress = Callable[[float, float, str], None]
"""Called with what is done and what there is to do, both in seconds, and the point being measured."""

TRIALS_PER_VISIT = 3
TRIAL_S, WARM_S = 0.3e-3, 1e-3
WARM_RUNS = 2
"""At least so many runs warm a point up."""
SETTLED_TRIALS, AGREEING = 12, 4
SETTLED_SHARE = SETTLED_TRIALS // AGREEING
"""Of fewer trials only as large a share has to agree."""
SETTLED_SPREAD = 0.02
"""Settled: this many trials, the smallest few of which lie within 2 %."""
UNSTABLE_SPREAD = 0.25
"""Refused: the smallest few trials still lie this far apart at the end."""


class Skip(Exception):
    """A point can't be measured on this device; the message says why."""


@dataclass(frozen=True)
class Case:
    """One point to measure. `build` allocates operands on a device and returns what runs it once."""

    op: str
    kernel: str
    dtype: str
    shape: Mapping[str, float]
    build: Callable[[Any], Callable[[], object]] = field(compare=False, repr=False)
    clock: Literal["device", "host"] = "device"
    """What is timed: the work on the device, or the host's part of issuing it."""
    before: Callable[[Any], Callable[[], object]] | None = field(default=None, compare=False, repr=False)
    """Builds what runs untimed before every timed run."""
    warm_runs: int = field(default=WARM_RUNS, compare=False)
    trials: int = field(default=TRIALS_PER_VISIT, compare=False)
    """Of one visit."""

    @property
    def key(self) -> str:
        """The point's name in the journal."""
        shape = ",".join(f"{name}={value:g}" for name, value in self.shape.items())
        return f"{self.op}|{self.kernel}|{self.dtype}|{shape}"


class Device(Protocol):
    """What the protocol needs of a device."""

    statistic: Statistic

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        """Seconds of one run, averaged over `repeats` runs in a row."""

    def host_seconds(self, run: Callable[[], object], repeats: int) -> float:
        """Seconds the host takes to issue one run."""

    def seconds_after(self, before: Callable[[], object], run: Callable[[], object]) -> float:
        """Seconds of one run right after another that is not timed, the median of a few."""

    def failure(self, error: Exception) -> str | None:
        """Why a point is skipped, where `error` is about this point alone (out of memory, no such kernel)."""


@dataclass(frozen=True)
class Point:
    """A measured case: its estimate and how far it can be trusted."""

    case: Case
    seconds: float
    spread: float
    """How far the smallest trials lie apart, over the smallest."""
    trials: tuple[float, ...]

    @property
    def stable(self) -> bool:
        """Whether the point can be used. The host's always can: its costs are medians and means of many points."""
        return self.case.clock == "host" or self.case.before is not None or self.spread <= UNSTABLE_SPREAD


@dataclass(frozen=True)
class Measured:
    """The outcome of a session."""

    points: tuple[Point, ...]
    unstable: tuple[Point, ...]
    skipped: Mapping[str, str]
    """Reason by key of the case."""
    rounds: int
    settled: int


def estimate(trials: Sequence[float], statistic: Statistic) -> tuple[float, float]:
    """The estimate of a point and its spread: smallest trial and how far the next ones lie above it, or the median."""
    ordered = sorted(trials)
    few = ordered[: min(AGREEING, max(2, len(ordered) // SETTLED_SHARE))]
    if statistic == "minimum":
        return ordered[0], few[-1] / few[0] - 1
    middle = statistics.median(ordered)
    quarter = max(1, len(ordered) // 4)
    return middle, (ordered[-quarter] - ordered[quarter - 1]) / middle if len(ordered) > 1 else 0.0


def settled(trials: Sequence[float], statistic: Statistic) -> bool:
    """Whether more trials would tell little more."""
    return len(trials) >= SETTLED_TRIALS and estimate(trials, statistic)[1] <= SETTLED_SPREAD


def measure(
    cases: Iterable[Case],
    device: Device,
    journal: Journal,
    *,
    seconds: float,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Measured:
    """Measure every case once, then again in rounds until all are settled or `seconds` have passed.

    Trials found in the journal count. Raises CalibrationError where two cases share a key.
    """
    session = _Session(device, journal, {})
    for case in cases:
        if case.key in session.cases:
            raise CalibrationError(f"two points are named {case.key}")
        session.cases[case.key] = case
    start, rounds = clock(), 0
    while True:
        waiting = session.unsettled()
        if not waiting or (rounds and clock() - start >= seconds):
            break
        random.Random(rounds).shuffle(waiting)
        waiting.sort(key=lambda key: bool(session.trials(key)))  # a killed session goes on with what it lacks
        for key in waiting:
            # The first round always finishes: a point without a trial would be missing from the fit.
            if clock() - start >= seconds and session.trials(key):
                continue
            session.visit(key)
            if progress is not None:
                progress(min(clock() - start, seconds), seconds, key)
        rounds += 1
    journal.sync()
    return session.result(rounds)


class _Session:
    """The cases of one session, the callables built so far and the trials taken."""

    def __init__(self, device: Device, journal: Journal, cases: dict[str, Case]) -> None:
        self.device, self.journal, self.cases = device, journal, cases
        self.built: dict[str, tuple[Callable[[int], float], int]] = {}

    def trials(self, key: str) -> list[float]:
        return self.journal.trials.get(key, [])

    def unsettled(self) -> list[str]:
        return [
            key
            for key in self.cases
            if key not in self.journal.skipped and not settled(self.trials(key), self.device.statistic)
        ]

    def visit(self, key: str) -> None:
        """Warm up and take a few trials; a point the device can't run is noted with the reason and left out."""
        try:
            case = self.cases[key]
            if key not in self.built:
                self.built[key] = self._build(case)
            timed, repeats = self.built[key]
            timed(max(case.warm_runs, round(repeats * WARM_S / TRIAL_S)) if repeats > 1 else case.warm_runs)
            self.journal.add(Visit(key, [timed(repeats) for _ in range(case.trials)]))
            if settled(self.trials(key), self.device.statistic):
                del self.built[key]  # its operands are no longer needed
        except Exception as error:
            reason = str(error) if isinstance(error, Skip) else self.device.failure(error)
            if reason is None:
                raise
            self.built.pop(key, None)
            self.journal.skip(key, reason)

    def _build(self, case: Case) -> tuple[Callable[[int], float], int]:
        """What times a number of runs of the case, and how many make a trial."""
        run, device = case.build(self.device), self.device
        if case.before is not None:
            before = case.before(self.device)
            return lambda _: device.seconds_after(before, run), 1

        def timed(repeats: int) -> float:
            return device.seconds(run, repeats) if case.clock == "device" else device.host_seconds(run, repeats)

        timed(1)  # first calls compile, tune and allocate
        repeats = 1
        for _ in range(2):  # a single call is mostly the timer, so look twice
            repeats = max(1, min(10_000, round(TRIAL_S / max(timed(repeats), 1e-9))))
        return timed, repeats

    def result(self, rounds: int) -> Measured:
        points = []
        for key, case in self.cases.items():
            if trials := self.trials(key):
                points.append(Point(case, *estimate(trials, self.device.statistic), tuple(trials)))
        done = sum(settled(p.trials, self.device.statistic) for p in points)
        skipped = {key: reason for key, reason in self.journal.skipped.items() if key in self.cases}
        stable = tuple(p for p in points if p.stable)
        return Measured(stable, tuple(p for p in points if not p.stable), skipped, rounds, done)
