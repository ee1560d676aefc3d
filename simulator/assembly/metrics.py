"""The metrics of a run with their intervals: what its Result leads with and what a sweep ranks its points by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import hypot

from simulator.assembly import uncertainty as u
from simulator.assembly.breakdown import step_items
from simulator.assembly.evaluated import Batch, Step
from simulator.assembly.totals import Sums, mean_sums
from simulator.cost.energy import Joules, Load, step_joules
from simulator.cost.goodput import goodput
from simulator.cost.machine import Machine
from simulator.cost.memory import StageBytes
from simulator.cost.price import carbon_grams_per_joule, rent_usd
from simulator.cost.spares import availability, paid_gpus
from simulator.graph.builder import Build
from simulator.result import Basis, Number
from simulator.spec import parameters as counts
from simulator.spec.run import Run
from simulator.units import DAY


@dataclass(frozen=True, slots=True)
class Evidence:
    """How wrong the times of a run may be: by item, of the model itself, and of the whole; and what they rest on."""

    errors: Mapping[str, float]
    model: float
    whole: float
    basis: Basis

    def timed(self, value: float, extra: float = 0.0, basis: Basis | None = None) -> Number:
        """A figure that follows from the run's time, with `extra` relative error of its own."""
        return u.number(value, hypot(self.whole, extra), basis or self.basis)


@dataclass(frozen=True, slots=True)
class StepFigures:
    """The physical figures of a training step. `steps` is how many a training of stated length takes the time
    of, failures included, else None."""

    seconds: float
    exposed: Mapping[str, float]
    hidden: Mapping[str, float]
    sums: Sums
    model_flops: float
    """Per GPU and step."""
    joules: Joules
    goodput: float
    steps: float | None
    rent: float | None
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """The physical figures of the requests in flight, all their output tokens together."""

    ttft: float
    tpot: float
    seconds: float
    requests: float
    sums: Sums
    model_flops: float
    """Of all those requests."""
    joules: Joules
    rent: float | None
    evidence: Evidence


def step_figures(step: Step) -> StepFigures:
    """Time, work, energy and rent of a training step."""
    run, costed, seconds = step.build.run, step.costed, step.timeline.duration
    work, machine = run.training, costed.machine
    assert work is not None
    exposed, hidden = step_items(step)
    errors = u.item_errors(machine, work.precision)
    model_error = _model_error(run)
    sums, tokens = mean_sums(costed.graph), work.global_batch * work.seq_len
    load = _load(run, seconds, sums, work.precision)
    forward = _forward(step)
    steps = work.tokens / tokens / forward if work.tokens else None
    return StepFigures(
        seconds=seconds,
        exposed=exposed,
        hidden=hidden,
        sums=sums,
        model_flops=3 * tokens * counts.sequence_flops_per_token(run.model, work.seq_len) / run.hardware.gpus,
        joules=step_joules(machine, load, run.economics.pue),
        goodput=forward,
        steps=steps,
        rent=rent_usd(paid_gpus(run.reliability, run.hardware), seconds * steps, run.economics) if steps else None,
        evidence=Evidence(
            errors,
            model_error,
            u.combined_error(exposed, errors, model_error),
            u.basis_of(machine, work.precision, exposed),
        ),
    )


def _forward(step: Step) -> float:
    """Share of a long training's time that moves it forward."""
    stated, hardware = step.build.run.reliability, step.build.run.hardware
    return goodput(stated, hardware.gpus) * availability(stated, hardware, step.build.layout.dp) if stated else 1.0


