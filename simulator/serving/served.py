"""What a run of an engine reaches: latencies and throughput of its batch, loop, arrivals or queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from math import inf, isinf
from pathlib import Path

from simulator.errors import InfeasibleError, SpecError, nearest
from simulator.serving.capacity import Budget, budget
from simulator.serving.disaggregated import Disaggregated, handover, pool_run
from simulator.serving.pools import Handover
from simulator.serving.requests import Request, arrival_times, lengths
from simulator.serving.requests import open_loop as arriving
from simulator.serving.simulation import Loop, Outcome, serve
from simulator.serving.steady import (
    Server,
    Steady,
    closed_loop,
    maximum_load,
    open_loop,
    sustainable_rate,
    too_long,
)
from simulator.serving.steps import StepCost
from simulator.serving.trace import read_trace, trace_means
from simulator.spec.base import data_root
from simulator.spec.run import Run
from simulator.spec.serving import Serving
from simulator.spec.workload import Inference

REQUESTS_PER_SLOT = 10
"""Of a closed loop whose requests are not counted, as in InferenceX: ten for each in flight."""
OPEN_LOOP_REQUESTS = 500
"""Of random arrivals that are not counted, as in TensorRT-LLM's online benchmark."""
MAXIMUM_LOAD_REQUESTS = ((256, 30000), (2500, 3000), (5500, 1500))
"""(tokens of a request up to, requests) of TensorRT-LLM's published throughput runs (docs, perf-overview); 1,000
beyond."""
MOST_SIMULATED = 1000
"""Requests that arrive at once and are simulated; more come close enough to the closed form."""
SEED = 0


@dataclass(frozen=True, slots=True)
class Served:
    """A run's steady state with the engine's limits, and the simulation it was read from, if any."""

    steady: Steady
    budget: Budget
    fits: int
    """Requests whose KV cache fits beside the weights, over all instances."""
    outcome: Outcome | None = None
    sustainable: float | None = None
    """Requests per second that could be served for ever, where requests arrive."""
    handover: Handover | None = None
    """The pool that reads prompts, where others write the answers."""
    hit: float = 0.0
    """Share of the prompts that was in the cache."""

    @property
    def prompt_ranks(self) -> int:
        """Attention ranks that share the prompts."""
        limits = self.budget if self.handover is None else self.handover.budget
        return limits.instances * limits.data_ranks


def request_count(work: Inference) -> int:
    """Requests of a run: stated, or as many as the published benchmarks of its kind send."""
    if work.requests is not None:
        return work.requests
    if work.request_rate is not None and not isinf(work.request_rate):
        return OPEN_LOOP_REQUESTS
    if work.concurrency == "max" or work.request_rate is not None:
        return next((n for tokens, n in MAXIMUM_LOAD_REQUESTS if work.isl + work.osl <= tokens), 1000)
    return REQUESTS_PER_SLOT * work.concurrency


