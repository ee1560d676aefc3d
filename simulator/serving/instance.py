"""One instance of a serving engine: admission, continuous batching, chunked prompts, cache and preemption.

A step takes what the scheduler admits: decoding sequences, one token each and those drafted for it, and pieces of
prompts within the step's token budget. Between events (a request finishing, arriving or running out of cache) decode
steps are alike but for the keys they read, so a run of them is one event: its k steps take a k + b k (k - 1) / 2
seconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

from simulator.serving.acceptance import Acceptance
from simulator.serving.capacity import Budget
from simulator.serving.requests import Request
from simulator.serving.statistics import Distribution
from simulator.serving.steps import StepCost

if TYPE_CHECKING:
    import simpy


SEED = 0
"""Of the drafts that hold."""
GROWTH_KEPT = 0.5
"""Share of the unwritten output that is kept free. SGLang's new-token ratio starts at 0.7 and falls; vLLM preempts."""


class Instance:
    """A replica of the model with its waiting room. `run` is its SimPy process."""

    def __init__(
        self, env: simpy.Environment, cost: StepCost, budget: Budget, *, finished: Callable[[Request, float], None]
    ) -> None:
        self.env, self.cost, self.budget, self.engine = env, cost, budget, cost.run.defaults
        self.waiting: deque[Request] = deque()
        self.prefilling: deque[Request] = deque()
        self.decoding: list[tuple[int, int, Request]] = []
        """A heap by the step that yields the last token."""
        self.step = 0
        self.keys = 0.0
        """Tokens in the KV cache of sequences that decode."""
        self.held = 0.0
        """Tokens of KV cache that are taken or promised."""
        self.unwritten = 0.0
        """Tokens of KV cache that outputs will take which the batch has not produced yet."""
        self.pace = 0.0
        """Tokens that the decoding sequences gain in a step ..."""
        self.growth = 0.0
        """... and the KV cache these take."""
        self.intervals = Distribution()
        self.preemptions = 0
        self.busy = 0.0
        self._delay = 0.0
        self._finished = finished
        self._arrived: simpy.Event | None = None
        self._acceptance = None if cost.speculative is None else Acceptance(cost.speculative, SEED)

    @property
    def active(self) -> int:
        """Requests in the batch."""
        return len(self.prefilling) + len(self.decoding)

    @property
    def load(self) -> int:
        """Requests it has not finished."""
        return len(self.waiting) + self.active

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)
        self._wake()

    def _wake(self) -> None:
        """Something has come that the step after the present one may take up."""
        if self._arrived is not None and not self._arrived.triggered:
            self._arrived.succeed()

    def run(self) -> Generator[Any, Any, None]:
        """Serve for ever."""
        while True:
            self._admit()
            pieces = self._pieces()
            if pieces:
                yield from self._mixed_step(pieces)
            elif self.decoding:
                yield from self._decode_run()
            else:
                self._arrived = self.env.event()
                yield self._arrived
                self._arrived = None

    def _admit(self) -> None:
        """Move waiting requests into the batch while sequences and KV cache last, first come, first served."""
        while self.waiting:
            request = self.waiting[0]
            taken, spare = self._promise(request)
            active = self.active
            if active >= self.budget.sequences or (active and self.held + taken + spare > self.budget.kv_tokens):
                return
            self.held += taken
            self.unwritten += request.growth * (request.output - request.produced)
            self._begin(self.waiting.popleft())

    def _promise(self, request: Request) -> tuple[float, float]:
        """(KV cache that a request takes as it joins, what must stay free beyond it).

        An engine that doesn't reserve outputs keeps room for half of what the batch may still write.
        """
        now = self.budget.held(request.prompt + request.produced)
        whole = self.budget.held(request.prompt + request.output)
        request.growth = (whole - now) / (request.output - request.produced)
        if self.engine.reserves_output:
            return whole, 0.0
        return now + request.growth, GROWTH_KEPT * (self.unwritten + whole - now)

    def _begin(self, request: Request) -> None:
        """An admitted request's prompt is to be read."""
        self.prefilling.append(request)

    def _pieces(self) -> list[tuple[Request, int]]:
        """(request, tokens) of prompts that this step computes."""
        room = self.budget.step_tokens
        if self.engine.mixes_phases:
            room -= round(len(self.decoding) * self.cost.queries)
        pieces: list[tuple[Request, int]] = []
        for request in self.prefilling:
            if room <= 0:
                break
            if request.pending > room and not self.engine.chunks_prompts and pieces:
                break
            taken = min(request.pending, room) if self.engine.chunks_prompts else request.pending
            pieces.append((request, taken))
            room -= taken
        return pieces

    def _mixed_step(self, pieces: list[tuple[Request, int]]) -> Generator[Any, Any, None]:
        ranks = self.budget.data_ranks
        decodes = len(self.decoding) if self.engine.mixes_phases else 0
        for request, _ in pieces:
            if request.start < 0:
                request.start = self.env.now
        shares = [(taken / ranks, float(request.done)) for request, taken in pieces]  # attention ranks share evenly
        yield self._spend(self.cost.seconds(decodes / ranks, self.keys / ranks if decodes else 0.0, shares), decodes)
        self._advance(1 if decodes else 0)
        for request, taken in pieces:
            request.done += taken
            if request.pending == 0:
                self.prefilling.remove(request)
                self._start_decoding(request)

    def _start_decoding(self, request: Request) -> None:
        """The step that ends a prompt yields its next token."""
        if request.first_token < 0:
            request.first_token = self.env.now
        request.produced += 1
        self.unwritten -= request.growth
        left = request.output - request.produced
        if left <= 0:
            self._leave(request)
            return
        steps = left if self._acceptance is None else self._acceptance.steps(left)
        request.finish_step, request.pace = self.step + steps, left / steps
        self.keys += request.done + 1
        self.pace += request.pace
        self.growth += request.pace * request.growth
        heapq.heappush(self.decoding, (request.finish_step, request.index, request))

    def _decode_run(self) -> Generator[Any, Any, None]:
        """Decode steps until a sequence ends, the cache is full, or a request arrives."""
        count, ranks = len(self.decoding), self.budget.data_ranks
        steps = self.decoding[0][0] - self.step
        if not self.engine.reserves_output and self.growth > 0:
            steps = min(steps, int((self.budget.kv_tokens - self.held) / self.growth))
            if steps < 1:
                self._preempt()
                return
        first = self.cost.seconds(count / ranks, self.keys / ranks)
        growth = self.cost.key_s * self.pace / ranks / self.cost.layout.pp
        whole = first * steps + growth * steps * (steps - 1) / 2
        began = self.env.now
        self._arrived = self.env.event()
        timer = self.env.timeout(whole)
        yield timer | self._arrived
        self._arrived = None
        if not timer.processed:
            steps = min(steps, _steps_by(self.env.now - began, first, growth))
            whole = first * steps + growth * steps * (steps - 1) / 2
            rest = began + whole - self.env.now
            if rest > 0:
                yield self.env.timeout(rest)
        self.busy += whole
        self.intervals.add(first + self._delay, count)
        if steps > 1:
            self.intervals.add((whole - first) / (steps - 1), (steps - 1) * count)
        self._delay = 0.0
        self._advance(steps)

    def _spend(self, seconds: float, decodes: int) -> simpy.Timeout:
        self.busy += seconds
        if decodes:
            self.intervals.add(seconds, decodes)
        else:
            self._delay += seconds  # decoding sequences wait for the prompts
        return self.env.timeout(seconds)

    def _advance(self, steps: int) -> None:
        """Let every decoding sequence go through `steps` steps, and let the finished ones leave."""
        if not steps:
            return
        self.step += steps
        self.keys += steps * self.pace
        self.unwritten -= steps * self.growth
        if not self.engine.reserves_output:
            self.held += steps * self.growth
        while self.decoding and self.decoding[0][0] <= self.step:
            _, _, request = heapq.heappop(self.decoding)
            self.keys -= request.prompt + request.output
            self._slow(request)
            self._leave(request)

    def _slow(self, request: Request) -> None:
        """One sequence fewer gains tokens."""
        self.pace -= request.pace
        self.growth -= request.pace * request.growth

    def _leave(self, request: Request) -> None:
        self.held -= self.budget.held(request.prompt + request.output)
        self._finished(request, self.env.now)

    def _preempt(self) -> None:
        """Drop the latest request's cache; it is computed again when there is room."""
        place = max(range(len(self.decoding)), key=lambda i: self.decoding[i][2].index)
        _, _, request = self.decoding.pop(place)
        heapq.heapify(self.decoding)
        left = (request.finish_step - self.step) * request.pace
        self.unwritten -= left * request.growth
        self.keys -= request.prompt + request.output - left
        self.held -= self.budget.held(request.prompt + request.output) - left * request.growth
        self._slow(request)
        request.produced = request.output - ceil(left)
        request.done = request.cached
        request.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(request)


def _steps_by(elapsed: float, first: float, growth: float) -> int:
    """Steps that have begun within `elapsed` seconds: the running one ends before anything else starts."""
    if growth <= 0:
        return max(1, ceil(elapsed / first))
    b = first - growth / 2
    return max(1, ceil((-b + sqrt(b * b + 2 * growth * elapsed)) / growth - 1e-9))
