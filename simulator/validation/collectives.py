"""Replaying published timings of collectives: each row of a table becomes a collective on a machine.

Columns `hardware.*` are those of a run. `collective.kind` is one of NCCL's, with `bytes` as nccl-tests has them, or
`dispatch` or `combine` of the `tokens` of each rank, whose bytes follow from routing as they do in a run. Published is
`measured.seconds` or, of large NCCL collectives, `measured.bus_gb_per_s`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from simulator.assembly.uncertainty import number
from simulator.cost.algorithms import passes
from simulator.cost.collective import timing
from simulator.cost.machine import Machine, build_machine
from simulator.errors import SpecError
from simulator.graph.dispatch import Sending, token_exchange
from simulator.graph.operator import Collective, ExchangeKernel, Group
from simulator.result import Number
from simulator.spec.base import Document, Spec, first_error
from simulator.spec.hardware import resolve_hardware
from simulator.spec.workload import ELEMENT_BYTES, AllReduce, Positive, Precision

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "dispatch", "combine"]
SCALE_BYTES = 4.0 / 128
"""A scale in fp32 for every 128 values goes with tokens in fp8 (DeepEP)."""
SENDING: dict[ExchangeKernel, Sending] = {
    "nccl": "copies",
    "deepep": "distinct",
    "deepep_ll": "copies",
    "two_sided": "distinct",
}


class Case(Spec):
    """What a row says of its collective."""

    kind: Kind
    ranks: Annotated[int, Field(ge=2)]
    bytes: Annotated[float, Field(gt=0)] | None = None
    """Buffer of one rank in nccl-tests' meaning."""
    algorithm: AllReduce = "auto"
    kernel: ExchangeKernel = "nccl"
    tokens: Positive | None = None
    """Tokens of one rank, for a dispatch or combine."""
    hidden: Positive | None = None
    top_k: Positive | None = None
    precision: Precision | None = None
    """Of the tokens on their way."""
    reached_nodes: Positive | None = None
    """Nodes a token reaches at most."""
    sms: Positive | None = None

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if self.kind in ("dispatch", "combine"):
            missing = [name for name in ("tokens", "hidden", "top_k", "precision") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"a {self.kind} needs {', '.join(missing)}")
        elif self.bytes is None:
            raise ValueError(f"an {self.kind} needs bytes")
        return self

    def work(self, machine: Machine) -> Collective:
        """The collective on a machine. Raises SpecError where the machine is too small."""
        hardware = machine.hardware
        if self.ranks > hardware.gpus:
            raise SpecError(
                f"a group of {self.ranks} is larger than the machine of {hardware.gpus} GPUs", path="collective.ranks"
            )
        group = Group(self.ranks, min(self.ranks, hardware.scale_up_domain))
        match self.kind:
            case "dispatch" | "combine":
                return self._exchange(group)
            case "all_to_all":
                part = (self.bytes or 0.0) / self.ranks
                outside = part * (self.ranks - group.per_domain)
                return Collective("all_to_all", part * (group.per_domain - 1), group, outside)
            case kind:
                return Collective(kind, self.bytes or 0.0, group)

    def _exchange(self, group: Group) -> Collective:
        assert self.tokens is not None
        assert self.hidden is not None
        assert self.top_k is not None
        assert self.precision is not None
        element = ELEMENT_BYTES[self.precision]
        if self.precision == "fp8" and self.kernel != "two_sided":
            element += SCALE_BYTES
        return token_exchange(
            group,
            self.tokens * self.hidden * element,
            sending=SENDING[self.kernel],
            top_k=self.top_k,
            reached_domains=self.reached_nodes,
            kernel=self.kernel,
            combines=self.kind == "combine",
            sms=self.sms,
        )


def predict_collective(blocks: Mapping[str, Mapping[str, object]]) -> dict[str, Number]:
    """Seconds, and bus bandwidth in GB/s of NCCL's collectives, of a row's `hardware` and `collective` blocks.

    Raises SpecError for a block that is wrong.
    """
    try:
        case = Case.model_validate(blocks.get("collective", {}))
    except ValidationError as error:
        found = first_error(error, Case, Document({}, {}, "", ""))
        raise SpecError(found.message, path=f"collective.{found.path}" if found.path else "collective") from None
    machine = build_machine(resolve_hardware(blocks.get("hardware", {})), all_reduce=case.algorithm)
    work = case.work(machine)
    curves = machine.curves
    error_share = curves.network.relative_error if work.group.domains > 1 else curves.collective.relative_error
    seconds = timing(machine, work).seconds
    numbers = {"seconds": number(seconds, error_share, curves.basis)}
    if case.bytes is not None:
        moved = passes(work) * (case.ranks - 1) / case.ranks * case.bytes
        numbers["bus_gb_per_s"] = number(moved / seconds / 1e9, error_share, curves.basis)
    return numbers
