"""The measuring protocol and its journal, on devices whose clocks are scripts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulator.calibration.journal import Journal, Visit
from simulator.calibration.protocol import Case, Skip, estimate, measure, settled
from simulator.errors import CalibrationError

HEADER = {"device": "toy", "version": "1"}


class Toy:
    """A device whose runs take what they return, times a script of disturbances."""

    statistic = "minimum"

    def __init__(self, disturbances: Iterator[float] | None = None) -> None:
        self.disturbances = disturbances or itertools.repeat(1.0)
        self.now = 0.0
        self.calls: list[int] = []

    def clock(self) -> float:
        return self.now

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        self.calls.append(repeats)
        took = float(run()) * next(self.disturbances)  # type: ignore[arg-type]
        self.now += took * repeats
        return took

    host_seconds = seconds

    def seconds_after(self, before: Callable[[], object], run: Callable[[], object]) -> float:
        return self.seconds(run, 1) + float(before())  # type: ignore[arg-type]

    def failure(self, error: Exception) -> str | None:
        return f"out of memory: {error}" if isinstance(error, MemoryError) else None


def point(name: str, seconds: float) -> Case:
    return Case("gemm", name, "fp32", {"m": 2, "k": 1.5}, lambda device: lambda: seconds)


def run(device: Toy, *cases: Case, seconds: float = 1.0, journal: Journal | None = None):
    return measure(cases, device, journal or Journal(None, HEADER), seconds=seconds, clock=device.clock)


def test_a_key_says_what_a_point_is() -> None:
    assert point("nt", 1e-3).key == "gemm|nt|fp32|m=2,k=1.5"


def test_a_quiet_point_settles_after_twelve_trials() -> None:
    found = run(Toy(), point("nt", 1e-3))
    assert [(p.seconds, p.spread, len(p.trials)) for p in found.points] == [(1e-3, 0.0, 12)]
    assert (found.rounds, found.settled, found.unstable) == (4, 1, ())


def test_the_smallest_trial_counts_on_a_cpu_and_the_median_on_a_gpu() -> None:
    trials = [1.0, 1.0, 1.01, 1.02, 2.0, 3.0, 4.0]
    assert estimate([*trials, *[9.0] * 5], "minimum") == pytest.approx((1.0, 0.02))
    assert estimate([1.0, 1.1, 9.0], "minimum") == pytest.approx((1.0, 0.1))  # a third of few trials has to agree
    assert estimate(trials, "median")[0] == 1.02
    assert settled([1.0, 1.0, 1.01, 1.019, *[9.0] * 8], "minimum")
    assert not settled([1.0, 1.0, 1.01, 1.021, *[9.0] * 8], "minimum")
    assert not settled([1.0] * 11, "minimum")


def test_a_trial_lasts_a_third_of_a_millisecond() -> None:
    device = Toy()
    run(device, point("nt", 1e-5))
    assert device.calls[-3:] == [30, 30, 30]
    assert 100 in device.calls  # a millisecond of warming up


def test_a_disturbed_point_is_measured_again_until_the_budget_ends() -> None:
    device = Toy(itertools.cycle([1.0, 1.5, 1.9, 2.4]))
    found = run(device, point("nt", 1e-2), seconds=2.0)
    assert found.settled == 1  # every fourth run is undisturbed
    assert found.points[0].seconds == pytest.approx(1e-2)


def test_a_point_that_never_repeats_is_refused_and_named() -> None:
    device = Toy(1.3**i for i in range(200))
    found = run(device, point("quiet", 1e-3), seconds=1e-9)
    assert found.points == ()
    assert [p.case.kernel for p in found.unstable] == ["quiet"]
    assert found.unstable[0].spread == pytest.approx(0.3)


def test_points_of_the_host_are_never_refused() -> None:
    device = Toy(1.3**i for i in range(200))
    host = Case("host", "view", "fp32", {"calls": 1}, lambda device: lambda: 1e-3, clock="host")
    assert [p.case.kernel for p in run(device, host, seconds=1e-9).points] == ["view"]


def test_points_without_a_trial_come_first() -> None:
    journal = Journal(None, HEADER)
    for name in "abcdefgh":
        journal.add(Visit(point(name, 1).key, [1e-3]))
    journal.trials = {key: seconds for key, seconds in journal.trials.items() if "|e|" not in key}
    order: list[str] = []
    measure([point(name, 1e-3) for name in "abcdefgh"], Toy(), journal, seconds=1e9,
            progress=lambda done, total, key: order.append(key))  # fmt: skip
    assert order[0] == point("e", 1).key
    assert order[1:5] != sorted(order[1:5])


def test_the_first_round_finishes_even_beyond_the_budget() -> None:
    found = run(Toy(), point("a", 1.0), point("b", 1.0), seconds=0.5)
    assert {p.case.kernel: len(p.trials) for p in found.points} == {"a": 3, "b": 3}


def test_a_point_that_does_not_fit_is_skipped_with_its_reason() -> None:
    def build(device: Toy) -> Callable[[], object]:
        raise MemoryError("2 GiB")

    def refuse(device: Toy) -> Callable[[], object]:
        raise Skip("no such kernel")

    large, absent = (Case("gemm", name, "fp32", {"m": 1}, b) for name, b in (("large", build), ("absent", refuse)))
    found = run(Toy(), point("nt", 1e-3), large, absent)
    assert found.skipped == {"gemm|large|fp32|m=1": "out of memory: 2 GiB", "gemm|absent|fp32|m=1": "no such kernel"}
    assert len(found.points) == 1


def test_any_other_failure_is_not_hidden() -> None:
    broken = Case("gemm", "nt", "fp32", {"m": 1}, lambda device: lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(Toy(), broken)


def test_what_goes_before_a_point_is_run_but_not_repeated() -> None:
    after = Case("x", "y", "fp32", {"m": 1}, lambda device: lambda: 1e-3, before=lambda device: lambda: 0.25)
    assert run(Toy(), after).points[0].seconds == pytest.approx(0.251)


def test_two_points_of_one_name_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"^two points are named gemm\|nt\|fp32\|m=2,k=1\.5$"):
        run(Toy(), point("nt", 1e-3), point("nt", 2e-3))


def test_a_killed_session_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"

    class Killed(Toy):
        def seconds(self, run: Callable[[], object], repeats: int) -> float:
            if len(self.calls) == 12:
                raise KeyboardInterrupt
            return super().seconds(run, repeats)

    with pytest.raises(KeyboardInterrupt), Journal(file, HEADER) as journal:
        run(Killed(), point("nt", 1e-2), journal=journal)
    kept = Journal(file, HEADER)
    assert len(kept.trials[point("nt", 1).key]) == 6
    found = run(Toy(), point("nt", 1e-2), journal=kept)
    assert len(found.points[0].trials) == 12


def test_a_half_written_last_line_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    with Journal(file, HEADER) as journal:
        journal.add(Visit("a", [1.0, 2.0]))
    with file.open("a") as stream:
        stream.write('{"key": "a", "seco')
    with Journal(file, HEADER) as journal:
        assert journal.trials == {"a": [1.0, 2.0]}
        journal.add(Visit("a", [3.0]))
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        HEADER,
        {"key": "a", "seconds": [1.0, 2.0]},
        {"key": "a", "seconds": [3.0]},
    ]


def test_skipped_points_are_not_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    with Journal(file, HEADER) as journal:
        journal.skip(point("nt", 1).key, "out of memory: 9 GiB")
    with Journal(file, HEADER) as journal:
        found = run(Toy(), point("nt", 1e-3), journal=journal)
    assert found.skipped == {point("nt", 1).key: "out of memory: 9 GiB"}


def test_a_journal_of_another_machine_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    Journal(file, HEADER).close()
    with pytest.raises(CalibrationError) as error:
        Journal(file, {"device": "other", "version": "1"})
    assert str(error.value) == (f"{file}: measured with device toy, this is other; choose another folder to begin anew")


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    Journal(file, HEADER).close()
    with file.open("a") as stream:
        stream.write("rubbish\n")
    with pytest.raises(CalibrationError, match="line 2 is no journal line; move the file away to begin anew"):
        Journal(file, HEADER)


def test_a_clock_that_runs_backwards_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"the clock gave \[-1.0\] for a"):
        Journal(None, HEADER).add(Visit("a", [-1.0]))
