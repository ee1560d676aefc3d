"""Fits what the host does around kernels: costs of views, modules and the tape, of sequence, and of long steps.

Each is the difference between points measured for it, such as a kernel after others and the same kernel alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.calibration.calls import Call
from simulator.calibration.prices import Curve, HostCosts, MemoryLevels
from simulator.errors import CalibrationError

LARGE, LARGE_ELEMENTS = "large", 2**21
"""The large operand of the host's points and its elements (fp32)."""
NOTHING = 1e-7
"""Seconds below which a kernel has run just before."""


def fit_host(rows: Sequence[tuple[Call, float]], memory: MemoryLevels) -> HostCosts:
    """Host costs from chains and sequences, less what their kernels take alone."""
    host = [call_and_seconds for call_and_seconds in rows if call_and_seconds[0].op == "host"]

    def per_call(kernel: str) -> float:
        found = [seconds / call.shape["calls"] for call, seconds in host if call.kernel == kernel]
        if not found:
            raise CalibrationError(f"no stable point of the host's '{kernel}'")
        return float(np.median(found))

    alone = per_call("chain_inference")
    forward = max(0.0, per_call("chain_forward") - alone)
    # The backward pass of a product with a constant is one product.
    backward = max(0.0, per_call("chain_training") - per_call("chain_forward") - alone)
    return HostCosts(
        view=per_call("view"),
        module=per_call("module"),
        forward_on_tape=forward,
        backward=backward,
        # A product with a parameter has two products in its backward pass.
        leaf=max(0.0, per_call("chain_leaves") - per_call("chain_training") - alone),
        sequence=fit_sequence(rows),
        in_a_row=fit_in_a_row(rows),
        traffic=fit_traffic(rows, memory),
        stretch=fit_stretch(rows, "product"),
        small_stretch=fit_stretch(rows, "small"),
    )


def fit_sequence(rows: Sequence[tuple[Call, float]]) -> Curve:
    """(seconds since a kernel last ran, seconds it pays for that), the mean over kernels that follow a product."""
    alone = {call.kernel: seconds for call, seconds in rows if call.op == "sequence_member"}
    lengths = {call.shape["before"]: seconds for call, seconds in rows if call.op == "sequence_before"}
    costs: dict[float, list[float]] = {}
    for call, seconds in rows:
        if call.op != "sequence_following" or call.kernel == LARGE:
            continue
        if call.kernel in alone and call.shape["before"] in lengths:
            costs.setdefault(lengths[call.shape["before"]], []).append(max(0.0, seconds - alone[call.kernel]))
    if not costs:
        return ((NOTHING, 0.0),)
    # Costs can only grow with time; what noise says against it is levelled.
    found = [(length, float(np.mean(each))) for length, each in sorted(costs.items())]
    rising = np.maximum.accumulate([cost for _, cost in found])
    return ((NOTHING, 0.0), *((length, float(cost)) for (length, _), cost in zip(found, rising, strict=True)))


def fit_in_a_row(rows: Sequence[tuple[Call, float]]) -> float:
    """Seconds a small kernel pays for others that move little: the kernels in a row, less each of them alone."""
    alone = [seconds for call, seconds in rows if call.op == "sequence_member" and call.kernel != LARGE]
    rounds = [
        seconds / call.shape["rounds"]
        for call, seconds in rows
        if call.op == "sequence_stretch" and call.kernel == "small"
    ]
    return max(0.0, min(rounds) - sum(alone)) / len(alone) if rounds and alone else 0.0


def fit_traffic(rows: Sequence[tuple[Call, float]], memory: MemoryLevels) -> float:
    """Bytes per second that explain how much longer a sum over a large operand takes after products."""
    lengths = {call.shape["before"]: seconds for call, seconds in rows if call.op == "sequence_before"}
    alone = [seconds for call, seconds in rows if call.op == "sequence_member" and call.kernel == LARGE]
    found = [
        (lengths[call.shape["before"]], seconds)
        for call, seconds in rows
        if call.op == "sequence_following" and call.kernel == LARGE and call.shape["before"] in lengths
    ]
    if not alone or not found:
        return 0.0
    size = np.array([4.0 * LARGE_ELEMENTS])
    base = memory.seconds(size, size)
    waited, took = np.array(found).T

    def error(traffic: float) -> float:
        guess = [alone[0] + float((memory.seconds(size, size + traffic * t) - base)[0]) for t in waited]
        return float(np.sum(np.log(np.array(guess) / took) ** 2))

    choices: list[float] = [0.0, *np.geomspace(1e8, 1e11, 61).tolist()]
    return min(choices, key=error)


def fit_stretch(rows: Sequence[tuple[Call, float]], kernel: str) -> Curve:
    """(seconds of a step by its parts, factor on it): how stretches of equal rounds grow against one round."""
    chosen = [(c, seconds) for c, seconds in rows if c.op == "sequence_stretch" and c.kernel == kernel]
    times = {call.shape["rounds"]: seconds for call, seconds in chosen}
    if 1.0 not in times:
        return ((NOTHING, 1.0),)
    found = [(rounds * times[1.0], seconds / (rounds * times[1.0])) for rounds, seconds in sorted(times.items())]
    rising = np.maximum.accumulate([factor for _, factor in found])
    return tuple((length, float(factor)) for (length, _), factor in zip(found, rising, strict=True))
