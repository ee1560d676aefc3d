"""A disaggregated engine: the runs of its pools, how caches cross, and its steady state in closed form.

Prompts queue at the prefill instances as in an M/D/1 queue; with s seconds a prompt and all rates per instance
    wait = r s^2 / 2 (1 - r s),
caches cross in latency + bytes / port, and decode steps hold no prompts: n = r o t(n) with t a token's share of a step.
A closed loop of N requests finds the rate at which N = rate x (wait + s + crossing + o t): Little's law.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulator.cost.machine import build_machine
from simulator.errors import InfeasibleError
from simulator.graph.kv_cache import sequence_cache
from simulator.serving.capacity import budget
from simulator.serving.pools import Handover
from simulator.serving.steady import Server, Steady, refuse_rate
from simulator.serving.steps import StepCost
from simulator.spec.run import Run
from simulator.spec.serving import Pool
from simulator.spec.workload import Parallelism
from simulator.units import US

HALVINGS = 30


def pool_run(run: Run, pool: Pool) -> Run:
    """The run on the GPUs of one pool."""
    hardware = run.hardware.model_copy(update={"gpus": pool.gpus})
    split = Parallelism.model_validate(pool.model_dump(exclude_unset=True, exclude={"gpus"}))
    serving = run.serving.model_copy(update={"disaggregated": None}) if run.serving is not None else None
    return run.model_copy(update={"hardware": hardware, "parallelism": split, "serving": serving})


def phase_runs(run: Run) -> tuple[Run, Run]:
    """The runs that read prompts and write answers: the run itself where the same GPUs do both."""
    pools = run.serving.disaggregated if run.serving is not None else None
    if pools is None:
        return run, run
    return pool_run(run, pools.prefill), pool_run(run, pools.decode)


def handover(run: Run, prefill: Run, decode: Run) -> Handover:
    """The prefill pool and the ports between the pools of a run.

    A port is what the GPUs of an instance send or receive together: over their links where one scale-up domain holds
    both pools, else over their shares of the NICs, at the share of it that the machine's curves say is reached.
    """
    machine = build_machine(run.hardware, serves=True, profile=run.profile, engine=run.software)
    limits, readers = budget(decode), budget(prefill)
    curves, near = machine.curves, run.hardware.gpus <= run.hardware.scale_up_domain
    each = machine.link * curves.collective.ring if near else machine.nic * curves.network.efficiency
    if each <= 0:
        raise InfeasibleError("no network joins the pools", path="hardware.network")
    return Handover(
        cost=StepCost(prefill),
        budget=readers,
        cache=sequence_cache(run),
        out=each * prefill.hardware.gpus / readers.instances,
        into=each * decode.hardware.gpus / limits.instances,
        latency=curves.network.base_us * US if not near else curves.collective.base_us * US,
    )


@dataclass(frozen=True, slots=True)
class Disaggregated:
    """Both pools with requests of one size."""

    reader: Server
    writer: Server
    handover: Handover

    @property
    def prompt_s(self) -> float:
        """A prompt that has an instance for itself."""
        return self.reader.marginal(0.0) * self.reader.budget.data_ranks

    @property
    def crossing_s(self) -> float:
        """A cache on its way, alone."""
        return self.handover.seconds(self.reader.isl)

    @property
    def together(self) -> int:
        """Prompts that share a step where many wait."""
        return max(1, int(self.reader.budget.step_tokens / self.reader.isl))

    @property
    def sustainable_rate(self) -> float:
        """Requests per second that both pools and the ports between them can serve for ever."""
        readers, writers = self.reader.budget.instances, self.writer.budget.instances
        size = self.handover.cache.bytes(self.reader.isl)
        ports = min(self.handover.out * readers, self.handover.into * writers) / size
        prompts = readers / self.reader.marginal(0.0, self.together)
        flight = self.writer.most_in_flight
        answers = writers * flight / (_token_s(self.writer, flight) * self.writer.osl)
        return min(prompts, ports, answers)

    def at(self, rate: float) -> Steady:
        """The steady state at `rate` requests per second. Raises InfeasibleError where that can't be sustained."""
        limit = self.sustainable_rate
        if rate >= limit:
            raise refuse_rate(rate, limit)
        return self._steady(rate)

    def _steady(self, rate: float) -> Steady:
        reader, writer, alone = self.reader, self.writer, self.prompt_s
        busy = min(0.99, rate / reader.budget.instances * reader.marginal(0.0, self.together))
        wait = busy * alone / (2 * (1 - busy))
        flight = _in_flight(writer, rate / writer.budget.instances)
        engine, step = writer.cost.run.defaults, _token_s(writer, flight)
        late = engine.first_token_steps * step * writer.cost.tokens_per_step + engine.request_us * US
        return Steady(
            ttft=wait + alone + late,
            tpot=step + self.crossing_s / max(1.0, writer.osl - 1),
            step=step,
            in_flight=flight * writer.budget.instances,
            output_tokens_per_s=rate * writer.osl,
            prompt_share=0.0,
        )

    def loop(self, concurrency: float) -> Steady:
        """The steady state of a closed loop; requests that no pool has room for wait in front of the prompts."""
        low, high = 0.0, self.sustainable_rate
        for _ in range(HALVINGS):
            rate = (low + high) / 2
            steady = self._steady(rate)
            inside = rate * (steady.ttft + steady.tpot * (self.writer.osl - 1))
            low, high = (rate, high) if inside < concurrency else (low, rate)
        steady = self._steady(low)
        first = concurrency / low - steady.tpot * (self.writer.osl - 1)
        return replace(steady, ttft=max(steady.ttft, first))


def _in_flight(writer: Server, rate: float) -> float:
    """Sequences in flight on an instance at so many requests a second: n = r o t(n)."""
    low, high = 0.0, writer.most_in_flight
    for _ in range(HALVINGS):
        flight = (low + high) / 2
        low, high = (flight, high) if rate * writer.osl * _token_s(writer, flight) > flight else (low, flight)
    return high


def _token_s(writer: Server, flight: float) -> float:
    """Seconds of a token with so many sequences in flight; a step has at least one."""
    return writer.step(max(1.0, flight)) / writer.cost.tokens_per_step
