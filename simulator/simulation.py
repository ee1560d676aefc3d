"""The whole program: from a run to its result."""

from __future__ import annotations

import time
from collections.abc import Sequence

from simulator.assembly.evaluated import Batch, CostedPass, Step, Timed
from simulator.assembly.inference import assemble_inference
from simulator.assembly.training import assemble_training
from simulator.cost.annotation import annotate, annotate_many
from simulator.cost.capacity import check_fits, inference_memory
from simulator.cost.conditions import impair, stage_conditions
from simulator.cost.machine import build_machine
from simulator.cost.memory import StageBytes, training_memory
from simulator.engine.fast import execute, execute_many
from simulator.engine.inference import execute_phase
from simulator.engine.runner import Engine, retime
from simulator.engine.stragglers import place_slowest
from simulator.errors import SimulatorError
from simulator.graph.builder import Build, build_graph, prepare
from simulator.graph.drafting import draft_of, joined_input
from simulator.graph.inference import Pass, build_inference, prepare_inference, prepare_pass, serving_split
from simulator.graph.parallel import build_layout
from simulator.result import Result
from simulator.serving.disaggregated import phase_runs
from simulator.serving.served import serve_requests, serve_work
from simulator.spec.run import Run


def simulate(run: Run, *, engine: Engine = "fast") -> Result:
    """The result of a run.

    `engine` says who times a training step (docs/engine.md); the operators of an inference phase follow one another, so
    that it is the same either way.

    Raises InfeasibleError where the run does not divide or does not fit, with what is needed, what is there, and the
    nearest change that helps; SpecError where the device lacks the precision.
    """
    start = time.perf_counter()
    match run.kind:
        case "training":
            result = assemble_training(training_step(run, engine=engine))
        case "inference" | "serving":
            result = assemble_inference(inference_batch(run))
    seconds = time.perf_counter() - start
    provenance = result.provenance.model_copy(update={"seconds_to_simulate": seconds})
    return result.model_copy(update={"provenance": provenance})


def training_step(run: Run, *, check: bool = True, engine: Engine = "fast") -> Step:
    """Graph, costs, time line and memory of one training step; `check` refuses a step that doesn't fit."""
    b = prepare(run)
    memory = training_memory(b)
    if check:
        check_fits(run, memory)
    return _timed([(b, memory)], engine)[0]


def training_steps(runs: Sequence[Run], engine: Engine = "fast") -> list[Step | SimulatorError]:
    """The steps of many training runs, costed and timed together; for a run that can't be, the reason."""
    outcomes: list[Step | SimulatorError] = []
    ready: dict[int, tuple[Build, list[StageBytes]]] = {}
    for number, run in enumerate(runs):
        try:
            b = prepare(run, advise=False)
            memory = training_memory(b)
            check_fits(run, memory, advise=False)
            run.hardware.device.compute_precision(b.shapes.precision)
            ready[number] = b, memory
        except SimulatorError as error:
            outcomes.append(error.with_traceback(None))  # the frames hold all runs, and the error itself: a cycle
    steps = dict(zip(ready, _timed_or_refused(list(ready.values()), engine), strict=True))
    refused = iter(outcomes)
    return [steps[number] if number in steps else next(refused) for number in range(len(runs))]


def _timed(parts: Sequence[tuple[Build, list[StageBytes]]], engine: Engine = "fast") -> list[Step]:
    graphs = [build_graph(b) for b, _ in parts]  # shapes and dependencies; knows no hardware
    points = [
        (
            graph,
            build_machine(b.run.hardware, profile=b.run.profile, all_reduce=b.run.execution.all_reduce),
            b.run.defaults.host_speed,
        )
        for graph, (b, _) in zip(graphs, parts, strict=True)
    ]
    costed = annotate_many(points)  # seconds if alone; knows no time line
    timelines = execute_many([(c, b.run.hardware.gpus) for c, (b, _) in zip(costed, parts, strict=True)])  # who waits
    return [_step(b, memory, Timed(c, t), engine) for (b, memory), c, t in zip(parts, costed, timelines, strict=True)]


