"""What would help most: the run again with one part of the hardware 10 % better, or one setting changed.

Errors of the two runs are shared, so the interval is that of the difference: the relative error of what moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simulator.assembly.uncertainty import Z90
from simulator.errors import InfeasibleError, SimulatorError
from simulator.graph.kv_cache import kv_precision
from simulator.graph.precision import is_wide
from simulator.result import Color, Lever, Number, Result
from simulator.simulation import inference_batch, training_step
from simulator.spec.run import Run, with_field
from simulator.spec.settings import resolve_settings

BETTER = 1.10
DIFFERENCE_ERROR = 0.3
"""Relative standard error of a difference: that of the operators that move, without what both runs share."""


def find_levers(run: Run, result: Result) -> list[Lever]:
    """Hardware levers and run changes of a result, each with what it does to the step and the cost."""
    base = _seconds(run)
    cost = result.cost_usd.value if result.cost_usd else None
    basis = result.step_time_s.basis if result.step_time_s else "datasheet"
    levers = []
    for label, path, change, changed in (*_hardware(run), *_settings(run)):
        kind = "hardware" if path.startswith("hardware") else "run"
        try:
            seconds, reason = _seconds(changed, check=kind == "run"), None
        except (SimulatorError, ValueError) as error:
            seconds, reason = base, _first_sentence(error)
        delta = seconds - base
        levers.append(
            Lever(
                kind=kind,
                label=label,
                path=path,
                change=change,
                step_time_s=_difference(delta, basis),
                cost_usd=_difference(cost * delta / base, basis) if cost is not None else None,
                feasible=reason is None,
                reason=reason,
                color=_color(run, path),
            )
        )
    return sorted(levers, key=lambda lever: (not lever.feasible, lever.step_time_s.value))


def _color(run: Run, path: str) -> Color:
    """The kind of time a change acts on."""
    sparse = run.model.is_moe
    match path.split(".")[-2:]:
        case ["memory", _] | ["training", "recompute" | "micro_batch"] | ["inference", "kv_cache_precision"]:
            return "mem"
        case ["scale_up", _] if sparse and run.parallelism.ep > 1:
            return "a2a"
        case ["execution", "a2a_overlap" | "moe_dispatcher"]:
            return "a2a"
        case ["scale_up" | "network", _] | ["execution", _] | ["parallelism", "tp"]:
            return "comm"
        case ["parallelism", _]:
            return "wait"
        case _:
            return "expert" if sparse else "dense"


def _difference(value: float, basis: Any) -> Number:
    spread = abs(value) * Z90 * DIFFERENCE_ERROR
    return Number(value=value, low=value - spread, high=value + spread, basis=basis)


def _first_sentence(error: Exception) -> str:
    text = error.message if isinstance(error, InfeasibleError) else str(error)
    return text.splitlines()[0]


def _seconds(run: Run, *, check: bool = False) -> float:
    """Seconds of a training step, or of a decode step."""
    if run.kind == "training":
        return training_step(run, check=check).timeline.duration
    return inference_batch(run, check=check, closed_form=True).served.steady.tpot


Change = tuple[str, str, str, Run]


def _hardware(run: Run) -> Iterator[Change]:
    hardware = run.hardware
    device, network = hardware.device, hardware.network

    def better(label: str, path: str, **update: Any) -> Change:
        parts = {key: value for key, value in update.items() if value is not None}
        changed = hardware.model_copy(update=parts)
        return label, path, "+10 %", run.model_copy(update={"hardware": changed})

    peak = {name: rate * BETTER for name, rate in device.peak.items()}
    yield better("Peak FLOP/s", "hardware.device.peak", device=device.model_copy(update={"peak": peak}))
    tdp = device.model_copy(update={"tdp": device.tdp * BETTER})
    yield better("Power limit", "hardware.device.tdp", device=tdp)
    memory = device.memory.model_copy(update={"bandwidth": device.memory.bandwidth * BETTER})
    yield better(
        "HBM bandwidth", "hardware.device.memory.bandwidth", device=device.model_copy(update={"memory": memory})
    )
    if hardware.gpus > 1:
        links = device.scale_up.model_copy(update={"bandwidth": device.scale_up.bandwidth * BETTER})
        faster = device.model_copy(update={"scale_up": links})
        yield better("Scale-up bandwidth", "hardware.device.scale_up.bandwidth", device=faster)
    if hardware.gpus > hardware.scale_up_domain:
        wider = network.model_copy(update={"bandwidth": network.bandwidth * BETTER})
        yield better("Network bandwidth", "hardware.network.bandwidth", network=wider)


HELD_DRAFTS = 0.85
"""Second tokens of DeepSeek-V3's prediction module that hold: 0.85 to 0.90 (arXiv 2412.19437, section 5.4.3)."""


def _written(value: Any) -> str:
    """A value as a run file has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {part}" for name, part in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _settings(run: Run) -> Iterator[Change]:
    """Changes a user can make in the run file, those that are not already so."""

    def changed(label: str, block: str, field: str, value: Any) -> Change | None:
        path = f"{block}.{field}"
        try:
            other = with_field(run, path, value)
        except ValueError:
            return None
        return label, path, _written(value), other

    device, split, resolved = run.hardware.device, run.parallelism, resolve_settings(run)
    block = "training" if run.training is not None else "inference"
    options: list[Change | None] = []
    work = run.training or run.inference
    if device.supports("fp8") and work is not None and is_wide(work.precision):
        options.append(changed("8-bit arithmetic", block, "precision", "fp8"))
    if run.training is not None:
        options.append(changed("Twice the micro-batch", "training", "micro_batch", run.training.micro_batch * 2))
        if resolved.recompute != "none":
            options.append(changed("No recompute", "training", "recompute", "none"))
    if run.inference is not None:
        if device.supports("fp8") and is_wide(kv_precision(run)):
            options.append(changed("8-bit KV cache", "inference", "kv_cache_precision", "fp8"))
        if run.model.num_nextn_predict_layers and run.inference.speculative is None:
            drafts = {"tokens": 1, "acceptance": HELD_DRAFTS}
            options.append(changed("Drafting a token a step", "inference", "speculative", drafts))
    if run.model.is_moe and split.ep > 1 and run.training is not None:
        if not resolved.a2a_overlap:
            options.append(changed("Overlap the all-to-all", "execution", "a2a_overlap", True))
        if resolved.dispatcher != "deepep":
            options.append(changed("DeepEP dispatcher", "execution", "moe_dispatcher", "deepep"))
    if split.tp > 1:
        if not resolved.tp_overlap:
            options.append(changed("Overlap tensor parallelism", "execution", "tp_overlap", True))
        options.append(changed("Half the tensor parallelism", "parallelism", "tp", split.tp // 2))
    if split.pp > 1:
        options.append(changed("Half the pipeline stages", "parallelism", "pp", split.pp // 2))
        options.append(changed("Twice the interleaving", "parallelism", "vpp", split.vpp * 2))
        if run.training is not None and run.training.schedule == "1f1b" and split.vpp == 1:
            options.append(changed("Weight gradients in the bubble", "training", "schedule", "zb-h1"))
    yield from (option for option in options if option is not None)
