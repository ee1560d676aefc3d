"""Records that training and inference results share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from simulator import __version__
from simulator.assembly import uncertainty as u
from simulator.assembly.assumptions import assumptions, basis_rows, not_modelled
from simulator.assembly.totals import OperatorTotal, StageTotals
from simulator.cost.annotation import CostedGraph
from simulator.cost.machine import Machine
from simulator.cost.measured import timed_by
from simulator.cost.memory import StageBytes
from simulator.graph.builder import Build
from simulator.graph.operator import COLORS, Attention, Collective, Experts, Gemm, Traffic, WeightGrad
from simulator.result import Memory, Number, OperatorRow, Provenance, Result, StageMemory, Summary
from simulator.spec.run import Run
from simulator.units import GIB

FLOPS_ACCOUNTING = (
    "Model FLOPs: 2 per weight a token meets and 2 per product of causal attention counted once, three passes in "
    "training; MFU divides them by the dense peak of the compute precision. Hardware FLOPs add what is recomputed."
)


def summary(b: Build) -> Summary:
    """What the run is."""
    run, layout = b.run, b.layout
    hardware, device = run.hardware, run.hardware.device
    work = run.training or run.inference
    assert work is not None
    split: dict[str, int | bool | str] = {
        "dp": layout.dp,
        "tp": layout.tp,
        "pp": layout.pp,
        "vpp": layout.vpp,
        "cp": layout.cp,
        "ep": layout.ep,
        "etp": layout.etp,
        "sequence_parallel": layout.settings.sequence_parallel,
        "sharding": layout.settings.sharding,
        "recompute": layout.settings.recompute,
    }
    notes = [note for note in (run.model.notes, hardware.device.notes) if note]
    if run.model.status != "published":
        notes.insert(0, f"The architecture of {run.model.name} is {run.model.status}, not published in full.")
    return Summary(
        model=run.model.name,
        parameters=run.model.parameters,
        active_parameters=run.model.active_parameters,
        device=device.name,
        gpus=hardware.gpus,
        network=hardware.network.name,
        gpus_per_node=hardware.gpus_per_node,
        scale_up_domain=hardware.scale_up_domain,
        capacity_gib=device.memory.capacity / GIB,
        allocatable_gib=device.memory.capacity / GIB,
        precision=work.precision,
        peak_flops_per_s=device.peak_for(b.shapes.precision),
        memory_bandwidth_bytes_per_s=device.memory.bandwidth,
        tokens=float(run.training.tokens) if run.training and run.training.tokens else None,
        parallelism=split,
        flops_accounting=FLOPS_ACCOUNTING,
        gpu_hour_usd=run.economics.gpu_hour * 3600 if run.economics.gpu_hour is not None else None,
        notes=notes,
    )


def frame(b: Build, costed: CostedGraph, stages: Sequence[StageTotals], engine: str, certificate: str) -> Result:
    """A Result with everything that does not depend on the kind of work; metrics are still absent."""
    run = b.run
    return Result(
        name=run.name,
        kind=run.kind,
        summary=summary(b),
        assumptions=assumptions(b),
        basis=basis_rows(costed, stages),
        not_modelled=not_modelled(b),
        run=resolved(run),
        run_file=run.source_text,
        provenance=Provenance(
            version=__version__,
            engine=engine,
            certificate=certificate or "certified: no two transfers can share a link",
            profile=f"{costed.machine.curves.name} priors"
            + (f", profile {run.profile}" if run.profile != "none" else ""),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds_to_simulate=0.0,
        ),
    )


def resolved(run: Run) -> dict[str, object]:
    """The run as plain data, catalogs resolved to names, defaults filled in."""
    data: dict[str, object] = run.model_dump(
        mode="json", exclude={"model", "hardware", "source_text"}, exclude_none=True
    )
    hardware = run.hardware
    data["model"] = run.model.name
    drafts = run.inference.speculative if run.inference is not None else None
    if drafts is not None and drafts.draft_model is not None:
        data["inference"]["speculative"]["draft_model"] = drafts.draft_model.name  # type: ignore[index]
    data["hardware"] = {
        "device": hardware.device.name,
        "gpus": hardware.gpus,
        "gpus_per_node": hardware.gpus_per_node,
        "network": hardware.network.name,
        **hardware.model_dump(mode="json", include={"faults", "stragglers"}, exclude_defaults=True, exclude_none=True),
    }
    return data


def memory_record(stage: StageBytes) -> Memory:
    """The components of one GPU, GiB; states are counted, the rest is estimated."""
    parts = stage.parts()
    counted = {"parameters", "gradients", "optimizer_states", "kv_cache"}
    return Memory(
        **{
            name: Number.exact(value) if name in counted else u.number(value, 2 * u.MEMORY_ERROR, "interpolated")
            for name, value in parts.items()
        }
    )


def memory_by_stage(stages: list[StageBytes], pools: Sequence[str] = ()) -> list[StageMemory]:
    """Peak of one GPU of each stage; `pools` names those that GPUs of a disaggregated engine belong to."""
    last = len(stages) - 1
    rows = []
    for index, stage in enumerate(stages):
        roles = [name for name, here in (("embedding", index == 0), ("logits", index == last)) if here]
        label = f"Stage {index}" + (f" ({', '.join(roles)})" if roles and last else "")
        if any(pools):
            label = f"Stage {index} ({pools[index].lower()})"
        total = u.number(sum(stage.parts().values()), u.MEMORY_ERROR, "interpolated")
        rows.append(StageMemory(stage=index, label=label, parts=stage.parts(), total=total, peak_moment=stage.moment))
    return rows


def operator_rows(
    costed: CostedGraph, stages: Sequence[StageTotals], seconds: float, errors: Mapping[str, float]
) -> list[OperatorRow]:
    """Every kind of operator of the busiest stage, longest first, forward and backward together."""
    busiest = max(stages, key=lambda stage: sum(total.seconds for total in stage.operators.values()))
    merged: dict[str, OperatorTotal] = {}
    for name, total in busiest.operators.items():
        base = _PASS.sub("", name)
        into = merged.setdefault(base, OperatorTotal(total.operator))
        into.calls += total.calls
        into.flops += total.flops
        into.bytes += total.bytes
        into.seconds += total.seconds
    rows = []
    for name, total in merged.items():
        operator = total.operator
        if total.seconds <= 0:
            continue
        timed = timed_by(costed.machine, operator.work)
        rows.append(
            OperatorRow(
                name=name,
                color=COLORS[operator.item],
                calls=max(1, round(total.calls)),
                flops=total.flops,
                bytes=total.bytes,
                seconds=total.seconds,
                relative_error=errors.get(operator.item, 0.2) if timed is None else timed.relative_error,
                bound=_bound(costed.machine, operator.work, total.flops, total.bytes, total.seconds),
                share_of_step=total.seconds / seconds,
                basis=costed.machine.curves.basis if timed is None else timed.basis,
                source=_source(costed.machine, operator.work) if timed is None else timed.source,
            )
        )
    return sorted(rows, key=lambda row: -row.seconds)


_PASS = re.compile(r" (dgrad|wgrad|grad|input|grad input)$")
"""What an operator's backward parts add to its name."""


Bound = Literal["compute", "memory", "network", "latency"]


def _bound(machine: Machine, work: object, flops: float, moved: float, seconds: float) -> Bound:
    """What sets an operator's time: the larger of its compute and memory time, or neither where both are small."""
    if isinstance(work, Collective):
        return "network"
    compute = 0.0
    if isinstance(work, Gemm | WeightGrad | Attention | Experts):
        compute = flops / machine.hardware.device.peak_for(work.precision)
    memory = moved / machine.memory_bandwidth
    if max(compute, memory) < LATENCY_SHARE * seconds:
        return "latency"
    return "compute" if compute > memory else "memory"


LATENCY_SHARE = 0.2
"""An operator whose bounds explain less than this share of its time is bound by latency."""


def _source(machine: Machine, work: object) -> str:
    curves = machine.curves
    match work:
        case Gemm() | WeightGrad():
            return curves.grouped.source if work.grouped else machine.gemm(work.precision).curve.source
        case Attention():
            return curves.attention[work.kernel].source
        case Traffic():
            return curves.memory.source
        case Collective():
            return curves.network.source if work.group.domains > 1 else curves.collective.source
        case _:
            return "data sheet"
