"""What a run yields: numbers with intervals and their basis, and the records a report draws.

One JSON document, versioned and reloadable. Keys carry the unit. Nothing here computes physics.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from simulator.records import (
    Assumption,
    Basis,
    BasisRow,
    BreakdownItem,
    Chunk,
    Color,
    Communication,
    Energy,
    Exposure,
    Flow,
    Infeasible,
    Latency,
    Lever,
    LoadSample,
    Memory,
    Number,
    OperatorRow,
    Precedent,
    Price,
    Provenance,
    Record,
    Requests,
    RequestSpan,
    Span,
    StageMemory,
    Summary,
    Timeline,
)
from simulator.records_network import (
    Beside,
    CollectiveUse,
    Fabric,
    Link,
    LinkLoad,
    Matrix,
    Meeting,
    Place,
    Traffic,
)

if TYPE_CHECKING:
    import pandas

__all__ = [
    "SCHEMA_VERSION",
    "Assumption",
    "Basis",
    "BasisRow",
    "Beside",
    "BreakdownItem",
    "Chunk",
    "CollectiveUse",
    "Color",
    "Communication",
    "Energy",
    "Exposure",
    "Fabric",
    "Flow",
    "Infeasible",
    "Latency",
    "Lever",
    "Link",
    "LinkLoad",
    "LoadSample",
    "Matrix",
    "Meeting",
    "Memory",
    "Number",
    "OperatorRow",
    "Place",
    "Precedent",
    "Price",
    "Provenance",
    "Record",
    "RequestSpan",
    "Requests",
    "Result",
    "Span",
    "StageMemory",
    "Summary",
    "Timeline",
    "Traffic",
]

SCHEMA_VERSION = 1


class Result(Record):
    """Everything known of one run. Metrics that do not apply to its kind are None."""

    schema_version: int = SCHEMA_VERSION
    name: str
    kind: Literal["training", "inference", "serving"]
    summary: Summary

    step_time_s: Number | None = None
    tokens_per_s: Number | None = None
    tokens_per_s_per_gpu: Number | None = None
    mfu: Number | None = None
    model_flops_per_gpu: Number | None = None
    hardware_flops_per_gpu: Number | None = None
    flops_per_token: Number | None = None
    peak_memory_gib: Number | None = None
    memory_gib: Memory | None = None
    communication_s: Communication | None = None
    all_to_all_bytes_per_gpu: Number | None = None
    energy_j: Energy | None = None
    # At the meter: all steps of a training with tokens, otherwise one step or batch; so are cost_usd and carbon_kg.
    energy_total_j: Number | None = None
    average_power_w_per_gpu: Number | None = None
    cost_usd: Number | None = None
    carbon_kg: Number | None = None
    days: Number | None = None
    # Share of a long training's time that moves it forward; None where nothing is said of failures.
    goodput: Number | None = None

    ttft_s: Number | None = None
    tpot_s: Number | None = None
    # From a request's arrival to its last token.
    e2e_s: Number | None = None
    output_tokens_per_s: Number | None = None
    max_concurrency: Number | None = None
    joules_per_output_token: Number | None = None
    usd_per_million_output_tokens: Number | None = None

    serving: Requests | None = None

    graph_density_active: Number | None = None
    graph_density_stored: Number | None = None
    resident_parameters: Number | None = None
    touched_parameters: Number | None = None
    # Of what tokens send to experts, what finds no room in them: its share, and how often in a step; None for none.
    dropped_token_fraction: Number | None = None
    dropped_rows: Number | None = None
    dropped_rows_per_layer: Number | None = None

    breakdown: list[BreakdownItem] = Field(default_factory=list)
    memory_by_stage: list[StageMemory] = Field(default_factory=list)
    # How each component of memory is counted, a phrase by component, such as "bf16, 2 bytes × 1.87 B held here".
    memory_rules: dict[str, str] = Field(default_factory=dict)
    operators: list[OperatorRow] = Field(default_factory=list)
    timeline: Timeline | None = None
    traffic: Traffic | None = None
    beside: Beside | None = None
    bill: list[Price] = Field(default_factory=list)
    levers: list[Lever] = Field(default_factory=list)
    assumptions: list[Assumption] = Field(default_factory=list)
    basis: list[BasisRow] = Field(default_factory=list)
    not_modelled: list[str] = Field(default_factory=list)
    precedents: list[Precedent] = Field(default_factory=list)
    infeasible: Infeasible | None = None

    run: dict[str, Any]
    run_file: str
    provenance: Provenance

    def write(self, path: Path) -> None:
        """Write the JSON document."""
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Result:
        """Reload what `write` wrote. Raises SpecError where it is no result of this schema version."""
        import json

        from pydantic import ValidationError

        from simulator.errors import SpecError

        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version = data.get("schema_version")
            if version != SCHEMA_VERSION:
                raise SpecError(f"result of schema version {version}, expected {SCHEMA_VERSION}", file=str(path))
            return cls.model_validate(data)
        except (OSError, UnicodeDecodeError, ValueError, AttributeError) as error:
            if isinstance(error, ValidationError):
                where = ".".join(str(p) for p in error.errors()[0]["loc"])
                raise SpecError(error.errors()[0]["msg"], file=str(path), path=where) from None
            raise SpecError(f"no result file: {error}", file=str(path)) from None

    def numbers(self) -> dict[str, Number]:
        """Every metric by its dotted key, such as `memory_gib.parameters`."""
        out: dict[str, Number] = {}

        def collect(prefix: str, value: object) -> None:
            if isinstance(value, Number):
                out[prefix] = value
            elif isinstance(value, (Memory, Communication, Exposure, Energy, Requests, Latency)):
                for key in type(value).model_fields:
                    collect(f"{prefix}.{key}", getattr(value, key))

        for key in type(self).model_fields:
            collect(key, getattr(self, key))
        return out

    def to_frame(self) -> pandas.DataFrame:
        """One row a metric: value, low, high, basis; indexed by the dotted key."""
        import pandas

        rows = {key: number.model_dump() for key, number in self.numbers().items()}
        return pandas.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high", "basis"])
