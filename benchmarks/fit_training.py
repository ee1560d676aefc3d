"""Fit the global constants of the model on the published training runs, and say what each is worth.

    python benchmarks/fit_training.py              worth of each constant at its shipped value
    python benchmarks/fit_training.py --fit 600    coordinate descent for 600 s from the shipped values
    python benchmarks/fit_training.py --leave LLMF --fit 300    the same without one source, then its error unseen

The objective is the mean over groups (source, model, device) of the mean |log(predicted/measured)|, capped at 0.5,
quality B weighing 0.3, plus a weak pull to the shipped values. Values are printed, never written.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import simulator.cost.annotation as annotation
import simulator.cost.machine as machine
import simulator.engine.fast as fast
import simulator.graph.builder as builder
from simulator.simulation import training_step
from simulator.spec.base import data_root
from simulator.spec.constants import Constants, read_constants
from simulator.spec.curves import Curves, read_priors
from simulator.spec.run import Run
from simulator.validation import replay as validation

TABLE = data_root() / "workloads/validation/training.csv"
UNPREDICTABLE = ("IEVO", "AUTOM", "BLOOM")
"""Sources left out of the fit: their software does what no column of the table states."""


class Constant(NamedTuple):
    """A number in priors/*.yaml (all architectures named) or constants.yaml."""

    name: str
    architectures: tuple[str, ...]
    path: tuple[str, ...]
    low: float
    high: float


GPUS = ("ampere", "hopper", "blackwell")
CONSTANTS = [
    *(Constant(f"gemm {p} of peak, {a}", (a,), ("gemm", p, "ec"), 0.85, 1.15) for a, p in (
        ("ampere", "bf16"), ("hopper", "bf16"), ("blackwell", "bf16"), ("hopper", "fp8"), ("blackwell", "fp8"))),
    Constant("energy per FLOP, hopper", ("hopper",), ("power", "pj_per_flop"), 0.7, 1.4),
    Constant("energy per FLOP, blackwell", ("blackwell",), ("power", "pj_per_flop"), 0.7, 1.4),
    Constant("HBM-bound efficiency", GPUS, ("memory", "efficiency"), 0.7, 1.35),
    Constant("grouped GEMM loss", GPUS, ("grouped", "loss"), 0.0, 1.7),
    Constant("grouped GEMM start-up", GPUS, ("grouped", "group_us"), 0.0, 2.0),
    Constant("NVLink all-to-all", GPUS, ("collective", "all_to_all"), 0.6, 1.6),
    *(Constant(f"NVLink ring, {a}", (a,), ("collective", "ring"), 0.6, 1.3) for a in GPUS),
    Constant("network efficiency", GPUS, ("network", "efficiency"), 0.7, 1.15),
    *(Constant(n, (), (n,), 0.5, 1.5) for n in (
        "overlap_rate", "a2a_hidden", "prefetch_residue", "host_module_us", "host_synchronous_exponent")),
]  # fmt: skip


def scaled(data: dict[str, Any], path: tuple[str, ...], factor: float) -> None:
    """Scale the number at a path, or every number of a mapping there."""
    *parents, last = path
    for part in parents:
        data = data[part]
    value = data[last]
    data[last] = {k: v * factor for k, v in value.items()} if isinstance(value, dict) else value * factor


def install(factors: dict[str, float]) -> None:
    """Make the model use the shipped constants times `factors`."""
    curves: dict[str, Curves] = {}
    for architecture in GPUS:
        data = read_priors(architecture).model_dump()
        for constant in CONSTANTS:
            if architecture in constant.architectures:
                scaled(data, constant.path, factors.get(constant.name, 1.0))
        curves[architecture] = Curves.model_validate(data)
    shared = read_constants().model_dump()
    for constant in CONSTANTS:
        if not constant.architectures:
            scaled(shared, constant.path, factors.get(constant.name, 1.0))
    constants = Constants.model_validate(shared)

    def priors(architecture: str) -> Curves:
        shipped = read_priors(architecture)
        return curves.get(shipped.name, shipped)

    machine.read_priors = priors  # type: ignore[attr-defined]
    machine.build_machine.cache_clear()
    machine._gemm_rate.cache_clear()
    for module in (builder, fast, annotation):
        module.read_constants = lambda: constants  # type: ignore[attr-defined]


class Case(NamedTuple):
    """A run with what was measured."""

    run: Run
    seconds: float
    group: str
    source: str
    weight: float


def read_cases() -> list[Case]:
    """Every row of the table with a step time, one for rows that describe the same run."""
    cases: dict[tuple[str, ...], Case] = {}
    for row in validation.read_table(TABLE):
        run = validation.row_run(row)
        measured = {k.removeprefix("measured."): float(v) for k, v in row.items() if k.startswith("measured.") and v}
        validation.derive_step_time(run, measured)
        key = tuple(v for k, v in row.items() if k.split(".")[0] in validation.BLOCKS or k == "framework")
        source = row["id"].split("-")[0]
        weight = 1.0 if row["quality"] == "A" else 0.3
        cases[(source, *key)] = Case(run, measured["step_time_s"], validation.group_of(row), source, weight)
    return list(cases.values())


def score(cases: list[Case], factors: dict[str, float]) -> float:
    """Mean over groups of the mean |log error|, with the pull to the shipped values."""
    install(factors)
    groups: dict[tuple[str, float], list[float]] = {}
    for case in cases:
        error = math.log(training_step(case.run, check=False).timeline.duration / case.seconds)
        groups.setdefault((case.group, case.weight), []).append(min(abs(error), 0.5))
    weights = sum(weight for _, weight in groups)
    total = sum(weight * sum(errors) / len(errors) for (_, weight), errors in groups.items()) / weights
    return total + 0.0006 * sum(((factor - 1) / 0.35) ** 2 for factor in factors.values())


def descend(evaluate: Callable[[dict[str, float]], float], seconds: float) -> dict[str, float]:
    """Coordinate descent from the shipped values."""
    factors, steps = {c.name: 1.0 for c in CONSTANTS}, {c.name: 0.1 for c in CONSTANTS}
    best, start = evaluate(factors), time.monotonic()
    while time.monotonic() - start < seconds and max(steps.values()) > 0.012:
        for constant in CONSTANTS:
            for sign in (1, -1):
                value = factors[constant.name] * (1 + sign * steps[constant.name])
                trial = {**factors, constant.name: min(max(value, constant.low), constant.high)}
                found = evaluate(trial)
                if found < best - 1e-5:
                    best, factors = found, trial
                    steps[constant.name] *= 1.3
                    break
            else:
                steps[constant.name] /= 2
        print(f"{time.monotonic() - start:5.0f} s  {100 * best:.2f} %", flush=True)
    return factors


def main() -> None:
    """Parse, fit or measure worth, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=float, metavar="SECONDS")
    parser.add_argument("--leave", default="", metavar="SOURCE")
    options = parser.parse_args()
    everything = [case for case in read_cases() if case.source not in UNPREDICTABLE or case.source == options.leave]
    seen = [case for case in everything if case.source != options.leave]
    base = score(seen, {})
    print(f"{len(seen)} runs, {100 * base:.2f} % at the shipped constants")
    if options.fit:
        factors = descend(lambda trial: score(seen, trial), options.fit)
        for name, factor in factors.items():
            if factor != 1.0:
                print(f"  {name:34s} x {factor:.3f}")
        if options.leave:
            unseen = [case for case in everything if case.source == options.leave]
            here, shipped = 100 * score(unseen, factors), 100 * score(unseen, {})
            print(f"{options.leave} unseen: {here:.2f} %, with the shipped constants {shipped:.2f} %")
        return
    for constant in CONSTANTS:
        worse = [100 * (score(seen, {constant.name: factor}) - base) for factor in (0.8, 1.25)]
        print(f"  {constant.name:34s} x 0.8: {worse[0]:+.2f}   x 1.25: {worse[1]:+.2f} points")


if __name__ == "__main__":
    main()
