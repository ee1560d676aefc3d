"""The Result of a training step."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.assembly import uncertainty as u
from simulator.assembly.breakdown import breakdown_items, communication, mean_items
from simulator.assembly.common import average_totals, frame, memory_by_stage, memory_record, operator_rows
from simulator.assembly.timeline import training_timeline
from simulator.assembly.traffic import traffic_record
from simulator.cost.annotation import CostedGraph
from simulator.cost.energy import Load, step_joules
from simulator.cost.memory import StageBytes
from simulator.cost.price import carbon_grams_per_joule, electricity_usd, rent_usd
from simulator.engine.fast import StepTimeline
from simulator.graph.builder import Build
from simulator.result import Basis, Energy, Number, Price, Result
from simulator.spec import parameters as counts
from simulator.units import DAY


@dataclass(frozen=True)
class Step:
    """Everything computed of a training step, before it becomes a Result."""

    build: Build
    costed: CostedGraph
    timeline: StepTimeline
    memory: list[StageBytes]


def assemble_training(step: Step) -> Result:
    """The Result of a training step: metrics with intervals, breakdown, memory, operators, timeline, traffic, bill."""
    b, costed, timeline = step.build, step.costed, step.timeline
    run, machine = b.run, costed.machine
    work = run.training
    assert work is not None
    seconds = timeline.duration
    items, hidden = mean_items(timeline, costed.graph.pipeline.micro_batches)
    errors = u.item_errors(machine, work.precision)
    model_error = u.MODEL_ERROR["moe" if run.model.is_moe or run.model.peer else "dense"]
    error = u.combined_error(items, errors, model_error)
    basis: Basis = machine.curves.basis
    totals = average_totals(costed)
    gpus = run.hardware.gpus

    def timed(value: float, extra: float = 0.0, label: Basis | None = None) -> Number:
        return u.number(value, (error**2 + extra**2) ** 0.5, label or basis)

    tokens = work.global_batch * work.seq_len
    model_flops = 3 * tokens * counts.flops_per_token(run.model, work.seq_len / 2) / gpus
    peak = run.hardware.device.peak_for(work.precision)
    load = Load(seconds, totals.flops, peak, totals.memory_bytes, totals.link_bytes, totals.network_bytes)
    joules = step_joules(machine, load, run.economics.pue)
    steps = work.tokens / tokens if work.tokens else None
    grams, grams_source = carbon_grams_per_joule(run.economics)
    rent = rent_usd(gpus, seconds * steps, run.economics) if steps else None
    fullest = max(step.memory, key=lambda stage: stage.total)
    density_active, density_stored = counts.graph_density(run.model)
    energy = [joules.compute, joules.memory, joules.network, joules.static, joules.facility]
    energy_numbers = [timed(value, u.POWER_ERROR, "datasheet") for value in energy]
    return frame(b, costed, timeline.certificate, step.memory).model_copy(
        update={
            "step_time_s": timed(seconds),
            "tokens_per_s": timed(tokens / seconds),
            "tokens_per_s_per_gpu": timed(tokens / seconds / gpus),
            "mfu": timed(model_flops / (seconds * peak)),
            "model_flops_per_gpu": Number.exact(model_flops),
            "hardware_flops_per_gpu": Number.exact(totals.flops),
            "flops_per_token": Number.exact(model_flops * gpus / tokens),
            "peak_memory_gib": u.number(sum(fullest.parts().values()), u.MEMORY_ERROR, "interpolated"),
            "memory_gib": memory_record(fullest),
            "communication_s": communication(costed, items, hidden, timed),
            "all_to_all_bytes_per_gpu": Number.exact(totals.all_to_all_bytes),
            "energy_j": Energy(**dict(zip(Energy.model_fields, energy_numbers, strict=True))),
            "energy_total_j": timed(joules.total * (steps or 1), u.POWER_ERROR, "datasheet"),
            "average_power_w_per_gpu": u.number(joules.device / seconds / gpus, u.POWER_ERROR, "datasheet"),
            "cost_usd": timed(rent) if rent is not None else None,
            "carbon_kg": timed(joules.total * (steps or 1) * grams / 1e3, u.POWER_ERROR + u.CARBON_ERROR, "datasheet"),
            "days": timed(seconds * steps / DAY) if steps else None,
            "graph_density_active": Number.exact(density_active),
            "graph_density_stored": Number.exact(density_stored),
            "resident_parameters": Number.exact(float(run.model.parameters)),
            "touched_parameters": Number.exact(float(run.model.active_parameters)),
            "dropped_token_fraction": Number.exact(b.load.dropped_fraction) if b.load else None,
            "breakdown": breakdown_items(items, hidden, errors, model_error, basis),
            "memory_by_stage": memory_by_stage(step.memory),
            "operators": operator_rows(costed, seconds, errors),
            "timeline": training_timeline(costed, timeline),
            "traffic": traffic_record(b, costed, totals, seconds),
            "bill": _bill(step, joules.total * (steps or 1), rent, timed, grams_source),
        }
    )


def _bill(step: Step, joules: float, rent: float | None, timed: object, grams_source: str) -> list[Price]:
    """Rent and, apart, the electricity it holds."""
    run = step.build.run
    assert callable(timed)
    rows = []
    if rent is not None and run.economics.gpu_hour is not None:
        per_hour = run.economics.gpu_hour * 3600
        amount = f"{run.hardware.gpus:,} GPUs at ${per_hour:.2f} per GPU-hour"
        rows.append(Price(item="Rent", amount=amount, usd=timed(rent)))
    power = electricity_usd(joules, run.economics)
    if power is not None:
        amount = f"{joules / 3.6e9:,.3g} MWh at the meter" + (", included in rent" if rent is not None else "")
        rows.append(Price(item="Electricity", amount=amount, usd=timed(power, u.POWER_ERROR)))
    return rows
