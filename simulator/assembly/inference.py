"""The Result of inference: prompts, then one decode step per output token, of a batch or of requests that come and
go."""

from __future__ import annotations

from simulator.assembly import uncertainty as u
from simulator.assembly.breakdown import breakdown_items
from simulator.assembly.common import frame, memory_by_stage, memory_record, operator_rows, resolved
from simulator.assembly.evaluated import Batch
from simulator.assembly.memory_rules import serving_rules
from simulator.assembly.metrics import batch_figures, inference_metrics
from simulator.assembly.requests import requests_record
from simulator.assembly.timeline import block_spans, color_shares
from simulator.assembly.totals import mean_sums, stage_totals
from simulator.assembly.traffic import traffic_record
from simulator.engine.fast import FAST
from simulator.graph.builder import Build
from simulator.result import Chunk, Energy, Number, Price, Result, Timeline
from simulator.spec import parameters as counts
from simulator.spec.run import Run


def assemble_inference(batch: Batch) -> Result:
    """The Result of inference: latencies, throughput, memory with KV cache, energy and price of a token."""
    b, costed, _ = batch.decode
    run, work = batch.run, batch.run.inference
    assert work is not None
    figures = batch_figures(batch)
    evidence, timed = figures.evidence, figures.evidence.timed
    step = figures.tpot * batch.tokens_per_step
    stages, gpus, joules = stage_totals(costed), run.hardware.gpus, figures.joules
    parts = [joules.compute, joules.memory, joules.network, joules.static, joules.facility]
    density_active, density_stored = counts.graph_density(run.model)
    base = frame(b, costed, stages, FAST, "")
    return base.model_copy(
        update={
            **_whole(base, run),
            **inference_metrics(batch, figures),
            "model_flops_per_gpu": Number.exact(figures.model_flops / gpus),
            "hardware_flops_per_gpu": Number.exact(figures.sums.flops),
            "flops_per_token": Number.exact(counts.flops_per_token(run.model, work.isl + work.osl / 2)),
            "serving": requests_record(batch, figures),
            "memory_gib": memory_record(max(batch.memory, key=lambda stage: stage.total)),
            "all_to_all_bytes_per_gpu": Number.exact(figures.sums.all_to_all_bytes),
            "energy_j": Energy(
                **{
                    k: timed(v, u.SERVING_POWER_ERROR, "datasheet")
                    for k, v in zip(Energy.model_fields, parts, strict=True)
                }
            ),
            "graph_density_active": Number.exact(density_active),
            "graph_density_stored": Number.exact(density_stored),
            "resident_parameters": Number.exact(float(run.model.parameters)),
            "touched_parameters": Number.exact(_touched(b)),
            "dropped_token_fraction": Number.exact(b.load.dropped_fraction) if b.load else None,
            "breakdown": breakdown_items(
                batch.token,
                {},
                evidence.errors,
                evidence.model,
                evidence.basis,
            ),
            "memory_rules": serving_rules(b),
            "memory_by_stage": memory_by_stage(batch.memory, batch.pools),
            "operators": operator_rows(costed, stages, step, evidence.errors),
            "timeline": _timeline(batch, figures.tpot),
            "traffic": traffic_record(b, costed, stages, mean_sums(costed.graph), step),
            "bill": [_rent(run.economics.gpu_hour, gpus, timed(figures.rent))] if figures.rent is not None else [],
        }
    )


def _whole(base: Result, run: Run) -> dict[str, object]:
    """What the decode pool of a disaggregated run doesn't show: all GPUs, and the run as it was written."""
    if run.serving is None or run.serving.disaggregated is None:
        return {}
    pools = run.serving.disaggregated
    note = f"{pools.prefill.gpus} GPUs read prompts and {pools.decode.gpus} write answers; the split is that of these."
    summary = base.summary.model_copy(update={"gpus": run.hardware.gpus, "notes": [note, *base.summary.notes]})
    return {"summary": summary, "run": resolved(run)}


def _rent(gpu_second: float | None, gpus: int, usd: Number) -> Price:
    assert gpu_second is not None
    return Price(item="Rent", amount=f"{gpus:,} GPUs at ${gpu_second * 3600:.2f} per GPU-hour", usd=usd)


def _touched(b: Build) -> float:
    """Parameters one decode step of the whole batch reads: all but the experts no token is routed to."""
    model = b.run.model
    if b.load is None:
        return float(model.parameters if model.peer is None else model.active_parameters)
    sets = model.num_moe_layers // model.experts_shared_layers
    experts = sets * (model.num_experts or 0) * counts.expert_parameters(model)
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
