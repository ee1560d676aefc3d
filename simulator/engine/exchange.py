"""Many transfers on a fabric at once: how long until the last has arrived, with links shared max-min fairly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.engine.fabric import Fabric, Routes
from simulator.engine.flows import SLACK

Array = NDArray[np.float64]


def max_min_rates(routes: Routes, capacity: Array, flows: int) -> Array:
    """Bytes/s of each of `flows` transfers, by progressive filling; transfers without links are infinitely fast."""
    pair, link = routes
    rates = np.full(flows, np.inf)
    room = capacity.astype(np.float64)
    while pair.size:
        wanted = np.bincount(link, minlength=room.size)
        share = np.full(room.size, np.inf)
        np.divide(room, wanted, out=share, where=wanted > 0)
        level = share.min()
        frozen = np.zeros(flows, dtype=bool)
        frozen[pair[share[link] <= level * (1 + SLACK)]] = True
        rates[frozen] = level
        gone = frozen[pair]
        room -= level * np.bincount(link[gone], minlength=room.size)
        pair, link = pair[~gone], link[~gone]
    return rates


def exchange_seconds(fabric: Fabric, traffic: Array) -> float:
    """Seconds until every GPU has what the others send it; traffic[i, j] are bytes from GPU i to GPU j, all sent at
    once."""
    sources, targets = np.nonzero(traffic)
    left = traffic[sources, targets].astype(np.float64)
    remote = sources != targets
    sources, targets, left = sources[remote], targets[remote], left[remote]
    routes = fabric.routes(sources, targets)
    seconds = 0.0
    while left.size:
        rates = max_min_rates(routes, fabric.capacity, left.size)
        ends = left / rates
        step = ends.min()
        seconds += float(step)
        going = ends > step * (1 + ROUNDING)
        left = (left - rates * step)[going]
        kept = going[routes.pair]
        routes = Routes((np.cumsum(going) - 1)[routes.pair[kept]], routes.link[kept])
    return seconds


ROUNDING = 1e-9
"""Transfers that end this close together, relatively, end together."""
