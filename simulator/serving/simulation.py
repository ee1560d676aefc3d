"""Requests through the instances of an engine, simulated step by step with SimPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import simpy

from simulator.serving.capacity import Budget
from simulator.serving.instance import Instance
from simulator.serving.requests import Request
from simulator.serving.statistics import Distribution
from simulator.serving.steps import StepCost


@dataclass(slots=True)
class Outcome:
    """What a simulation yields; latencies are in seconds."""

    ttft: Distribution = field(default_factory=Distribution)
    tpot: Distribution = field(default_factory=Distribution)
    itl: Distribution = field(default_factory=Distribution)
    e2e: Distribution = field(default_factory=Distribution)
    requests: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    duration: float = 0.0
    """From the first arrival to the last token."""
    preemptions: int = 0
    busy: float = 0.0
    """Share of the duration in which instances computed."""


def serve(
    cost: StepCost,
    budget: Budget,
    *,
    arrivals: Iterator[Request] | None = None,
    loop: tuple[Iterator[tuple[int, int]], int, int] | None = None,
) -> Outcome:
    """Serve `arrivals` in their order, or a closed `loop` of (sizes, requests in flight, requests in all)."""
    env = simpy.Environment()
    outcome = Outcome()
    overhead = cost.run.defaults.request_us * 1e-6
    sent = 0

    def finished(request: Request, now: float) -> None:
        nonlocal sent
        outcome.requests += 1
        outcome.output_tokens += request.output
        outcome.prompt_tokens += request.prompt
        outcome.duration = now
        ttft = request.first_token - request.arrival + overhead
        outcome.ttft.add(ttft)
        outcome.e2e.add(now - request.arrival + overhead)
        if request.output > 1:
            outcome.tpot.add((now - request.first_token) / (request.output - 1))
        if loop is not None and sent < loop[2]:
            env.process(next_request(now))

    def next_request(now: float):  # type: ignore[no-untyped-def]
        nonlocal sent
        assert loop is not None
        sent += 1
        index = sent
        prompt, output = next(loop[0])
        yield env.timeout(overhead)
        submit(Request(index, env.now, prompt, output))

    instances = [Instance(env, cost, budget, finished=finished) for _ in range(budget.instances)]
    for instance in instances:
        env.process(instance.run())

    def submit(request: Request) -> None:
        min(instances, key=lambda instance: instance.load).submit(request)

    def source():  # type: ignore[no-untyped-def]
        assert arrivals is not None
        for request in arrivals:
            if request.arrival > env.now:
                yield env.timeout(request.arrival - env.now)
            submit(request)

    if loop is not None:
        sizes, in_flight, count = loop
        for _ in range(min(in_flight, count)):
            sent += 1
            prompt, output = next(sizes)
            submit(Request(sent, 0.0, prompt, output))
    else:
        env.process(source())
    env.run()
    for instance in instances:
        outcome.itl.merge(instance.intervals)
        outcome.preemptions += instance.preemptions
        outcome.busy += instance.busy
    return outcome
