"""Requests through the instances of an engine, simulated step by step with SimPy.

What is kept of a request once it has left are counts in distributions and, of a few, their times: memory grows with the
requests in flight, not with the length of a trace.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from simulator.serving.capacity import Budget
from simulator.serving.instance import Instance
from simulator.serving.pools import Handover, Pools
from simulator.serving.requests import Request, request_of
from simulator.serving.router import router
from simulator.serving.statistics import Distribution
from simulator.serving.steps import StepCost
from simulator.spec.serving import Serving
from simulator.units import US

DRAWN_REQUESTS = 80
"""One after the other, whose times are kept: those that waited longest together."""
MOST_SAMPLES = 400
"""Of the load over time; beyond, every other one is dropped and half as many are taken."""
FIRST_INTERVAL = 0.01
"""Seconds between the first of them."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A closed loop: the next lengths, how many requests are in flight, how many there are, and the share of each
    prompt that is cached."""

    sizes: Iterator[tuple[int, int]]
    in_flight: int
    requests: int
    hit: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The load at an instant: requests in the batch and waiting, and the share of the KV cache that is taken."""

    at: float
    running: int
    waiting: int
    cache: float


@dataclass(frozen=True, slots=True)
class Life:
    """When a request arrived, began to be read, yielded its first token and its last."""

    arrival: float
    start: float
    first_token: float
    end: float
    prompt: int
    output: int

    @property
    def wait(self) -> float:
        """Until its first token."""
        return self.first_token - self.arrival


