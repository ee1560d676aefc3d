"""How fast plans are searched: configurations per CPU-second, and how time, memory and speed-up grow with the points.

    python benchmarks/planning.py                 # GPT-3 on 4,096 A100, 100,000 points of a MoE model
    python benchmarks/planning.py --million       # a million points too, with one worker and with two

CPU-seconds of all processes (`resource.getrusage`), so that other load on the machine matters little; the speed-up that
two cores would give follows from them: what one process does alone, plus half of what both do. Wall-clock is printed
beside it and says more where the machine is quiet. Nothing is asserted.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from simulator.planning.plan import solve
from simulator.planning.search import search
from simulator.planning.space import Space, build_space, run_of
from simulator.shards.store import open_store
from simulator.shards.work import Workers
from simulator.simulation import simulate
from simulator.spec.plan import Plan

CALCULON = 94.0
"""Configurations per CPU-second of calculon's search (2 cores, Python 3.11, GPT-3 175B)."""

GPT3: dict[str, Any] = {
    "name": "gpt3-4096xa100",
    "run": {
        "name": "gpt3", "kind": "training", "model": "gpt3-175b", "framework": "megatron-core",
        "hardware": {"device": "a100-sxm-80gb", "gpus": 4096},
        "training": {"global_batch": 4096, "seq_len": 2048, "precision": "bf16"},
    },
    "vary": {
        "training.micro_batch": [1, 2, 4, 8],
        "training.recompute": ["none", "selective", "full"],
        "training.sharding": ["none", "zero1"],
        "execution.tp_overlap": [False, True],
        "execution.dp_overlap": [False, True],
    },
    "splits": "legal",
    "objectives": ["time"],
}  # fmt: skip
# What calculon's own search calls best for GPT-3 175B within tp 8 and pp 8 (on 512 A100), on this machine.
CALCULONS_BEST: dict[str, Any] = {
    "training.micro_batch": 1,
    "training.recompute": "selective",
    "training.sharding": "zero1",
    "parallelism": {"tp": 8, "pp": 8, "vpp": 2, "cp": 1, "ep": 1},
}


def moe(points: int) -> dict[str, Any]:
    """A plan for Mixtral 8x22B of about 100,000 points, or of a million."""
    batches = [1024] if points <= 100_000 else [512, 768, 1024, 1280, 1536, 2048, 3072, 4096, 6144, 8192]
    return {
        "name": f"mixtral-{points}",
        "run": {
            "name": "mixtral-8x22b", "kind": "training", "model": "mixtral-8x22b",
            "hardware": {"device": "h100-sxm", "gpus": 512},
            "training": {"global_batch": 1024, "seq_len": 4096, "precision": "bf16", "tokens": 2.0e12},
        },
        "prices": "rental-2025",
        "vary": {
            "hardware.device": ["h100-sxm", "h200-sxm", "b200-sxm"],
            "hardware.gpus": {"from": 256, "to": 4096, "factor": 2},
            "training.global_batch": batches,
            "training.micro_batch": [1, 2, 4],
            "training.recompute": ["none", "selective", "full"],
            "training.sharding": ["zero1", "zero3"],
        },
        "splits": {"cp": [1, 2]},
        "constraints": {"deadline": "60 d"},
        "objectives": ["money", "time"],
    }  # fmt: skip


class Spent(NamedTuple):
    """CPU-seconds of this process and of its children, and seconds of wall-clock."""

    own: float
    children: float
    wall: float

    @classmethod
    def now(cls) -> Spent:
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return cls(own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime, time.perf_counter())

    def since(self, before: Spent) -> Spent:
        return Spent(*(now - then for now, then in zip(self, before, strict=True)))

    @property
    def cpu(self) -> float:
        return self.own + self.children


def searched(space: Space, folder: Path, plan: Plan, processes: int) -> Spent:
    """What it takes to time every point of a space."""
    store = open_store(folder, {"plan": plan.model_dump(mode="json")}, resume=False)
    before = Spent.now()
    search(space, store=store, workers=Workers(processes))
    return Spent.now().since(before)


