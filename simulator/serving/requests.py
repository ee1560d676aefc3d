"""Requests, and the streams they come in: closed loops, bursts, random arrivals and traces, one request at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BLOCK = 4096
"""Random numbers drawn at once."""
SHORTEST = 0.8
"""Of the longest, where lengths are uniform_0.8_1."""


SPREAD = 0.02
"""Of the outputs of requests of one length, relative, either way."""


@dataclass(slots=True)
class Request:
    """One request: what it asks for, and what has become of it. Times in seconds."""

    index: int
    arrival: float
    prompt: int
    output: int
    cached: int = 0
    """Tokens at the front of the prompt that an earlier request left in the cache."""
    done: int = 0
    """Tokens of the prompt (and of output lost in a preemption) whose keys and values are cached."""
    start: float = -1.0
    first_token: float = -1.0
    produced: int = 0
    """Output tokens generated before the last preemption."""
    finish_step: int = 0
    pace: float = 1.0
    """Tokens it gains in a decode step."""
    growth: float = 1.0
    """Tokens of KV cache that each of them takes."""
    preemptions: int = 0

    @property
    def pending(self) -> int:
        """Tokens to compute before it decodes: its prompt, and after a preemption what it had produced."""
        return self.prompt + self.produced - self.done


def lengths(mean_prompt: float, mean_output: float, kind: str, seed: int) -> Iterator[tuple[int, int]]:
    """(prompt, output) tokens of one request after the other, without end.

    Requests of a fixed length get outputs within SPREAD of it: exactly equal ones would stay in lockstep for ever,
    which clients, networks and tokenisers do not let them.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    if kind == "fixed":
        low, high = (1.0, 1 - SPREAD), (1.0, 1 + SPREAD)
    else:
        low, high = (2 * SHORTEST / (1 + SHORTEST),) * 2, (2 / (1 + SHORTEST),) * 2
    while True:
        draws = random.uniform(low, high, (BLOCK, 2)) * (mean_prompt, mean_output)
        for prompt, output in draws.tolist():
            yield max(1, round(prompt)), max(1, round(output))


def arrival_times(rate: float, burstiness: float, seed: int) -> Iterator[float]:
    """Instants of random arrivals at `rate` per second without end.

    The gaps are gamma distributed with coefficient of variation `burstiness`; 1 makes them exponential (Poisson), 0
    even.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    at = 0.0
    while True:
        for gap in _gaps(random, burstiness):
            at += float(gap) / rate
            yield at


def _gaps(random: np.random.Generator, burstiness: float) -> np.ndarray:
    import numpy as np

    if burstiness == 0:
        return np.ones(BLOCK)
    shape = burstiness**-2
    return random.gamma(shape, 1 / shape, BLOCK)


def request_of(index: int, arrival: float, size: tuple[int, int], hit: float = 0.0) -> Request:
    """A request that finds the share `hit` of its prompt cached, but for the last token, which yields the first one."""
    prompt, output = size
    cached = min(prompt - 1, round(hit * prompt))
    return Request(index, arrival, prompt, output, cached, done=cached)


def open_loop(
    times: Iterator[float], sizes: Iterator[tuple[int, int]], count: int, *, hit: float = 0.0
) -> Iterator[Request]:
    """`count` requests at the given instants, each with the share `hit` of its prompt cached."""
    for index in range(count):
        size = next(sizes)
        yield request_of(index, next(times), size, hit)
