"""The figures of a result: their labels, how each is written, and which way is better."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from simulator.report import numbers
from simulator.report.kinds import batch_unit, chip
from simulator.report.numbers import Scale
from simulator.result import Number, Result


@dataclass(frozen=True)
class Metric:
    """`key` is that of `Result.numbers()` and of a sweep's column."""

    key: str
    label: str
    scale: Callable[[Iterable[float]], Scale]
    better: Literal["low", "high", ""] = ""


def _flop(values: Iterable[float]) -> Scale:
    return numbers.si(values, "FLOP", smallest=0)


def _watts(values: Iterable[float]) -> Scale:
    return numbers.si(values, "W", smallest=0)


_ALL = (
    Metric("step_time_s", "Step time", numbers.seconds, "low"),
    Metric("tokens_per_s", "Throughput", numbers.tokens_per_second, "high"),
    Metric("mfu", "Model FLOPs utilisation", numbers.percent, "high"),
    Metric("ttft_s", "Time to first token", numbers.seconds, "low"),
    Metric("tpot_s", "Time per output token", numbers.seconds, "low"),
    Metric("output_tokens_per_s", "Output throughput", numbers.tokens_per_second, "high"),
    Metric("peak_memory_gib", "Peak memory, fullest GPU", numbers.gibibytes, "low"),
    Metric("max_concurrency", "Users that fit in memory", numbers.wholes, "high"),
    Metric("days", "Time for all tokens", numbers.days, "low"),
    Metric("cost_usd", "Cost", numbers.dollars, "low"),
    Metric("usd_per_million_output_tokens", "Price per million output tokens", numbers.dollars, "low"),
    Metric("energy_total_j", "Energy at the meter", numbers.watt_hours, "low"),
    Metric("joules_per_output_token", "Energy per output token", numbers.joules, "low"),
    Metric("carbon_kg", "Carbon", numbers.kilograms, "low"),
    Metric("tokens_per_s_per_gpu", "Throughput per GPU", numbers.tokens_per_second, "high"),
    Metric("average_power_w_per_gpu", "Average power per GPU", _watts, "low"),
    Metric("all_to_all_bytes_per_gpu", "All-to-all bytes sent per GPU", numbers.bytes_, "low"),
    Metric("model_flops_per_gpu", "Model FLOPs per GPU", _flop),
    Metric("hardware_flops_per_gpu", "Hardware FLOPs per GPU", _flop),
    Metric("flops_per_token", "Model FLOPs per token", _flop),
    Metric("goodput", "Time that moves a training forward", numbers.percent, "high"),
    Metric("dropped_token_fraction", "Tokens dropped", numbers.percent, "low"),
    Metric("dropped_rows", "Rows dropped by experts per step", numbers.counts, "low"),
    Metric("dropped_rows_per_layer", "Rows dropped by experts per step and layer", numbers.counts, "low"),
    Metric("resident_parameters", "Resident parameters", numbers.counts),
    Metric("touched_parameters", "Touched parameters", numbers.counts),
    Metric("graph_density_active", "Graph density, active", numbers.ratios),
    Metric("graph_density_stored", "Graph density, stored", numbers.ratios),
)
METRICS = {metric.key: metric for metric in _ALL}


# Counted over one step of training, over one batch of inference.
_PER_UNIT = {"all_to_all_bytes_per_gpu", "model_flops_per_gpu", "hardware_flops_per_gpu"}
# Counted over all tokens of a training that says how many, otherwise over one step or batch.
_PER_RUN = {"cost_usd", "energy_total_j", "carbon_kg"}
# The same as another figure of inference.
_REPEATED = {"step_time_s", "tokens_per_s"}
_INFERENCE_ORDER = (
    "ttft_s",
    "tpot_s",
    "output_tokens_per_s",
    "usd_per_million_output_tokens",
    "peak_memory_gib",
    "max_concurrency",
    "joules_per_output_token",
    "tokens_per_s_per_gpu",
)


def ordered(result: Result) -> list[tuple[Metric, Number]]:
    """The figures a result has, those that matter most for its kind first, none of them twice."""
    first = () if result.kind == "training" else _INFERENCE_ORDER
    keys = [*first, *(key for key in METRICS if key not in first)]
    known, repeated = result.numbers(), set() if result.kind == "training" else _REPEATED
    return [(METRICS[key], known[key]) for key in keys if key in known and key not in repeated]


def label(metric: Metric, result: Result) -> str:
    """The metric's name for this result, with what it is counted over where that is not the whole run."""
    if metric.key == "days" and result.summary.tokens:
        return f"Time for {numbers.short_count(result.summary.tokens)} tokens"
    unit, name = batch_unit(result), metric.label.replace("GPU", chip(result))
    if metric.key in _PER_UNIT:
        return f"{name} and {unit}"
    if metric.key in _PER_RUN and result.days is None:
        return f"{name} of one {unit}"
    return name


def time_metric(result: Result) -> str:
    """The key of the time a reader waits for: a training step, or the next token."""
    return "tpot_s" if result.step_time_s is None and result.tpot_s is not None else "step_time_s"
