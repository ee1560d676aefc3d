"""Which points keep the limits, which is best, which are on the front, and which can't be told from the best."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import log
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.answer import HIGHER_IS_BETTER, End, Limit, PairErrors
from simulator.assembly.uncertainty import Z90

if TYPE_CHECKING:
    import pandas

TINY = 1e-300

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]


def decided(table: pandas.DataFrame, key: str, end: End) -> Values:
    """The end of a figure's interval that decides: the bad one for the pessimist."""
    if end == "value":
        return table[key].to_numpy(dtype=float)
    bad_is_low = key in HIGHER_IS_BETTER
    return table[f"{key}.low" if bad_is_low == (end == "pessimistic") else f"{key}.high"].to_numpy(dtype=float)


def keeps(table: pandas.DataFrame, limits: Sequence[Limit], end: End) -> Mask:
    """Which points keep all of the limits."""
    mask = np.ones(len(table), dtype=bool)
    for limit in limits:
        values = decided(table, limit.key, end)
        mask &= (values >= limit.value) if limit.at_least else (values <= limit.value)
    return mask


def badness(table: pandas.DataFrame, keys: Sequence[str], end: End) -> Values:
    """One column an objective, smaller is better."""
    columns = [-decided(table, key, end) if key in HIGHER_IS_BETTER else decided(table, key, end) for key in keys]
    return np.stack(columns, axis=1)


def ranked(table: pandas.DataFrame, mask: Mask, keys: Sequence[str], end: End) -> list[int]:
    """The numbers of the points of a mask by the first objective, then the next, then their order in the search."""
    bad = badness(table, keys, end)
    places = np.flatnonzero(mask)
    order = np.lexsort([places, *(bad[places, column] for column in reversed(range(len(keys))))])
    return [int(number) for number in table.index.to_numpy()[places[order]]]


def first(table: pandas.DataFrame, mask: Mask, keys: Sequence[str], end: End) -> int | None:
    """The first of `ranked`, found without ranking the rest; None where the mask is empty."""
    places = np.flatnonzero(mask)
    if not len(places):
        return None
    for key in keys:
        column = badness(table, [key], end)[places, 0]
        places = places[column == column.min()]
    return int(table.index[places[0]])


def front(table: pandas.DataFrame, mask: Mask, keys: Sequence[str], end: End) -> list[int]:
    """The numbers of the points that no other beats in all objectives, best of the first objective first."""
    bad = badness(table, keys, end)
    left = np.flatnonzero(mask)
    left = left[np.lexsort([left, *(bad[left, column] for column in reversed(range(len(keys))))])]
    kept: list[int] = []
    while len(left):  # the first of what is left is beaten by none; what it beats goes
        kept.append(int(table.index[left[0]]))
        left = left[(bad[left] < bad[left[0]]).any(axis=1)]
    return kept


def tied(table: pandas.DataFrame, order: Sequence[int], key: str, errors: PairErrors) -> list[int]:
    """The numbers, first of `order` aside, whose figure differs from its by less than the error of the difference.

    Two models are taken to be as unlike as two devices.
    """
    import pandas

    if not order:
        return []
    places = table.index.get_indexer(pandas.Index(order))
    values, low, high = (table[f"{key}{end}"].to_numpy()[places] for end in ("", ".low", ".high"))
    alike = np.ones(len(order), dtype=bool)
    for fact in ("option.device", "option.model"):
        codes = table[fact].factorize()[0][places]
        alike &= codes == codes[0]
    sigma = np.where(alike, errors.same_device, errors.other_device)
    gap = np.abs(np.log(values / values[0]))
    near = gap <= (0.0 if (low == high).all() else Z90 * sigma)
    return [number for number, close in zip(order[1:], near[1:].tolist(), strict=True) if close]


def least_relaxations(
    table: pandas.DataFrame, limits: Sequence[Limit], keys: Sequence[str], end: End
) -> list[tuple[tuple[Limit, ...], int]]:
    """(limits as they would have to be, the point that then is best) for each limit whose change alone is enough; where
    none is, the one change of several limits that strains the most strained least."""
    if table.empty:
        return []
    found: list[tuple[tuple[Limit, ...], int]] = []
    for limit in limits:
        others = keeps(table, [other for other in limits if other is not limit], end)
        if not others.any():
            continue
        values = decided(table, limit.key, end)[others]
        needed = Limit(limit.name, limit.key, float(values.max() if limit.at_least else values.min()))
        mask = others & keeps(table, [needed], end)
        found.append(((needed,), ranked(table, mask, keys, end)[0]))
    return found or [_together(table, limits, keys, end)]


def _together(
    table: pandas.DataFrame, limits: Sequence[Limit], keys: Sequence[str], end: End
) -> tuple[tuple[Limit, ...], int]:
    most = np.stack([strain(table, limit, end) for limit in limits], axis=1).max(axis=1)
    mask = most <= most.min()
    number = ranked(table, mask, keys, end)[0]
    row = table.loc[[number]]
    needed = [Limit(limit.name, limit.key, float(decided(row, limit.key, end)[0])) for limit in limits]
    broken = [now for now, limit in zip(needed, limits, strict=True) if not keeps(row, [limit], end)[0]]
    return tuple(broken), number


def strain(table: pandas.DataFrame, limit: Limit, end: End) -> Values:
    """How many times a limit would have to be relaxed for each point, on a scale of logarithms; 0 where it is kept."""
    values = decided(table, limit.key, end)
    if limit.key == "headroom_gib":  # may be below zero, so by the share of the limit that is missing
        return np.maximum(0.0, (limit.value - values) / limit.value)
    ratio = np.log(np.maximum(values, TINY)) - log(max(limit.value, TINY))
    return np.maximum(0.0, -ratio if limit.at_least else ratio)


def conflicts(table: pandas.DataFrame, limits: Sequence[Limit], end: End) -> list[tuple[Limit, ...]]:
    """The smallest groups of limits, one or two, that no point keeps together."""
    alone = [limit for limit in limits if not keeps(table, [limit], end).any()]
    if alone:
        return [(limit,) for limit in alone]
    return [pair for pair in combinations(limits, 2) if not keeps(table, pair, end).any()]
