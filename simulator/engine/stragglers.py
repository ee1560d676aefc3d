"""Which stage is held up by slow GPUs, and by how much: the expected step of a pipeline whose ranks are drawn.

The slowest rank may sit in any stage of any replica, and what it costs depends on where: in the last stage of a short
pipeline all of it, in the first one little. Let T_s(x) be the step with stage s at x times its compute and all others
at the slowest of the ranks that they wait for in every layer. T_s is taken as linear between there and a slow GPU. The
slowest of n ranks of a stage is below x with probability F(x)^n, so that the step, the longest of all stages' draws, is
below t with the product of F(x_s(t))^n over the stages, and its expectation an integral of one less that. A stage is
then given the slowdown with which the step takes this expected time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.cost.annotation import CostedGraph
from simulator.cost.conditions import Condition, impair
from simulator.cost.stragglers import share_below, slow_time
from simulator.engine.fast import execute_many
from simulator.spec.faults import Stragglers

STEPS = 400
"""Of the integral."""
BEYOND = 3.0
"""A log-normal's expected slowest GPU is exceeded, but hardly ever by this many times what it adds."""


def place_slowest(
    costed: CostedGraph, conditions: Sequence[Condition], stragglers: Stragglers
) -> tuple[Condition, ...]:
    """The conditions with one stage slowed until the step takes the time that is expected of stragglers."""
    gpus, stages = costed.machine.hardware.gpus, len(conditions)
    slow = slow_time(stragglers, gpus)
    tried = [tuple(conditions)] + [_slowed(conditions, stage, slow) for stage in range(stages)]
    timelines = execute_many([(impair(costed, one), gpus) for one in tried])
    base, *others = [timeline.duration - timeline.noise for timeline in timelines]
    effects = [
        _Effect(condition.slowdown, (seconds - base) / (slow - condition.slowdown))
        for condition, seconds in zip(conditions, others, strict=True)
        if slow > condition.slowdown
    ]
    worst = max(range(stages), key=others.__getitem__)
    if others[worst] <= base:
        return tuple(conditions)
    reach = (others[worst] - base) * (BEYOND if stragglers.slowdown is None else 1.0)
    expected = _expected(effects, stragglers, gpus // stages, reach)
    share = expected / (others[worst] - base)
    slowdown = conditions[worst].slowdown
    return _slowed(conditions, worst, slowdown + (slow - slowdown) * share)


@dataclass(frozen=True, slots=True)
class _Effect:
    """Seconds that a step takes longer for a unit by which a stage computes slower than `start`."""

    start: float
    slope: float


def _expected(effects: Sequence[_Effect], stragglers: Stragglers, ranks: int, reach: float) -> float:
    """Expected seconds that stragglers add to a step, at most `reach`."""
    width, total = reach / STEPS, 0.0
    for i in range(STEPS):
        later, below = (i + 0.5) * width, 1.0
        for effect in effects:
            if effect.slope > 0:
                below *= share_below(stragglers, effect.start + later / effect.slope) ** ranks
        total += (1 - below) * width
    return total


def _slowed(conditions: Sequence[Condition], stage: int, slowdown: float) -> tuple[Condition, ...]:
    at = conditions[stage]
    changed = at._replace(slowdown=max(at.slowdown, slowdown))
    return (*conditions[:stage], changed, *conditions[stage + 1 :])
