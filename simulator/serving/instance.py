"""One instance of a serving engine: admission, continuous batching, chunked prompts, cache and preemption.

A step takes what the scheduler admits: decoding sequences, one token each, and pieces of prompts within the step's
token budget. Between events (a request finishing, arriving or running out of cache) decode steps are alike but for the
keys they read, so a run of them is one event: its k steps take a k + b k (k - 1) / 2 seconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

from simulator.serving.capacity import Budget
from simulator.serving.requests import Request
from simulator.serving.statistics import Distribution
from simulator.serving.steps import StepCost

if TYPE_CHECKING:
    import simpy


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
        """Output tokens that the batch has not produced yet."""
        self.intervals = Distribution()
        self.preemptions = 0
        self.busy = 0.0
        self._delay = 0.0
        self._finished = finished
        self._arrived: simpy.Event | None = None

    @property
    def load(self) -> int:
        """Requests it has not finished."""
        return len(self.waiting) + len(self.prefilling) + len(self.decoding)

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)
        if self._arrived is not None and not self._arrived.triggered:
            self._arrived.succeed()

    def run(self) -> Generator[Any, Any, None]:
        """Serve for ever."""
        while True:
            if not self.load:
                self._arrived = self.env.event()
                yield self._arrived
                self._arrived = None
                continue
            self._admit()
            pieces = self._pieces()
            if pieces:
                yield from self._mixed_step(pieces)
            else:
                yield from self._decode_run()

    def _admit(self) -> None:
        """Move waiting requests into the batch while sequences and KV cache last, first come, first served.

        An engine that doesn't reserve outputs keeps room for half of what the batch may still write.
        """
        while self.waiting:
            request = self.waiting[0]
            left = request.output - request.produced
            if self.engine.reserves_output:
                promised, spare = request.prompt + request.output, 0.0
            else:
                promised, spare = request.prompt + request.produced + 1, GROWTH_KEPT * (self.unwritten + left)
            active = len(self.prefilling) + len(self.decoding)
            if active >= self.budget.sequences or (active and self.held + promised + spare > self.budget.kv_tokens):
                return
            self.held += promised
            self.unwritten += left
            if request.start < 0:
                request.start = self.env.now
            self.prefilling.append(self.waiting.popleft())

    def _pieces(self) -> list[tuple[Request, int]]:
        """(request, tokens) of prompts that this step computes."""
        room = self.budget.step_tokens - (len(self.decoding) if self.engine.mixes_phases else 0)
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
        self.unwritten -= 1
        left = request.output - request.produced
        if left <= 0:
            self._leave(request)
            return
        request.finish_step = self.step + left
        self.keys += request.done + 1
        heapq.heappush(self.decoding, (request.finish_step, request.index, request))

    def _decode_run(self) -> Generator[Any, Any, None]:
        """Decode steps until a sequence ends, the cache is full, or a request arrives."""
        count, ranks = len(self.decoding), self.budget.data_ranks
        steps = self.decoding[0][0] - self.step
        if not self.engine.reserves_output:
            steps = min(steps, int((self.budget.kv_tokens - self.held) / count))
            if steps < 1:
                self._preempt()
                return
        first = self.cost.seconds(count / ranks, self.keys / ranks)
        growth = self.cost.key_s * count / ranks / self.cost.layout.pp
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
        """Let every decoding sequence produce `steps` tokens, and let the finished ones leave."""
        if not steps:
            return
        self.step += steps
        self.keys += steps * len(self.decoding)
        self.unwritten -= steps * len(self.decoding)
        if not self.engine.reserves_output:
            self.held += steps * len(self.decoding)
        while self.decoding and self.decoding[0][0] <= self.step:
            _, _, request = heapq.heappop(self.decoding)
            self.keys -= request.prompt + request.output
            self._leave(request)

    def _leave(self, request: Request) -> None:
        self.held -= request.prompt + request.output
        self._finished(request, self.env.now)

    def _preempt(self) -> None:
        """Drop the latest request's cache; it is computed again when there is room."""
        place = max(range(len(self.decoding)), key=lambda i: self.decoding[i][2].index)
        _, _, request = self.decoding.pop(place)
        heapq.heapify(self.decoding)
        request.produced = request.output - (request.finish_step - self.step)
        tokens = request.prompt + request.produced
        self.unwritten -= request.output - request.produced
        self.keys -= tokens
        self.held -= tokens
        request.done = 0
        request.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(request)


def _steps_by(elapsed: float, first: float, growth: float) -> int:
    """Steps that have begun within `elapsed` seconds: the running one ends before anything else starts."""
    if growth <= 0:
        return max(1, ceil(elapsed / first))
    b = first - growth / 2
    return max(1, ceil((-b + sqrt(b * b + 2 * growth * elapsed)) / growth - 1e-9))
