"""Finds campaigns of expert-layer timings that were taken while something else used the GPU.

Splitting a layer over more ranks leaves each with a part of the work. So a campaign (one model, routing and split, over
all token counts) can't be slower than one that splits less, nor faster-than-proportionally slower than one that splits
more. Where it is, by a margin, it was disturbed: the database holds whole campaigns 3 to 5 times slower than their
neighbours. And within a campaign no batch can be slower than a larger one. All comparisons accuse only the slower side,
which no disturbance of the other can explain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

MARGIN = 1.35
"""Excess over the bound that honest campaigns don't reach: kernels pick other tiles for other splits."""
NEAR = 4.0
"""Splits are compared with those of up to four times the ranks."""
FEWEST_TOKENS = 5
_MODEL = ["hidden", "inter", "topk", "experts", "skew", "gated"]


def disturbed(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows belong to a disturbed campaign. Columns of a moe table with `latency` in any unit."""
    import pandas as pd

    found = np.zeros(len(rows), dtype=bool)
    for _, places in rows.groupby(_MODEL).indices.items():
        mine = rows.iloc[places]
        wide = mine.pivot_table(index="tokens", columns=["tp", "ep"], values="latency", aggfunc="min")
        bad = _bad_columns(wide.to_numpy(), np.array(list(wide.columns)))
        accused = {tuple(split) for split, is_bad in zip(wide.columns, bad, strict=True) if is_bad}
        slow = _slower_than_larger(wide.to_numpy())
        splits = pd.MultiIndex.from_frame(mine[["tp", "ep"]])
        at = wide.index.get_indexer(pd.Index(mine["tokens"])), wide.columns.get_indexer(splits)
        found[places] = [split in accused for split in zip(mine["tp"], mine["ep"], strict=True)] | slow[at]
    return found


def _slower_than_larger(times: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which times, of token counts in rising order by split, exceed that of some larger count by the margin."""
    least = np.fmin.accumulate(times[::-1])[::-1]
    with np.errstate(invalid="ignore"):
        slow: NDArray[np.bool_] = times > MARGIN * least
    return slow


def _bad_columns(times: NDArray[np.float64], splits: NDArray[np.int64]) -> NDArray[np.bool_]:
    bad = np.zeros(len(splits), dtype=bool)
    for a, less in enumerate(splits):
        for b, more in enumerate(splits):
            both = ~np.isnan(times[:, a]) & ~np.isnan(times[:, b])
            share = float(np.prod(more) / np.prod(less))
            if not 1.0 < share <= NEAR or (less > more).any() or both.sum() < FEWEST_TOKENS:
                continue
            ratio = float(np.median(times[both, b] / times[both, a]))  # b splits more, so 1/share <= ratio <= 1
            bad[b] |= ratio > MARGIN
            bad[a] |= ratio * share < 1.0 / MARGIN
    return bad
