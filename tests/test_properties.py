"""What must hold of every run: better hardware is never slower, more work never faster, sharding never holds more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import runs

from simulator.errors import InfeasibleError
from simulator.simulation import Step, training_step
from simulator.spec.run import Run, with_field

EXAMPLES = settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])


def timed(run: Run) -> Step:
    """A step whatever its memory; runs that do not divide are not of interest here."""
    try:
        return training_step(run, check=False)
    except InfeasibleError:
        assume(False)
        raise


def seconds(run: Run) -> float:
    return timed(run).timeline.duration


def with_device(run: Run, **update: Any) -> Run:
    device = run.hardware.device.model_copy(update=update)
    return run.model_copy(update={"hardware": run.hardware.model_copy(update={"device": device})})


def faster(run: Run, part: str, factor: float) -> Run:
    """The run with one part of the hardware `factor` times as fast."""
    device, network = run.hardware.device, run.hardware.network
    match part:
        case "peak":
            return with_device(run, peak={name: rate * factor for name, rate in device.peak.items()})
        case "memory":
            memory = device.memory.model_copy(update={"bandwidth": device.memory.bandwidth * factor})
            return with_device(run, memory=memory)
        case "links":
            links = device.scale_up.model_copy(update={"bandwidth": device.scale_up.bandwidth * factor})
            return with_device(run, scale_up=links)
        case "power":
            return with_device(run, tdp=device.tdp * factor)
        case _:
            wider = network.model_copy(update={"bandwidth": network.bandwidth * factor})
            return run.model_copy(update={"hardware": run.hardware.model_copy(update={"network": wider})})


@pytest.mark.parametrize("part", ["peak", "memory", "links", "power", "network"])
@EXAMPLES
@given(run=runs(), factor=st.floats(1.0, 4.0))
def test_faster_hardware_is_never_slower(part: str, run: Run, factor: float) -> None:
    assert seconds(faster(run, part, factor)) <= seconds(run) * (1 + 1e-9)


@EXAMPLES
@given(run=runs(), factor=st.sampled_from([2, 4]))
def test_more_tokens_never_take_less_time(run: Run, factor: int) -> None:
    assert run.training is not None
    base = seconds(run)
    for field in ("global_batch", "seq_len"):
        more = with_field(run, f"training.{field}", getattr(run.training, field) * factor)
        assert seconds(more) >= base * (1 - 1e-9), field


@EXAMPLES
@given(run=runs())
def test_more_layers_never_take_less_time(run: Run) -> None:
    layers = run.model.num_hidden_layers
    deeper = run.model_copy(update={"model": run.model.model_copy(update={"num_hidden_layers": 2 * layers})})
    assert seconds(deeper) >= seconds(run) * (1 - 1e-9)


@EXAMPLES
@given(run=runs())
def test_a_step_is_no_shorter_than_its_work(run: Run) -> None:
    """Nothing beats the peak, and the slowest stage's own work fits into the step."""
    step = timed(run)
    device = run.hardware.device
    assert run.training is not None
    for stage in step.timeline.stages:
        assert stage.busy.duration + stage.tail.duration <= step.timeline.duration * (1 + 1e-12)
    gemms = sum(stage.busy.exposed.get(item, 0.0) for stage in step.timeline.stages for item in GEMMS)
    flops = 3 * run.training.global_batch * run.training.seq_len * 2 * matrices(run) / run.hardware.gpus
    assert gemms / len(step.timeline.stages) >= flops / device.peak_for(run.training.precision) * (1 - 1e-9)


GEMMS = ("expert_gemm", "ffn_gemm", "attention_projection")


def matrices(run: Run) -> float:
    """Weights of the feed-forward matrices a token meets."""
    model = run.model
    gates = 3 if model.gated_ffn else 2
    moe = model.layer_kinds.count("moe")
    width = model.moe_intermediate_size * model.num_experts_per_tok
    return gates * model.hidden_size * ((model.num_hidden_layers - moe) * model.intermediate_size + moe * width)


@EXAMPLES
@given(run=runs())
def test_recompute_trades_time_for_memory(run: Run) -> None:
    plain, again = (timed(with_field(run, "training.recompute", kind)) for kind in ("none", "full"))
    assert again.timeline.duration >= plain.timeline.duration
    for one, other in zip(again.memory, plain.memory, strict=True):
        assert one.activations <= other.activations


@EXAMPLES
@given(run=runs())
def test_each_stage_of_sharding_holds_less(run: Run) -> None:
    states = []
    for kind in ("none", "zero1", "zero2"):
        step = timed(with_field(run, "training.sharding", kind))
        states.append(sum(m.parameters + m.gradients + m.optimizer_states for m in step.memory))
    assert states == sorted(states, reverse=True)


@EXAMPLES
@given(run=runs())
def test_imbalance_never_helps(run: Run) -> None:
    assert seconds(with_field(run, "routing.imbalance", 1.5)) >= seconds(run) * (1 - 1e-9)
