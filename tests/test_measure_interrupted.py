"""Calibrations that end before their time: nothing measured is lost, nothing hangs, and the reason is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from simulator.calibration import kernels, ranks
from simulator.calibration.ranks import run_ranks
from simulator.calibration.session import calibrate
from simulator.errors import CalibrationError

PATIENCE_S = 120.0


def begin(out: Path) -> subprocess.Popen[str]:
    """The command as a user runs it, in a process of its own.

    It heeds Ctrl-C even where a shell started these tests in the background, which makes their children ignore it.
    """
    command = [sys.executable, "-m", "simulator", "calibrate", "--device", "cpu", "--minutes", "10", "--out", str(out)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )


def heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_lines(journal: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Return once the journal has that many lines."""
    end = time.monotonic() + PATIENCE_S
    while not journal.exists() or journal.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "nothing is measured"
        time.sleep(0.05)


def trials(journal: Path) -> dict[str, list[float]]:
    """What stands in whole lines of the journal."""
    found: dict[str, list[float]] = {}
    for line in journal.read_bytes().split(b"\n")[1:-1]:
        visit = json.loads(line)
        found.setdefault(visit["key"], []).extend(visit.get("seconds", []))
    return found


def test_a_killed_calibration_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    first = begin(tmp_path)
    wait_for_lines(journal, 40, first)
    first.kill()
    first.communicate(timeout=PATIENCE_S)
    kept = trials(journal)
    assert len(kept) >= 38
    second = begin(tmp_path)
    wait_for_lines(journal, len(kept) + 40, second)
    second.send_signal(signal.SIGINT)
    _, said = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 130
    assert said == f"Interrupted. What was measured is in {journal}; the same command goes on.\n"
    after = trials(journal)
    # A second run begins with the points the first one had not reached.
    assert all(after[key] == seconds for key, seconds in kept.items())


def test_a_collective_that_fails_is_remarked_on_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise CalibrationError("process 1 of 2 was killed by signal 9; nothing measured before is lost")

    monkeypatch.setattr(ranks, "run_ranks", die)
    few = [
        case
        for case in kernels.cases(kernels.CPU_PLAN, "fp32")
        if case.op in ("elementwise", "host") and not case.shape.get("reuse")
    ]
    monkeypatch.setattr(kernels, "cases", lambda plan, dtype: few)
    report = calibrate("cpu", tmp_path, minutes=1e-3, plan=kernels.CPU_PLAN)
    words = (
        "collectives between 2 processes were not measured: process 1 of 2 was killed by signal 9; nothing measured "
        "before is lost"
    )
    assert report.remarks == (words,)
    assert words in report.summary().splitlines()
    assert (tmp_path / "prices.yaml").is_file()


@pytest.mark.parametrize("command", ["calibrate --out", "verify --profile"])
def test_without_torch_the_extra_is_named(tmp_path: Path, command: str) -> None:
    verb, option = command.split()
    script = (
        "import sys; sys.modules['torch'] = None; from simulator.cli.app import main; "
        f"sys.argv = ['moesim', '{verb}', '--device', 'cpu', '{option}', r'{tmp_path / 'x'}']; main()"
    )
    (tmp_path / "x").write_text(PRICES if verb == "verify" else "", encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: measuring needs PyTorch: pip install 'moesim[calibrate]'\n")


PRICES = """{device: x, dtype: fp32, library: torch, version: "1", date: "", statistic: minimum,
 memory: {seconds_per_byte: [1.0e-11], knees: []}, families: {},
 host: {view: 0, module: 0, forward_on_tape: 0, backward: 0, sequence: [[1.0e-7, 0]], stretch: [[1.0e-7, 1]]}}
"""


def test_a_budget_too_small_for_one_round_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError) as error:
        calibrate("cpu", tmp_path, minutes=0.1)
    assert str(error.value) == (
        "--minutes 0.1 leaves 5 s for the operators; one round over all of them takes about 20 s: "
        "give at least 0.4 minutes"
    )


DYING = """
import os, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
if dist.get_rank() == 1:
    {how}
dist.all_reduce(torch.ones(4))
"""


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "process 1 of 2 was killed by signal 9; nothing measured before is lost"),
        (
            "raise MemoryError('no room for 1 GiB')",
            "process 1 of 2 failed; nothing measured before is lost: MemoryError: no room for 1 GiB",
        ),
    ],
)
def test_a_rank_that_dies_while_another_waits_for_it_ends_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    (tmp_path / "dying_rank.py").write_text(DYING.format(how=how), encoding="utf-8")
    start = time.monotonic()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(CalibrationError) as error:
        run_ranks("dying_rank", [], ranks=2, timeout_s=PATIENCE_S)
    assert str(error.value) == reason
    assert time.monotonic() - start < PATIENCE_S
