"""How fast the simulator is on this machine: one run, a very large one, sweeps, and how long a command takes to start.

    python benchmarks/run.py

CPU-seconds of this process (`time.process_time`) and medians, so that other load on the machine matters little. Nothing
is asserted: the figures are for reading. What must not grow is held by tests/test_speed_structure.py.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

from rich.console import Console
from rich.table import Table

from simulator.engine.schedule import schedule_of
from simulator.graph.programs import programs_of
from simulator.simulation import simulate
from simulator.spec.base import data_root
from simulator.spec.run import Run, read_run
from simulator.sweeps import Sweep, evaluate, read_sweep

WORKLOADS = data_root() / "workloads"
DEMO = WORKLOADS / "runs/mixtral-8x7b-64xh100.yaml"

# A mixture of experts of 1.8 trillion parameters, 8 tensor ranks, one micro-batch of one sequence at a time.
LARGE = ("model=gpt-moe-1.8t", "parallelism.tp=8", "parallelism.vpp=1", "parallelism.ep=16", "training.recompute=full")
SMALL_CLUSTER = (
    *LARGE,
    "hardware.gpus=1024",
    "parallelism.pp=8",
    "training.global_batch=4096",
    "training.sharding=zero3",
)
LARGE_CLUSTER = (*LARGE, "hardware.gpus=131072", "parallelism.pp=64", "training.global_batch=131072")

PEERS = (("calculon", 94.0), ("SimuMax", 10.0))
"""Configurations of a training grid per CPU-second."""
PEERS_MEASURED = "measured on another machine of 2 cores, Python 3.11"


def cpu_seconds(call: Callable[[], object], times: int) -> float:
    """Median CPU-seconds of a call, after one that fills the caches."""
    call()
    spent = []
    for _ in range(times):
        begin = time.process_time()
        call()
        spent.append(time.process_time() - begin)
    return median(spent)


def first_seconds(run: Run) -> float:
    """CPU-seconds of the first simulation in a process, imports apart."""
    begin = time.process_time()
    simulate(run)
    return time.process_time() - begin


def started(code: str, times: int = 7) -> tuple[float, float]:
    """Median (CPU-seconds, seconds of wall-clock) a new Python takes for `code`, less what it takes for nothing."""

    def once(text: str) -> tuple[float, float]:
        begin, before = time.perf_counter(), os.times()
        subprocess.run([sys.executable, "-c", text], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        return spent, time.perf_counter() - begin

    full, empty = ([once(text) for _ in range(times)] for text in (code, "pass"))
    cpu, wall = (median(run[part] for run in full) - median(run[part] for run in empty) for part in (0, 1))
    return max(0.0, cpu), max(0.0, wall)


def single_runs(table: Table) -> None:
    """One run, and how its cost grows with the machine."""
    demo = read_run(DEMO)
    first = first_seconds(demo)
    one = cpu_seconds(lambda: simulate(demo), 25)
    table.add_row("one run, 64 GPUs", f"{1e3 * one:.1f} ms", f"the first of a process {1e3 * first:.0f} ms")
    few = read_run(DEMO, ("hardware.gpus=1024", "training.global_batch=4096"))
    many = read_run(DEMO, ("hardware.gpus=131072", "training.global_batch=524288"))
    ratio = cpu_seconds(lambda: simulate(many), 15) / cpu_seconds(lambda: simulate(few), 15)
    table.add_row("131,072 GPUs over 1,024, same split", f"{ratio:.2f} x", "Mixtral 8x7B, pp 4, vpp 8")
    small, large = read_run(DEMO, SMALL_CLUSTER), read_run(DEMO, LARGE_CLUSTER)
    base, deep = cpu_seconds(lambda: simulate(small), 15), cpu_seconds(lambda: simulate(large), 15)
    words = f"{1e3 * deep:.1f} over {1e3 * base:.1f} ms; 1.8 T parameters"
    table.add_row("131,072 GPUs, pp 64 over 1,024 GPUs, pp 8", f"{deep / base:.2f} x", words)


def cold(sweep: Sweep) -> None:
    """Evaluate a sweep as the first of its process: nothing of its points is known yet."""
    programs_of.cache_clear()
    schedule_of.cache_clear()
    evaluate(sweep)


def sweeps(table: Table) -> None:
    """Configurations per CPU-second, feasible and infeasible ones."""
    import pandas  # noqa: F401  # not a sweep's cost: loaded once

    for name in ("mixtral-split", "mixtral-serving-devices"):
        sweep = read_sweep(WORKLOADS / f"sweeps/{name}.yaml")
        frame = evaluate(sweep)
        feasible = int((frame["status"] == "ok").sum())
        seconds = cpu_seconds(lambda sweep=sweep: cold(sweep), 3)  # type: ignore[misc]
        words = f"{feasible / seconds:,.0f} feasible ones; {feasible:,} of {len(frame):,} are feasible"
        table.add_row(f"sweep {name}", f"{len(frame) / seconds:,.0f} /CPU-s", words)
    for name, rate in PEERS:
        table.add_row(f"  {name}, for comparison", f"{rate:,.0f} /CPU-s", PEERS_MEASURED)


def start_up(table: Table) -> None:
    """What a command waits for before it computes."""
    for words, code in (
        ("import simulator", "import simulator"),
        ("the command line", "import simulator.cli.app"),
        ("the command line, a run read, ready to simulate", f"""
import simulator.cli.app
from simulator.spec.run import read_run
read_run({str(DEMO)!r})
import simulator.simulation
"""),
        ("the same and simulated", f"""
import simulator.cli.app
from simulator.spec.run import read_run
run = read_run({str(DEMO)!r})
from simulator.simulation import simulate
simulate(run)
"""),
    ):  # fmt: skip
        cpu, wall = started(code)
        table.add_row(words, f"{cpu:.2f} CPU-s", f"{wall:.2f} s of wall-clock, beyond Python's own start")


def main() -> None:
    """Measure and print."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    title = f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}"
    for name, measure in (("One run", single_runs), ("Many runs", sweeps), ("Start", start_up)):
        table = Table(title=f"{name} ({title})", title_justify="left")
        for column in ("what", "figure", "remarks"):
            table.add_column(column, justify="right" if column == "figure" else "left")
        measure(table)
        console.print(table)


if __name__ == "__main__":
    main()