def training_metrics(step: Step, figures: StepFigures) -> dict[str, Number | None]:
    """The leading metrics of a training step by their names in a Result; None where a price or a length is missing."""
    run, timed = step.build.run, figures.evidence.timed
    work, gpus, seconds = run.training, run.hardware.gpus, figures.seconds
    assert work is not None
    tokens, steps = work.global_batch * work.seq_len, figures.steps
    grams, _ = carbon_grams_per_joule(run.economics)
    peak = run.hardware.device.peak_for(work.precision)
    joules = figures.joules.total * (steps or 1)
    return {
        "step_time_s": timed(seconds),
        "tokens_per_s": timed(tokens / seconds),
        "tokens_per_s_per_gpu": timed(tokens / seconds / gpus),
        "mfu": timed(figures.model_flops / (seconds * peak)),
        "peak_memory_gib": peak_memory(step.memory),
        "energy_total_j": timed(joules, u.POWER_ERROR, "datasheet"),
        "average_power_w_per_gpu": u.limited(
            figures.joules.device / seconds / gpus, u.POWER_ERROR, run.hardware.device.tdp
        ),
        "cost_usd": timed(figures.rent) if figures.rent is not None else None,
        "carbon_kg": timed(joules * grams / 1e3, hypot(u.POWER_ERROR, u.CARBON_ERROR), "datasheet"),
        "days": timed(seconds * steps / DAY) if steps else None,
        "goodput": _goodput(figures.goodput) if run.reliability else None,
    }


def _goodput(share: float) -> Number:
    """The lost share depends on how often machines fail, which is known to about a factor of two."""
    return u.limited(share, 1 - share, 1.0)


def batch_figures(batch: Batch) -> BatchFigures:
    """Time, work, energy and rent of the requests in flight, from their prompts to their last tokens."""
    b, costed, _ = batch.decode
    run, work, steady = batch.run, batch.run.inference, batch.served.steady
    assert work is not None
    requests = float(work.in_flight) if work.batching == "static" else steady.in_flight
    seconds = requests * work.osl / steady.output_tokens_per_s
    steps = work.osl - 1
    errors = {**u.item_errors(costed.machine, b.shapes.precision), "engine": u.HOST_ERROR}
    model_error = u.INFERENCE_ERROR["moe" if run.model.is_moe or run.model.peer else "dense"]
    spent = batch.prefill[2].spent.exposed
    exposed = _both({item: one * batch.prefills for item, one in spent.items()}, batch.exposed, steps)
    exposed["engine"] = batch.token["engine"] * work.osl
    model_flops = requests * (
        work.isl * counts.sequence_flops_per_token(run.model, work.isl)
        + steps * counts.flops_per_token(run.model, work.isl + work.osl / 2)
    )
    parts = _work_of_pools(batch, steps)
    return BatchFigures(
        ttft=steady.ttft,
        tpot=steady.tpot,
        seconds=seconds,
        requests=requests,
        sums=_mean_over_gpus([(part.run.hardware.gpus, sums) for part, _, sums in parts]),
        model_flops=model_flops,
        joules=_sum_of_joules(
            [
                step_joules(
                    machine,
                    replace(_load(part.run, seconds, sums, b.shapes.precision), waiting=_waiting(batch)),
                    run.economics.pue,
                )
                for part, machine, sums in parts
            ]
        ),
        rent=rent_usd(run.hardware.gpus, seconds, run.economics),
        evidence=Evidence(
            errors,
            model_error,
            u.combined_error(exposed, errors, model_error),
            u.basis_of(costed.machine, b.shapes.precision, exposed),
        ),
    )


def _work_of_pools(batch: Batch, steps: float) -> list[tuple[Build, Machine, Sums]]:
    """(build, machine, what a GPU does for the requests in flight) of each pool; one where all GPUs do both phases."""
    prefill, decode = batch.prefill, batch.decode
    reading = mean_sums(prefill[1].graph).times(batch.prefills)
    writing = mean_sums(decode[1].graph).times(steps / batch.tokens_per_step)
    if batch.draft is not None:
        writing.add_sums(mean_sums(batch.draft[1].graph), batch.passes * steps / batch.tokens_per_step)
    if batch.served.handover is not None:
        return [(prefill[0], prefill[1].machine, reading), (decode[0], decode[1].machine, writing)]
    reading.add_sums(writing, 1)
    return [(decode[0], decode[1].machine, reading)]


