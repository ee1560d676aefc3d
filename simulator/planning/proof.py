"""What is proved of the points that a search of a part of the space left out.

No split of a combination can beat its bound (`planning.bounds`), so that none of those left out can beat the least of
their bounds. Combinations that differ only in what no bound looks at have one bound, found once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from math import inf, isfinite, prod

from simulator.answer import HIGHER_IS_BETTER, Proof
from simulator.errors import SpecError
from simulator.planning.bounds import breaks_a_bound, least
from simulator.planning.guided import Place
from simulator.planning.space import Combinations
from simulator.spec.plan import Plan

MOST_BOUNDS = 200_000
"""Combinations of what bounds look at, beyond which nothing is proved."""
# What the bounds of a run follow from: blocks that are validated on their own, and fields of others.
_BLOCKS = ("hardware", "model", "economics")
_FIELDS = (
    "training", "training.tokens", "training.precision", "training.seq_len", "training.global_batch",
    "routing", "routing.capacity_factor",
)  # fmt: skip


def prove(plan: Plan, key: str, tried: Iterable[Place]) -> Proof:
    """What no combination outside `tried` can beat in the figure `key`."""
    combinations, seen = Combinations(plan), set(tried)
    axes = [axis for axis, path in enumerate(plan.axes) if path in _FIELDS or path.partition(".")[0] in _BLOCKS]
    left, groups = combinations.count - len(seen), prod(combinations.sizes[axis] for axis in axes)
    if groups > MOST_BOUNDS:
        return Proof(combinations.count, left, None)
    behind = combinations.count // groups
    counts = Counter(tuple(place[axis] for axis in axes) for place in seen)
    bound = inf
    for group in itertools.product(*(range(combinations.sizes[axis]) for axis in axes)):
        if counts[group] < behind:
            least_of_group = _bound(plan, combinations, dict(zip(axes, group, strict=True)), key)
            if least_of_group is None:
                return Proof(combinations.count, left, None)
            bound = min(bound, least_of_group)
    sign = -1.0 if key in HIGHER_IS_BETTER and isfinite(bound) else 1.0
    return Proof(combinations.count, left, sign * bound)


def _bound(plan: Plan, combinations: Combinations, numbers: dict[int, int], key: str) -> float | None:
    """The bound of all combinations with these numbers on some axes; infinite where none can keep the limits."""
    run = combinations.run(tuple(numbers.get(axis, 0) for axis in range(len(combinations.sizes))))
    if isinstance(run, SpecError):  # due to these axes alone only where a block holds no other
        return inf if (run.path or "").partition(".")[0] in _BLOCKS else None
    return inf if breaks_a_bound(run, plan) else least(run, key)
