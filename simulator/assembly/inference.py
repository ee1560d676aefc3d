"""The Result of a static inference batch: prefill once, then one decode step per output token."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.assembly import uncertainty as u
from simulator.assembly.breakdown import breakdown_items
from simulator.assembly.common import average_totals, frame, memory_by_stage, memory_record, operator_rows
from simulator.assembly.timeline import block_spans, color_shares
from simulator.assembly.traffic import traffic_record
from simulator.cost.annotation import CostedGraph
from simulator.cost.energy import Load, step_joules
from simulator.cost.memory import StageBytes
from simulator.cost.price import carbon_grams_per_joule, rent_usd
from simulator.engine.inference import PhaseTimeline
from simulator.graph.builder import Build
from simulator.result import Basis, Chunk, Energy, Number, Price, Result, Timeline
from simulator.spec import parameters as counts


@dataclass(frozen=True)
class Batch:
    """Everything computed of a static batch. `prefill` and `decode` are (build, costs, timeline) of each phase."""

    prefill: tuple[Build, CostedGraph, PhaseTimeline]
    decode: tuple[Build, CostedGraph, PhaseTimeline]
    step_overhead: float
    """Seconds of scheduler and per-sequence host work of one decode step."""
    memory: list[StageBytes]
    max_concurrency: int


def assemble_inference(batch: Batch) -> Result:
    """The Result of a static batch: latencies, throughput, memory with KV cache, energy and price of a token."""
    b, costed, decode = batch.decode
    _, prefill_costed, prefill = batch.prefill
    run, machine = b.run, costed.machine
    work = run.inference
    assert work is not None
    tpot = decode.duration + batch.step_overhead
    ttft = prefill.duration + batch.step_overhead
    seconds = ttft + tpot * (work.osl - 1)
    tokens = work.concurrency * work.osl
    gpus, basis = run.hardware.gpus, machine.curves.basis
    errors = {**u.item_errors(machine, b.shapes.precision), "engine": u.HOST_ERROR}
    model_error = u.MODEL_ERROR["moe" if run.model.is_moe or run.model.peer else "dense"] * 1.5
    items = _add(prefill.spent.exposed, decode.spent.exposed, work.osl - 1)
    items["engine"] = batch.step_overhead * work.osl
    whole = u.combined_error(items, errors, model_error)

    def timed(value: float, error: float = whole, label: Basis = basis) -> Number:
        return u.number(value, error, label)

    first, each = average_totals(prefill_costed), average_totals(costed)
    steps = work.osl - 1
    load = Load(
        seconds,
        first.flops + each.flops * steps,
        run.hardware.device.peak_for(b.shapes.precision),
        first.memory_bytes + each.memory_bytes * steps,
        first.link_bytes + each.link_bytes * steps,
        first.network_bytes + each.network_bytes * steps,
    )
    joules = step_joules(machine, load, run.economics.pue)
    fullest = max(batch.memory, key=lambda stage: stage.total)
    rent = rent_usd(gpus, seconds, run.economics)
    power_error = (whole**2 + u.POWER_ERROR**2) ** 0.5
    parts = [joules.compute, joules.memory, joules.network, joules.static, joules.facility]
    model_flops = work.concurrency * (
        work.isl * counts.flops_per_token(run.model, work.isl / 2)
        + steps * counts.flops_per_token(run.model, work.isl + work.osl / 2)
    )
    density_active, density_stored = counts.graph_density(run.model)
    grams, _ = carbon_grams_per_joule(run.economics)
    return frame(b, costed, "", batch.memory).model_copy(
        update={
            "step_time_s": timed(tpot),
            "ttft_s": timed(ttft, u.combined_error(prefill.spent.exposed, errors, model_error)),
            "tpot_s": timed(tpot, u.combined_error(decode.spent.exposed, errors, model_error)),
            "output_tokens_per_s": timed(tokens / seconds),
            "tokens_per_s": timed(tokens / seconds),
            "tokens_per_s_per_gpu": timed(tokens / seconds / gpus),
            "model_flops_per_gpu": Number.exact(model_flops / gpus),
            "hardware_flops_per_gpu": Number.exact(load.flops),
            "flops_per_token": Number.exact(counts.flops_per_token(run.model, work.isl + work.osl / 2)),
            "max_concurrency": Number.exact(batch.max_concurrency),
            "peak_memory_gib": u.number(sum(fullest.parts().values()), u.MEMORY_ERROR, "interpolated"),
            "memory_gib": memory_record(fullest),
            "all_to_all_bytes_per_gpu": Number.exact(first.all_to_all_bytes + each.all_to_all_bytes * steps),
            "energy_j": Energy(
                **{k: timed(v, power_error, "datasheet") for k, v in zip(Energy.model_fields, parts, strict=True)}
            ),
            "energy_total_j": timed(joules.total, power_error, "datasheet"),
            "average_power_w_per_gpu": u.number(joules.device / seconds / gpus, u.POWER_ERROR, "datasheet"),
            "joules_per_output_token": timed(joules.device / tokens, power_error, "datasheet"),
            "usd_per_million_output_tokens": timed(rent / tokens * 1e6) if rent is not None else None,
            "cost_usd": timed(rent) if rent is not None else None,
            "carbon_kg": timed(joules.total * grams / 1e3, power_error + u.CARBON_ERROR, "datasheet"),
            "graph_density_active": Number.exact(density_active),
            "graph_density_stored": Number.exact(density_stored),
            "resident_parameters": Number.exact(float(run.model.parameters)),
            "touched_parameters": Number.exact(_touched(b)),
            "dropped_token_fraction": Number.exact(b.load.dropped_fraction) if b.load else None,
            "breakdown": breakdown_items(
                {**decode.spent.exposed, "engine": batch.step_overhead}, {}, errors, model_error, basis
            ),
            "memory_by_stage": memory_by_stage(batch.memory),
            "operators": operator_rows(costed, tpot, errors),
            "timeline": _timeline(batch, tpot),
            "traffic": traffic_record(b, costed, each, tpot),
            "bill": [_rent(run.economics.gpu_hour, gpus, timed(rent))] if rent is not None else [],
        }
    )


def _rent(gpu_second: float | None, gpus: int, usd: Number) -> Price:
    assert gpu_second is not None
    return Price(item="Rent", amount=f"{gpus:,} GPUs at ${gpu_second * 3600:.2f} per GPU-hour", usd=usd)


def _add(once: dict[str, float], each: dict[str, float], times: int) -> dict[str, float]:
    return {item: once.get(item, 0.0) + each.get(item, 0.0) * times for item in {*once, *each}}


def _touched(b: Build) -> float:
    """Parameters one decode step of the whole batch reads: all but the experts no token is routed to."""
    model = b.run.model
    if b.load is None:
        return float(model.parameters if model.peer is None else model.active_parameters)
    experts = model.num_moe_layers * (model.num_experts or 0) * counts.expert_parameters(model)
    return model.parameters - experts * (1 - b.load.touched / b.load.local_experts)


def _timeline(batch: Batch, tpot: float) -> Timeline:
    """The prefill and the first decode steps of every stage."""
    chunks, blocks, shares = [], {}, {}
    at = 0.0
    for phase, (_, costed, timeline), repeats in (("prefill", batch.prefill, 1), ("decode", batch.decode, DRAWN_STEPS)):
        for step in range(repeats):
            begin = at
            for s, spent in enumerate(timeline.stages):
                end = at + spent.duration
                chunks.append(Chunk(stage=s, start_s=at, end_s=end, phase=phase, micro_batch=step, chunk=0))  # type: ignore[arg-type]
                key = f"{s}/{phase}/0"
                if key not in blocks:
                    blocks[key] = block_spans(costed, costed.graph.forward[s][0])
                    shares[key] = color_shares(spent)
                at = end
            at = max(at, begin + (tpot if phase == "decode" else 0.0))
    return Timeline(stages=len(batch.decode[2].stages), duration_s=at, chunks=chunks, blocks=blocks, shares=shares)


DRAWN_STEPS = 4
