"""The wheel carries the data: installed alone, it runs the demo from anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_every_data_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("hardware_profiles", "workloads"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix in {".yaml", ".csv"}]
        assert files
        for path in files:
            assert f"simulator/data/{path.relative_to(ROOT).as_posix()}" in names
    for path in (ROOT / "simulator").rglob("*"):
        if path.suffix in {".py", ".jinja", ".js", ".css", ".typed"}:
            assert path.relative_to(ROOT).as_posix() in names
    assert {name.split("/")[0] for name in names} == {"simulator", "moesim-0.1.0.dist-info"}


def test_an_installed_wheel_runs_the_demo_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, str(site / "bin" / "moesim"), "run", "mixtral-8x7b-64xh100", "--out", "demo"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in (elsewhere / "demo").iterdir()) == [
        "report.html",
        "result.json",
        "trace.json.gz",
    ]
    result = json.loads((elsewhere / "demo" / "result.json").read_text(encoding="utf-8"))
    assert result["summary"]["parameters"] == 46_702_792_704
    where = "import simulator; print(simulator.__file__)"
    home = subprocess.run([sys.executable, "-c", where], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert home.stdout.startswith(str(site))
