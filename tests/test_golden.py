"""The figures of the shipped runs, held to nine digits. After a change that is meant: pytest --update-golden NAME."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Golden

from simulator.simulation import simulate
from simulator.spec.base import data_root
from simulator.spec.run import read_run

RUNS = sorted((data_root() / "workloads/runs").glob("*.yaml"))


def figures(file: Path) -> dict[str, Any]:
    """Every metric with its interval, and the parts of the step, of the memory and of the traffic."""
    result = simulate(read_run(file))
    numbers = {key: [n.value, n.low, n.high, n.basis] for key, n in result.numbers().items()}
    breakdown = {item.key: [item.seconds.value, item.hidden_s] for item in result.breakdown}
    stages = [stage.parts for stage in result.memory_by_stage]
    operators = {row.name: [row.seconds, row.flops, row.bytes] for row in result.operators}
    return {"numbers": numbers, "breakdown": breakdown, "memory_by_stage": stages, "operators": operators}


def differences(found: Any, recorded: Any, path: str = "") -> list[str]:
    """Where two records differ by more than a billionth."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        out = [f"{path}.{key}: in one only" for key in sorted(set(found) ^ set(recorded))]
        for key in sorted(set(found) & set(recorded)):
            out += differences(found[key], recorded[key], f"{path}.{key}".lstrip("."))
        return out
    if isinstance(recorded, list) and isinstance(found, list):
        if len(found) != len(recorded):
            return [f"{path}: {len(found)} entries, recorded {len(recorded)}"]
        pairs = enumerate(zip(found, recorded, strict=True))
        return [text for i, (one, other) in pairs for text in differences(one, other, f"{path}[{i}]")]
    if isinstance(recorded, float | int) and isinstance(found, float | int):
        return [] if found == pytest.approx(recorded, rel=1e-9) else [f"{path}: {found}, recorded {recorded}"]
    return [] if found == recorded else [f"{path}: {found!r}, recorded {recorded!r}"]


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_figures_of_the_shipped_runs(file: Path, golden: Golden) -> None:
    found = figures(file)
    recorded = golden.check(file.stem, found, describe=file.stem)
    changed = differences(found, recorded)
    assert not changed, f"{len(changed)} figures of {file.stem} differ: " + "; ".join(changed[:10])


def test_a_difference_is_named() -> None:
    recorded = {"a": [1.0, "exact"], "b": {"c": 2}}
    assert differences({"a": [1.0 + 1e-12, "exact"], "b": {"c": 2}}, recorded) == []
    assert differences({"a": [1.1, "exact"], "d": 1}, recorded) == [
        ".b: in one only",
        ".d: in one only",
        "a[0]: 1.1, recorded 1.0",
    ]


def test_every_record_is_of_a_shipped_run_or_of_the_validation() -> None:
    recorded = {path.stem for path in (Path(__file__).parent / "golden").glob("*.json")}
    assert recorded == {file.stem for file in RUNS} | {"validation_bounds"}
