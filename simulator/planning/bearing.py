"""What load one replica of a serving run bears: the highest rate of requests at which latencies keep their objectives.

Read from the closed form of random arrivals (docs/serving.md). If all times are f times as long,
tpot'(r) = f tpot(f r), so that the rate under an objective T falls from R(T) to R(T / f) / f: that is the interval.
Which ceiling is the lowest says what breaks first: the batch is full (KV cache, or sequences of the engine), decoding
is too slow, or prompts queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import exp, hypot

from simulator.assembly import uncertainty as u
from simulator.assembly.metrics import Evidence, batch_figures
from simulator.errors import InfeasibleError
from simulator.fleet import Capacity, Ceiling, LimitName
from simulator.result import Number
from simulator.serving.capacity import budget
from simulator.serving.steady import Server, Steady, open_loop, sustainable_rate
from simulator.serving.steps import StepCost
from simulator.simulation import inference_batch
from simulator.spec.run import Run

HALVINGS = 24
"""In the search for a rate: to a ten-millionth."""
FULL = 1 - 1e-6
"""Of what can be served for ever: the highest load that has a steady state."""
ALONE = 1e-4
"""The same: a load at which requests meet no others."""


@dataclass(frozen=True)
class Service:
    """A run with its replicas under random arrivals. Rates are those of all replicas together."""

    run: Run

    def at_rate(self, rate: float) -> Run:
        """The run with that many requests per second."""
        work = self.run.inference
        assert work is not None
        update = {"request_rate": rate, "batching": "continuous", "concurrency": 1, "requests": None}
        return self.run.model_copy(update={"inference": work.model_copy(update=update)})

    @cached_property
    def server(self) -> Server:
        """One engine with the costs of its steps, which all rates share."""
        run, work, asked = self.at_rate(1.0), self.run.inference, self.run.serving
        assert work is not None
        cached = asked.prefix_hit * (work.isl - 1) if asked is not None else 0.0
        return Server(StepCost(run), budget(run), float(work.isl), float(work.osl), cached)

    def state(self, rate: float) -> Steady:
        """The steady state at a rate below `most`."""
        return open_loop(self.server, rate)

    @property
    def replicas(self) -> int:
        """Engines that the run's GPUs make."""
        return self.server.budget.instances

    @cached_property
    def most(self) -> float:
        """Requests per second that can be served for ever. Raises InfeasibleError where not even one fits."""
        return sustainable_rate(self.server)

    @cached_property
    def evidence(self) -> Evidence:
        """How wrong its times may be, at the highest load."""
        return batch_figures(inference_batch(self.at_rate(self.most * FULL), closed_form=True)).evidence

    def rate_within(self, name: LimitName, goal: float) -> float:
        """The highest rate at which a latency keeps `goal` seconds; 0 where it never does."""
        low, high = self.most * ALONE, self.most * FULL
        if latency(self.state(low), name) > goal:
            return 0.0
        if latency(self.state(high), name) <= goal:
            return high
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if latency(self.state(middle), name) <= goal else (low, middle)
        return low


def latency(state: Steady, name: LimitName) -> float:
    """The seconds that a limit is about: of an output token, or of the first one."""
    return state.tpot if name == "decode" else state.ttft


def capacity_of(service: Service, *, tpot: float | None, ttft: float | None) -> Capacity:
    """What one replica bears while latencies (seconds) keep their objectives. Raises InfeasibleError where one fails
    at any load."""
    ceilings = [_batch(service)]
    for name, goal in (("decode", tpot), ("prompts", ttft)):
        if goal is not None:
            ceilings.append(_objective(service, "decode" if name == "decode" else "prompts", goal))
    known = [(each.rate, each.name) for each in ceilings if each.rate is not None]
    least, first = min(known, key=lambda pair: pair[0].value)
    ends = {"low": min(rate.low for rate, _ in known), "high": min(rate.high for rate, _ in known)}
    at = service.state(min(least.value * service.replicas, service.most * FULL))
    gpus = service.run.hardware.gpus // service.replicas
    return Capacity(gpus, least.model_copy(update=ends), first, tuple(ceilings), at.ttft, at.tpot)


def _batch(service: Service) -> Ceiling:
    """The load at which the batch is full."""
    by_cache = service.server.fits <= service.server.budget.sequences
    rate = u.number(service.most / service.replicas, service.evidence.whole, service.evidence.basis)
    return Ceiling("kv_cache" if by_cache else "sequences", rate)


def _objective(service: Service, name: LimitName, goal: float) -> Ceiling:
    """The load at which a latency reaches its objective; none where the batch is full before."""
    evidence = service.evidence
    factor = exp(u.Z90 * (evidence.whole if name == "decode" else hypot(evidence.whole, u.QUEUE_ERROR)))
    value, low, high = (service.rate_within(name, goal / f) / f / service.replicas for f in (1.0, factor, 1 / factor))
    if not value:
        raise _never(latency(service.state(service.most * ALONE), name), name, goal)
    if value >= service.most * FULL / service.replicas:
        return Ceiling(name, None, goal)
    return Ceiling(name, Number(value=value, low=low, high=high, basis=evidence.basis), goal)


def _never(alone: float, name: LimitName, goal: float) -> InfeasibleError:
    what, field = ("a token", "tpot") if name == "decode" else ("the first token", "ttft")
    return InfeasibleError(
        f"{what} of a request that meets no others takes {alone * 1e3:.3g} ms: no number of GPUs makes that "
        f"{goal * 1e3:.3g} ms",
        path=f"objectives.{field}",
        needed=alone,
        available=goal,
        suggestion=f"objectives.{field}: {alone * 1.1e3:.3g} ms, a wider split, or a faster device",
    )
