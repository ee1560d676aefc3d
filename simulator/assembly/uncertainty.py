"""Intervals: how wrong each kind of cost may be, and what that makes of a sum.

Errors of one kind of operator are shared by all its calls and layers, so they add linearly within a kind and in
quadrature between kinds. On top comes the model's own error: what it leaves out of a framework's behaviour, the same
for everything in a step. Intervals are symmetric in the logarithm: value x exp(+-1.645 sigma).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import exp, sqrt

from simulator.cost.machine import Machine
from simulator.cost.measured import DTYPES
from simulator.result import Basis, Number
from simulator.spec.profile import Fit

Z90 = 1.645
# Relative error of what is not an operator: waiting follows from the rest, the host and noise are fitted.
HOST_ERROR, NOISE_ERROR = 0.5, 0.5
MODEL_ERROR = {"dense": 0.045, "moe": 0.085}
"""Standard deviation of log(predicted/measured) beyond operator errors, on quality A of the training table."""
INFERENCE_ERROR = {"dense": 0.09, "moe": 0.17}
"""The same of serving engines, which differ more from each other: workloads/validation/inference.csv, A and B."""
QUEUE_ERROR = 0.4
"""Of a first token that waits for other requests: who waits for whom depends on clients nobody describes."""
SERVING_POWER_ERROR = 0.17
MEMORY_ERROR = 0.05
POWER_ERROR = 0.12
CARBON_ERROR = 0.10
# Strongest last: a figure takes the weakest label that carries at least a tenth of it.
_WEAKNESS: tuple[Basis, ...] = ("datasheet", "transferred", "extrapolated", "interpolated", "measured", "exact")
BASIS_SHARE = 0.10


@lru_cache(maxsize=256)
def item_errors(machine: Machine, precision: str) -> Mapping[str, float]:
    """Relative standard error of each breakdown item on a machine."""
    curves, found = machine.curves, _measured(machine, precision)
    gemm, attention = machine.gemm(precision).curve.relative_error, _attention_error(machine)
    if "gemm" in found:
        gemm = found["gemm"].spread.inside / Z90
    if "attention" in found:
        attention = found["attention"].spread.inside / Z90
    link, network = curves.collective.relative_error, curves.network.relative_error
    return {
        "expert_gemm": sqrt(gemm**2 + curves.grouped.relative_error**2 / 4),
        "ffn_gemm": gemm,
        "attention_projection": gemm,
        "attention_core": attention,
        "logits": gemm,
        "elementwise": curves.memory.relative_error,
        "gather": 2 * curves.memory.relative_error,
        "optimizer": curves.memory.relative_error,
        "all_to_all": network,
        "tensor_parallel": link,
        "expert_tensor_parallel": link,
        "context_parallel": network,
        "send_recv": network,
        "gradient_sync": network,
        "parameter_gather": network,
        "host": HOST_ERROR,
        "noise": NOISE_ERROR,
    }


def combined_error(seconds: Mapping[str, float], errors: Mapping[str, float], model_error: float) -> float:
    """Relative error of a sum of items; what has no error of its own (waiting) scales with the rest."""
    known = {item: value for item, value in seconds.items() if item in errors}
    total = sum(known.values())
    if total <= 0:
        return model_error
    variance = sum((value / total * errors[item]) ** 2 for item, value in known.items())
    return sqrt(variance + model_error**2)


def number(value: float, error: float, basis: Basis) -> Number:
    """A value with its 90 % interval for a relative standard error."""
    factor = exp(Z90 * error)
    return Number(value=value, low=value / factor, high=value * factor, basis=basis)


def limited(value: float, error: float, limit: float) -> Number:
    """Watts that no device exceeds: an interval that ends at the limit."""
    free = number(value, error, "datasheet")
    return free.model_copy(update={"high": min(free.high, max(limit, value))})


_KINDS = {
    **dict.fromkeys(("expert_gemm", "ffn_gemm", "attention_projection", "logits"), "gemm"),
    "attention_core": "attention",
}
"""Items that measured fits may time."""


def _attention_error(machine: Machine) -> float:
    return min(max(curve.relative_error for curve in machine.curves.attention.values()), 0.2)


def _measured(machine: Machine, precision: str) -> dict[str, Fit]:
    """The fits that time GEMMs of a precision and attention, where there are any."""
    if machine.evidence is None:
        return {}
    dtype = DTYPES.get(precision)
    gemm = machine.evidence.find("gemm", dtype, library=machine.library) if dtype else None
    attention = machine.evidence.find("prefill", "bf16", library=machine.library)
    return {kind: found.fit for kind, found in (("gemm", gemm), ("attention", attention)) if found is not None}


def basis_of(machine: Machine, precision: str, seconds: Mapping[str, float]) -> Basis:
    """What a time made of these items rests on: the weakest label that carries at least 10 % of it."""
    shares: dict[Basis, float] = {}
    found = _measured(machine, precision)
    for item, value in seconds.items():
        fit = found.get(_KINDS.get(item, ""))
        label = machine.curves.basis if fit is None else "transferred" if fit.carried_from else "interpolated"
        shares[label] = shares.get(label, 0.0) + value
    return weakest(shares)


def weakest(shares: Mapping[Basis, float]) -> Basis:
    """The weakest label that carries at least 10 % of a figure."""
    total = sum(shares.values())
    for basis in _WEAKNESS:
        if total and shares.get(basis, 0.0) >= BASIS_SHARE * total:
            return basis
    return "exact"
