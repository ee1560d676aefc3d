"""The README tells the truth: its commands run, its Python runs, its links and make targets exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every line of a console block that stands behind a prompt."""
    return [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the checkout and catches what the commands write; `moesim` is on its path."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("workloads", "hardware_profiles"):
        (folder / name).symlink_to(ROOT / name)
    command = folder / "bin" / "moesim"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m simulator "$@"\n')
    command.chmod(0o755)
    return folder


def execute(command: str, folder: Path) -> str:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=folder, env=environment, timeout=120)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout


def test_every_command_runs(folder: Path) -> None:
    assert len(commands()) >= 10
    for command in commands():
        assert execute(command, folder).strip(), command
    written = {path.relative_to(folder).as_posix() for path in (folder / "reports").rglob("*") if path.is_file()}
    assert written == {
        *(
            f"reports/{run}/{name}"
            for run in ("base", "on-h200")
            for name in ("report.html", "result.json", "trace.json.gz")
        ),
        "reports/comparison.html",
        "reports/mixtral-split/report.html",
        "reports/mixtral-split/sweep.csv",
    }


def test_the_python_runs(folder: Path) -> None:
    (block,) = blocks("python")
    (folder / "example.py").write_text(block, encoding="utf-8")
    printed = execute(f'"{sys.executable}" example.py', folder)
    assert printed.startswith("value=")
    assert "basis" in printed


def test_the_run_file_shown_is_one(folder: Path) -> None:
    (block,) = blocks("yaml")
    (folder / "shown.yaml").write_text(block, encoding="utf-8")
    assert '"name": "mixtral-8x7b-64xh100"' in execute("moesim run shown.yaml --json", folder)


def test_links_and_pictures_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("https://", "http://")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE))
    assert named == {"demo", "test"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    continuous = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make (\w+)$", continuous, flags=re.MULTILINE) == ["lint", "test"]
