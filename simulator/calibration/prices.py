"""What operator calls cost on a measured device: seconds of each, and of a whole eager step.

Within a family of calls, t = t0 + [(sum c_j w_j)^p + (sum e_l M_l)^p]^(1/p): the terms w_j count work (products,
rows, elements), M_l is the time memory level l adds for the bytes the call touches, by their reuse distances. Where
many points were measured, a residual interpolated between them (inverse distance in log2 of the shape) multiplies it
and fades outside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from simulator.calibration.calls import Call
from simulator.errors import CalibrationError, SpecError
from simulator.spec.base import Spec, read_document, validate

Array = NDArray[np.float64]

KNEE_WIDTH = 0.7
"""Octaves over which a cache level gives way to the next: replacement is not ideal."""
FADE_OCTAVES = 1.0
"""Distance from the nearest measured point beyond which the residual fades."""
NEAR = 0.15
"""Squared octaves added to distances, so that one point does not decide alone."""
PARTIAL_SORT = 64
"""Columns per kept element from which torch's CPU kernel sorts a part (aten/src/ATen/native/TopKImpl.h)."""


class MemoryLevels(Spec):
    """Seconds per byte of each cache level, and the reuse distances at which one gives way to the next."""

    seconds_per_byte: tuple[float, ...]
    knees: tuple[float, ...]

    def levels(self, sizes: Array, reuse: Array) -> Array:
        """Seconds memory needs for `sizes` bytes last used `reuse` bytes ago, a column a level.

        The first column is what the nearest cache would need, each further one what its level adds to that.
        """
        rates = np.asarray(self.seconds_per_byte)
        beyond = [self.beyond(level, reuse) for level in range(len(self.knees))]
        return np.array(
            [sizes * rates[0], *(sizes * step * share for step, share in zip(np.diff(rates), beyond, strict=True))]
        ).T

    def beyond(self, level: int, reuse: Array) -> Array:
        """The share of what was last used `reuse` bytes ago that a cache level no longer holds."""
        return np.asarray(
            1 / (1 + np.exp(-(np.log2(np.maximum(reuse, 1.0)) - log2(self.knees[level])) / KNEE_WIDTH * 2))
        )

    def seconds(self, sizes: Array, reuse: Array) -> Array:
        """The same, all levels together."""
        return np.asarray(self.levels(sizes, reuse).sum(axis=1))


class Family(Spec):
    """The fitted cost of calls that run the same code."""

    parameters: dict[str, float]
    """t0 in seconds; p; e_0, e_1, ... per memory level; and c_* in seconds per unit of each term."""
    low: dict[str, float]
    high: dict[str, float]
    """Smallest and largest measured value of each shape column."""
    anchors: tuple[tuple[float, ...], ...] = ()
    """Measured points of the residual: log2 coordinates, then the residual's logarithm."""
    shrink: float = 0.0
    relative_error: float
    """Standard deviation of the logarithm of predicted over measured, points held out."""
    points: int


Curve = tuple[tuple[float, float], ...]
"""Points of a curve over seconds, in ascending order; between them it runs straight over the logarithm of time."""


def along(curve: Curve, seconds: Array | float) -> Array:
    """The curve's values; beyond its ends those of its ends."""
    x, y = np.array(curve).T
    return np.asarray(np.interp(np.log(np.maximum(seconds, 1e-12)), np.log(x), y))


class HostCosts(Spec):
    """What the host does around calls, seconds each."""

    view: float
    module: float
    forward_on_tape: float
    """Added to an operator whose backward pass will be wanted."""
    backward: float
    """Added to an operator of a backward pass."""
    leaf: float = 0.0
    """Added for a parameter whose gradient is stored and cleared again."""
    sequence: Curve
    """Added to a call, by seconds since its kernel last ran: code and branches must be found again."""
    in_a_row: float = 0.0
    """Added instead where so little was moved meanwhile that the nearest caches still hold them."""
    traffic: float = 0.0
    """Bytes per second that others move through the shared cache: operands last used long ago are gone sooner."""
    stretch: Curve
    """Factor on long calls, by the seconds of the step: a shared machine has no quiet window for a long step."""
    small_stretch: Curve = ((1e-7, 1.0),)
    """The same for short calls and the host's own work."""


