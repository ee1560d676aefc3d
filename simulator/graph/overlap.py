"""Which communication runs beside compute: a structural choice of the framework, never a fitted share of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.graph.graph import Phase, Program
from simulator.graph.operator import Collective, Gemm, Operator, WeightGrad
from simulator.graph.order import PAIRING

if TYPE_CHECKING:
    from simulator.graph.programs import Rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a program does, before it is said what hides behind what."""

    name: str
    phase: Phase
    operators: Sequence[Operator]
    sharded: Sequence[Operator] = ()
    """Gathers of the next program's parameters and reductions of this one's gradients, where these are sharded."""
    modules: int = 0
    launches: float = 0.0
    paired: bool = False
    """It runs beside a pass of the other direction (DualPipe)."""
    beside: Sequence[Operator] = ()
    """Operators of the forward pass it runs beside, whose exchanges its compute hides too."""


def hide(body: Body, rank: Rank) -> Program:
    """The program of a body in which overlappable communication is moved to the background.

    What stays in the serial part of an overlapped collective is its first and last piece, which nothing can hide.
    """
    settings, c = rank.layout.settings, rank.constants
    serial: list[Operator] = []
    background: list[Operator] = []
    for operator in _in_pieces(body.operators) if settings.tp_overlap else body.operators:
        hidden = _hidden(operator, body, rank)
        if hidden < 1:
            serial.append(operator._replace(calls=operator.calls * (1 - hidden)) if hidden else operator)
        if hidden:
            own = FORWARD_WINDOW if body.paired and body.phase == "forward" and operator.item == "all_to_all" else 1.0
            background.append(operator._replace(calls=operator.calls * hidden * own))
        if settings.sequence_parallel and _reduces_input_gradient(operator):
            # Only a shard of the GEMM's input was kept: the backward pass gathers it again beside the input gradient's
            # GEMM (arXiv 2205.05198 section 4.2.2).
            gather = Collective("all_gather", operator.work.bytes, rank.layout.tensor_group)
            background.append(operator._replace(name=f"{operator.name} input", work=gather))
    for operator in body.beside:
        if operator.item == "all_to_all":
            hidden = _hidden(operator, body, rank)
            background.append(operator._replace(calls=operator.calls * hidden * (1 - FORWARD_WINDOW)))
    for operator in body.sharded:
        if settings.dp_overlap:
            serial.append(operator._replace(calls=c.prefetch_residue))
            background.append(operator._replace(calls=1 - c.prefetch_residue))
        else:
            serial.append(operator)
    uncounted = rank.routing.dropless is not False and rank.routing.capacity_factor is None
    waits = body.launches > 0 and uncounted
    return Program(body.name, body.phase, tuple(serial), tuple(background), body.modules, body.launches, waits)


FORWARD_WINDOW = 1 / 3
"""Share of a pair's compute that belongs to its forward pass: a backward pass multiplies twice as much. Both passes
exchange the same, so what is exchanged forward hides behind both."""


def _hidden(operator: Operator, body: Body, rank: Rank) -> float:
    """Share of an operator that runs beside compute."""
    settings, c = rank.layout.settings, rank.constants
    match operator.item:
        case "tensor_parallel" if settings.tp_overlap:
            return rank.framework.tp_overlap_hidden
        case "tensor_parallel" if rank.framework.async_tensor_gradients and _reduces_input_gradient(operator):
            follows = any(isinstance(other.work, WeightGrad) for other in body.operators)
            return 1.0 if follows else 0.0
        case "all_to_all":
            batched = settings.a2a_overlap and body.paired == (rank.layout.schedule in PAIRING)
            return c.a2a_hidden_batched if batched else c.a2a_hidden
        case "context_parallel":
            return 1 - c.ring_residue
        case _:
            return 0.0


def _in_pieces(operators: Sequence[Operator]) -> list[Operator]:
    """The operators with each GEMM that runs beside a tensor-parallel collective cut into one product a rank.

    A rank's piece is multiplied while the next one travels (the ring exchange of Transformer Engine's user buffers,
    PyTorch's asynchronous tensor parallelism), so every piece reads the weights again and has fewer rows. That is the
    GEMM after an all-gather or before a reduce-scatter; a sum of input gradients runs beside the weight gradient, which
    stays whole.
    """
    out = list(operators)
    for place, operator in enumerate(operators):
        work = operator.work
        if not isinstance(work, Collective) or operator.item != "tensor_parallel" or _reduces_input_gradient(operator):
            continue
        beside = range(place + 1, len(out)) if work.kind == "all_gather" else range(place - 1, -1, -1)
        for number in beside:
            near = out[number]
            if isinstance(near.work, Collective):
                break
            if isinstance(near.work, Gemm):
                piece = near.work._replace(m=near.work.m / work.group.size)
                out[number] = near._replace(work=piece, calls=near.calls * work.group.size)
                break
    return out


def _reduces_input_gradient(operator: Operator) -> bool:
    """Whether a collective sums the input gradient of a column-parallel GEMM: only that GEMM's weight gradient follows,
    which does not need it."""
    work = operator.work
    return (
        isinstance(work, Collective)
        and operator.item == "tensor_parallel"
        and work.kind in ("reduce_scatter", "all_reduce")
        and operator.name.endswith("grad")
    )
