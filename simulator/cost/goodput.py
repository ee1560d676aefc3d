"""Goodput: the share of a long training's time that moves it forward, between failures, checkpoints and restarts.

Failures come at random (exponential) with a mean time M between them; after each the job restarts in R and repeats
what it did since its last checkpoint. With a checkpoint of d after every t of work, the expected time for work T is

    M e^(R/M) (e^((t+d)/M) - 1) T/t        (J. Daly, Future Generation Computer Systems 22 (2006) 303)

which is least for t = M (1 + W(-e^(-1-d/M))); the first approximation of that is Young's sqrt(2 d M) (Communications of
the ACM 17 (1974) 530).
"""

from __future__ import annotations

from math import exp, expm1, sqrt

from simulator.errors import InfeasibleError
from simulator.spec.workload import Reliability


def mean_time_between_failures(reliability: Reliability, gpus: int) -> float:
    """Seconds between failures of a job on `gpus` GPUs, any of which stops it."""
    return reliability.gpu_mtbf / gpus


def checkpoint_interval(reliability: Reliability, gpus: int) -> float:
    """Seconds of work between checkpoints: the stated one, else the one that loses least."""
    if reliability.checkpoint_interval is not None:
        return reliability.checkpoint_interval
    return best_interval(reliability.checkpoint_time, mean_time_between_failures(reliability, gpus))


def goodput(reliability: Reliability, gpus: int) -> float:
    """Work over expected time, between 0 and 1. Raises InfeasibleError where no segment is ever finished."""
    between = mean_time_between_failures(reliability, gpus)
    work = checkpoint_interval(reliability, gpus)
    if not work:
        return exp(-reliability.restart_time / between)
    exponent = (work + reliability.checkpoint_time) / between
    if exponent > MAX_EXPONENT:
        raise InfeasibleError(
            f"a failure every {between:.3g} s leaves no time to work {work:.3g} s and save it", path="reliability"
        )
    return work / between * exp(-reliability.restart_time / between) / expm1(exponent)


MAX_EXPONENT = 50.0
"""A segment this many times as long as the time between failures never ends."""


def best_interval(checkpoint: float, between: float) -> float:
    """Seconds of work between checkpoints of `checkpoint` seconds that make the expected time least.

    x = t/M solves (1 - x) e^x = e^(-d/M); found by Newton's method from Young's approximation.
    """
    if not checkpoint:
        return 0.0
    delay = checkpoint / between
    x = min(0.9, sqrt(2 * delay))
    for _ in range(NEWTON_STEPS):
        x -= (exp(-x - delay) - 1 + x) / (1 - exp(-x - delay))
    return x * between


NEWTON_STEPS = 50
