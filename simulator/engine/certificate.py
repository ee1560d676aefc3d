"""The certificate: when a play without sharing is exactly what the event engine would give.

Max-min fair sharing gives every transfer its cap as long as no link is asked for more than it carries. So if in the
undisturbed play (a longest path) no link ever is, then by induction over its events sharing changes nothing. This
looks at the transfers one by one; what the fast engine says of a graph by its structure alone is coarser, and free.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulator.engine.streams import Alone


def overloaded(alone: Alone, capacity: Sequence[float]) -> int | None:
    """The link that is first asked for more than it carries; None certifies the play."""
    steps: list[tuple[float, int, int, float]] = []
    for start, end, transfer in alone.transfers:
        for link, load in transfer.loads:
            steps.append((start, 1, link, load * transfer.cap))
            steps.append((end, 0, link, -load * transfer.cap))
    steps.sort(key=lambda step: step[:2])  # what ends makes room for what starts at the same time
    loads = [0.0] * len(capacity)
    for _, _, link, rate in steps:
        loads[link] += rate
        if loads[link] > capacity[link] * (1 + ROUNDING):
            return link
    return None


ROUNDING = 1e-9
"""Relative excess of a link's load that sums of floats can have."""
