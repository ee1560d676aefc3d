"""A calibration as plain data for its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.calibration.calls import looped
from simulator.calibration.collectives_fit import OPS
from simulator.calibration.cpu_fit import HOST_OPS
from simulator.calibration.prices import Family, Prices, call_seconds, family_of
from simulator.calibration.protocol import Measured
from simulator.calibration.table import shape_columns

if TYPE_CHECKING:
    import pandas as pd


def page_data(table: pd.DataFrame, prices: Prices, measured: Measured) -> dict[str, Any]:
    """Points with their predictions, families, collectives, and what was not used; times in seconds."""
    kernels = table[~table["op"].isin((*HOST_OPS, *OPS))]
    columns = shape_columns(table)
    calls, shapes = [], []
    for row in kernels.to_dict("records"):
        shape = {name: float(row[name]) for name in columns if row[name] == row[name]}
        calls.append(looped(row["op"], row["kernel"], shape, row["dtype"]))
        shapes.append(" ".join(f"{name}={value:g}" for name, value in shape.items() if value))
    predicted = call_seconds(prices, calls)
    return {
        "device": prices.device,
        "library": prices.library,
        "version": prices.version,
        "dtype": prices.dtype,
        "date": prices.date,
        "statistic": prices.statistic,
        "rounds": measured.rounds,
        "points": [
            {
                "family": family_of(call),
                "shape": shape,
                "measured": float(seconds),
                "predicted": float(guess),
                "flops": call.flops,
                "bytes": float(np.sum([touch.bytes for touch in call.touches])),
            }
            for call, shape, seconds, guess in zip(calls, shapes, kernels["latency_s"], predicted, strict=True)
        ],
        "families": [
            {"name": name, "points": family.points, "error": family.relative_error, "range": _range(family)}
            for name, family in prices.families.items()
        ],
        "collectives": _collectives(table),
        "refused": [{"point": p.case.key, "spread": p.spread} for p in measured.unstable],
        "skipped": [{"point": key, "reason": reason} for key, reason in measured.skipped.items()],
    }


def _range(family: Family) -> str:
    return ", ".join(f"{name} {low:g}..{family.high[name]:g}" for name, low in family.low.items())


def _collectives(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table[table["op"].isin(OPS)]
    return [
        {
            "name": f"{op}, {kernel}, {size}",
            "measured": sorted(zip(part["bytes"].tolist(), part["latency_s"].tolist(), strict=True)),
        }
        for (op, kernel, size), part in rows.groupby(["op", "kernel", "group_size"])
    ]
