"""A figure of a result by its name: those of the result itself, parts of its breakdown, and what follows from them."""

from __future__ import annotations

from math import log

from simulator.assembly.uncertainty import Z90, number
from simulator.result import Number, Result
from simulator.units import DAY, HOUR

HOURS_PER_DAY = DAY / HOUR


COUNTING = 0.01
"""Of a FLOP count, relative: sources differ in what of attention, head and normalisation they count."""


def figure(result: Result, name: str) -> Number:
    """The figure in SI units (hours where its name says so). Raises KeyError where this kind of run has none."""
    if name.startswith("breakdown."):
        key = name.removeprefix("breakdown.")
        parts = [item.seconds for item in result.breakdown if item.key == key]
        return parts[0] if parts else Number.exact(0.0)
    summary, found = result.summary, result.numbers()
    match name:
        case "parameters":
            return Number.exact(float(summary.parameters))
        case "active_parameters":
            return Number.exact(float(summary.active_parameters))
        case "forward_flops_per_token":
            passes = 3.0 if result.kind == "training" else 1.0
            return _counted(scaled(found["flops_per_token"], 1 / passes))
        case "training_flops":
            if summary.tokens is None:
                raise KeyError(name)
            return _counted(scaled(found["flops_per_token"], summary.tokens))
        case "six_nd":
            if summary.tokens is None:
                raise KeyError(name)
            return Number.exact(6.0 * summary.active_parameters * summary.tokens)
        case "hours":
            return scaled(found["days"], HOURS_PER_DAY)
        case "gpu_hours":
            return scaled(found["days"], HOURS_PER_DAY * summary.gpus)
        case "pue":
            return Number.exact(float(result.run["economics"]["pue"]))
        case "watts_per_gpu":
            return _watts(result)
        case "computing_s":
            return _sum([item.seconds for item in result.breakdown if item.group == "computing"])
        case _:
            return found[name]


def _counted(flops: Number) -> Number:
    """A count with the interval that conventions of counting give it."""
    return number(flops.value, COUNTING, "exact")


def _watts(result: Result) -> Number:
    """Energy of a step before power delivery and cooling, over its GPU-seconds."""
    energy, step = result.energy_j, result.step_time_s
    if energy is None or step is None:
        raise KeyError("watts_per_gpu")
    joules = _sum([getattr(energy, part) for part in type(energy).model_fields])
    return scaled(joules, 1 / step.value / result.summary.gpus / float(result.run["economics"]["pue"]))


def _sum(parts: list[Number]) -> Number:
    """A sum of figures that are wrong together."""
    value, low, high = (sum(getattr(part, end) for part in parts) for end in ("value", "low", "high"))
    return Number(value=value, low=low, high=high, basis=parts[0].basis if parts else "exact")


def scaled(number: Number, factor: float) -> Number:
    """The number and its interval times `factor`."""
    update = {"value": number.value * factor, "low": number.low * factor, "high": number.high * factor}
    return number.model_copy(update=update)


def relative_error(number: Number) -> float:
    """Standard deviation of the logarithm, from the 90 % interval."""
    return log(number.high / number.value) / Z90 if number.high > number.value > 0 else 0.0
