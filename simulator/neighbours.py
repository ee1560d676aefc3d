"""Two training runs that share a fabric: what each makes of the other's step.

Their nodes lie between each other's under the same leaves. Alone a job has the uplinks of its leaves to itself, so that
it meets less oversubscription than when both send.
"""

from __future__ import annotations

import time
from dataclasses import replace

from simulator.assembly.assumptions import OTHER_JOBS
from simulator.assembly.evaluated import Step
from simulator.assembly.training import assemble_training
from simulator.engine.beside import Job, Shared, play_beside, relaxed, tenancies
from simulator.engine.folding import Tenancy
from simulator.errors import SpecError
from simulator.result import Beside, Result
from simulator.simulation import training_step
from simulator.spec.run import Run


def simulate_beside(run: Run, other: Run) -> Result:
    """The result of a training run, played with events beside another on the same fabric; `beside` compares.

    Raises SpecError where the two can't share one, and InfeasibleError as `simulate` does.
    """
    start = time.perf_counter()
    _check(run, other)
    parts = tenancies(run.hardware.nodes, other.hardware.nodes, run.hardware.network.oversubscription)
    steps = [_alone(one, part) for one, part in zip((run, other), parts, strict=True)]
    jobs = [Job(s.build.run.name, s.costed, s.timeline, part) for s, part in zip(steps, parts, strict=True)]
    mine, theirs = play_beside(*jobs), play_beside(*reversed(jobs))
    result = assemble_training(replace(steps[0], timeline=mine.beside))
    provenance = result.provenance.model_copy(update={"seconds_to_simulate": time.perf_counter() - start})
    update = {
        "beside": _compared(other.name, mine, theirs),
        "not_modelled": [left_out for left_out in result.not_modelled if left_out != OTHER_JOBS],
        "provenance": provenance,
    }
    return result.model_copy(update=update)


def _check(run: Run, other: Run) -> None:
    for one in (run, other):
        if one.kind != "training":
            raise SpecError(f"{one.name} is of kind {one.kind}; two training runs can share a fabric", path="kind")
        if one.hardware.faults or one.hardware.stragglers:
            raise SpecError(
                f"{one.name} states faults or stragglers, which are not played beside another job",
                path="hardware.faults" if one.hardware.faults else "hardware.stragglers",
            )
        if one.execution.communication_sms is not None:
            raise SpecError(
                f"{one.name} states SMs for communication, which are not played beside another job",
                path="execution.communication_sms",
            )
    here, there = run.hardware, other.hardware
    if not here.leaves or not there.leaves or here.network.pods:
        name = run.name if not here.leaves or here.network.pods else other.name
        raise SpecError(f"{name} has no leaf switches of one tree to share with another job", path="hardware.network")
    for field in ("kind", "topology", "bandwidth", "nics_per_node", "oversubscription", "planes", "routing"):
        mine, theirs = getattr(here.network, field), getattr(there.network, field)
        if mine != theirs:
            raise SpecError(
                f"{run.name} and {other.name} can't share a fabric: {field} is {mine} for one and {theirs} for the "
                "other",
                path=f"hardware.network.{field}",
            )


def _alone(run: Run, part: Tenancy) -> Step:
    """The step with the nodes of the other job idle, as the fast engine times it."""
    network = run.hardware.network
    taper = relaxed(network.oversubscription, part.share)
    hardware = run.hardware.model_copy(update={"network": network.model_copy(update={"oversubscription": taper})})
    return training_step(run.model_copy(update={"hardware": hardware}))


def _compared(other: str, mine: Shared, theirs: Shared) -> Beside:
    return Beside(
        other=other,
        alone_s=mine.alone.duration,
        beside_s=mine.beside.duration,
        other_alone_s=theirs.alone.duration,
        other_beside_s=theirs.beside.duration,
    )
