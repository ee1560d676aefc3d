"""The package keeps its shape: who imports whom, how big things are, and that importing it costs nothing."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import simulator

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "simulator"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each part may import itself and the parts named here. `result` holds the words that label a figure, so all may use it.
WORDS = {"errors", "units", "records", "result"}
PHYSICS = WORDS | {"spec", "graph", "cost", "engine"}
PROGRAM = PHYSICS | {"assembly", "simulation", "__version__"}
MAY_IMPORT = {
    "errors": set(),
    "units": {"errors"},
    "records": set(),
    "records_network": {"records"},
    "result": {"errors", "units", "records", "records_network"},
    "spec": WORDS,
    "graph": WORDS | {"spec"},
    "cost": WORDS | {"spec", "graph"},
    "engine": WORDS | {"spec", "graph", "cost"},
    "serving": PHYSICS,
    "assembly": PHYSICS | {"serving", "__version__"},
    "simulation": PHYSICS | {"assembly", "serving", "__version__"},
    "neighbours": PROGRAM,
    "predictions": PROGRAM,
    "explanation": PROGRAM | {"predictions", "serving", "validation"},
    "shards": {"errors", "__version__"},
    "sweeps": PROGRAM | {"predictions", "shards"},
    "answer": WORDS,
    "fleet": WORDS,
    "verdicts": WORDS,
    "planning": PROGRAM | {"answer", "fleet", "serving", "shards", "sweeps", "verdicts"},
    "validation": PROGRAM | {"predictions"},
    "calibration": WORDS | {"spec"},
    "report": WORDS | {"answer", "fleet", "verdicts"},
    "cli": PROGRAM
    | {
        "answer",
        "explanation",
        "fleet",
        "neighbours",
        "planning",
        "serving",
        "shards",
        "predictions",
        "sweeps",
        "validation",
        "verdicts",
        "calibration",
        "report",
    },
}

MEASURING = tuple(f"calibration/{name}" for name in ("cuda", "kernels", "torch", "collectives", "power", "verify"))
# Third-party packages with a home; elsewhere they may not appear at all.
HOMES = {
    "torch": MEASURING,
    "pynvml": MEASURING,
    "simpy": ("engine/contention", "serving"),
    "distributed": ("shards/cluster",),
    "pyarrow": ("shards/store", "calibration/sources_silicon"),
    "optuna": ("planning/guided",),
    "jinja2": ("report",),
    "plotly": ("report",),
    "typer": ("cli",),
    "rich": ("cli",),
}
HEAVY = ("torch", "simpy", "jinja2", "pandas", "numpy", "scipy", "ruamel", "rich", "typer", "pyarrow")


def name_of(path: Path) -> str:
    """`engine/contention` of simulator/engine/contention.py."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def part_of(name: str) -> str:
    """The part a module belongs to: its folder or its own name; `__main__` is the command line's."""
    first = name.split("/")[0]
    return "cli" if first == "__main__" else first


def imported(path: Path) -> Iterator[str]:
    """Dotted names of every import in a file, those inside functions and type checking blocks too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports name the package"
            assert node.module is not None
            if node.module == "simulator":
                yield from (f"simulator.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(name_of(path))
    if part == "__init__":  # the facade hands out names from everywhere
        return
    assert part in MAY_IMPORT, f"say in MAY_IMPORT what {part} may import"
    inside = {part_of(name.split(".")[1]) for name in imported(path) if name.startswith("simulator.")}
    assert inside - {part} <= MAY_IMPORT[part]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_third_party_packages_stay_in_their_homes(path: Path) -> None:
    name = name_of(path)
    for package in {imported_name.split(".")[0] for imported_name in imported(path)} & set(HOMES):
        assert name.startswith(HOMES[package]), f"{package} belongs into {' or '.join(HOMES[package])}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 80, f"{node.name} is longer than 80 lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_library_neither_prints_nor_exits_nor_reads_the_environment() -> None:
    banned = {"print", "sys.exit", "exit", "os.chdir", "os.getenv"}
    for path in MODULES:
        if part_of(name_of(path)) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in banned, f"{name_of(path)}:{node.lineno}"
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) != "os.environ", f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("module", ["simulator", "simulator.spec.base", "simulator.errors"])
def test_importing_the_package_loads_nothing_heavy(
    python: Callable[..., subprocess.CompletedProcess[str]], module: str
) -> None:
    loaded = python("-c", f"import sys, {module}; print(*sorted(sys.modules))").stdout.split()
    assert module in loaded
    assert not set(HEAVY) & set(loaded)


def test_the_command_line_starts_without_the_heavy_packages(
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    loaded = python("-c", "import sys, simulator.cli.app; print(*sorted(sys.modules))").stdout.split()
    assert "typer" in loaded
    assert not {"torch", "simpy", "jinja2", "pandas", "numpy", "scipy", "ruamel"} & set(loaded)


def test_the_public_names_exist() -> None:
    assert simulator.__all__ == sorted(simulator.__all__)
    assert dir(simulator) == simulator.__all__
    for name in simulator.__all__:
        assert getattr(simulator, name) is not None
    with pytest.raises(AttributeError, match="module 'simulator' has no attribute 'simulat'"):
        simulator.simulat  # noqa: B018


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    place = re.compile(r"(?<![\w./])/(?:" + "|".join(["work", "root", "home", "Users", "mnt", "opt"]) + r")/\w")
    folders = ["simulator", "tests", "docs", "workloads", "hardware_profiles", "benchmarks", ".ci"]
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in files:
        if path.suffix in {".py", ".md", ".yaml", ".csv", ".toml", ".txt", ".jinja", ".js", ".css", ""}:
            found = place.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{path.relative_to(ROOT)}: {found}"
