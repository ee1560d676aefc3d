"""The table of a search with what its limits and objectives need: GPUs, free memory, power, and each point's facts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.answer import LATE, Option
from simulator.cost.machine import build_machine
from simulator.result import Number
from simulator.shards.store import Store
from simulator.spec.grid import Grid
from simulator.spec.run import Run
from simulator.sweeps import KINDS, METRICS
from simulator.units import DAY, GIB

if TYPE_CHECKING:
    import pandas

FIGURES = (*METRICS, "gpus", "headroom_gib", "power_w", *LATE)
ENDS = ("", ".low", ".high")


def add_facts(frame: pandas.DataFrame, grid: Grid, places: NDArray[np.intp]) -> pandas.DataFrame:
    """The table of points with their facts, `option.*`, and what follows from those: GPUs, free memory, power."""
    import pandas

    facts, where = _facts(grid, places)
    of = pandas.DataFrame(facts).iloc[where].reset_index(drop=True).add_prefix("option.")
    added: dict[str, Any] = {}
    for end, other in zip(ENDS, ("", ".high", ".low"), strict=True):
        added[f"gpus{end}"] = of["option.gpus"].astype(float)
        added[f"headroom_gib{end}"] = of["option.capacity_gib"] - frame[f"peak_memory_gib{other}"]
    known = {column: frame[column] for column in frame.columns}
    added |= power(known, of["option.batch_tokens"])
    return pandas.concat([of, frame, pandas.DataFrame(added)], axis=1)


def power(figures: Mapping[str, Any], batch_tokens: Any) -> dict[str, Any]:
    """Watts at the meter with their ends: energy over the time it takes, the interval that of a GPU's power."""
    # A training of stated length has days, a batch of requests the rate of its tokens, a step alone its time.
    seconds = np.where(
        np.isnan(figures["days"]),
        np.where(
            np.isnan(figures["output_tokens_per_s"]),
            figures["step_time_s"],
            batch_tokens / figures["output_tokens_per_s"],
        ),
        figures["days"] * DAY,
    )
    watts = figures["energy_total_j"] / seconds
    of_gpu = figures["average_power_w_per_gpu"]
    return {f"power_w{end}": watts * figures[f"average_power_w_per_gpu{end}"] / of_gpu for end in ENDS}


def _facts(grid: Grid, places: NDArray[np.intp]) -> tuple[list[dict[str, Any]], NDArray[np.intp]]:
    """What all splits of a combination have in common, and which combination each point belongs to."""
    outer = [axis for axis, path in enumerate(grid.paths) if path != "parallelism"]
    if not outer:
        return [_fact(grid.run(places[0].tolist()))], np.zeros(len(places), dtype=np.intp)
    _, first, where = np.unique(places[:, outer], axis=0, return_index=True, return_inverse=True)
    return [_fact(grid.run(places[row].tolist())) for row in first], where


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


def timed_points(store: Store, names: Sequence[str]) -> pandas.DataFrame:
    """The points of some shards that could be timed, by their number. Figures that none has are left out."""
    return store.table(names, status="ok").drop(columns=["status", "reason"], errors="ignore").set_index("point")


def option(table: pandas.DataFrame, number: int, axes: Iterable[str]) -> Option:
    """The point of that number."""
    row: dict[Any, Any] = table.loc[number].to_dict()
    basis = str(row["option.basis"])
    figures = {
        key: Number.model_validate(
            {"value": row[key], "low": row[f"{key}.low"], "high": row[f"{key}.high"], "basis": basis}
        )
        for key in FIGURES
        if key in row and row[key] == row[key]
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
    """A value of a table as a run file has it: blocks and nothing back from JSON, numpy's numbers as plain ones."""
    if isinstance(value, str) and (value[:1] in ("[", "{") or value == "null"):
        return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value
