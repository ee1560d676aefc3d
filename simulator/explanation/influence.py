"""How far the step time moves if an assumption is otherwise: the run again with the other choice."""

from __future__ import annotations

from typing import Any

from simulator.errors import SimulatorError
from simulator.result import Assumption, Result
from simulator.simulation import training_step
from simulator.spec.run import Run
from simulator.spec.settings import resolve_settings

# For each choice, what one would try instead; the first that differs from what the run does.
_ALTERNATIVES: dict[str, tuple[Any, ...]] = {
    "execution.attention": ("flash2", "cudnn"),
    "execution.cuda_graph": ("full_iteration", "none"),
    "execution.dp_overlap": (False, True),
    "execution.tp_overlap": (True, False),
    "execution.moe_dispatcher": ("deepep", "alltoall"),
    "execution.a2a_overlap": (True, False),
    "training.recompute": ("full", "none"),
    "training.sharding": ("zero3", "zero1"),
    "routing.imbalance": (1.5, 1.0),
}
_RESOLVED = {"moe_dispatcher": "dispatcher"}


def with_influence(run: Run, result: Result) -> Result:
    """`result` with the influence of every assumption that can be tried, in percent of the step time."""
    if run.kind != "training" or result.step_time_s is None:
        return result
    base = result.step_time_s.value
    rows = [_tried(run, row, base) for row in result.assumptions]
    return result.model_copy(update={"assumptions": rows})


def _tried(run: Run, row: Assumption, base: float) -> Assumption:
    alternatives = _ALTERNATIVES.get(row.path or "")
    if row.path is None or alternatives is None:
        return row
    block, field = row.path.split(".")
    settings = resolve_settings(run)
    now = run.routing.imbalance if block == "routing" else getattr(settings, _RESOLVED.get(field, field))
    other = next(value for value in alternatives if value != now)
    record: Any = getattr(run, block)
    try:
        changed = type(record).model_validate({**record.model_dump(exclude_unset=True), field: other})
        seconds = training_step(run.model_copy(update={block: changed}), check=False).timeline.duration
    except (SimulatorError, ValueError):
        return row
    words = {True: "on", False: "off"}.get(other, str(other)) if isinstance(other, bool) else str(other)
    change = f"{100 * (seconds / base - 1):+.1f} %".replace("-", "\u2212")
    return row.model_copy(update={"influence": f"{words}: step {change}"})
