"""The graph of a step: programs of operators, and tasks of pipeline stages that run them.

A layer's forward or backward pass is a *program*: operators in issue order on the compute stream, with
communication that must finish before the next operator among them, and *background* communication that runs beside them
(prefetches, overlapped collectives) and is waited for at the program's end. A *chunk* is a list of programs with
counts:
what one pipeline stage does for one micro-batch. Symmetric ranks are folded: a stage stands for all its replicas.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from simulator.graph.operator import Operator
from simulator.graph.order import PAIRING

Phase = Literal["forward", "backward", "prefill", "decode"]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Operators of one layer (or of the embedding, or the loss) in one phase; equal to itself only."""

    name: str
    phase: Phase
    serial: tuple[Operator, ...]
    background: tuple[Operator, ...] = ()
    host_modules: int = 0
    """Module calls the host makes for it; 0 under a full CUDA graph."""
    host_launches: float = 0.0
    """Kernel launches beyond them (one and more per local expert)."""
    host_synchronous: bool = False
    """The host waits for the GPU inside the program."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Programs of one model chunk of a stage in one phase, with how often each runs in a row."""

    stage: int
    index: int
    phase: Phase
    programs: tuple[tuple[Program, int], ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The schedule of a step: stages run forward and backward chunks for `micro_batches` micro-batches."""

    stages: int
    chunks: int
    """Model chunks per stage: vpp, or the two that a rank holds with DualPipe."""
    micro_batches: int
    """Through each chunk: with DualPipe half of a step's pass either."""
    schedule: str
    send: Operator | None
    """Activation transfer between neighbouring stages, one direction."""
    overlap_send: bool

    @property
    def visits(self) -> int:
        """Chunks of a stage that one micro-batch passes."""
        return 1 if self.schedule in PAIRING else self.chunks


@dataclass(frozen=True, slots=True, eq=False)
class StageEnd:
    """What a stage does once a step: synchronise gradients, update, gather parameters; equal to itself only."""

    gradient_sync: tuple[Operator, ...] = ()
    update: tuple[Operator, ...] = ()
    parameter_gather: tuple[Operator, ...] = ()
    bucket_share: float = 0.0
    """Share of the gradients in the last bucket, and of the parameters in the first, which nothing can hide."""


Chunks = tuple[tuple[Chunk, ...], ...]
"""Chunks by stage and number."""


@dataclass(frozen=True, slots=True)
class OperatorGraph:
    """One training step or one inference phase.

    `forward` and `backward` are all that each chunk does for a micro-batch; where the schedule cuts backward passes or
    runs passes in pairs, the same work follows as it is then run.
    """

    pipeline: Pipeline
    forward: Chunks
    backward: Chunks = ()
    ends: tuple[StageEnd, ...] = ()
    overlap_gradients: bool = True
    replicas: int = 1
    """GPUs each stage stands for."""
    programs: tuple[Program, ...] = field(default=())
    """Every distinct program once, in order of first use."""
    input_gradient: Chunks = ()
    weight_gradient: Chunks = ()
    paired_forward: Chunks = ()
    paired_backward: Chunks = ()

    @property
    def passes(self) -> tuple[Chunks, ...]:
        """By `Pass`; empty for those that the schedule does not run."""
        cut, paired = (self.input_gradient, self.weight_gradient), (self.paired_forward, self.paired_backward)
        return self.forward, self.backward, *cut, *paired
