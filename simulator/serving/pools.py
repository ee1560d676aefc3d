"""Prompts read on some GPUs and answers written on others (DistServe, arXiv 2401.09670; Splitwise, arXiv 2311.18677).

A prefill instance reads a prompt and yields the first token; the prompt's KV cache then crosses to a decode instance
that has room for it, over ports which concurrent transfers share fairly, and the rest is written there. A port is all
that an instance's GPUs send or receive together: their links where one scale-up domain holds both pools, else NICs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.engine.flows import Links, Transfer
from simulator.engine.moving import Moving
from simulator.graph.kv_cache import CacheShape
from simulator.serving.capacity import Budget
from simulator.serving.instance import Instance
from simulator.serving.requests import Request
from simulator.serving.router import router
from simulator.serving.steps import StepCost
from simulator.spec.serving import Router

if TYPE_CHECKING:
    import simpy


@dataclass(frozen=True, slots=True)
class Handover:
    """The prefill pool of a disaggregated engine, and how caches leave it. Ports in bytes/s of an instance."""

    cost: StepCost
    budget: Budget
    cache: CacheShape
    out: float
    into: float
    latency: float

    def seconds(self, tokens: float) -> float:
        """Of the cache of so many tokens, alone on its way."""
        return self.latency + self.cache.bytes(tokens) / min(self.out, self.into)


class Crossing:
    """KV caches on their way: each loads the port it leaves by and the one it enters by."""

    def __init__(self, env: simpy.Environment, handover: Handover, *, senders: int, receivers: int) -> None:
        self.env, self.handover, self.senders = env, handover, senders
        self._moving = Moving(env, Links([handover.out] * senders + [handover.into] * receivers))

    def move(self, tokens: float, sender: int, receiver: int) -> Generator[Any, Any, None]:
        """Until the cache of so many tokens has come across."""
        handover = self.handover
        loads = ((sender, 1.0), (self.senders + receiver, 1.0))
        cap = min(handover.out, handover.into)
        yield self.env.timeout(handover.latency)
        yield self._moving.move(Transfer("KV cache", "kv_cache", 0.0, handover.cache.bytes(tokens), cap, loads))


class PrefillInstance(Instance):
    """Reads prompts. A prompt's cache stays until it has crossed."""

    def __init__(
        self,
        env: simpy.Environment,
        handover: Handover,
        *,
        finished: Callable[[Request, float], None],
        hand_over: Callable[[Request, PrefillInstance], None],
    ) -> None:
        super().__init__(env, handover.cost, handover.budget, finished=finished)
        self._hand_over = hand_over

    def _promise(self, request: Request) -> tuple[float, float]:
        request.growth = 0.0
        return self.budget.held(request.prompt), 0.0

    def _start_decoding(self, request: Request) -> None:
        request.first_token = self.env.now
        if request.output == 1:
            self._leave(request)
        else:
            self._hand_over(request, self)

    def _leave(self, request: Request) -> None:
        self.crossed(request)
        self._finished(request, self.env.now)

    def crossed(self, request: Request) -> None:
        """The request's cache is elsewhere now, and its room is free."""
        self.held -= self.budget.held(request.prompt)
        self._wake()


class DecodeInstance(Instance):
    """Writes answers. It fetches a prompt's cache once it has room; what it preempts it reads again itself."""

    def __init__(
        self,
        env: simpy.Environment,
        cost: StepCost,
        budget: Budget,
        *,
        finished: Callable[[Request, float], None],
        cross: Callable[[Request, DecodeInstance], Generator[Any, Any, None]],
    ) -> None:
        super().__init__(env, cost, budget, finished=finished)
        self._cross = cross
        self.fetching = 0
        self.fetched: deque[Request] = deque()

    @property
    def active(self) -> int:
        """Requests in the batch or on their way to it."""
        return self.fetching + super().active

    def _admit(self) -> None:
        while self.fetched:
            self.fetching -= 1
            request = self.fetched.popleft()
            self.intervals.add(self.env.now - request.first_token)
            self._start_decoding(request)
        super()._admit()

    def _begin(self, request: Request) -> None:
        if request.preemptions:
            super()._begin(request)
        else:
            self.fetching += 1
            self.env.process(self._fetch(request))

    def _fetch(self, request: Request) -> Generator[Any, Any, None]:
        yield from self._cross(request, self)
        self.fetched.append(request)
        self._wake()


class Pools:
    """Both pools and what joins them; requests go to one of the `readers`."""

    def __init__(
        self,
        env: simpy.Environment,
        cost: StepCost,
        budget: Budget,
        handover: Handover,
        *,
        kind: Router,
        finished: Callable[[Request, float], None],
    ) -> None:
        self.readers = [
            PrefillInstance(env, handover, finished=finished, hand_over=self._hand_over)
            for _ in range(handover.budget.instances)
        ]
        self.writers = [
            DecodeInstance(env, cost, budget, finished=finished, cross=self._cross) for _ in range(budget.instances)
        ]
        self._crossing = Crossing(env, handover, senders=len(self.readers), receivers=len(self.writers))
        self._writer = router(kind, self.writers)
        self._holders: dict[int, PrefillInstance] = {}

    def _hand_over(self, request: Request, reader: PrefillInstance) -> None:
        self._holders[request.index] = reader
        self._writer().submit(request)

    def _cross(self, request: Request, writer: DecodeInstance) -> Generator[Any, Any, None]:
        reader = self._holders.pop(request.index)
        yield from self._crossing.move(request.prompt, self.readers.index(reader), self.writers.index(writer))
        reader.crossed(request)