def _mean_over_gpus(parts: Sequence[tuple[int, Sums]]) -> Sums:
    mean, gpus = Sums(), sum(count for count, _ in parts)
    for count, sums in parts:
        mean.add_sums(sums, count / gpus)
    return mean


def _sum_of_joules(parts: Sequence[Joules]) -> Joules:
    return Joules(*(sum(getattr(part, field.name) for part in parts) for field in fields(Joules)))


def _waiting(batch: Batch) -> float:
    """Share of a token's time in which a GPU waits for others: collectives, which nothing hides in serving."""
    spent = batch.exposed
    return sum(spent.get(item, 0.0) for item in COLLECTIVE_ITEMS) / batch.served.steady.tpot


COLLECTIVE_ITEMS = ("tensor_parallel", "expert_tensor_parallel", "all_to_all", "send_recv")


def inference_metrics(batch: Batch, figures: BatchFigures) -> dict[str, Number | None]:
    """The leading metrics of inference by their names in a Result; None where a price is missing."""
    run, evidence = batch.run, figures.evidence
    work, gpus, timed = run.inference, run.hardware.gpus, evidence.timed
    assert work is not None
    tokens, joules, rent = figures.requests * work.osl, figures.joules, figures.rent
    grams, _ = carbon_grams_per_joule(run.economics)
    whole_power = hypot(evidence.whole, u.SERVING_POWER_ERROR)
    queued = 0.0 if work.batching == "static" else u.QUEUE_ERROR
    return {
        "step_time_s": timed(figures.tpot),
        "ttft_s": timed(figures.ttft, queued),
        "tpot_s": timed(figures.tpot),
        "e2e_s": timed(figures.ttft + figures.tpot * (work.osl - 1)),
        "output_tokens_per_s": timed(tokens / figures.seconds),
        "tokens_per_s": timed(tokens / figures.seconds),
        "tokens_per_s_per_gpu": timed(tokens / figures.seconds / gpus),
        "max_concurrency": Number.exact(batch.served.fits),
        "peak_memory_gib": peak_memory(batch.memory),
        "energy_total_j": timed(joules.total, u.SERVING_POWER_ERROR, "datasheet"),
        "average_power_w_per_gpu": u.limited(
            joules.device / figures.seconds / gpus, u.SERVING_POWER_ERROR, run.hardware.device.tdp
        ),
        "joules_per_output_token": timed(joules.device / tokens, u.SERVING_POWER_ERROR, "datasheet"),
        "usd_per_million_output_tokens": timed(rent / tokens * 1e6) if rent is not None else None,
        "cost_usd": timed(rent) if rent is not None else None,
        "carbon_kg": u.number(joules.total * grams / 1e3, hypot(whole_power, u.CARBON_ERROR), "datasheet"),
    }


def peak_memory(memory: list[StageBytes]) -> Number:
    """GiB of the fullest GPU."""
    fullest = max(memory, key=lambda stage: stage.total)
    return u.number(sum(fullest.parts().values()), u.MEMORY_ERROR, "interpolated")


def _load(run: Run, seconds: float, sums: Sums, precision: str) -> Load:
    peak = run.hardware.device.peak_for(precision)
    return Load(seconds, sums.flops, peak, sums.memory_bytes, sums.link_bytes, sums.network_bytes)


def _model_error(run: Run) -> float:
    return u.MODEL_ERROR["moe" if run.model.is_moe or run.model.peer else "dense"]


def _both(once: Mapping[str, float], each: Mapping[str, float], times: int) -> dict[str, float]:
    """Seconds by item of a first phase and of `times` further steps."""
    return {item: once.get(item, 0.0) + each.get(item, 0.0) * times for item in dict.fromkeys((*once, *each))}
