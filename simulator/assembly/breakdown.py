"""Where a step's time goes, and what communication costs: mean over the GPUs, adding up to the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from simulator.assembly import uncertainty as u
from simulator.assembly.evaluated import Step
from simulator.assembly.items import ITEM_ORDER, style
from simulator.assembly.totals import StageTotals
from simulator.engine.fast import StepTimeline
from simulator.result import Basis, BreakdownItem, Communication, Exposure, Number


def step_items(step: Step) -> tuple[dict[str, float], dict[str, float]]:
    """(exposed, hidden) seconds by item of a step; what faults and stragglers add to it is an item of its own."""
    if step.healthy is None:
        return mean_items(step.timeline)
    exposed, hidden = mean_items(step.healthy.timeline)
    return exposed | {"impaired": step.timeline.duration - step.healthy.timeline.duration}, hidden


def mean_items(timeline: StepTimeline) -> tuple[dict[str, float], dict[str, float]]:
    """(exposed, hidden) seconds by item, mean over stages; the exposed ones sum to the step's duration.

    Waiting that even the busiest stage has is the pipeline's filling and draining; what the others wait beyond is
    unevenness.
    """
    exposed: dict[str, float] = {}
    hidden: dict[str, float] = {}
    share = 1 / len(timeline.stages)
    clean = timeline.duration - timeline.noise
    waiting = []
    for stage in timeline.stages:
        for spent in (stage.busy, stage.tail):
            for item, seconds in spent.exposed.items():
                exposed[item] = exposed.get(item, 0.0) + seconds * share
            for item, seconds in spent.hidden.items():
                hidden[item] = hidden.get(item, 0.0) + seconds * share
        waiting.append(clean - stage.busy.duration - stage.tail.duration)
    exposed["bubble"] = max(0.0, min(waiting))
    exposed["uneven"] = max(0.0, sum(waiting) * share - exposed["bubble"])
    exposed["noise"] = timeline.noise
    return exposed, hidden


def breakdown_items(
    items: Mapping[str, float],
    hidden: Mapping[str, float],
    errors: Mapping[str, float],
    model_error: float,
    basis: Basis,
) -> list[BreakdownItem]:
    """The items in the report's order; those of no time at all are left out."""
    rows = []
    for item in ITEM_ORDER:
        seconds, unseen = items.get(item, 0.0), hidden.get(item, 0.0)
        if seconds <= 0 and unseen <= 0:
            continue
        look = style(item)
        error = errors.get(item, model_error)
        rows.append(
            BreakdownItem(
                key=item,
                label=look.label,
                group=look.group,
                color=look.color,
                seconds=u.number(seconds, error, basis),
                hidden_s=unseen,
            )
        )
    return rows


_KIND_OF_ITEM = {
    "all_to_all": ("all_to_all",),
    "all_reduce": ("tensor_parallel", "gradient_sync"),
    "all_gather": ("tensor_parallel", "parameter_gather", "context_parallel", "expert_tensor_parallel"),
    "reduce_scatter": ("tensor_parallel", "gradient_sync", "expert_tensor_parallel"),
    "send_recv": ("send_recv",),
}


def communication(
    stages: Sequence[StageTotals],
    items: Mapping[str, float],
    hidden: Mapping[str, float],
    timed: Callable[[float], Number],
) -> Communication:
    """Seconds of each kind of collective, mean over the GPUs: all of them, and the exposed part.

    Exposure is known by purpose (an item); a kind's exposed part is that share of its items' time that is exposed.
    """
    out = {}
    for kind, purposes in _KIND_OF_ITEM.items():
        total = sum(stage.communication.get(kind, 0.0) for stage in stages) / len(stages)
        seen = sum(items.get(item, 0.0) for item in purposes)
        both = seen + sum(hidden.get(item, 0.0) for item in purposes)
        exposed = total * min(1.0, seen / both) if both else 0.0
        out[kind] = Exposure(total=timed(total), exposed=timed(exposed))
    return Communication(**out)
