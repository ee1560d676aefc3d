"""Models whose experts are spread over the ranks of a group: the real exchange, and how steps are timed."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from simulator.calibration.collectives import join, timed
from simulator.calibration.journal import Journal, Visit
from simulator.calibration.kernels_device import keep_memory
from simulator.calibration.torch_experts import MixtureOfExperts, Routing
from simulator.calibration.torch_models import Decoder
from simulator.calibration.torch_steps import model_step
from simulator.calibration.verify_cases import VerifyCase, parallel_cases


class GroupExchange:
    """Rows between all ranks of the default group."""

    def __init__(self) -> None:
        self.ranks = dist.get_world_size()

    def agree(self, counts: Tensor) -> Routing:
        """The routing, from the rows this rank has for each expert of all ranks."""
        mine = counts.view(self.ranks, -1).long()
        arriving = torch.empty_like(mine)
        dist.all_to_all_single(arriving, mine)
        return Routing([int(n) for n in mine.sum(1).tolist()], [[int(n) for n in row] for row in arriving.tolist()])

    def rows(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Rows from all ranks in order, for rows sent to all ranks in order. Differentiable."""
        out: Tensor = _Rows.apply(rows, sent, received)
        return out


class _Rows(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped to mypy
    """all_to_all of rows; its gradient travels the way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sent, ctx.received = sent, received
        out = rows.new_empty(sum(received), rows.shape[1])
        dist.all_to_all_single(out, rows.contiguous(), received, sent)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0]
        out = grad.new_empty(sum(ctx.sent), grad.shape[1])
        dist.all_to_all_single(out, grad.contiguous(), ctx.sent, ctx.received)
        return out, None, None


def selected(names: str) -> list[VerifyCase]:
    """All parallel cases, or the first few: `all` or a number."""
    found = list(parallel_cases())
    return found if names == "all" else found[: int(names)]


def measure_models(kind: str, file: Path, *, seconds: float, cases: str = "all") -> None:
    """Time steps of models with their experts over all ranks, every rank's own tokens; rank 0 keeps the journal.

    Beside the journal, rank r writes the routing of every case and layer to `<file>.routing<r>.json`.
    """
    torch.set_num_threads(1)
    keep_memory()
    device = join(kind)
    rank = dist.get_rank()
    header = {"ranks": dist.get_world_size(), "backend": dist.get_backend(), "version": str(torch.__version__)}
    journal = Journal(file if rank == 0 else None, header)
    steps, routing = {}, {}
    for case in selected(cases):
        torch.manual_seed(rank + 1)
        model = Decoder(case.model, GroupExchange()).to(device, torch.bfloat16 if kind == "cuda" else torch.float32)
        steps[case.name] = model_step(case, model, seed=rank)
        steps[case.name]()
        layers = [m.seen for m in model.modules() if isinstance(m, MixtureOfExperts) and m.seen]
        routing[case.name] = [[seen.sent, seen.arriving] for seen in layers]
    Path(f"{file}.routing{rank}.json").write_text(json.dumps(routing), encoding="utf-8")
    end = time.monotonic() + seconds
    for turn in itertools.count():
        more = [turn < 1 or time.monotonic() < end]
        dist.broadcast_object_list(more, src=0)  # rank 0 decides; all ranks must run the same steps
        if not more[0]:
            break
        for name, step in steps.items():
            step()
            journal.add(Visit(name, [timed(step, device) for _ in range(3)]))
    journal.close()
    dist.destroy_process_group()
