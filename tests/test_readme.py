"""The README tells the truth: its commands run, its Python runs, its links and make targets exist."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

Moesim = Callable[..., Outcome]
ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every line of a console block that stands behind a prompt."""
    return [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def like_checkout(tmp_path: Path) -> Path:
    """The folder commands run in, made to look like the checkout; it catches what they write."""
    for name in ("workloads", "hardware_profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def execute(command: str, moesim: Moesim) -> str:
    """What a command of the README prints."""
    program, *arguments = shlex.split(command)
    assert program == "moesim"
    outcome = moesim(*arguments)
    said = re.sub(r"^[\d,]+ legal points in [\d,]+ combinations.*\n", "", outcome.err)  # the size of a plan, before it
    assert (outcome.code, said) == (0, ""), command
    return outcome.out


def test_every_command_runs(moesim: Moesim, like_checkout: Path) -> None:
    assert len(commands()) >= 10
    for command in commands():
        assert execute(command, moesim).strip(), command
    written = like_checkout / "reports"
    files = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert {file for file in files if "/points/" not in file} == {  # points of plans and sweeps are tables
        *(f"{run}/{name}" for run in ("base", "on-h200") for name in ("report.html", "result.json", "trace.json.gz")),
        "chat/months.csv",
        "chat/report.html",
        "claims/report.html",
        "comparison.html",
        *(f"mixtral-8x7b-quick/{name}" for name in ("best.yaml", "report.html")),
        "mixtral-split/report.html",
        "mixtral-split/sweep.csv",
        "validation.html",
    }


def test_the_files_shown_are_good(moesim: Moesim, like_checkout: Path) -> None:
    run, served, sweep = blocks("yaml")
    (like_checkout / "run.yaml").write_text(run, encoding="utf-8")
    (like_checkout / "served.yaml").write_text(served, encoding="utf-8")
    (like_checkout / "sweep.yaml").write_text(sweep, encoding="utf-8")
    assert json.loads(execute("moesim run run.yaml --json", moesim))["name"] == "mixtral-8x7b-64xh100"
    assert json.loads(execute("moesim run served.yaml --json", moesim))["serving"]["served"] == 2000
    assert " of 48 points" in execute("moesim sweep sweep.yaml", moesim)


def test_the_python_runs(
    monkeypatch: pytest.MonkeyPatch, like_checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(like_checkout)
    (block,) = blocks("python")
    exec(block, {})
    printed = capsys.readouterr().out
    assert printed.startswith("value=")
    assert "basis" in printed


def test_links_and_pictures_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("https://", "http://")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_demo_leaves_a_run_and_a_plan(moesim: Moesim, like_checkout: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    names = dict(re.findall(r"^(RUN|PLAN) +:= (\S+)$", makefile, flags=re.MULTILINE))
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    assert recipe is not None
    for command in re.findall(r"^\t\$\(BIN\)/(moesim .*)$", recipe[1], flags=re.MULTILINE):
        execute(re.sub(r"\$\((RUN|PLAN)\)", lambda found: names[found[1]], command), moesim)
    for name in names.values():
        assert "<h1>" in (like_checkout / "reports" / name / "report.html").read_text(encoding="utf-8")


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE))
    assert named == {"demo", "test"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    continuous = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make (\w+)$", continuous, flags=re.MULTILINE) == ["lint", "test"]