def serve_work(run: Run, *, closed_form: bool = False) -> Served:
    """What the run's `inference` block asks for; `closed_form` leaves simulations out, as a sweep does.

    Raises InfeasibleError where nothing fits or requests arrive faster than they can be served.
    """
    work = run.inference
    assert work is not None
    offline = work.batching == "static" or (work.concurrency == "max" and work.requests is None)
    limits, cost = budget(run), StepCost(run, offline=offline)
    if work.request_rate is None and work.concurrency != "max":  # an engine is started for the load it is to carry
        limits = replace(limits, sequences=max(limits.sequences, -(-work.concurrency // limits.instances)))
    server = Server(cost, limits, float(work.isl), float(work.osl))
    if work.batching == "static":
        return Served(_static(server, work), limits, _fits(server))
    if work.request_rate is not None and not isinf(work.request_rate):
        steady, outcome = _open(server, work, closed_form)
    elif work.request_rate is not None or work.concurrency == "max":
        steady, outcome = _flood(server, work, closed_form)
    else:
        steady, outcome = _closed(server, work, closed_form)
    return Served(steady, limits, _fits(server), outcome)


def _fits(server: Server) -> int:
    return int(server.budget.kv_tokens / server.budget.held(server.isl + server.osl)) * server.budget.instances


def _static(server: Server, work: Inference) -> Steady:
    """One batch: all prompts in one pass, then one step a token for all of them."""
    total = work.in_flight
    each = -(-total // (server.budget.instances * server.budget.data_ranks))
    first = server.cost.seconds(0.0, 0.0, ((float(work.isl), 0.0),) * each)
    step = server.cost.seconds(each, each * server.context) / server.cost.tokens_per_step
    seconds = first + step * (work.osl - 1)
    return Steady(first, step, step, float(total), total * work.osl / seconds, first / seconds)


def _closed(server: Server, work: Inference, closed_form: bool) -> tuple[Steady, Outcome | None]:
    assert isinstance(work.concurrency, int)
    steady = closed_loop(server, work.concurrency, request_count(work) / work.concurrency)
    if closed_form:
        return steady, None
    sizes = lengths(work.isl, work.osl, work.lengths, SEED)
    outcome = serve(server.cost, server.budget, loop=Loop(sizes, work.concurrency, request_count(work)))
    return _measured(steady, outcome), outcome


def _flood(server: Server, work: Inference, closed_form: bool) -> tuple[Steady, Outcome | None]:
    """All requests at once; few enough of them are simulated."""
    count = request_count(work)
    steady = maximum_load(server, count)
    if closed_form or count > MOST_SIMULATED:
        return steady, None
    sizes = lengths(work.isl, work.osl, work.lengths, SEED)
    outcome = serve(server.cost, server.budget, arrivals=arriving(repeat(0.0), sizes, count))
    rate = outcome.output_tokens / outcome.duration
    return replace(_measured(steady, outcome), output_tokens_per_s=rate), outcome


def _open(server: Server, work: Inference, closed_form: bool) -> tuple[Steady, Outcome | None]:
    assert work.request_rate is not None
    steady = open_loop(server, work.request_rate)
    if closed_form:
        return steady, None
    times = arrival_times(work.request_rate, 1.0, SEED)
    sizes = lengths(work.isl, work.osl, work.lengths, SEED)
    outcome = serve(server.cost, server.budget, arrivals=arriving(times, sizes, request_count(work)))
    return _measured(steady, outcome), outcome


def serve_requests(run: Run, *, closed_form: bool = False) -> Served:
    """A run of kind serving, simulated. The work comes from a trace, at a rate, or in a closed loop; `closed_form`
    leaves the simulation out, and takes a trace for random arrivals of its mean rate and lengths.

    Raises InfeasibleError for arrivals that outrun the service and for requests longer than model or cache, SpecError
    for a bad trace.
    """
    work, asked = run.inference, run.serving or Serving()
    assert work is not None
    engine = _engine(run, asked)
    longest = min(engine.longest, float(run.model.max_position_embeddings or inf))
    count = asked.requests or work.requests or (None if asked.trace else SERVED_REQUESTS)
    if asked.trace is not None and closed_form:
        return _mean_of_trace(engine, trace_file(asked.trace), count, longest)
    if asked.trace is not None:
        outcome = engine.serve(asked, arrivals=read_trace(trace_file(asked.trace), count, longest))
        if outcome.requests == 0:
            raise SpecError("no request in it", file=asked.trace)
        sizes = outcome.prompt_tokens, outcome.output_tokens, outcome.cached_tokens
        prompt, output, cached = (total / outcome.requests for total in sizes)
        return _simulated(engine, engine.server(prompt, output, cached), outcome)
    assert count is not None
    server = engine.server(float(work.isl), float(work.osl), asked.prefix_hit * (work.isl - 1))
    if work.isl + work.osl > longest:
        raise too_long(server, longest)
    rate = None if work.request_rate is None or isinf(work.request_rate) else work.request_rate
    if closed_form:
        return _served(engine, server, engine.steady(server, work, rate), None)
    draws = lengths(work.isl, work.osl, work.lengths, asked.seed)
    if work.request_rate is None and isinstance(work.concurrency, int):
        loop = Loop(draws, work.concurrency, max(count, work.concurrency), asked.prefix_hit)
        return _simulated(engine, server, engine.serve(asked, loop=loop))
    times: Iterator[float] = repeat(0.0)
    if rate is not None:
        engine.steady(server, work, rate)  # refuses what can't be sustained
        times = arrival_times(rate, asked.burstiness, asked.seed)
    arrivals = arriving(times, draws, count, hit=asked.prefix_hit)
    return _simulated(engine, server, engine.serve(asked, arrivals=arrivals))


@dataclass(frozen=True, slots=True)
class Engine:
    """What serves: instances that do both phases, or those that write answers and a pool that hands prompts over."""

    cost: StepCost
    budget: Budget
    handover: Handover | None = None

    @property
    def longest(self) -> float:
        """Tokens of the longest request that every cache it needs holds."""
        return self.budget.longest if self.handover is None else min(self.budget.longest, self.handover.budget.longest)

    def server(self, prompt: float, output: float, cached: float) -> Server:
        """It with requests of one size."""
        return Server(self.cost, self.budget, prompt, output, cached)

    def serve(self, asked: Serving, *, arrivals: Iterator[Request] | None = None, loop: Loop | None = None) -> Outcome:
        """Requests simulated."""
        return serve(self.cost, self.budget, arrivals=arrivals, loop=loop, asked=asked, handover=self.handover)

    def _pools(self, writer: Server) -> Disaggregated | None:
        hand = self.handover
        if hand is None:
            return None
        return Disaggregated(replace(writer, cost=hand.cost, budget=hand.budget), writer, hand)

    def sustainable(self, server: Server) -> float:
        """Requests per second that can be served for ever."""
        pools = self._pools(server)
        return sustainable_rate(server) if pools is None else pools.sustainable_rate

    def at(self, server: Server, rate: float) -> Steady:
        """The closed form of random arrivals. Raises InfeasibleError for a rate that can't be sustained."""
        pools = self._pools(server)
        return open_loop(server, rate) if pools is None else pools.at(rate)

    def steady(self, server: Server, work: Inference, rate: float | None) -> Steady:
        """The closed form. Raises InfeasibleError for a rate that can't be sustained."""
        if rate is not None:
            return self.at(server, rate)
        pools = self._pools(server)
        if work.request_rate is None and isinstance(work.concurrency, int):
            return closed_loop(server, work.concurrency) if pools is None else pools.loop(work.concurrency)
        return maximum_load(server) if pools is None else pools.at(pools.sustainable_rate * (1 - 1e-6))


def _engine(run: Run, asked: Serving) -> Engine:
    if asked.disaggregated is None:
        return Engine(StepCost(run), budget(run))
    prefill, decode = pool_run(run, asked.disaggregated.prefill), pool_run(run, asked.disaggregated.decode)
    return Engine(StepCost(decode), budget(decode), handover(run, prefill, decode))


def trace_file(name: str) -> Path:
    """The file of that path, or the shipped trace of that name. Raises SpecError where there is neither."""
    folder = data_root() / "workloads/traces"
    found = next((file for file in (Path(name), folder / name) if file.is_file()), None)
    if found is None:
        known = (file.name for file in folder.glob("*.csv"))
        raise SpecError(f"no file '{name}', nor a shipped trace.{nearest(name, known)}", path="serving.trace")
    return found


def _mean_of_trace(engine: Engine, file: Path, count: int | None, longest: float) -> Served:
    """The steady state at a trace's means, or at nearly all that can be sustained where it asks for more."""
    means = trace_means(file, file.stat().st_mtime_ns, count, longest)
    server = engine.server(means.prompt, means.output, means.cached)
    rate = min(means.rate, NEAR_LIMIT * engine.sustainable(server))
    return _served(engine, server, engine.at(server, rate), None)


NEAR_LIMIT = 0.99
SERVED_REQUESTS = 1000
"""Of a run of kind serving that states no number."""


def _simulated(engine: Engine, server: Server, outcome: Outcome) -> Served:
    """What simulated requests saw, as a steady state; the undisturbed step is that of the mean batch."""
    flight = max(1.0, outcome.in_flight)
    step = server.step(flight / server.budget.instances) / server.cost.tokens_per_step
    tpot = outcome.tpot.mean or step
    steady = Steady(
        ttft=outcome.ttft.mean,
        tpot=tpot,
        step=min(step, tpot),
        in_flight=flight,
        output_tokens_per_s=outcome.output_tokens / outcome.duration,
        prompt_share=max(0.0, 1 - step / tpot),
    )
    return _served(engine, server, steady, outcome)


def _served(engine: Engine, server: Server, steady: Steady, outcome: Outcome | None) -> Served:
    hit = server.cached / server.isl
    return Served(steady, server.budget, _fits(server), outcome, engine.sustainable(server), engine.handover, hit)


def _measured(steady: Steady, outcome: Outcome) -> Steady:
    """The steady state with the latencies that simulated requests saw."""
    if outcome.requests == 0:
        raise InfeasibleError("no request was served", path="inference.requests")
    return replace(steady, ttft=outcome.ttft.mean, tpot=outcome.tpot.mean if outcome.tpot.weight else steady.tpot)
