"""A few hundred points that stand for a table: spread over the shapes, the same ones every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.calibration.series import Series
from simulator.spec.forms_index import BOUNDED, features

if TYPE_CHECKING:
    import pandas as pd

PER_OPERATION = 240
LEAST = 24
POOL = 3000
SIGNIFICANT = 5


def representatives(series: list[Series], device: str) -> pd.DataFrame:
    """Rows of our table: about `PER_OPERATION` of each operation, shared among its series, at least `LEAST` of each."""
    import pandas as pd

    from simulator.calibration.table import check_table

    frames = []
    for one in series:
        share = max(LEAST, PER_OPERATION // sum(1 for other in series if other.op == one.op))
        frames.append(_rows(one, device, spread_out(one, share)))
    return check_table(pd.concat(frames, ignore_index=True), f"measurements of {device}")


def spread_out(series: Series, count: int) -> NDArray[np.intp]:
    """Indices of `count` points, each the farthest from those before it in the log2 features; the largest first."""
    total = len(series.seconds)
    if total <= count:
        return np.arange(total)
    pool = np.sort(np.random.default_rng(5).permutation(total)[:POOL])
    found = features(series.op, {name: column[pool] for name, column in series.shape.items()}, series.sheet)
    places = np.stack([found[name] for name in BOUNDED[series.op]], axis=1)
    chosen = [int(np.argmax(series.seconds[pool]))]
    nearest = np.full(len(pool), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.sum((places - places[chosen[-1]]) ** 2, axis=1))
        chosen.append(int(np.argmax(nearest)))
    return np.sort(pool[chosen])


def _rows(series: Series, device: str, chosen: NDArray[np.intp]) -> pd.DataFrame:
    import pandas as pd

    shape = {name: column[chosen] for name, column in series.shape.items()}
    release = series.source.split(",")[0]
    text = {
        "device": device, "op": series.op, "dtype": series.dtype, "kernel": series.kernel, "library": series.library,
        "version": series.version, "date": series.date, "source": release,
    }  # fmt: skip
    seconds = [float(f"{value:.{SIGNIFICANT}g}") for value in series.seconds[chosen]]
    return pd.DataFrame({**text, "group_size": 1, **shape, "latency_s": seconds})
