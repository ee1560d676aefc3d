"""Series: measured points that are fitted together, and how a table falls into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simulator.spec.formats import FORMATS, sheet_of
from simulator.spec.forms import COLUMNS, OPERATIONS, Array, Sheet
from simulator.spec.hardware import Device

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Series:
    """Measured points of one operation in one precision by one kernel, on one device and (collectives) in one group
    size.
    """

    op: str
    dtype: str
    kernel: str
    library: str
    version: str
    source: str
    sheet: Sheet
    shape: Mapping[str, Array]
    seconds: Array
    date: str = ""
    quantised: bool = False
    copies: bool = False

    @property
    def group_size(self) -> int:
        """Ranks of a collective; 1 of a kernel, and of exchanges, whose forms take any."""
        return int(self.shape["group_size"][0]) if COLUMNS[self.op] == ("bytes", "group_size") else 1


_COPYING = ("deepep_ll",)
"""Kernels that send one copy of a token per expert."""
_OPTIONAL = {"window": 0.0, "skew": 0.0, "gated": 1.0, "nodes": 1.0, "sms": 0.0, "tp": 1.0, "ep": 1.0}
"""Shape columns a table may leave out or empty, and what that means."""


def series_of(table: pd.DataFrame, device: Device) -> list[Series]:
    """The series of one device's table, in its order; rows of operations without a form are left out.

    Rows that lack a shape column of their operation are left out too; of equal shapes the smallest time counts.
    """
    rows = table[table["op"].isin(OPERATIONS)]
    found = []
    for key, group in rows.groupby(["op", "dtype", "kernel", "library"], sort=False):
        op, dtype, kernel, library = (str(part) for part in key)
        apart = [part for _, part in group.groupby("group_size")] if COLUMNS[op] == ("bytes", "group_size") else [group]
        for part in apart:
            if (series := _series(part, device, op, dtype, kernel, library)) is not None:
                found.append(series)
    return found


def _series(group: pd.DataFrame, device: Device, op: str, dtype: str, kernel: str, library: str) -> Series | None:
    columns = list(COLUMNS[op])
    wide = group.reindex(columns=columns).fillna({name: _OPTIONAL[name] for name in columns if name in _OPTIONAL})
    wide["latency_s"] = group["latency_s"]
    shape = _smallest(wide.dropna(), columns, "latency_s")
    if shape.empty:
        return None
    return Series(
        op=op,
        dtype=dtype,
        kernel=kernel,
        library=library,
        version=", ".join(dict.fromkeys(group["version"])),
        source="; ".join(dict.fromkeys(group["source"])),
        date=max(group["date"]),
        sheet=sheet_of(device, dtype, op),
        shape={name: shape[name].to_numpy(dtype=np.float64) for name in columns},
        seconds=shape["latency_s"].to_numpy(dtype=np.float64),
        quantised=op == "gemm" and FORMATS[dtype].quantised,
        copies=kernel in _COPYING,
    )


def _smallest(rows: pd.DataFrame, shape: list[str], time: str) -> pd.DataFrame:
    """One row a shape, sorted, with the smallest of its times: interruptions only ever add."""
    return rows.groupby(shape, sort=True)[time].min().reset_index()
