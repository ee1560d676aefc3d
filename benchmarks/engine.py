"""CPU seconds of the two engines, and what sharing adds to the shipped training runs.

    python benchmarks/engine.py

Process time on one core. The fast engine's figure is everything from the run to its time line, with nothing cached; the
event engine's is its own share. Operators are those of the folded ranks: one rank of each pipeline stage stands for
all of its replicas.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from simulator.cost.machine import build_machine
from simulator.engine.collectives import place_group, played_seconds, rounds_of
from simulator.engine.exchange import exchange_seconds
from simulator.engine.fabric import build_fabric
from simulator.engine.runner import operators_of, retime
from simulator.graph.operator import Collective, Group
from simulator.simulation import training_step
from simulator.spec.base import data_root
from simulator.spec.hardware import resolve_hardware
from simulator.spec.run import read_run
from simulator.validation.replay import validate_table

RUNS = data_root() / "workloads/runs"
DEEPSEEK = "deepseek-v3-2048xh800"
TARGETS = {"operators/s": 50_000, "events": 10.0, "fast": 0.5, "growth": 2.0, "exchange": 2.0}
ACCURACY = {
    "NCCL at 512 MiB": ("all_reduce, 512 MiB", "all_gather, 512 MiB", "reduce_scatter, 512 MiB", "all_to_all, 512 MiB"),
    "DeepEP, normal kernels": ("DeepEP normal dispatch", "DeepEP normal combine"),
    "DeepEP, low-latency kernels": ("DeepEP low-latency dispatch", "DeepEP low-latency combine"),
    "NVL72, exchange of 8 to 64 ranks": ("NVL72",),
    "DeepEP's own figures, in no fit": ("DeepEP normal, README", "DeepEP low-latency, README"),
}
"""Groups of published timings of collectives, by how their names begin."""
ASKED = {
    "NCCL at 512 MiB": 0.05,
    "DeepEP, normal kernels": 0.10,
    "DeepEP, low-latency kernels": 0.10,
    "NVL72, exchange of 8 to 64 ranks": 0.12,
    "DeepEP's own figures, in no fit": 0.10,
}
T = TypeVar("T")


def measured(work: Callable[[], T], times: int = 3) -> tuple[T, float]:
    """A result, and the least CPU seconds of a few tries."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def both(name: str, overrides: tuple[str, ...] = ()) -> tuple[int, float, float, float]:
    """(operators, CPU seconds fast, CPU seconds events, what sharing adds) of a run."""
    run = read_run(RUNS / f"{name}.yaml", overrides)
    step, fast = measured(lambda: training_step(run), 1)
    timeline, events = measured(lambda: retime(step.costed, step.timeline, engine="events"), 2)
    return operators_of(step.costed.graph), fast, events, timeline.duration / step.timeline.duration - 1


def exchanges(gpus: int = 1024) -> dict[str, float]:
    """CPU seconds of exchanges of all GPUs, and of their all-reduce, as flows."""
    machine = build_machine(resolve_hardware({"device": "h100-sxm", "gpus": gpus}))
    fabric = build_fabric(machine)
    uneven = np.random.default_rng(0).random((gpus, gpus)) * 1e6
    group = Group(gpus, 8)
    work = Collective("all_reduce", 1e9, group)
    rounds = rounds_of(work, "ring", place_group(fabric, group))
    return {
        "all-to-all, even": measured(lambda: exchange_seconds(fabric, np.full((gpus, gpus), 1e6)))[1],
        "all-to-all, uneven": measured(lambda: exchange_seconds(fabric, uneven))[1],
        "ring all-reduce": measured(lambda: played_seconds(fabric, rounds))[1],
    }


def print_accuracy() -> None:
    """Errors of published timings of collectives; `moesim validate collectives` has them row by row."""
    table = validate_table(data_root() / "workloads/validation/collectives.csv")
    print(f"\n{'collectives against published timings':50}{'rows':>8}{'MAPE':>9}{'asked':>9}{'within it':>12}")
    for name, prefixes in ACCURACY.items():
        found = [abs(row.metrics["seconds"].error) for row in table.rows if str(row.facts["name"]).startswith(prefixes)]
        within = np.mean(np.array(found) <= ASKED[name])
        print(f"{name:50}{len(found):>8}{np.mean(found):>9.1%}{ASKED[name]:>9.0%}{within:>12.0%}")


def main() -> None:
    """Print the tables."""
    print(f"{'run':34}{'operators':>11}{'fast, s':>9}{'events, s':>11}{'operators/s':>13}{'sharing adds':>14}")
    names = sorted(path.stem for path in RUNS.glob("*.yaml") if "kind: training" in path.read_text(encoding="utf-8"))
    table = {name: both(name) for name in names}
    larger = f"{DEEPSEEK}, 16,384 GPUs"
    table[larger] = both(DEEPSEEK, ("hardware.gpus=16384", "training.global_batch=122880"))
    for name, (operators, fast, events, added) in table.items():
        print(f"{name:34}{operators:>11,}{fast:>9.3f}{events:>11.2f}{operators / events:>13,.0f}{added:>14.2%}")
    flows = exchanges()
    operators, fast, events, _ = table[DEEPSEEK]
    print()
    for what, value, target, at_least in (
        ("operators/s of the event engine on DeepSeek-V3", operators / events, TARGETS["operators/s"], True),
        ("CPU seconds, DeepSeek-V3 on 2,048 H800, events", events, TARGETS["events"], False),
        ("CPU seconds, DeepSeek-V3 on 2,048 H800, fast", fast, TARGETS["fast"], False),
        ("16,384 GPUs over 2,048, events", table[larger][2] / events, TARGETS["growth"], False),
        *(
            (f"CPU seconds, {name} of 1,024 GPUs as flows", taken, TARGETS["exchange"], False)
            for name, taken in flows.items()
        ),
    ):
        ratio = value / target if at_least else target / value
        print(f"{what:56}{value:>12,.3g}   target {target:>7,g}   {ratio:>6.1f}x better")
    print_accuracy()


if __name__ == "__main__":
    main()
