"""Who sends to whom in a regular machine, summed into a matrix of a few rows however many ranks there are.

Every collective here is a set of shifts: the ranks at some places of their group send to the rank a fixed distance
away. How many ranks of a row send into a column is then a count of integers in an interval: no loop over ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Bytes = NDArray[np.float64]


class Shift(NamedTuple):
    """Ranks at places `first` to `end` (excluded) of their group send to the rank `by` further."""

    by: int
    first: int
    end: int
    share: float
    """Of what a rank sends in all."""


class Pattern(NamedTuple):
    """Groups of `reach` ranks that lie `stride` apart, in blocks one after the other, and what they send."""

    reach: int
    stride: int
    shifts: tuple[Shift, ...]


def ring(reach: int, stride: int) -> Pattern:
    """Every rank sends all it sends to the next of its group, the last one to the first."""
    back = Shift(-(reach - 1) * stride, reach - 1, reach, 1.0)
    return Pattern(reach, stride, (Shift(stride, 0, reach - 1, 1.0), back))


def spread(reach: int, stride: int) -> Pattern:
    """Every rank sends the same to each other rank of its group."""
    shifts = [
        Shift(k * stride, max(0, -k), min(reach, reach - k), 1 / (reach - 1)) for k in range(1 - reach, reach) if k
    ]
    return Pattern(reach, stride, tuple(shifts))


def neighbours(distance: int, ranks: int) -> Pattern:
    """Every rank sends half to the one `distance` before it and half to the one after it, past the ends too."""
    shifts = (distance, -distance, distance - ranks, ranks - distance)
    return Pattern(1, 1, tuple(Shift(by, 0, 1, 0.5) for by in shifts if by))


@dataclass(frozen=True, slots=True)
class Rows:
    """Neighbouring ranks folded into rows; `edges` are the rows' first ranks and the end of the last row."""

    edges: Counts

    @classmethod
    def of(cls, ranks: int, most: int) -> Rows:
        """At most `most` rows for `ranks` ranks."""
        return cls(np.append(np.arange(0, ranks, -(-ranks // most)), ranks))

    def labels(self, noun: str) -> list[str]:
        """`GPU 3` or `GPUs 8-15`."""
        pairs = zip(self.edges[:-1].tolist(), (self.edges[1:] - 1).tolist(), strict=True)
        return [f"{noun} {first}" if first == last else f"{noun}s {first}-{last}" for first, last in pairs]

    def sent(self, pattern: Pattern, starts: Sequence[int], length: int, amounts: Sequence[float]) -> Bytes:
        """Bytes from row to column where the `length` ranks from each of `starts` send that start's amount each."""
        begin = np.array(starts)[:, None, None]
        lower, upper = self.edges[:-1], self.edges[1:]
        matrix = np.zeros((lower.size, lower.size))
        for by, first, end, share in pattern.shifts:
            low = np.maximum(np.maximum(lower[:, None], begin), lower - by)
            high = np.minimum(np.minimum(upper[:, None], begin + length), upper - by)
            high = np.maximum(low, high)
            senders = _at_places(high - begin, pattern, first, end) - _at_places(low - begin, pattern, first, end)
            matrix += np.tensordot(np.array(amounts) * share, senders, axes=1)
        return matrix


def _at_places(ranks: Counts, pattern: Pattern, first: int, end: int) -> Counts:
    """How many of the first `ranks` ranks have places `first` to `end` (excluded) in their groups."""
    reach, stride, _ = pattern
    width, period = (end - first) * stride, reach * stride
    blocks, rest = np.divmod(ranks, period)
    counts: Counts = blocks * width + np.clip(rest - first * stride, 0, width)
    return counts
