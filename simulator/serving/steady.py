"""Steady states of a serving instance in closed form, for sweeps and for runs that need no distribution.

With n sequences decoding at mean context c, a step takes t(n, c), and every prompt that joins adds its marginal time
m to some step of all of them. In the time a request needs for its o tokens n prompts join, so that a token takes
    tpot = t(n, c) + m n / o        and        throughput = n / tpot.
A closed loop fixes n, up to what the KV cache holds; random arrivals at rate r find n = r o tpot (Little's law), with
tpot = t(n, c) / (1 - r m). Where a step yields e tokens of a sequence (speculative decoding), t / e takes the place
of t.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from simulator.errors import InfeasibleError
from simulator.serving.capacity import Budget
from simulator.serving.steps import StepCost

MOST_ITERATIONS = 200
TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Steady:
    """A steady state; times in seconds, rates of the whole run."""

    ttft: float
    tpot: float
    step: float
    """A token's share of an undisturbed decode step."""
    in_flight: float
    """Requests that decode, over all instances."""
    output_tokens_per_s: float
    prompt_share: float
    """Share of an instance's time that goes to prompts."""


@dataclass(frozen=True, slots=True)
class Server:
    """One engine with prompts and outputs of given mean lengths."""

    cost: StepCost
    budget: Budget
    isl: float
    osl: float
    cached: float = 0.0
    """Tokens of a prompt that are in the cache already."""

    @property
    def context(self) -> float:
        """Mean tokens in the cache of a decoding sequence."""
        return self.isl + self.osl / 2

    def step(self, sequences: float, pieces: tuple[tuple[float, float], ...] = ()) -> float:
        """Seconds of a step of one instance."""
        ranks = self.budget.data_ranks
        return self.cost.seconds(sequences / ranks, sequences / ranks * self.context, pieces)

    def marginal(self, sequences: float, together: int = 1) -> float:
        """Seconds a prompt adds to the steps of one instance, when `together` of them share steps (a rank each, and
        more)."""
        ranks, room = self.budget.data_ranks, self.budget.step_tokens / self.budget.data_ranks
        alone = self.step(sequences)
        done, added = self.cached, 0.0
        each = min(self.isl, room) if self.cost.run.defaults.chunks_prompts else self.isl - done
        count = max(1, min(together, int(room / each)))
        while done < self.isl - TOLERANCE:
            piece = min(each, self.isl - done)
            added += self.step(sequences, ((piece, done),) * count) - alone
            done += piece
        return added / (count * ranks)

    @property
    def fits(self) -> float:
        """Sequences the KV cache of one instance holds."""
        reserves = self.cost.run.defaults.reserves_output
        return self.budget.kv_tokens / self.budget.held(self.isl + (self.osl if reserves else self.osl / 2))

    @property
    def most_in_flight(self) -> float:
        """Sequences one instance runs: bounded by its KV cache and its scheduler."""
        return min(float(self.budget.sequences), self.fits)

    def at(self, sequences: float) -> tuple[float, float, float]:
        """(tpot, a token's undisturbed step, marginal prompt) with `sequences` in flight on an instance."""
        gain = self.cost.tokens_per_step
        together = max(1, round(sequences * gain / self.osl / self.budget.data_ranks))
        step, added = self.step(sequences) / gain, self.marginal(sequences, together)
        return step + added * sequences / self.osl, step, added


def closed_loop(server: Server, concurrency: float, rounds: float = inf) -> Steady:
    """`concurrency` requests at once over all instances, each replaced as it ends, lengths spread.

    In the first of `rounds` all prompts come together and wait for half of each other.
    """
    asked = concurrency / server.budget.instances
    flight = min(asked, server.fits)
    if flight < 1:
        raise too_long(server)
    tpot, step, added = server.at(flight)
    queue = (asked - flight) / flight * server.osl * tpot + added * flight / 2 / rounds
    return _steady(server, flight, tpot, step, added, queue)


def maximum_load(server: Server, requests: float = inf) -> Steady:
    """All of `requests` wait from the start, and as many are in flight as fit: waves of them, the last one partly
    filled.

    Within a wave all decode together and end within a few steps of each other, as requests of one length do.
    """
    if server.most_in_flight < 1:
        raise too_long(server)
    flight = server.most_in_flight
    share = requests / server.budget.instances
    tpot, step, added = server.at(min(flight, share))
    steady = _steady(server, min(flight, share), tpot, step, added, inf)
    if share == inf:
        return steady
    waves, rest = divmod(share, flight)
    seconds = waves * tpot * server.osl
    if rest >= 1:
        seconds += server.at(rest)[0] * server.osl
    return replace(steady, ttft=seconds / 2, output_tokens_per_s=requests * server.osl / seconds)


def sustainable_rate(server: Server) -> float:
    """Requests per second that all instances together can serve for ever."""
    return maximum_load(server).output_tokens_per_s / server.osl


def open_loop(server: Server, rate: float) -> Steady:
    """Random arrivals at `rate` per second over all instances. Raises InfeasibleError where they outrun the service."""
    limit = sustainable_rate(server)
    if rate >= limit:
        raise refuse_rate(rate, limit)
    share = rate / server.budget.instances
    flight, tpot, step, added = 1.0, 0.0, 0.0, 0.0
    for _ in range(MOST_ITERATIONS):
        _, step, added = server.at(max(1.0, flight))
        tpot = step / max(1 - share * added, TOLERANCE)
        wanted = min(share * server.osl * tpot, server.most_in_flight)
        if abs(wanted - flight) < TOLERANCE * flight:
            break
        flight += 0.5 * (wanted - flight)
    return _steady(server, flight, tpot, step, added, 0.0)


def refuse_rate(rate: float, limit: float) -> InfeasibleError:
    """Requests arrive faster than they can be served."""
    return InfeasibleError(
        f"requests arrive at {rate:.4g} per second, but at most {limit:.4g} can be served: the queue never ends",
        path="inference.request_rate",
        needed=rate,
        available=limit,
        suggestion=f"inference.request_rate: {0.9 * limit:.3g}",
    )


def _steady(server: Server, flight: float, tpot: float, step: float, added: float, queue: float) -> Steady:
    """A prompt waits for the step in progress and for prompts before it (as in an M/D/1 queue), then for its own."""
    engine, constant = server.cost.run.defaults, 1e-6
    busy = min(0.99, added * flight / server.osl / tpot)
    whole = step * server.cost.tokens_per_step
    wait = whole / 2 * (1 - busy) + busy * added / (2 * (1 - busy))
    first = server.step(flight) + added * server.budget.data_ranks
    late = engine.first_token_steps * whole + engine.request_us * constant
    return Steady(
        ttft=queue + wait + first + late,
        tpot=tpot,
        step=step,
        in_flight=flight * server.budget.instances,
        output_tokens_per_s=flight * server.budget.instances / tpot,
        prompt_share=busy,
    )


def too_long(server: Server, limit: float | None = None) -> InfeasibleError:
    """A single request doesn't fit into the KV cache, or into what the model reads."""
    tokens, limit = server.isl + server.osl, server.budget.longest if limit is None else limit
    return InfeasibleError(
        f"a request of {tokens:.0f} tokens is longer than the model and its KV cache allow ({limit:.0f})",
        path="inference.isl",
        needed=tokens,
        available=limit,
    )
