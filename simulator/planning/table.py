"""The table of a search with what its limits and objectives need: GPUs, free memory, power, and each point's facts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.answer import Option
from simulator.cost.machine import build_machine
from simulator.planning.space import Places, Space
from simulator.result import Number
from simulator.spec.run import Run
from simulator.sweeps import KINDS, METRICS
from simulator.units import DAY, GIB

if TYPE_CHECKING:
    import pandas

FIGURES = (*METRICS, "gpus", "headroom_gib", "power_w")
ENDS = ("", ".low", ".high")


def complete(frame: pandas.DataFrame, space: Space, places: Places) -> pandas.DataFrame:
    """The points that could be timed, by their number in the search: `option.*` facts, axes, all figures, seconds."""
    import pandas

    if frame.empty:
        return frame
    facts, where = _facts(space, places)
    of = pandas.DataFrame(facts).iloc[where].reset_index(drop=True).add_prefix("option.")
    timed = (frame["status"] == "ok").to_numpy()
    table = pandas.concat([of, frame.drop(columns=["status", "reason"])], axis=1)[timed].copy()
    for end, other in zip(ENDS, ("", ".high", ".low"), strict=True):
        table[f"gpus{end}"] = table["option.gpus"].astype(float)
        table[f"headroom_gib{end}"] = table["option.capacity_gib"] - table[f"peak_memory_gib{other}"]
    _add_power(table)
    return table


def _add_power(table: pandas.DataFrame) -> None:
    """Energy at the meter over the time it takes; its interval is that of the power, not of the time."""
    if table["days"].notna().any():
        watts = table["energy_total_j"] / (table["days"] * DAY)
    elif table["output_tokens_per_s"].notna().any():
        watts = table["energy_total_j"] * table["output_tokens_per_s"] / table["option.batch_tokens"]
    else:
        watts = table["energy_total_j"] / table["step_time_s"]
    for end in ENDS:
        table[f"power_w{end}"] = watts * table[f"average_power_w_per_gpu{end}"] / table["average_power_w_per_gpu"]


def _facts(space: Space, places: Places) -> tuple[list[dict[str, Any]], np.ndarray[Any, Any]]:
    """What all splits of a combination have in common, and which combination each point belongs to."""
    grid = space.grid()
    outer = [axis for axis, path in enumerate(grid.paths) if path != "parallelism"]
    split = [axis for axis, path in enumerate(grid.paths) if path == "parallelism"]
    _, first, where = np.unique(places[:, outer], axis=0, return_index=True, return_inverse=True)
    if split and not outer:
        where = np.zeros(len(places), dtype=np.intp)
        first = np.zeros(1, dtype=np.intp)
    return [_fact(grid.run(tuple(places[row].tolist()))) for row in first], where


def _fact(run: object) -> dict[str, Any]:
    if not isinstance(run, Run):  # a combination that breaks a rule has no timed point
        return {"model": "", "device": "", "basis": "exact", "gpus": 0, "capacity_gib": 0.0, "batch_tokens": 0.0}
    work = run.inference
    return {
        "model": run.model.name,
        "device": run.hardware.device.name,
        "basis": build_machine(run.hardware).curves.basis,
        "gpus": run.hardware.gpus,
        "capacity_gib": run.hardware.device.memory.capacity / GIB,
        "batch_tokens": float(work.in_flight * work.osl) if work is not None else 0.0,
    }


def option(table: pandas.DataFrame, number: int, axes: Iterable[str]) -> Option:
    """The point of that number."""
    row: dict[Any, Any] = table.loc[number].to_dict()
    basis = str(row["option.basis"])
    figures = {
        key: Number.model_validate(
            {"value": row[key], "low": row[f"{key}.low"], "high": row[f"{key}.high"], "basis": basis}
        )
        for key in FIGURES
        if row[key] == row[key]
    }
    return Option(
        number=number,
        settings={path: _read(row[path]) for path in axes},
        model=str(row["option.model"]),
        device=str(row["option.device"]),
        gpus=int(row["option.gpus"]),
        basis=row["option.basis"],
        figures=figures,
        seconds={kind: float(row[f"seconds.{kind}"]) for kind in KINDS},
    )


def _read(value: object) -> object:
    """A value of a table as a run file has it: blocks back from JSON, numpy's numbers as plain ones."""
    if isinstance(value, str) and value[:1] in "[{":
        return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value
