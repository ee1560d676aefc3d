"""Two jobs on one fabric: what shared uplinks cost each of them, and what can't be shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy
from conftest import Outcome

from simulator import simulate
from simulator.cost.annotation import CostedGraph, CostedProgram
from simulator.engine.beside import Job, play_beside, relaxed, tenancies
from simulator.engine.fast import execute
from simulator.errors import SpecError
from simulator.graph.graph import Chunk, OperatorGraph, Pipeline, Program, StageEnd
from simulator.graph.operator import Collective, Group, Operator, Traffic
from simulator.neighbours import simulate_beside
from simulator.spec.constants import read_constants
from simulator.spec.run import Run, run_from_mapping

COMPUTE = Operator("compute", "elementwise", Traffic(0.0))
EVERYWHERE = Operator("exchange", "all_to_all", Collective("all_to_all", 0.0, Group(512, 8), network_bytes=1e9))
"""1 GB from each GPU to those of 63 other nodes."""


def exchanging(seconds: float, oversubscription: float) -> CostedGraph:
    """A step on 64 nodes that exchanges for some seconds and does nothing else; 1 GB/s a GPU."""
    there = Program("forward", "forward", (EVERYWHERE._replace(calls=seconds),))
    back = Program("backward", "backward", (COMPUTE,))
    graph = OperatorGraph(
        pipeline=Pipeline(1, 1, 1, "1f1b", None, True),
        forward=((Chunk(0, 0, "forward", ((there, 1),)),),),
        backward=((Chunk(0, 0, "backward", ((back, 1),)),),),
        ends=(StageEnd(),),
        replicas=512,
        programs=(there, back),
    )
    costs = {there: CostedProgram(there, (seconds,), (), 0.0), back: CostedProgram(back, (0.0,), (), 0.0)}
    nothing = {"gradient_sync": 0.0, "update": 0.0, "parameter_gather": 0.0}
    machine = toy.machine(512, network={"oversubscription": oversubscription})
    return CostedGraph(graph, machine, costs, (nothing,), 0.0)


def both(oversubscription: float) -> tuple[float, float]:
    """(alone, beside) seconds of two such jobs that do the same at the same time, less what the host takes."""
    parts = tenancies(64, 64, oversubscription)
    costed = exchanging(10.0, relaxed(oversubscription, 0.5))
    jobs = [Job(name, costed, execute(costed, 8), part) for name, part in zip("ab", parts, strict=True)]
    mine, theirs = play_beside(*jobs), play_beside(*reversed(jobs))
    assert mine.beside.duration == pytest.approx(theirs.beside.duration)
    host = (read_constants().host_micro_batch_us + read_constants().host_step_us) * 1e-6
    noise = [line.noise for line in (mine.alone, mine.beside)]
    return mine.alone.duration - host - noise[0], mine.beside.duration - host - noise[1]


def test_two_jobs_on_wide_uplinks_do_not_meet() -> None:
    assert both(1.0) == (pytest.approx(10.0, rel=1e-3), pytest.approx(10.0, rel=1e-3))


def test_two_jobs_share_what_narrow_uplinks_carry() -> None:
    """A job has 16 nodes under each of four leaves, so that 48 of the 63 other nodes lie under other leaves.

    10 GB a GPU, 48/63 of it through the 64 GB/s of a leaf: half a GB/s for each of a job's 128 GPUs there while it is
    alone, and a quarter beside the other's.
    """
    crossing = 48 / 63
    alone, beside = both(4.0)
    assert alone == pytest.approx(10 * crossing / 0.5, rel=1e-3)
    assert beside == pytest.approx(10 * crossing / 0.25, rel=1e-3)


def test_the_other_jobs_nodes_are_idle_when_a_job_is_alone() -> None:
    assert relaxed(4.0, 0.5) == 2.0
    assert relaxed(1.5, 0.5) == 1.0
    mine, theirs = tenancies(32, 96, 4.0)
    assert (mine.share, theirs.share, mine.nodes) == (0.25, 0.75, 128)


def pipelined(name: str, oversubscription: float = 8.0, **blocks: Any) -> Run:
    network = {**toy.NETWORK, "oversubscription": oversubscription}
    return run_from_mapping(
        {
            "name": name,
            "kind": "training",
            "model": toy.MOE_MODEL,
            "hardware": {"device": toy.DEVICE, "gpus": 512, "gpus_per_node": 8, "network": network},
            "parallelism": {"pp": 4, "ep": 8},
            "training": {**toy.TRAINING, "global_batch": 512},
            **blocks,
        }
    )


def test_a_result_says_what_the_jobs_do_to_each_other() -> None:
    result = simulate_beside(pipelined("mine"), pipelined("theirs"))
    beside = result.beside
    assert beside is not None
    assert result.step_time_s is not None
    assert beside.other == "theirs"
    assert result.step_time_s.value == beside.beside_s > beside.alone_s
    assert beside.other_beside_s == pytest.approx(beside.beside_s)
    assert sum(item.seconds.value for item in result.breakdown) == pytest.approx(beside.beside_s)
    assert "Other jobs on the same network" not in result.not_modelled
    assert "Other jobs on the same network" in simulate(pipelined("mine")).not_modelled
    assert result.traffic is not None
    fabric = result.traffic.fabric
    assert fabric is not None
    assert fabric.leaves == 4  # of 128 nodes
    assert [place.leaf for place in fabric.places] == [0, 1, 2, 3]
    assert any("theirs: stage 0" in who for meeting in fabric.meetings for who in meeting.transfers)
    assert not any(link.name.startswith("theirs") for link in fabric.links)


def test_a_neighbour_gives_the_same_every_time() -> None:
    one, other = (simulate_beside(pipelined("mine"), pipelined("theirs")) for _ in range(2))
    assert one.beside == other.beside
    assert one.traffic == other.traffic


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hardware": {"device": toy.DEVICE, "gpus": 512, "gpus_per_node": 8, "network": toy.NETWORK}},
            "hardware.network.oversubscription: mine and theirs can't share a fabric: oversubscription is 8.0 for one "
            "and 1.0 for the other",
        ),
        (
            {"hardware": {"device": toy.DEVICE, "gpus": 8, "network": toy.NETWORK}, "parallelism": {"ep": 8}},
            "hardware.network: theirs has no leaf switches of one tree to share with another job",
        ),
        (
            {
                "hardware": {
                    "device": toy.DEVICE,
                    "gpus": 512,
                    "network": {**toy.NETWORK, "oversubscription": 8.0},
                    "faults": [{"gpu": 0, "speed": 0.5}],
                }
            },
            "hardware.faults: theirs states faults or stragglers, which are not played beside another job",
        ),
        (
            {"execution": {"communication_sms": 4}},
            "execution.communication_sms: theirs states SMs for communication, which are not played beside another job",
        ),
    ],
)
def test_jobs_that_cannot_share_a_fabric_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        simulate_beside(pipelined("mine"), pipelined("theirs", **changes))
    assert str(error.value) == message


def test_the_command_compares_two_runs(moesim: Callable[..., Outcome], tmp_path: Path) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(
        "name: theirs\nkind: training\nmodel: mixtral-8x7b\nhardware: {device: h100-sxm, gpus: 64}\n"
        "parallelism: {pp: 4, vpp: 8, ep: 8}\ntraining: {global_batch: 256, seq_len: 4096}\n",
        encoding="utf-8",
    )
    outcome = moesim("run", "mixtral-8x7b-64xh100", "--beside", "theirs.yaml")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Beside theirs a step takes" in outcome.out
    refused = moesim("run", "mixtral-8x7b-64xh100", "--beside", "mixtral-8x7b-serving-2xh100")
    assert refused.code == 2
    assert refused.err == (
        "error: kind: mixtral-8x7b-serving-2xh100 is of kind serving; two training runs can share a fabric\n"
    )
