"""Fixtures shared by the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# The same examples every time, whatever else the machine is doing.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden NAME` writes the golden file of that name (or of `all`) anew."""
    parser.addoption(
        "--update-golden", action="append", default=[], metavar="NAME", help="write tests/golden/NAME.json"
    )


@dataclass(frozen=True)
class Golden:
    """Recorded results in tests/golden; those named on the command line are written before they are read."""

    updated: tuple[str, ...]

    def check(self, name: str, found: object, *, describe: str) -> Any:
        """The record of that name; `found` where it is to be updated. Fails where there is none."""
        path = ROOT / "tests/golden" / f"{name}.json"
        if name in self.updated or "all" in self.updated:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        assert path.is_file(), f"no record of {describe}: run pytest --update-golden {name}"
        return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def golden(pytestconfig: pytest.Config) -> Golden:
    return Golden(tuple(pytestconfig.getoption("--update-golden")))


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def moesim(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Outcome]:
    """Runs the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        from simulator.cli.app import main

        monkeypatch.setattr(sys, "argv", ["moesim", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        written = capsys.readouterr()
        return Outcome(code, written.out, written.err)

    return run


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python ARGUMENTS` in an empty folder, away from the checkout, with the package importable."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
        )

    return run
