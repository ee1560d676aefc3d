"""What keeps the simulator fast: size follows from what is distinct in a run, and what runs share is worked out once.

No clock is read here; `benchmarks/run.py` does that.
"""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from toy import MOE_MODEL, run

import simulator.cost.annotation as annotation
from simulator.assembly.exchange import Pattern, Rows, neighbours, ring, spread
from simulator.assembly.timeline import MAX_DRAWN_STAGES, MAX_DRAWN_TASKS
from simulator.assembly.totals import mean_sums, stage_totals
from simulator.cost.annotation import CostedGraph, annotate, annotate_many
from simulator.cost.machine import build_machine
from simulator.engine.fast import execute, execute_many
from simulator.graph.builder import Build, build_graph, prepare, rank_of
from simulator.graph.layers import stack_of
from simulator.graph.programs import programs_of
from simulator.result import Result
from simulator.simulation import simulate
from simulator.spec.base import data_root
from simulator.spec.run import Run, read_run

DEMO = data_root() / "workloads/runs/mixtral-8x7b-64xh100.yaml"


@cache
def demo(*settings: str) -> Run:
    return read_run(DEMO, settings)


def costed(given: Run) -> CostedGraph:
    return annotate(build_graph(prepare(given)), build_machine(given.hardware), given.defaults.host_speed)


@cache
def simulated(*settings: str) -> Result:
    return simulate(demo(*settings))


def test_a_result_of_131072_gpus_is_no_larger_than_one_of_1024() -> None:
    small = simulated("hardware.gpus=1024", "training.global_batch=4096")
    large = simulated("hardware.gpus=131072", "training.global_batch=524288")
    assert small.timeline is not None
    assert large.timeline is not None
    assert small.traffic is not None
    assert large.traffic is not None
    assert len(large.timeline.chunks) == len(small.timeline.chunks)
    assert [len(b) for b in large.timeline.blocks.values()] == [len(b) for b in small.timeline.blocks.values()]
    assert sorted(row.name for row in large.operators) == sorted(row.name for row in small.operators)
    assert large.traffic.between_nodes.labels[-1] == "nodes 15360-16383"
    assert len(large.traffic.between_nodes.bytes) == len(small.traffic.between_nodes.bytes) == 16


def test_of_a_deep_pipeline_sixteen_stages_are_drawn() -> None:
    result = simulated(
        "model=megatron-1t", "hardware.gpus=1024", "parallelism.pp=64", "parallelism.tp=8", "parallelism.ep=1",
        "parallelism.vpp=1", "training.global_batch=1024", "training.recompute=full",
    )  # fmt: skip
    timeline = result.timeline
    assert timeline is not None
    assert timeline.stages == 64
    drawn = sorted({chunk.stage for chunk in timeline.chunks})
    assert len(drawn) == MAX_DRAWN_STAGES
    assert (drawn[0], drawn[-1]) == (0, 63)
    tasks = [chunk for chunk in timeline.chunks if chunk.phase in ("forward", "backward")]
    assert len(tasks) == MAX_DRAWN_TASKS
    assert {key.split("/")[0] for key in timeline.blocks} == {str(stage) for stage in drawn}
    assert len(result.memory_by_stage) == 64


def test_like_blocks_of_a_timeline_hold_the_same_spans() -> None:
    timeline = simulated().timeline
    assert timeline is not None
    assert len(timeline.blocks) == 64  # 4 stages of 8 chunks, forward and backward
    distinct = {tuple(map(id, block)) for block in timeline.blocks.values()}
    assert len(distinct) == 6  # with the embedding, with the head, and neither


RINGS = [ring(4, 1), ring(3, 2), ring(2, 8)]
SPREADS = [spread(4, 1), spread(8, 2), spread(5, 3)]
SENDS = [neighbours(distance, 24) for distance in (6, 12, 24)]


