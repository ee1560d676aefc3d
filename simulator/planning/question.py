"""What a plan asks, in figures: which are limited, and which rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simulator.answer import LATE, End, Limit
from simulator.spec.plan import Plan
from simulator.spec.run import Run
from simulator.units import DAY, GIB

# Name of a constraint -> the figure it limits by kind of run, and by what its SI value is divided.
_LIMITS: dict[str, tuple[str, float]] = {
    "deadline": ("days", DAY),
    "budget": ("cost_usd", 1.0),
    "price": ("usd_per_million_output_tokens", 1.0),
    "memory_headroom": ("headroom_gib", GIB),
    "power": ("power_w", 1.0),
    "carbon": ("carbon_kg", 1e3),
    "gpus": ("gpus", 1.0),
    "ttft": ("ttft_s", 1.0),
    "tpot": ("tpot_s", 1.0),
    "throughput": ("tokens_per_s", 1.0),
    "goodput": ("goodput_requests_per_s", 1.0),
    "ttft_p99": ("ttft_p99_s", 1.0),
    "tpot_p99": ("tpot_p99_s", 1.0),
}
_TOKENS_OF_REQUESTS = "output_tokens_per_s"
_OBJECTIVES = {
    "training": {"money": "cost_usd", "energy": "energy_total_j", "throughput": "tokens_per_s"},
    "inference": {
        "time": "tpot_s",
        "ttft": "ttft_s",
        "money": "usd_per_million_output_tokens",
        "energy": "joules_per_output_token",
        "throughput": "output_tokens_per_s",
    },
}


def kind_of(run: Run) -> Literal["training", "inference"]:
    """What is asked of the machines; serving counts as inference."""
    return "training" if run.kind == "training" else "inference"


def limits_of(plan: Plan, kind: str) -> tuple[Limit, ...]:
    """The constraints of a plan of that kind of run as limits of figures."""
    limits = []
    for name, value in plan.constraints.stated().items():
        key, unit = _LIMITS[name]
        limits.append(
            Limit(name, _TOKENS_OF_REQUESTS if (name, kind) == ("throughput", "inference") else key, value / unit)
        )
    return tuple(limits)


def objectives_of(plan: Plan, kind: str, *, has_length: bool) -> tuple[str, ...]:
    """The figures that rank, the first first; a second one is added where the plan names only one."""
    known = {"gpus": "gpus", "carbon": "carbon_kg", "time": "days" if has_length else "step_time_s"}
    known |= _OBJECTIVES[kind]
    keys = [known[name] for name in plan.objectives]
    if len(keys) == 1:
        keys += [known["time"] if keys[0] != known["time"] else known["throughput"]]
    return tuple(keys)


@dataclass(frozen=True)
class Question:
    """A plan in figures: its limits, and the objectives, the first of which decides."""

    limits: tuple[Limit, ...]
    keys: tuple[str, ...]
    end: End

    @property
    def early(self) -> tuple[Limit, ...]:
        """The limits of figures that every timed point has."""
        return tuple(limit for limit in self.limits if limit.key not in LATE)


def question_of(plan: Plan, base: Run) -> Question:
    """What the plan asks of runs such as `base`."""
    kind, work = kind_of(base), base.training
    has_length = work is not None and (work.tokens is not None or "training.tokens" in plan.vary)
    return Question(limits_of(plan, kind), objectives_of(plan, kind, has_length=has_length), plan.decide_on)
