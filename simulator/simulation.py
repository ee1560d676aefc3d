"""The whole program: from a run to its result."""

from __future__ import annotations

import time

from simulator.assembly.evaluated import Batch, Step
from simulator.assembly.inference import assemble_inference
from simulator.assembly.training import assemble_training
from simulator.cost.annotation import CostedGraph, annotate
from simulator.cost.capacity import check_fits, inference_memory, largest_concurrency
from simulator.cost.machine import Machine, build_machine
from simulator.cost.memory import training_memory
from simulator.engine.fast import execute
from simulator.engine.inference import PhaseTimeline, execute_phase
from simulator.graph.builder import Build, build_graph, prepare
from simulator.graph.graph import Phase
from simulator.graph.inference import build_inference, prepare_inference
from simulator.result import Result
from simulator.spec.run import Run
from simulator.units import US


def simulate(run: Run) -> Result:
    """The result of a run.

    Raises InfeasibleError where the run does not divide or does not fit, with what is needed, what is there, and the
    nearest change that helps; SpecError where the device lacks the precision.
    """
    start = time.perf_counter()
    match run.kind:
        case "training":
            result = assemble_training(training_step(run))
        case "inference":
            result = assemble_inference(inference_batch(run))
    seconds = time.perf_counter() - start
    provenance = result.provenance.model_copy(update={"seconds_to_simulate": seconds})
    return result.model_copy(update={"provenance": provenance})


def training_step(run: Run, *, check: bool = True) -> Step:
    """Graph, costs, time line and memory of one training step; `check` refuses a step that doesn't fit."""
    b = prepare(run)
    machine = build_machine(run.hardware)
    memory = training_memory(b)
    if check:
        check_fits(run, b, memory)
    graph = build_graph(b)  # shapes and dependencies; knows no hardware
    costed = annotate(graph, machine, run.defaults.host_speed)  # seconds if alone; knows no time line
    timeline = execute(costed, run.hardware.gpus)  # who waits for whom; knows no FLOPs
    return Step(b, costed, timeline, memory)


def inference_batch(run: Run, *, check: bool = True) -> Batch:
    """Graphs, costs and latencies of a static batch's two phases, and its memory."""
    work, framework = run.inference, run.defaults
    assert work is not None
    machine = build_machine(run.hardware)
    b = prepare_inference(run, "decode", work.isl + work.osl / 2)
    memory = inference_memory(b)
    if check:
        check_fits(run, b, memory)
    prefill = _phase(run, machine, "prefill", float(work.isl))
    decode = _phase(run, machine, "decode", work.isl + work.osl / 2)
    overhead = (framework.engine_step_us + framework.sequence_us * b.layout.micro_batch) * US
    return Batch(prefill, decode, overhead, memory, largest_concurrency(run, b))


def _phase(run: Run, machine: Machine, phase: Phase, context: float) -> tuple[Build, CostedGraph, PhaseTimeline]:
    b = prepare_inference(run, phase, context)
    costed = annotate(build_inference(b), machine, run.defaults.host_speed)
    return b, costed, execute_phase(costed)