@pytest.mark.parametrize("pattern", [*RINGS, *SPREADS, *SENDS])
@pytest.mark.parametrize("most", [1, 5, 16, 24])
def test_counted_traffic_is_that_of_every_rank_by_itself(pattern: Pattern, most: int) -> None:
    """24 ranks in stages of 6 that send 1, 2, 3 and 4 bytes; what would leave the machine is not sent."""
    ranks, length = 24, 6
    rows = Rows.of(ranks, most)
    row_of = np.searchsorted(rows.edges, np.arange(ranks), side="right") - 1
    expected = np.zeros((len(rows.edges) - 1,) * 2)
    for stage, offset in itertools.product(range(4), range(length)):
        place = offset // pattern.stride % pattern.reach
        for shift in pattern.shifts:
            target = stage * length + offset + shift.by
            if shift.first <= place < shift.end and 0 <= target < ranks:
                expected[row_of[stage * length + offset], row_of[target]] += (stage + 1) * shift.share
    counted = rows.sent(pattern, [0, 6, 12, 18], length, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(counted, expected, rtol=1e-12)


def test_ring_and_spread_by_hand() -> None:
    rows = Rows.of(4, 16)
    assert rows.labels("GPU") == ["GPU 0", "GPU 1", "GPU 2", "GPU 3"]
    assert rows.sent(ring(4, 1), [0], 4, [6.0]).tolist() == [[0, 6, 0, 0], [0, 0, 6, 0], [0, 0, 0, 6], [6, 0, 0, 0]]
    assert rows.sent(spread(2, 2), [0], 4, [6.0]).tolist() == [[0, 0, 6, 0], [0, 0, 0, 6], [6, 0, 0, 0], [0, 6, 0, 0]]
    assert Rows.of(4, 2).labels("node") == ["nodes 0-1", "nodes 2-3"]
    assert Rows.of(4, 2).sent(ring(4, 1), [0], 4, [6.0]).tolist() == [[6, 6], [6, 6]]


def test_portions_of_layers_that_are_alike_are_one_object() -> None:
    stack = stack_of(demo().model, 4, 8, True)
    assert [len(stage) for stage in stack.chunks] == [8, 8, 8, 8]
    assert len({id(portion) for stage in stack.chunks for portion in stage}) == 1
    assert stack.stages[0] is stack.stages[3]
    assert dict(stack.stages[0]) == {stack.layers[0]: 8}


def test_runs_that_differ_elsewhere_share_their_programs() -> None:
    base = build_graph(prepare(demo())).programs
    for change in ("training.sharding=none", "hardware.gpus=128", "training.global_batch=512", "parallelism.vpp=4"):
        assert build_graph(prepare(demo(change))).programs is base
    for change in ("training.sharding=zero3", "training.recompute=full", "parallelism.tp=2", "training.micro_batch=2"):
        assert build_graph(prepare(demo(change))).programs is not base


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("training.sharding=zero3", "parallelism.pp=2", "parallelism.vpp=2"),
        ("parallelism.tp=4", "parallelism.cp=2", "training.seq_len=8192", "training.recompute=full"),
        ("training.precision=fp8", "execution.a2a_overlap=true", "execution.moe_dispatcher=deepep"),
        ("framework=torchtitan", "parallelism.pp=2", "parallelism.vpp=1"),
    ],
)
def test_programs_follow_from_nothing_that_is_blanked(settings: tuple[str, ...]) -> None:
    """Built with the whole layout in sight, they are the same."""
    b = prepare(demo(*settings))
    rank = rank_of(b)
    assert rank.layout != b.layout
    layers = stack_of(b.run.model, b.layout.pp, b.layout.vpp, True).layers
    seeing = programs_of(replace(rank, shapes=b.shapes), layers)
    for one, other in zip(programs_of(rank, layers).all, seeing.all, strict=True):
        assert {f.name: getattr(one, f.name) for f in fields(one)} == {
            f.name: getattr(other, f.name) for f in fields(other)
        }


def batch() -> list[Build]:
    changes: list[dict[str, Any]] = [{}, {"sharding": "zero1"}, {"recompute": "full"}, {"micro_batch": 2}]
    layouts: list[dict[str, Any]] = [{"pp": 2}, {"pp": 2, "ep": 4}, {"tp": 2, "pp": 4}, {"ep": 8}]
    return [
        prepare(run(gpus=16, model=MOE_MODEL, training={"global_batch": 64, **change}, parallelism=layout))
        for change, layout in itertools.product(changes, layouts)
    ]


def test_a_batch_is_costed_and_timed_as_each_run_alone() -> None:
    builds = batch()
    points = [(build_graph(b), build_machine(b.run.hardware), b.run.defaults.host_speed) for b in builds]
    together = annotate_many(points)
    for b, point, one in zip(builds, points, together, strict=True):
        alone = annotate(*point)
        assert one.ends == alone.ends
        assert one.send == alone.send
        for program in point[0].programs:
            mine, its = one.of(program), alone.of(program)
            assert (mine.serial, mine.background, mine.host) == (its.serial, its.background, its.host)
        assert b.layout.gpus == 16
    for one, timeline in zip(together, execute_many([(one, 16) for one in together]), strict=True):
        alone_timeline = execute(one, 16)
        assert timeline.duration == pytest.approx(alone_timeline.duration, rel=1e-13)
        assert timeline.times == alone_timeline.times
        for stage, other in zip(timeline.stages, alone_timeline.stages, strict=True):
            assert stage.busy.exposed == other.busy.exposed
            assert stage.tail.exposed == other.tail.exposed


def test_work_that_runs_share_is_costed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    count = annotation.work_seconds
    monkeypatch.setattr(annotation, "work_seconds", lambda works: sizes.append(len(works)) or count(works))
    graphs = [build_graph(b) for b in batch()]
    machine = build_machine(batch()[0].run.hardware)
    annotate_many([(graph, machine, 1.0) for graph in graphs])
    for graph in graphs:
        annotate(graph, machine)
    together, *alone = sizes
    works = {op.work for graph in graphs for program in graph.programs for op in (*program.serial, *program.background)}
    ends = {op.work for graph in graphs for end in graph.ends for op in (*end.gradient_sync, *end.update)}
    gathers = {op.work for graph in graphs for end in graph.ends for op in end.parameter_gather}
    sends = {graph.pipeline.send.work for graph in graphs if graph.pipeline.send}
    assert together == len(works | ends | gathers | sends)
    assert together < sum(alone) / 3


def test_stages_that_do_the_same_share_their_totals() -> None:
    one = costed(demo())
    stages = stage_totals(one)
    assert [stage is stages[1] for stage in stages] == [False, True, True, False]


def test_mean_sums_are_those_of_the_stages() -> None:
    """The short way, by program, against the sum over every operator of every stage."""
    one = costed(demo("parallelism.tp=2"))
    operators = [total for stage in stage_totals(one) for total in stage.operators.values()]
    sums = mean_sums(one.graph)
    assert sums.flops == pytest.approx(sum(total.flops for total in operators) / 4, rel=1e-12)
    moved = sum(total.bytes for total in operators if not total.operator.is_communication) / 4
    assert sums.memory_bytes == pytest.approx(moved, rel=1e-12)
    sent = sum(total.bytes for total in operators if total.operator.is_communication) / 4
    assert sums.link_bytes + sums.network_bytes == pytest.approx(sent, rel=1e-12)
