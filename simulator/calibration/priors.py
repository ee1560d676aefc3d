"""What is known of each form's parameters before a device is measured: log-normal priors within hard bounds.

Means and deviations are those seen over the fitted GPUs of three generations (docs/calibration.md); they keep a dozen
points from running away and matter little once there are hundreds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from simulator.spec.forms import COLLECTIVES


class Prior(NamedTuple):
    """Median, standard deviation of the logarithm, hard bounds."""

    median: float
    deviation: float
    low: float
    high: float


_GEMM = {
    "ec": Prior(0.75, 0.10, 0.05, 0.95),
    "em": Prior(0.85, 0.10, 0.05, 1.05),
    "t0_us": Prior(3.0, 0.35, 0.3, 60.0),
    "p": Prior(2.5, 0.25, 0.6, 8.0),
    "tk_us": Prior(0.8, 0.5, 0.01, 20.0),
    "w": Prior(0.1, 1.0, 1e-3, 1.0),
}
_QUANTISATION = {"tq_us": Prior(2.5, 0.4, 0.01, 30.0), "eq": Prior(0.4, 0.4, 0.02, 2.0)}
_MOE = {
    "ec": Prior(0.6, 0.25, 0.02, 0.95),
    "em": Prior(0.85, 0.15, 0.05, 1.1),
    "t0_us": Prior(20.0, 0.6, 0.5, 200.0),
    "p": Prior(2.0, 0.3, 0.7, 8.0),
    "ti": Prior(1.0, 0.6, 0.01, 20.0),
    "tg": Prior(1.0, 0.8, 1e-3, 20.0),
    "tm_us": Prior(0.8, 0.8, 1e-3, 50.0),
    "u": Prior(1.0, 0.5, 0.1, 10.0),
    "us": Prior(0.15, 0.6, 1e-3, 0.8),
    "m0": Prior(32.0, 0.7, 1.0, 256.0),
    "b": Prior(0.35, 0.3, 0.01, 1.0),
    "c": Prior(0.01, 1.5, 1e-4, 1.0),
}
_PREFILL = {
    "ec": Prior(0.6, 0.3, 0.02, 0.98),
    "em": Prior(0.8, 0.2, 0.05, 1.1),
    "t0_us": Prior(6.0, 0.5, 0.5, 100.0),
    "tb_us": Prior(0.05, 1.0, 1e-4, 5.0),
    "p": Prior(2.0, 0.4, 0.7, 8.0),
    "s0": Prior(400.0, 0.7, 1.0, 5000.0),
    "h0": Prior(24.0, 0.7, 1.0, 200.0),
    "w": Prior(0.3, 1.0, 1e-3, 1.0),
}
_DECODE = {
    "ec": Prior(0.1, 0.8, 1e-3, 0.9),
    "em": Prior(0.8, 0.15, 0.05, 1.1),
    "t0_us": Prior(5.0, 0.5, 0.5, 100.0),
    "tb_us": Prior(0.02, 1.0, 1e-5, 5.0),
    "ts_us": Prior(0.4, 0.7, 1e-3, 10.0),
    "p": Prior(2.0, 0.4, 0.6, 8.0),
}
_COLLECTIVE = {
    "a_us": Prior(10.0, 0.7, 0.5, 500.0),
    "b": Prior(0.7, 0.25, 0.02, 1.1),
    "q": Prior(0.6, 0.4, 0.25, 6.0),
}
_EXCHANGE = {"a_us": Prior(25.0, 0.7, 1.0, 500.0), "e": Prior(0.7, 0.4, 0.05, 1.2)}
_COPIES = {"copies": Prior(1.0, 1e-9, 1.0 - 1e-6, 1.0 + 1e-6)}
_PER_SM = {"r_gb": Prior(20.0, 0.7, 0.5, 500.0)}
_CROSSING = {
    "an_us": Prior(8.0, 0.8, 0.1, 200.0),
    "en": Prior(0.85, 0.2, 0.05, 1.2),
    "p": Prior(4.0, 0.5, 1.0, 16.0),
}
_CROSSING_PER_SM = {"rn_gb": Prior(2.5, 0.7, 0.05, 100.0)}
_MEMORY = {"t0_us": Prior(2.0, 0.7, 0.05, 100.0), "em": Prior(0.7, 0.3, 0.02, 1.3)}


def priors(
    op: str, *, quantised: bool = False, copies: bool = False, crosses: bool = False, counts_sms: bool = False
) -> Mapping[str, Prior]:
    """Priors of an operation's parameters. The flags say what the measured kernel does: quantise its rows; send a copy
    an expert; cross nodes; take a number of SMs."""
    match op:
        case "gemm":
            return {**_GEMM, **_QUANTISATION} if quantised else _GEMM
        case "moe":
            return _MOE
        case "prefill" | "mla_prefill":
            return _PREFILL
        case "decode" | "mla_decode":
            return _DECODE
        case "dispatch" | "combine":
            found = {**_EXCHANGE, **(_COPIES if copies else {}), **(_PER_SM if counts_sms else {})}
            if crosses:
                found |= {**_CROSSING, **(_CROSSING_PER_SM if counts_sms else {})}
            return found
        case "memory":
            return _MEMORY
        case _ if op in COLLECTIVES:
            return _COLLECTIVE
        case _:
            raise AssertionError(f"no priors for {op}")