class Saturating(Spec):
    """A collective of one group size, or a copy: t = (a^q + (S/b)^q)^(1/q) for S bytes."""

    a: float
    b: float
    q: float
    relative_error: float
    points: int

    def seconds(self, size: float) -> float:
        """Seconds for a buffer of `size` bytes."""
        larger, smaller = max(self.a, size / self.b), min(self.a, size / self.b)
        return float(larger * (1 + (smaller / larger) ** self.q) ** (1 / self.q))


class Prices(Spec):
    """Everything fitted from one device's measured table."""

    device: str
    dtype: str
    library: str
    version: str
    date: str
    statistic: Literal["minimum", "median"]
    """The quantile of the time that is predicted."""
    memory: MemoryLevels
    families: dict[str, Family]
    host: HostCosts
    links: dict[str, Saturating] = Field(default_factory=dict)
    """By operation, kernel and group size, such as `all_to_all gloo 2` or `transfer host_to_device 1`."""


def family_of(call: Call) -> str:
    """The family a call belongs to: its kernel, split where a library changes the code by shape."""
    s = call.shape
    match call.op:
        case "gemm":
            return "gemm row" if s["m"] == 1 else "gemm few rows" if s["m"] <= 32 and call.kernel == "nt" else "gemm"
        case "batched_gemm":
            vector = "row" if s["m"] == 1 else "column" if s["n"] == 1 else ""
            return f"batched {vector} {call.kernel}" if vector else "batched gemm"
        case "attention":
            return "decode attention" if s["queries"] == 1 else "attention"
        case "top_k" if call.kernel == "topk_of_sums":
            return "top k of sums"
        case "top_k":  # torch sorts a part where k is small, and selects else
            return "top k of many" if s["columns"] >= PARTIAL_SORT * s["k"] else "top k"
        case "attention_backward" | "gather" | "pick" | "fill":
            return call.op.replace("_", " ")
        case _:
            return f"{call.op} {call.kernel}"


def terms_of(call: Call) -> dict[str, float]:
    """The units of work of a call, by name."""
    s = call.shape
    match call.op:
        case "gemm":
            m, n, k = s["m"], s["n"], s["k"]
            return {"mnk": m * n * k, "mn": m * n, "mk": m * k, "nk": n * k}
        case "batched_gemm" | "grouped_gemm":
            g, m, n, k = s["groups"], s["m"], s["n"], s["k"]
            rows = g if call.op == "batched_gemm" else 1.0
            return {"g": g, "mnk": rows * m * n * k, "mn": rows * m * n, "mk": rows * m * k, "nk": g * n * k}
        case "attention" | "attention_backward":
            heads, pairs = s["batch"] * s["heads"], s["queries"] * s["keys"] * (0.5 if s["causal"] else 1.0)
            return {
                "heads": heads,
                "rows": heads * s["queries"],
                "pairs": heads * pairs,
                "mac": heads * pairs * s["head_dim"],
            }
        case "elementwise":
            return {"elements": s["elements"], "runs": s["rows"] - 1}
        case "fill":
            return {"elements": s["elements"]}
        case "optimizer":
            return {"tensors": s["tensors"], "elements": s["elements"]}
        case "gather":
            return {"rows": s["rows"], "elements": s["rows"] * s["columns"]}
        case "scatter":
            table = s["table"] * s["columns"] if call.kernel == "embedding_backward" else 0.0
            return {"rows": s["rows"], "elements": s["rows"] * s["columns"], "table": table}
        case "top_k":
            rows, columns, k = s["rows"], s["columns"], s["k"]
            return {
                "rows": rows,
                "scores": rows * columns,
                "kept": rows * k * log2(1 + k),
                "moves": rows * columns * log2(1 + k),
            }
        case "pick":
            return {"rows": s["rows"], "places": s["rows"] * s["k"]}
        case "sort":
            return {"elements": s["elements"], "compares": s["elements"] * log2(1 + s["elements"])}
        case _:
            return {"rows": s["rows"], "columns": s["columns"], "elements": s["rows"] * s["columns"]}


@dataclass(frozen=True)
class Features:
    """Arrays over calls of one family: terms, memory seconds and coordinates of the residual."""

    terms: Mapping[str, Array]
    memory: Array
    """Seconds by call and memory level."""
    coordinates: Array


