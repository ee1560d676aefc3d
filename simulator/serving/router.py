"""Which replica a request goes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeVar

from simulator.serving.instance import Instance
from simulator.spec.serving import Router

Replica = TypeVar("Replica", bound=Instance)


def router(kind: Router, instances: Sequence[Replica]) -> Callable[[], Replica]:
    """The next one in turn, or the one with the fewest unfinished requests."""
    if kind == "round_robin":
        turns = count()
        return lambda: instances[next(turns) % len(instances)]
    return lambda: min(instances, key=lambda instance: instance.load)
