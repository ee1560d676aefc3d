"""What would change the answer: each number of the chosen hardware ten percent worse and better, the rent ten percent
dearer and cheaper, and each kind of operator as wrong as its curve may be.

Changed hardware is simulated again for the options of that device that come first or miss a limit by a tenth. A kind of
operator that takes longer than thought does so in all options on that device, by its share of their time: to first
order, as what hides behind it stays hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.answer import HIGHER_IS_BETTER, End, Limit, Option, Sensitivity, Shift
from simulator.assembly.uncertainty import item_errors
from simulator.cost.machine import build_machine
from simulator.graph.inference_layers import widths_of
from simulator.planning import ranking
from simulator.planning.bounds import RELAXED
from simulator.planning.space import run_of
from simulator.planning.table import ENDS, option
from simulator.result import Color
from simulator.spec.hardware import Hardware
from simulator.spec.run import Run
from simulator.sweeps import KINDS, evaluate_runs
from simulator.units import GIB

if TYPE_CHECKING:
    import pandas

CHANGE = 0.10
CANDIDATES = 32
"""Options of the chosen device that are simulated again for each changed number."""
_MONEY = ("cost_usd", "usd_per_million_output_tokens")
_UNTIMED = ("gpus", "headroom_gib", "power_w", "peak_memory_gib", "max_concurrency")
# Kinds of time and the item whose error stands for them.
_ERRING: dict[Color, str] = {
    "expert": "expert_gemm",
    "dense": "ffn_gemm",
    "mem": "elementwise",
    "a2a": "all_to_all",
    "comm": "gradient_sync",
    "host": "host",
}


@dataclass(frozen=True)
class Asked:
    """An answered plan: the table with what ranks and limits it, and the first option."""

    table: pandas.DataFrame
    limits: Sequence[Limit]
    keys: Sequence[str]
    end: End
    base: Mapping[str, Any]
    axes: Sequence[str]
    best: Option

    def columns(self) -> list[str]:
        """The columns that limits and objectives look at."""
        keys = dict.fromkeys((*self.keys, *(limit.key for limit in self.limits)))
        return [f"{key}{end}" for key in keys for end in ENDS]

    def first(self, figures: pandas.DataFrame) -> Shift | None:
        """The first of some points by these figures; None where none keeps the limits."""
        known = figures[list(self.keys)].notna().all(axis=1).to_numpy()
        number = ranking.first(figures, known & ranking.keeps(figures, self.limits, self.end), self.keys, self.end)
        if number is None:
            return None
        chosen = option(self.table, number, self.axes)
        figure = abs(ranking.badness(figures.loc[[number]], self.keys[:1], self.end)[0, 0])
        moved = (chosen.model, chosen.device, chosen.gpus) != (self.best.model, self.best.device, self.best.gpus)
        return Shift(chosen, chosen.number == self.best.number, moved, float(figure))


def sensitivity(asked: Asked) -> tuple[Sensitivity, ...]:
    """The answer under every change, those that move it first."""
    found = [*_of_hardware(asked), *_of_price(asked), *_of_model(asked)]
    return tuple(sorted(found, key=lambda row: ("machine", "settings", "nothing").index(row.matters)))


def _of_model(asked: Asked) -> Iterator[Sensitivity]:
    run = run_of(asked.base, asked.best.settings)
    errors = item_errors(build_machine(run.hardware), _computed_in(run))
    seconds = asked.table[[f"seconds.{kind}" for kind in KINDS]].to_numpy()
    alike = (asked.table["option.device"] == asked.best.device).to_numpy()
    total = seconds.sum(axis=1)
    for number, kind in enumerate(KINDS):
        if kind not in _ERRING or not asked.best.seconds[kind]:
            continue
        error = errors[_ERRING[kind]]
        moved = np.where(alike, error * seconds[:, number] / total, 0.0)
        lower, higher = (_retimed(asked.table[asked.columns()], 1 + sign * moved) for sign in (-1, 1))
        yield Sensitivity(kind, "model", error, asked.first(lower), asked.first(higher))


def _computed_in(run: Run) -> str:
    """The precision of most GEMMs, which of a served model is not always that of its weights."""
    if run.training is not None:
        return run.training.precision
    assert run.inference is not None
    return widths_of(run.model, run.inference.precision, run.hardware.device).experts[0]


def _retimed(figures: pandas.DataFrame, longer: NDArray[np.float64]) -> pandas.DataFrame:
    """The figures where each point takes `longer` times as long."""
    out = figures.copy()
    for column in out.columns:
        key = column.removesuffix(".low").removesuffix(".high")
        if key not in _UNTIMED:
            out[column] = out[column] / longer if key in HIGHER_IS_BETTER else out[column] * longer
    return out


def _of_price(asked: Asked) -> Iterator[Sensitivity]:
    columns = asked.columns()
    money = [column for column in columns if column.startswith(_MONEY)]
    if not money:
        return
    alike = (asked.table["option.device"] == asked.best.device).to_numpy()
    shifts = []
    for factor in (1 - CHANGE, 1 + CHANGE):
        figures = asked.table[columns].copy()
        figures[money] = figures[money].mul(np.where(alike, factor, 1.0), axis=0)
        shifts.append(asked.first(figures))
    yield Sensitivity(f"rent of {asked.best.device}", "price", CHANGE, *shifts)


def _of_hardware(asked: Asked) -> Iterator[Sensitivity]:
    """Numbers of the device and its network; other devices keep theirs."""
    numbers = _candidates(asked)
    runs = [run_of(asked.base, option(asked.table, number, asked.axes).settings) for number in numbers]
    before = _evaluated(runs)
    others = asked.table[(asked.table["option.device"] != asked.best.device).to_numpy()][asked.columns()]
    for label in _numbers(runs[0].hardware):
        shifts = []
        for factor in (1 - CHANGE, 1 + CHANGE):
            changed = [_with(run, label, factor) for run in runs]
            figures = _moved(asked, numbers, changed, before)
            shifts.append(asked.first(figures if others.empty else _joined(figures, others)))
        yield Sensitivity(label, "hardware", CHANGE, *shifts)


def _candidates(asked: Asked) -> list[int]:
    """The chosen device's options that come first, and those that would if limits were a tenth easier."""
    alike = (asked.table["option.device"] == asked.best.device).to_numpy()
    found: list[int] = []
    for limits in (asked.limits, [limit.relaxed(RELAXED) for limit in asked.limits]):
        mask = alike & ranking.keeps(asked.table, limits, asked.end)
        found += ranking.ranked(asked.table, mask, asked.keys, asked.end)[: CANDIDATES // 2 + len(found) // 2]
    return list(dict.fromkeys(found))[:CANDIDATES]


def _evaluated(runs: Sequence[Run]) -> dict[str, NDArray[np.float64]]:
    return evaluate_runs(runs)[0]


def _moved(
    asked: Asked, numbers: Sequence[int], changed: Sequence[Run], before: Mapping[str, NDArray[np.float64]]
) -> pandas.DataFrame:
    """The options' figures with their hardware changed: as they stand, times what the change makes of them."""
    figures = asked.table.loc[list(numbers), asked.columns()].copy()
    after = _evaluated(changed)
    capacity = np.array([run.hardware.device.memory.capacity / GIB for run in changed])
    for column in figures.columns:
        key = column.removesuffix(".low").removesuffix(".high")
        if key == "headroom_gib":
            other = {"": "", ".low": ".high", ".high": ".low"}[column.removeprefix(key)]
            figures[column] = capacity - after[f"peak_memory_gib{other}"]
        elif key in after:
            figures[column] = figures[column].to_numpy() * (after[column] / before[column])
    return figures


def _joined(figures: pandas.DataFrame, others: pandas.DataFrame) -> pandas.DataFrame:
    import pandas

    return pandas.concat([figures, others])


def _with(run: Run, label: str, factor: float) -> Run:
    return run.model_copy(update={"hardware": _changed(run.hardware, factor)[label]})


def _numbers(hardware: Hardware) -> list[str]:
    """The numbers that may matter on this hardware."""
    missing = [] if hardware.gpus > 1 else ["scale-up bandwidth"]
    missing += [] if hardware.gpus > hardware.scale_up_domain else ["network bandwidth"]
    return [label for label in _changed(hardware, 1.0) if label not in missing]


def _changed(hardware: Hardware, factor: float) -> dict[str, Hardware]:
    """The hardware with each of its numbers times a factor."""
    device, network = hardware.device, hardware.network
    memory, links = device.memory, device.scale_up

    def with_device(**parts: Any) -> Hardware:
        return hardware.model_copy(update={"device": device.model_copy(update=parts)})

    return {
        "peak FLOP/s": with_device(peak={name: rate * factor for name, rate in device.peak.items()}),
        "power limit": with_device(tdp=device.tdp * factor),
        "HBM bandwidth": with_device(memory=memory.model_copy(update={"bandwidth": memory.bandwidth * factor})),
        "memory": with_device(memory=memory.model_copy(update={"capacity": memory.capacity * factor})),
        "scale-up bandwidth": with_device(scale_up=links.model_copy(update={"bandwidth": links.bandwidth * factor})),
        "network bandwidth": hardware.model_copy(
            update={"network": network.model_copy(update={"bandwidth": network.bandwidth * factor})}
        ),
    }
