"""The metrics that measurements are published in, without the records a report needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simulator.assembly import uncertainty as u
from simulator.assembly.breakdown import step_items
from simulator.assembly.metrics import batch_figures, inference_metrics
from simulator.result import Number
from simulator.simulation import inference_batch, training_step
from simulator.spec.run import Run
from simulator.units import GIB


@dataclass(frozen=True, slots=True)
class Prediction:
    """Numbers by metric, and the seconds of one step (one decode step of inference) by item; the items sum to it."""

    numbers: Mapping[str, Number]
    breakdown: Mapping[str, float]


def predict(run: Run) -> Prediction:
    """What a run takes. A step that doesn't fit by our count is still timed: it was measured, so it ran."""
    match run.kind:
        case "training":
            return _training(run)
        case _:
            return _inference(run)


def _inference(run: Run) -> Prediction:
    batch = inference_batch(run, check=False)
    figures = batch_figures(batch)
    numbers = {key: number for key, number in inference_metrics(batch, figures).items() if number is not None}
    power, work = numbers["average_power_w_per_gpu"], run.inference
    assert work is not None
    numbers["gpu_power_w_total"] = scaled(power, run.hardware.gpus)
    if (
        "isl" not in work.model_fields_set
    ):  # nobody says how long prompts were: their share of a token's time is unknown
        numbers["tpot_s"] = scaled(numbers["tpot_s"], batch.served.steady.step / figures.tpot)
    return Prediction(numbers, batch.token)


def scaled(number: Number, factor: float) -> Number:
    """The number and its interval times `factor`."""
    update = {"value": number.value * factor, "low": number.low * factor, "high": number.high * factor}
    return number.model_copy(update=update)


def _training(run: Run) -> Prediction:
    step = training_step(run, check=False)
    assert run.training is not None
    items, _ = step_items(step)
    errors = u.item_errors(step.costed.machine, run.training.precision)
    model_error = u.MODEL_ERROR["moe" if run.model.is_moe or run.model.peer else "dense"]
    error = u.combined_error(items, errors, model_error)
    allocated = max(stage.allocated for stage in step.memory)
    numbers = {
        "step_time_s": u.number(step.timeline.duration, error, step.costed.machine.curves.basis),
        "peak_memory_gib": u.number(allocated / GIB, u.MEMORY_ERROR, "interpolated"),
    }
    return Prediction(numbers, items)