_LAYOUTS = {"nt": 0.0, "nn": 2.0, "tn": 4.0, "tt": 6.0}


def features_of(calls: Sequence[Call], memory: MemoryLevels) -> Features:
    """The arrays a family's formula needs."""
    rows = [terms_of(call) for call in calls]
    terms = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    sizes = np.array([touch.bytes for call in calls for touch in call.touches])
    reuse = np.array([touch.reuse for call in calls for touch in call.touches])
    owner = np.repeat(np.arange(len(calls)), [len(call.touches) for call in calls])
    levels = memory.levels(sizes, reuse).reshape(-1, len(memory.seconds_per_byte))
    seconds = np.array([np.bincount(owner, column, minlength=len(calls)) for column in levels.T]).T
    far = np.bincount(owner, sizes * np.log2(np.maximum(reuse, 1.0)), minlength=len(calls))
    level = far / np.maximum(np.bincount(owner, sizes, minlength=len(calls)), 1.0)
    shapes = [[log2(max(v, 1.0)) for v in call.shape.values()] for call in calls]
    last = [[min(level[i], 32.0) / 4, _LAYOUTS.get(call.kernel, 0.0)] for i, call in enumerate(calls)]
    return Features(terms, seconds, np.array([a + b for a, b in zip(shapes, last, strict=True)]))


def physics(parameters: Mapping[str, float], features: Features) -> Array:
    """Seconds before the residual."""
    work = np.zeros(len(features.memory))
    for name, values in features.terms.items():
        work += parameters[f"c_{name}"] * values
    memory = features.memory @ [parameters[f"e_{level}"] for level in range(features.memory.shape[1])]
    p = parameters["p"]
    both: Array = (work**p + memory**p) ** (1 / p)
    return parameters["t0"] + both


def residual(points: Array, values: Array, shrink: float, at: Array) -> Array:
    """Logarithms of the residual interpolated between measured points, shrunk, and faded with distance."""
    out = np.zeros(len(at))
    for i, place in enumerate(at):
        squared = ((points - place) ** 2).sum(axis=1)
        weight = 1 / (squared + NEAR) ** 2
        fade = np.exp(-max(0.0, float(np.sqrt(squared.min())) - FADE_OCTAVES))
        out[i] = fade * (weight @ values) / (weight.sum() + shrink)
    return out


def call_seconds(prices: Prices, calls: Sequence[Call]) -> Array:
    """Seconds of each call, undisturbed. Raises CalibrationError where a family was not measured."""
    seconds = np.zeros(len(calls))
    by_family: dict[str, list[int]] = {}
    for i, call in enumerate(calls):
        by_family.setdefault(family_of(call), []).append(i)
    for name, places in by_family.items():
        if name not in prices.families:
            raise CalibrationError(f"the profile of {prices.device} has no measured '{name}'")
        family = prices.families[name]
        features = features_of([calls[i] for i in places], prices.memory)
        found = physics(family.parameters, features)
        if family.anchors:
            table = np.array(family.anchors)
            found = found * np.exp(residual(table[:, :-1], table[:, -1], family.shrink, features.coordinates))
        seconds[places] = found
    return seconds


def write_prices(prices: Prices, file: Path) -> None:
    """Write the file by renaming a finished one into its place. Raises CalibrationError where that can't be."""
    data = prices.model_dump(mode="json")
    # JSON is YAML: one line a family keeps a file of hundreds of fitted numbers readable.
    lines = ["# Written by `moesim calibrate`; not meant for editing."]
    for key, value in data.items():
        if key == "families" and value:
            lines.append("families:")
            lines += [f"  {json.dumps(name)}: {json.dumps(family)}" for name, family in value.items()]
        else:
            lines.append(f"{key}: {json.dumps(value)}")
    scratch = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text("\n".join(lines) + "\n", encoding="utf-8")
        scratch.replace(file)
    except OSError as error:
        raise CalibrationError(f"{file}: can't write here: {error.strerror}") from None
    finally:
        scratch.unlink(missing_ok=True)


def read_prices(file: Path) -> Prices:
    """The prices in a file. Raises CalibrationError where it is damaged or no prices file."""
    try:
        return validate(Prices, read_document(file))
    except SpecError as error:
        raise CalibrationError(f"not a whole prices file: {error}") from None