def rates(table: Table) -> None:
    """Configurations per CPU-second in calculon's space, and its best split beside ours."""
    plan = Plan.model_validate(GPT3)
    space = build_space(plan)
    with tempfile.TemporaryDirectory() as folder:
        spent = searched(space, Path(folder), plan, 1)
    rate = len(space.points) / spent.cpu
    table.add_row("GPT-3 175B on 4,096 A100", f"{rate:,.0f} /CPU-s", f"{len(space.points):,} points")
    table.add_row("  calculon, for comparison", f"{CALCULON:,.0f} /CPU-s", f"{rate / CALCULON:.0f} times slower")
    assert isinstance(plan.run, dict)
    for name, changes in (("any setting", {}), ("without overlapped tp", {"execution.tp_overlap": [False]})):
        answer = solve(plan.model_copy(update={"vary": {**plan.vary, **changes}}))
        assert answer.best is not None
        words = f"{dict(answer.best.settings)}".replace("'", "")
        table.add_row(f"  our best, {name}", _seconds(plan.run, answer.best.settings), words)
    for overlap in (False, True):
        changes = {"execution.tp_overlap": overlap}
        words = "tp 8, pp 8, vpp 2, micro-batch 1, attention recomputed" + (", overlapped tp" if overlap else "")
        table.add_row("  calculon's best, by us", _seconds(plan.run, CALCULONS_BEST | changes), words)


def _seconds(run: dict[str, Any], settings: Mapping[str, Any]) -> str:
    result = simulate(run_of(run, settings), engine="auto")
    assert result.step_time_s is not None
    assert result.mfu is not None
    return f"{result.step_time_s.value:.2f} s, MFU {100 * result.mfu.value:.1f} %"


def growth(table: Table, points: int) -> None:
    """A MoE plan with one worker and with two, and the memory of the whole answer."""
    plan = Plan.model_validate(moe(points))
    before = Spent.now()
    space = build_space(plan, force=True)
    built = Spent.now().since(before)
    count = len(space.points)
    table.add_row(
        f"Mixtral 8x22B, {count:,} points: space", f"{built.cpu:.1f} CPU-s", f"{len(space.ruled_out):,} ruled out"
    )
    spent = {}
    for processes in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            spent[processes] = searched(space, Path(folder), plan, processes)
        one = spent[processes]
        table.add_row(f"  timed by {processes}", f"{one.cpu:.0f} CPU-s", f"{one.wall:.0f} s of wall-clock")
    two = spent[2].cpu / 2
    words = f"{spent[1].cpu:.0f} CPU-s by one over {spent[2].cpu:.0f} / 2 by two"
    table.add_row("  speed-up of the search, 1 to 2", f"{spent[1].cpu / two:.2f} x", words)
    whole = spent[1].cpu / spent[2].cpu
    table.add_row(
        "  wall-clock, 1 to 2", f"{spent[1].wall / spent[2].wall:.2f} x", f"CPU efficiency {100 * whole:.0f} %"
    )


def memory(table: Table, points: int) -> None:
    """Peak memory and time of a whole plan in a process of its own, and of its largest worker."""
    code = f"""
import resource, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from planning import Plan, Workers, moe, solve
begin = time.perf_counter()
answer = solve(Plan.model_validate(moe({points})), workers=Workers(2), force=True)
peak = [resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
cpu = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(len(answer.table), time.perf_counter() - begin, cpu, *peak)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    timed, wall, cpu, own, worker = (float(word) for word in done.stdout.split())
    words = f"peak {own:.2f} GiB, each worker at most {worker:.2f} GiB; {timed:,.0f} points could be timed"
    table.add_row(f"{points:,} points, whole answer, 2 workers", f"{wall:.0f} s, {cpu:.0f} CPU-s", words)


def main() -> None:
    """Measure and print."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    table = Table(title=f"Plans (Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f})")
    for column in ("what", "figure", "remarks"):
        table.add_column(column, justify="right" if column == "figure" else "left")
    rates(table)
    growth(table, 100_000)
    memory(table, 100_000)
    if "--million" in sys.argv:
        growth(table, 1_000_000)
        memory(table, 1_000_000)
    console.print(table)


if __name__ == "__main__":
    main()