def _step(b: Build, memory: list[StageBytes], healthy: Timed, engine: Engine) -> Step:
    """The step on the machine as it is, timed by the engine asked for."""
    hardware, sms = b.run.hardware, b.run.execution.communication_sms
    usual = retime(healthy.costed, healthy.timeline, engine=engine, communication_sms=sms)
    if not hardware.faults and hardware.stragglers is None:
        return Step(b, healthy.costed, usual, memory)
    conditions = stage_conditions(healthy.costed, b.layout)
    if hardware.stragglers is not None:
        conditions = place_slowest(healthy.costed, conditions, hardware.stragglers)
    costed = impair(healthy.costed, conditions)
    timeline = retime(costed, execute(costed, hardware.gpus), engine=engine, communication_sms=sms)
    return Step(b, costed, timeline, memory, healthy=Timed(healthy.costed, usual))


def _timed_or_refused(parts: Sequence[tuple[Build, list[StageBytes]]], engine: Engine) -> list[Step | SimulatorError]:
    """The steps; where one can't be costed or timed, halves are tried apart until it is alone with its reason."""
    try:
        return list(_timed(parts, engine))
    except SimulatorError as error:
        if len(parts) == 1:
            return [error.with_traceback(None)]
        half = len(parts) // 2
        return _timed_or_refused(parts[:half], engine) + _timed_or_refused(parts[half:], engine)


def inference_batch(run: Run, *, check: bool = True, advise: bool = True, closed_form: bool = False) -> Batch:
    """Graphs, costs and latencies of a prefill and a decode step, what the engine serves, and its memory.

    `check` refuses a static batch that doesn't fit; of requests that come and go those that don't fit wait.
    `closed_form` leaves simulations out.
    """
    work = run.inference
    assert work is not None
    if check and run.kind == "inference" and work.batching == "static":
        check_fits(run, inference_memory(prepare_inference(run, "decode", 1.0)), advise=advise)
    serve = serve_requests if run.kind == "serving" else serve_work
    served = serve(run, closed_form=closed_form)
    flight, static = served.steady.in_flight, run.kind == "inference" and work.batching == "static"
    reader, writer = phase_runs(run)
    at = run if static else _in_flight(writer, flight)
    instances = served.budget.instances * served.budget.data_ranks
    share = float(-(-work.in_flight // instances)) if static else flight / instances
    context = work.isl + work.osl / 2
    decoding = Pass(share, context, queries=1.0 + (work.speculative.tokens if work.speculative else 0))
    memory = {"": inference_memory(prepare_inference(at, "decode", 1.0))}
    if reader is not writer:
        waiting = served.steady.output_tokens_per_s / work.osl * served.steady.ttft  # Little's law
        reading = _in_flight(reader, waiting)
        memory = {"Prompts": inference_memory(prepare_inference(reading, "decode", 1.0)), "Answers": memory[""]}
    return Batch(
        run=run,
        prefill=_pass(
            at if reader is writer else reader, Pass(prompts=share if static else 1.0, length=float(work.isl))
        ),
        decode=_pass(at, decoding),
        draft=_draft_pass(at, Pass(share, context)),
        prefills=1.0 if static else flight / served.prompt_ranks * (1 - served.hit),
        served=served,
        memory=[stage for stages in memory.values() for stage in stages],
        pools=tuple(name for name, stages in memory.items() for _ in stages),
    )


def _in_flight(run: Run, requests: float) -> Run:
    """The run with that many requests in flight."""
    assert run.inference is not None
    update = {"concurrency": max(1, round(requests)), "request_rate": None}
    return run.model_copy(update={"inference": run.inference.model_copy(update=update)})


def _pass(run: Run, step: Pass) -> CostedPass:
    return _costed(serving_split(run), step)


def _draft_pass(run: Run, step: Pass) -> CostedPass | None:
    draft = draft_of(serving_split(run))
    return None if draft is None else _costed(draft.run, step, joins=draft.modules > 0)


def _costed(run: Run, step: Pass, *, joins: bool = False) -> CostedPass:
    """One step of a run that is split already."""
    machine = build_machine(
        run.hardware,
        serves=True,
        profile=run.profile,
        engine=run.software,
        all_reduce=run.execution.all_reduce,
    )
    b = prepare_pass(run, build_layout(run), step)
    joined = joined_input(run, b.shapes) if joins else ()
    costed = annotate(build_inference(b, step, joined=joined), machine, run.defaults.host_speed)
    return b, costed, execute_phase(costed)
