"""GEMM times from a calibrated profile, where a run names one and the profile covers the shape's precision.

Profiles hold kernels timed alone at burst clocks; the power limit bends their peak as it bends the priors'. Plain
GEMMs in 16 bits are taken from the profile: low-precision ones were timed together with the quantisation that a
training recipe does elsewhere, grouped ones on inference shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.cost.compute import Array, gemm_seconds
from simulator.cost.machine import Machine
from simulator.graph.operator import Gemm, WeightGrad
from simulator.spec.profile import Fit

WIDE = frozenset({"bf16", "fp16"})
PROFILE_DTYPE = "bf16"


def profiled_gemm_seconds(works: Sequence[tuple[Machine, Gemm | WeightGrad]]) -> Array:
    """Seconds of GEMMs: from the machine's profile where it has one that covers them, else from the curves."""
    seconds = gemm_seconds(works)
    chosen: dict[int, list[int]] = {}
    for place, (machine, work) in enumerate(works):
        if gemm_fit(machine, work) is not None:
            chosen.setdefault(id(machine), []).append(place)
    for places in chosen.values():
        machine = works[places[0]][0]
        assert machine.profile is not None
        m, n, k = np.array([_shape(works[place][1]) for place in places], dtype=np.float64).T
        limit = machine.power_limit(PROFILE_DTYPE)
        seconds[places] = machine.profile.gemm_seconds(PROFILE_DTYPE, m, n, k, rate_limit=limit).seconds
    return seconds


def gemm_fit(machine: Machine, work: object) -> Fit | None:
    """The profile's fit that times this GEMM; None where the curves do."""
    if machine.profile is None or not isinstance(work, Gemm | WeightGrad):
        return None
    if work.precision not in WIDE or work.grouped or work.groups > 1:
        return None
    fits = machine.profile.find("gemm", PROFILE_DTYPE)
    return fits[0] if fits else None


def _shape(work: Gemm | WeightGrad) -> tuple[float, float, float]:
    """(rows, columns, depth) of the product."""
    return (work.m, work.n, work.k) if isinstance(work, Gemm) else (work.n, work.k, work.m)
