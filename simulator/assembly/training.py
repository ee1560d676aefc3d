"""The Result of a training step."""

from __future__ import annotations

from simulator.assembly import uncertainty as u
from simulator.assembly.breakdown import breakdown_items, communication
from simulator.assembly.common import frame, memory_by_stage, memory_record, operator_rows
from simulator.assembly.evaluated import Step
from simulator.assembly.fabric import fabric_record
from simulator.assembly.memory_rules import memory_rules
from simulator.assembly.metrics import StepFigures, step_figures, training_metrics
from simulator.assembly.timeline import training_timeline
from simulator.assembly.totals import stage_totals
from simulator.assembly.traffic import traffic_record
from simulator.cost.price import electricity_usd
from simulator.cost.spares import paid_gpus
from simulator.graph.builder import Build
from simulator.result import Energy, Number, Price, Result
from simulator.spec import parameters as counts
from simulator.spec.run import Run


def assemble_training(step: Step) -> Result:
    """The Result of a training step: metrics with intervals, breakdown, memory, operators, timeline, traffic, bill."""
    b, costed, timeline = step.build, step.costed, step.timeline
    usual = step.healthy.costed if step.healthy else costed
    run, work = b.run, b.run.training
    assert work is not None
    figures = step_figures(step)
    evidence, timed, sums = figures.evidence, figures.evidence.timed, figures.sums
    stages = stage_totals(usual)
    density_active, density_stored = counts.graph_density(run.model)
    joules = figures.joules
    energy = [joules.compute, joules.memory, joules.network, joules.static, joules.facility]
    energy_numbers = [timed(value, u.POWER_ERROR, "datasheet") for value in energy]
    tokens = work.global_batch * work.seq_len
    return frame(b, usual, stages, timeline.engine, timeline.certificate).model_copy(
        update={
            **training_metrics(step, figures),
            "model_flops_per_gpu": Number.exact(figures.model_flops),
            "hardware_flops_per_gpu": Number.exact(sums.flops),
            "flops_per_token": Number.exact(figures.model_flops * run.hardware.gpus / tokens),
            "memory_gib": memory_record(max(step.memory, key=lambda stage: stage.total)),
            "communication_s": communication(stages, figures.exposed, figures.hidden, timed),
            "all_to_all_bytes_per_gpu": Number.exact(sums.all_to_all_bytes),
            "energy_j": Energy(**dict(zip(Energy.model_fields, energy_numbers, strict=True))),
            "graph_density_active": Number.exact(density_active),
            "graph_density_stored": Number.exact(density_stored),
            "resident_parameters": Number.exact(float(run.model.parameters)),
            "touched_parameters": Number.exact(float(run.model.active_parameters)),
            "dropped_token_fraction": Number.exact(b.load.dropped_fraction) if b.load else None,
            **_dropped(b, tokens),
            "breakdown": breakdown_items(
                figures.exposed, figures.hidden, evidence.errors, evidence.model, evidence.basis
            ),
            "memory_by_stage": memory_by_stage(step.memory),
            "memory_rules": memory_rules(b),
            "operators": operator_rows(usual, stages, figures.seconds, evidence.errors),
            "timeline": training_timeline(costed, timeline),
            "traffic": traffic_record(b, usual, stages, sums, figures.seconds, timeline.links).model_copy(
                update={"fabric": fabric_record(costed, stages, timeline)}
            ),
            "bill": _bill(run, figures),
        }
    )


def _dropped(b: Build, tokens: int) -> dict[str, Number]:
    """Rows that found no room in their experts while `tokens` passed: of a layer, and of all."""
    if b.load is None or not b.load.dropped_fraction:
        return {}
    model = b.run.model
    layer = b.load.dropped_fraction * tokens * (model.num_experts_per_tok or 1)
    layers = model.layer_kinds.count("moe")
    return {"dropped_rows_per_layer": Number.exact(layer), "dropped_rows": Number.exact(layer * layers)}


def _bill(run: Run, figures: StepFigures) -> list[Price]:
    """Rent and, apart, the electricity it holds."""
    rows, timed, rent = [], figures.evidence.timed, figures.rent
    joules = figures.joules.total * (figures.steps or 1)
    if rent is not None and run.economics.gpu_hour is not None:
        per_hour = run.economics.gpu_hour * 3600
        amount = f"{paid_gpus(run.reliability, run.hardware):,} GPUs at ${per_hour:.2f} per GPU-hour"
        rows.append(Price(item="Rent", amount=amount, usd=timed(rent)))
    power = electricity_usd(joules, run.economics)
    if power is not None:
        amount = (
            f"{joules / 3.6e9:,.0f} MWh at the meter" if joules > 3.6e10 else f"{joules / 3.6e6:,.0f} kWh at the meter"
        )
        usd = timed(power, u.POWER_ERROR)
        rows.append(Price(item="Electricity", amount=amount, usd=usd, included=rent is not None))
    return rows
