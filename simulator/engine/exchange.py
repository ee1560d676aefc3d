"""Many transfers on a fabric at once: how long until the last has arrived, with links shared max-min fairly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.engine.fabric import Fabric, Indices, Routes
from simulator.engine.flows import SLACK
from simulator.errors import InfeasibleError, SpecError

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
    once.

    Raises SpecError for a matrix that is not one of this fabric, InfeasibleError where a link on the way has failed.
    """
    gpus = fabric.hardware.gpus
    if traffic.shape != (gpus, gpus):
        shape = " x ".join(map(str, traffic.shape))
        raise SpecError(f"traffic is a matrix of {shape}; this fabric has {gpus} GPUs and needs {gpus} x {gpus}")
    sources, targets = np.nonzero(traffic)
    return transfers_seconds(fabric, sources, targets, traffic[sources, targets])


def transfers_seconds(fabric: Fabric, sources: Indices, targets: Indices, size: Array) -> float:
    """Seconds until all transfers have arrived: size[i] bytes from GPU sources[i] to GPU targets[i], all sent at once.

    Played from one end of a transfer to the next. Where that would take too long, because thousands end one by one, the
    hottest link times the rest: no sharing is faster, and max-min fair sharing was as fast on all random traffic tried.
    """
    remote = sources != targets
    sources, targets, left = sources[remote], targets[remote], size[remote].astype(np.float64)
    _check(fabric, sources, targets, left)
    routes = fabric.routes(sources, targets)
    _check_links(fabric, routes, sources, targets)
    seconds, rounds = 0.0, max(1, MOST_ENDS // max(1, left.size))
    while left.size and rounds:
        rates = max_min_rates(routes, fabric.capacity, left.size)
        ends = left / rates
        step = ends.min()
        seconds += float(step)
        going = ends > step * (1 + ROUNDING)
        left = (left - rates * step)[going]
        kept = going[routes.pair]
        routes = Routes((np.cumsum(going) - 1)[routes.pair[kept]], routes.link[kept])
        rounds -= 1
    return seconds + hottest_seconds(fabric, routes, left)


def hottest_seconds(fabric: Fabric, routes: Routes, size: Array) -> float:
    """Seconds that the hottest link needs for all that passes it: no sharing of links is done sooner."""
    load = np.zeros_like(fabric.capacity)
    np.add.at(load, routes.link, size[routes.pair])
    return float((load[load > 0] / fabric.capacity[load > 0]).max(initial=0.0))


def _check(fabric: Fabric, sources: Indices, targets: Indices, size: Array) -> None:
    gpus = fabric.hardware.gpus
    for gpu in (sources, targets):
        outside = gpu[(gpu < 0) | (gpu >= gpus)]
        if outside.size:
            raise SpecError(f"GPU {outside[0]} is not in this fabric, whose {gpus} GPUs are numbered from 0")
    wrong = np.flatnonzero(~(np.isfinite(size) & (size >= 0)))
    if wrong.size:
        first = wrong[0]
        raise SpecError(f"GPU {sources[first]} can't send {size[first]:g} bytes to GPU {targets[first]}")


def _check_links(fabric: Fabric, routes: Routes, sources: Indices, targets: Indices) -> None:
    dead = np.flatnonzero(~(fabric.capacity[routes.link] > 0))
    if dead.size:
        pair, link = routes.pair[dead[0]], routes.link[dead[0]]
        raise InfeasibleError(
            f"nothing gets from GPU {sources[pair]} to GPU {targets[pair]}: {fabric.names[link]} carries "
            f"{fabric.capacity[link]:g} B/s"
        )


ROUNDING = 1e-9
"""Transfers that end this close together, relatively, end together."""
MOST_ENDS = 1_000_000
"""Transfers times rounds that are played one end at a time: about a second."""
