"""What no split of a combination can beat: all FLOPs at the dense peak for time and money, idle devices for power."""

from __future__ import annotations

from simulator.spec.parameters import sequence_flops_per_token
from simulator.spec.plan import Plan
from simulator.spec.run import Run
from simulator.units import DAY

RELAXED = 1.10
"""Limits are relaxed by this to say what they cost."""


def breaks_a_bound(run: Run, plan: Plan) -> bool:
    """Whether a run can't keep the plan's limits even when relaxed, however it is split."""
    limits, gpus = plan.constraints, run.hardware.gpus
    if limits.gpus is not None and gpus > limits.gpus * RELAXED:
        return True
    idle = run.hardware.device.idle_power * gpus * run.economics.pue
    if limits.power is not None and idle > limits.power * RELAXED:
        return True
    days = least_days(run)
    if days is None:
        return False
    rent = run.economics.gpu_hour
    return (limits.deadline is not None and days * DAY > limits.deadline * RELAXED) or (
        limits.budget is not None and rent is not None and rent * gpus * days * DAY > limits.budget * RELAXED
    )


def least_days(run: Run) -> float | None:
    """Days of a training at the dense peak of every GPU; None where its length is open, or tokens may be dropped."""
    work, seconds = run.training, least_step_seconds(run)
    if work is None or work.tokens is None or seconds is None:
        return None
    return work.tokens / (work.global_batch * work.seq_len) * seconds / DAY


def least_step_seconds(run: Run) -> float | None:
    """Seconds of a training step at the dense peak of every GPU; None for requests, or where tokens may be dropped."""
    work, device = run.training, run.hardware.device
    if work is None or run.routing.capacity_factor is not None:
        return None
    if not device.supports(work.precision):  # each of its points will say so
        return None
    flops = 3 * work.global_batch * work.seq_len * sequence_flops_per_token(run.model, work.seq_len)
    return flops / (run.hardware.gpus * device.peak_for(work.precision))


def least(run: Run, key: str) -> float | None:
    """What a figure of a run is at least, however the run is split; None where there is no bound.

    Of throughput, where more is better, it is what the figure is at most, with its sign turned.
    """
    if key == "gpus":
        return float(run.hardware.gpus)
    seconds, days = least_step_seconds(run), least_days(run)
    work, rent = run.training, run.economics.gpu_hour
    match key:
        case "step_time_s":
            return seconds
        case "tokens_per_s" if work is not None and seconds is not None:
            return -work.global_batch * work.seq_len / seconds
        case "days":
            return days
        case "cost_usd" if rent is not None and days is not None:
            return rent * run.hardware.gpus * days * DAY
        case "energy_total_j" if seconds is not None:
            length = seconds if days is None else days * DAY
            return run.hardware.device.idle_power * run.hardware.gpus * length
        case _:
            return None
