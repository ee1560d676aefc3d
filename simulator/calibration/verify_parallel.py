"""Verification of models whose experts are spread over two processes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from simulator.calibration.journal import read_trials
from simulator.calibration.prices import Prices
from simulator.calibration.protocol import estimate
from simulator.calibration.ranks import run_ranks
from simulator.calibration.step_prices import Priced, collective_seconds, price_step
from simulator.calibration.verify_cases import VerifyCase, parallel_cases
from simulator.calibration.verify_report import Comparison

RUNS = 2
START_S = 90.0
"""What starting the processes may take beyond the measuring time."""
WORKER = "simulator.calibration.collectives_worker"
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


def compare_parallel(
    kind: str, prices: Prices, *, seconds: float, ranks: int, cases: int | None = None
) -> list[Comparison]:
    """Measured against predicted steps of `ranks` processes. Raises CalibrationError where one dies."""
    chosen = list(parallel_cases())[:cases]
    estimates: list[dict[str, float]] = []
    routing: list[dict[str, list[tuple[list[int], list[list[int]]]]]] = []
    with tempfile.TemporaryDirectory(prefix="moesim-verify-") as folder:
        for run in range(RUNS):
            file = Path(folder) / f"run{run}.jsonl"
            arguments = ["models", kind, str(file), str(seconds / RUNS), str(len(chosen))]
            run_ranks(WORKER, arguments, ranks=ranks, timeout_s=seconds + START_S)
            trials = read_trials(file)
            estimates.append({name: estimate(found, prices.statistic)[0] for name, found in trials.items()})
        routing = [json.loads(Path(f"{file}.routing{r}.json").read_text(encoding="utf-8")) for r in range(ranks)]
    compared = []
    for case in chosen:
        each = tuple(found[case.name] for found in estimates)
        priced = _slowest(case, [rank[case.name] for rank in routing], prices, kind)
        compared.append(Comparison(case.group, case.name, priced, min(each), each))
    return compared


def _slowest(
    case: VerifyCase, routing: list[list[tuple[list[int], list[list[int]]]]], prices: Prices, kind: str
) -> Priced:
    """The prediction for the rank that takes longest; the other waits for it in the exchange."""
    from simulator.calibration.torch_experts import Routing
    from simulator.calibration.torch_steps import DTYPES, parallel_trace_of

    found = []
    for layers in routing:
        trace, sizes = parallel_trace_of(
            case, [Routing(sent, arriving) for sent, arriving in layers], DTYPES[prices.dtype], kind
        )
        travel = collective_seconds(prices, "all_to_all", f"{BACKENDS[kind]} after work", case.ranks, sizes)
        found.append(price_step(prices, trace, kind=kind, communication=travel))
    return max(found, key=lambda priced: priced.seconds)
