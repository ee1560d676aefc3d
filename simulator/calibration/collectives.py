"""Collectives of several processes: which points, how one is timed, and the ranks that run them under torchrun.

Sizes have nccl-tests' meaning: the full buffer of one rank. A point's time is that of the slowest rank; gloo between
processes of a machine, NCCL between GPUs.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from simulator.calibration.cuda import between_events
from simulator.calibration.journal import Journal, Visit
from simulator.calibration.protocol import TRIALS_PER_VISIT, settled

CollectiveOp = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]
OPS: tuple[CollectiveOp, ...] = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
SMALLEST, GROWTH = 512, 4
LARGEST = {"cpu": 2**25, "cuda": 2**30}
GPU_RUNS = 20
TIMEOUT = timedelta(seconds=60)
"""How long a rank waits for another before it gives up."""


@dataclass(frozen=True)
class CollectivePoint:
    """One collective at one size."""

    op: CollectiveOp
    bytes: int
    after_work: bool = False
    """Ranks compute before it, and so arrive apart and asleep, as they do in a model."""

    @property
    def key(self) -> str:
        """The point's name in the journal."""
        return f"{self.op}|{self.bytes}|{'after work' if self.after_work else 'alone'}"


def points(kind: str, *, largest: int | None = None) -> Iterator[CollectivePoint]:
    """All collectives from 512 B up, each size four times the last."""
    size = SMALLEST
    while size <= (largest or LARGEST[kind]):
        yield from (CollectivePoint(op, size) for op in OPS)
        yield CollectivePoint("all_to_all", size, after_work=True)
        size *= GROWTH


def join(kind: str) -> torch.device:
    """Join the group torchrun describes; the device of this rank."""
    if kind == "cuda":
        dist.init_process_group("nccl", timeout=TIMEOUT)
        device = torch.device("cuda", dist.get_rank() % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    dist.init_process_group("gloo", timeout=TIMEOUT)
    return torch.device("cpu")


def operation(point: CollectivePoint, device: torch.device) -> Callable[[], object]:
    """What runs the point once on this rank."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    count = max(ranks, point.bytes // 4 // ranks * ranks)
    whole, share = (torch.ones(n, device=device) for n in (count, count // ranks))
    match point.op:
        case "all_reduce":
            return lambda: dist.all_reduce(whole)
        case "all_gather":
            return lambda: dist.all_gather_into_tensor(whole, share)
        case "reduce_scatter":
            return lambda: dist.reduce_scatter_tensor(share, whole)
        case "all_to_all":
            out = torch.empty_like(whole)
            return lambda: dist.all_to_all_single(out, whole)
        case "send_recv":
            out = torch.empty_like(whole)
            after, before = (rank + 1) % ranks, (rank - 1) % ranks

            def ring() -> None:  # in one batch: NCCL would wait for the send before it begins to receive
                both = [dist.P2POp(dist.isend, whole, after), dist.P2POp(dist.irecv, out, before)]
                for request in dist.batch_isend_irecv(both):
                    request.wait()

            return ring


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run that all ranks begin together, of the slowest rank; on GPUs the mean of several in a row, as
    nccl-tests time them.
    """
    dist.barrier()
    if device.type == "cuda":
        took = between_events(run, GPU_RUNS) / GPU_RUNS
    else:
        start = time.perf_counter()
        run()
        took = time.perf_counter() - start
    seconds = torch.tensor(took, dtype=torch.float64, device=device)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds)


def _work(device: torch.device) -> Callable[[], object]:
    """About half a millisecond of products, as a layer before an exchange."""
    x = torch.ones(128, 512, device=device)
    weight = torch.ones(512, 512, device=device)
    return lambda: torch.mm(x, weight)


def _after_work(run: Callable[[], object], work: Callable[[], object], device: torch.device) -> list[float]:
    """What a collective adds to work that precedes it; nothing where the noise of the work hides it."""

    def both() -> None:
        work()
        run()

    work()
    alone = min(timed(work, device) for _ in range(TRIALS_PER_VISIT))
    return [t - alone for t in (timed(both, device) for _ in range(TRIALS_PER_VISIT)) if t > alone]


def measure_points(kind: str, file: Path, *, seconds: float, largest: int | None = None) -> None:
    """Measure all collectives in shuffled rounds on every rank; rank 0 keeps the journal."""
    device = join(kind)
    first = dist.get_rank() == 0
    header = {"ranks": dist.get_world_size(), "backend": dist.get_backend(), "version": str(torch.__version__)}
    journal = Journal(file if first else None, header)
    chosen = {point.key: (point, operation(point, device)) for point in points(kind, largest=largest)}
    work = _work(device)
    statistic: Literal["minimum", "median"] = "minimum" if kind == "cpu" else "median"
    end = time.monotonic() + seconds
    for turn in itertools.count():
        waiting = [key for key in chosen if not settled(journal.trials.get(key, []), statistic)]
        plan = [waiting if turn == 0 or time.monotonic() < end else []]
        dist.broadcast_object_list(plan, src=0)  # rank 0 decides; all ranks must run the same points
        if not plan[0]:
            break
        random.Random(turn).shuffle(plan[0])
        for key in plan[0]:
            point, run = chosen[key]
            run()
            if point.after_work:
                trials = _after_work(run, work, device)
            else:
                trials = [timed(run, device) for _ in range(TRIALS_PER_VISIT)]
            if trials:
                journal.add(Visit(key, trials))
    journal.close()
    dist.destroy_process_group()
