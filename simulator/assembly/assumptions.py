"""What a result takes for granted, what it rests on, and what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from simulator.assembly.items import style
from simulator.assembly.serving_assumptions import serving_assumptions
from simulator.assembly.totals import StageTotals
from simulator.cost.annotation import CostedGraph
from simulator.cost.goodput import checkpoint_interval, goodput, mean_time_between_failures
from simulator.cost.measured import timed_by
from simulator.cost.spares import availability
from simulator.graph.builder import Build
from simulator.graph.operator import Attention, Collective, Gemm, WeightGrad
from simulator.result import Assumption, BasisRow
from simulator.spec.run import Run
from simulator.units import HOUR

StatedBy = Literal["run file", "framework", "catalog", "default", "model"]


def assumptions(b: Build) -> list[Assumption]:
    """Software choices and conditions, each with who stated it."""
    run, settings, framework = b.run, b.layout.settings, b.run.defaults
    work, execution = run.training, run.execution

    def row(name: str, value: object, path: str | None, stated: object, influence: str | None = None) -> Assumption:
        by: StatedBy = "run file" if stated is not None else "framework"
        source = "the run file" if stated is not None else framework.source
        return Assumption(name=name, value=_words(value), path=path, stated_by=by, influence=influence, source=source)

    rows = [
        row("Attention kernel", settings.attention, "execution.attention", execution.attention),
        row("CUDA graphs", settings.cuda_graph, "execution.cuda_graph", execution.cuda_graph),
    ]
    if work is not None:
        rows += [
            row("Recompute", settings.recompute, "training.recompute", work.recompute, "up to a third of the step"),
            row("Sharding of states", settings.sharding, "training.sharding", work.sharding),
            row("Gradient overlap", settings.dp_overlap, "execution.dp_overlap", execution.dp_overlap),
        ]
    if work is not None and b.layout.pp > 1:
        rows.append(
            Assumption(
                name="Pipeline schedule",
                value=work.schedule,
                path="training.schedule",
                stated_by="run file" if "schedule" in work.model_fields_set else "default",
                influence="how long stages wait, and what they hold meanwhile",
                source="1F1B, interleaved where vpp is above 1 (arXiv 2104.04473), is what most trainings run",
            )
        )
    if b.layout.tp > 1:
        stated = run.parallelism.sequence_parallel
        rows.append(row("Sequence parallelism", settings.sequence_parallel, "parallelism.sequence_parallel", stated))
        rows.append(row("Tensor-parallel overlap", settings.tp_overlap, "execution.tp_overlap", execution.tp_overlap))
    if run.model.is_moe:
        rows.append(row("MoE dispatcher", settings.dispatcher, "execution.moe_dispatcher", execution.moe_dispatcher))
        rows.append(row("All-to-all overlap", settings.a2a_overlap, "execution.a2a_overlap", execution.a2a_overlap))
    if run.inference is not None:
        return rows + serving_assumptions(run)
    if run.model.is_moe:
        rows.append(
            Assumption(
                name="Expert load",
                value=_expert_load(b),
                path="routing.imbalance" if run.routing.balance == "uniform" else "routing.balance",
                stated_by="run file" if run.routing.model_fields_set & {"imbalance", "balance"} else "default",
                influence="the fullest rank sets the time of every MoE layer",
                source="balanced routing, as benchmarks force it; natural routing is uneven",
            )
        )
    if run.kind == "training":
        rows.append(_evenness(run))
    rows.append(
        Assumption(
            name="Failures and restarts",
            value=_failures(b),
            path="reliability",
            stated_by="run file" if run.reliability else "default",
            influence="days and cost grow by the time lost",
            source="Young 1974, Daly 2006: random failures, work since the last checkpoint repeated",
        )
    )
    return rows


def _evenness(run: Run) -> Assumption:
    """What is wrong with the machines."""
    hardware = run.hardware
    found = [fault.words for fault in hardware.faults]
    found += [hardware.stragglers.words] if hardware.stragglers else []
    return Assumption(
        name="Slow GPUs and links",
        value="; ".join(found) or "none",
        path="hardware.faults" if hardware.faults or not hardware.stragglers else "hardware.stragglers",
        stated_by="run file" if found else "default",
        influence="the slowest rank sets the time of all that wait for it",
        source="the run file" if found else "all GPUs and links alike, beyond the noise of many ranks",
    )


def _failures(b: Build) -> str:
    """How often what goes wrong, and what is left."""
    run = b.run
    if run.reliability is None:
        return "none"
    gpus = run.hardware.gpus
    between = mean_time_between_failures(run.reliability, gpus) / HOUR
    saved = checkpoint_interval(run.reliability, gpus) / 60
    there = availability(run.reliability, run.hardware, b.layout.dp)
    share = goodput(run.reliability, gpus) * there
    spares = f"{run.reliability.spare_nodes} spare nodes keep {there:.1%} of the speed, " if there < 1 else ""
    return f"one in {between:.3g} h, a checkpoint every {saved:.3g} min, {spares}{share:.1%} of the time moves forward"


def _expert_load(b: Build) -> str:
    """How uneven the expert ranks are."""
    routing, load = b.run.routing, b.load
    if routing.balance == "uniform" or load is None:
        return "even" if routing.imbalance == 1 else f"fullest rank {routing.imbalance:g} x the mean"
    kind = f"{routing.balance} {routing.skew:g}" if routing.counts is None else "measured counts"
    fullest = load.rows / (load.sent_rows * b.layout.etp)
    return f"{kind.replace('_', ' ')}: fullest rank {fullest:.2f} x the mean"


def _words(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def basis_rows(costed: CostedGraph, stages: Sequence[StageTotals]) -> list[BasisRow]:
    """How each kind of operator was costed, with its share of all operator time."""
    totals: dict[str, tuple[float, object]] = {}
    for stage in stages:
        for total in stage.operators.values():
            seconds, _ = totals.get(total.operator.item, (0.0, None))
            totals[total.operator.item] = (seconds + total.seconds, total.operator.work)
    everything = sum(seconds for seconds, _ in totals.values()) or 1.0
    rows = []
    for item, (seconds, work) in sorted(totals.items(), key=lambda pair: -pair[1][0]):
        if seconds <= 0:
            continue
        error, count, source = _evidence(costed, work)
        timed = timed_by(costed.machine, work)
        rows.append(
            BasisRow(
                kind=style(item).label,
                share_of_step=seconds / everything,
                basis=costed.machine.curves.basis if timed is None else timed.basis,
                measurements=count,
                relative_error=error,
                source=source,
            )
        )
    return rows


def _evidence(costed: CostedGraph, work: object) -> tuple[float, int, str]:
    curves = costed.machine.curves
    timed = timed_by(costed.machine, work)
    if timed is not None:
        return timed.relative_error, timed.fit.measurements, timed.source
    match work:
        case Gemm() | WeightGrad():
            curve = costed.machine.gemm(work.precision).curve
            return curve.relative_error, curve.measurements, curve.source
        case Attention():
            attention = curves.attention[work.kernel]
            return attention.relative_error, 0, attention.source
        case Collective() if work.group.domains > 1:
            return curves.network.relative_error, 0, curves.network.source
        case Collective():
            return curves.collective.relative_error, 0, curves.collective.source
        case _:
            return curves.memory.relative_error, 0, curves.memory.source


OTHER_JOBS = "Other jobs on the same network"


LEFT_OUT_OF_SERVING = (
    "Failures of the machines",
    "Clients and networks before the engine, beyond a constant",
    "Adapters such as LoRA",
    OTHER_JOBS,
)


def not_modelled(b: Build) -> list[str]:
    """What this result leaves out."""
    if b.run.inference is not None:
        return list(LEFT_OUT_OF_SERVING)
    left_out = [
        "Evaluation pauses" if b.run.reliability else "Failures, restarts, checkpoints and evaluation pauses",
        "Data loading and host-side preprocessing",
        OTHER_JOBS,
    ]
    if b.run.hardware.stragglers is None:
        left_out.append("Ranks slower than their neighbours, beyond the noise term")
    if b.run.model.is_moe and b.run.routing.imbalance == 1 and b.run.routing.balance == "uniform":
        left_out.append("Uneven routing: every expert rank is given the same load")
    if b.run.model.num_nextn_predict_layers:
        left_out.append("Multi-token prediction modules")
    return left_out