@dataclass(slots=True)
class Outcome:
    """What a simulation yields; times in seconds."""

    ttft: Distribution = field(default_factory=Distribution)
    tpot: Distribution = field(default_factory=Distribution)
    itl: Distribution = field(default_factory=Distribution)
    e2e: Distribution = field(default_factory=Distribution)
    queue: Distribution = field(default_factory=Distribution)
    requests: int = 0
    good: int = 0
    """Requests within the objectives."""
    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts, those that were in the cache already."""
    duration: float = 0.0
    """To the last token."""
    preemptions: int = 0
    busy: float = 0.0
    """Share of the duration in which instances computed; of a disaggregated engine, those that write answers."""
    reading: float = 0.0
    """The same of those that read prompts, where others write the answers."""
    samples: list[Sample] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)

    @property
    def in_flight(self) -> float:
        """Mean requests that decode (Little's law)."""
        return self.requests * max(0.0, self.e2e.mean - self.ttft.mean) / self.duration


def serve(
    cost: StepCost,
    budget: Budget,
    *,
    arrivals: Iterator[Request] | None = None,
    loop: Loop | None = None,
    asked: Serving | None = None,
    handover: Handover | None = None,
) -> Outcome:
    """Serve `arrivals` in their order, or a closed `loop`; `asked` has the router and the objectives.

    With a `handover` its pool reads the prompts, and the instances of `cost` and `budget` write the answers.
    """
    return _Simulation(cost, budget, loop, asked or Serving(), handover).run(arrivals)


class _Simulation:
    """The world of one simulation: instances, the router, and what is written down."""

    def __init__(
        self, cost: StepCost, budget: Budget, loop: Loop | None, asked: Serving, handover: Handover | None
    ) -> None:
        self.env, self.loop, self.asked, self.budget = simpy.Environment(), loop, asked, budget
        engine = cost.run.defaults
        self.overhead, self.late = engine.request_us * US, engine.first_token_steps * cost.tokens_per_step
        self.outcome = Outcome()
        self.sent, self.open, self.all_sent = 0, 0, False
        self.latest: list[Life] = []
        self.readers: Sequence[Instance] = ()
        self.instances: Sequence[Instance]
        if handover is None:
            self.instances = [
                Instance(self.env, cost, budget, finished=self._finished) for _ in range(budget.instances)
            ]
        else:
            pools = Pools(self.env, cost, budget, handover, kind=asked.router, finished=self._finished)
            self.readers, self.instances = pools.readers, pools.writers
        self.route = router(asked.router, self.readers or self.instances)

    def run(self, arrivals: Iterator[Request] | None) -> Outcome:
        for instance in (*self.readers, *self.instances):
            self.env.process(instance.run())
        if self.loop is None:
            self.env.process(self._arrive(arrivals or iter(())))
        else:
            for _ in range(min(self.loop.in_flight, self.loop.requests)):
                self._send(0.0)
        self.env.process(self._watch())
        self.env.run()
        self._keep_longest_waits()
        outcome = self.outcome
        for instance in self.instances:
            outcome.itl.merge(instance.intervals)
            outcome.preemptions += instance.preemptions
            outcome.busy += instance.busy / len(self.instances) / max(outcome.duration, US)
        for reader in self.readers:
            outcome.reading += reader.busy / len(self.readers) / max(outcome.duration, US)
        return outcome

    def _arrive(self, arrivals: Iterator[Request]) -> Generator[Any, Any, None]:
        for request in arrivals:
            if request.arrival > self.env.now:
                yield self.env.timeout(request.arrival - self.env.now)
            self._submit(request)
        self.all_sent = True

    def _send(self, now: float) -> None:
        """Send the next request of a loop."""
        assert self.loop is not None
        self.sent += 1
        self.all_sent = self.sent == self.loop.requests
        self._submit(request_of(self.sent, now, next(self.loop.sizes), self.loop.hit))

    def _submit(self, request: Request) -> None:
        self.open += 1
        self.route().submit(request)

    def _resend(self) -> Generator[Any, Any, None]:
        yield self.env.timeout(self.overhead)
        if not self.all_sent:
            self._send(self.env.now)

    def _finished(self, request: Request, now: float) -> None:
        outcome, asked = self.outcome, self.asked
        outcome.requests += 1
        outcome.output_tokens += request.output
        outcome.prompt_tokens += request.prompt
        outcome.cached_tokens += request.cached
        outcome.duration = now
        writing, steps = now - request.first_token, request.output - 1
        unseen = min(writing, self.late * writing / max(1, steps))  # until the client is sent the first tokens
        ttft = request.first_token - request.arrival + self.overhead + unseen
        tpot = (writing - unseen) / steps if steps else 0.0
        outcome.ttft.add(ttft)
        outcome.queue.add(request.start - request.arrival)
        outcome.e2e.add(now - request.arrival + self.overhead)
        if steps:
            outcome.tpot.add(tpot)
        in_time = asked.ttft_slo is None or ttft <= asked.ttft_slo
        outcome.good += in_time and (asked.tpot_slo is None or tpot <= asked.tpot_slo)
        self.latest.append(
            Life(request.arrival, request.start, request.first_token, now, request.prompt, request.output)
        )
        if len(self.latest) == DRAWN_REQUESTS:
            self._keep_longest_waits()
        self.open -= 1
        if self.loop is not None and not self.all_sent:
            self.env.process(self._resend())

    def _keep_longest_waits(self) -> None:
        """Of the latest requests and those kept so far, those that waited longer for their first tokens."""
        kept = self.outcome.lives
        if sum(life.wait for life in self.latest) > sum(life.wait for life in kept) or not kept:
            self.outcome.lives = self.latest
        self.latest = []

    def _watch(self) -> Generator[Any, Any, None]:
        """Write the load down at even intervals, ever longer ones as time goes on."""
        samples, interval = self.outcome.samples, FIRST_INTERVAL
        everyone = (*self.readers, *self.instances)
        room = sum(instance.budget.kv_tokens for instance in self.instances)
        while self.open or not self.all_sent:
            held = sum(instance.held for instance in self.instances) / room
            running, waiting = sum(i.active for i in everyone), sum(len(i.waiting) for i in everyone)
            samples.append(Sample(self.env.now, running, waiting, held))
            if len(samples) > MOST_SAMPLES:
                del samples[::2]
                interval *= 2
            yield self.env.timeout(interval)
