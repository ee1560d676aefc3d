"""How full links were over time: what an event play carried, laid on equal columns of time.

A transfer counts evenly over the time it took. Its rate is a step up and a step down on each of its links; the bytes
until any moment are a sum of ramps, which two running sums over all steps give at every edge of a column at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.engine.folding import FoldedLink
from simulator.engine.streams import Carried, Played

COLUMNS = 240
"""Of a step: as many as a report draws."""


@dataclass(frozen=True, slots=True)
class LinkUse:
    """What a link carried in one step, how long it was asked for more than it carries, and how full it was in each
    column of time."""

    link: FoldedLink
    bytes: float
    full_seconds: float
    load: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Clash:
    """Transfers, by name and stream, that asked a link for more than it carries: for how long, and how many seconds
    later they got done, all together."""

    link: FoldedLink
    transfers: tuple[tuple[str, str], ...]
    seconds: float
    delay: float


def link_uses(links: Sequence[FoldedLink], played: Played, duration: float) -> tuple[LinkUse, ...]:
    """What every link of a play carried until `duration`."""
    loads = link_loads(played.carried, [link.bandwidth for link in links], duration)
    rows = zip(links, played.full_seconds, loads.tolist(), strict=True)
    return tuple(
        [
            LinkUse(link, sum(load) / COLUMNS * duration * link.bandwidth, min(full, duration), tuple(load))
            for link, full, load in rows
        ]
    )


def clashes(links: Sequence[FoldedLink], played: Played) -> tuple[Clash, ...]:
    """Who held up whom, the greatest delay first."""
    found = [Clash(links[who.link], who.transfers, *cost) for who, cost in played.meetings.items()]
    return tuple(sorted(found, key=lambda clash: (-clash.delay, clash.link.name, clash.transfers)))


def link_loads(
    carried: Sequence[Carried], capacity: Sequence[float], duration: float, columns: int = COLUMNS
) -> NDArray[np.float64]:
    """Share of its bandwidth that each link carried in each column of a play: an array (links, columns)."""
    places: list[int] = []
    times: list[float] = []
    slopes: list[float] = []
    for start, end, transfer, _ in carried:
        for link, load in transfer.loads:
            slope = transfer.bytes * load / (end - start) if end > start else 0.0
            places += (link, link)
            times += (start, end)
            slopes += (slope, -slope)
    width, edges = duration / columns, columns + 1
    if not places or not width:
        return np.zeros((len(capacity), columns))
    moment, slope_of = np.minimum(times, duration), np.array(slopes)
    edge = np.minimum(np.ceil(moment / width).astype(np.int64), columns)
    cell = np.array(places) * edges + edge
    shape = (len(capacity), edges)
    rates = np.bincount(cell, slope_of, minlength=shape[0] * edges).reshape(shape).cumsum(axis=1)
    offsets = np.bincount(cell, slope_of * moment, minlength=shape[0] * edges).reshape(shape).cumsum(axis=1)
    moved = rates * (np.arange(edges) * width) - offsets
    shares: NDArray[np.float64] = np.diff(moved, axis=1) / width / np.array(capacity)[:, None]
    return shares.clip(0.0)
