"""Overlapped tensor parallelism: communication hides beside GEMMs, which are cut into one piece a rank for it."""

from __future__ import annotations

import pytest
import toy

from simulator.graph.builder import build_graph, prepare
from simulator.graph.graph import Program
from simulator.graph.operator import Gemm, WeightGrad


def layer_programs(*, overlap: bool) -> tuple[Program, Program]:
    """A dense layer's forward and backward programs with four tensor ranks."""
    run = toy.run(
        gpus=4,
        parallelism={"tp": 4, "sequence_parallel": True},
        execution={"tp_overlap": overlap},
        framework="megatron-core",
    )
    forward, backward = (p for p in build_graph(prepare(run)).programs if p.name == "dense layer")
    return forward, backward


def pieces(program: Program) -> dict[str, tuple[float, float]]:
    """(rows of a product, products) of every GEMM of a program."""
    return {o.name: (o.work.m, o.calls) for o in program.serial if isinstance(o.work, Gemm | WeightGrad)}


def test_gemms_beside_a_collective_are_cut_into_a_piece_a_rank() -> None:
    """64 tokens on 4 ranks: pieces of 16. What runs beside a sum of input gradients stays whole."""
    forward, backward = (pieces(program) for program in layer_programs(overlap=True))
    whole_forward, whole_backward = (pieces(program) for program in layer_programs(overlap=False))
    assert set(whole_forward.values()) | set(whole_backward.values()) == {(64.0, 1.0)}
    assert set(forward.values()) == {(16.0, 4.0)}
    cut = {name for name, shape in backward.items() if shape == (16.0, 4.0)}
    rest = {name for name, shape in backward.items() if shape == (64.0, 1.0)}
    assert cut | rest == set(backward)
    assert len(cut) == 2
    assert all(name.endswith("dgrad") for name in cut)
    assert len([name for name in rest if name.endswith("wgrad")]) == 4


@pytest.mark.parametrize("phase", [0, 1])
def test_pieces_do_the_same_work_and_read_the_weights_each_time(phase: int) -> None:
    whole, cut = layer_programs(overlap=False)[phase], layer_programs(overlap=True)[phase]

    def sums(program: Program) -> tuple[float, float]:
        gemms = [o for o in program.serial if isinstance(o.work, Gemm)]
        return sum(o.calls * o.work.flops for o in gemms), sum(o.calls * o.work.bytes for o in gemms)

    assert sums(cut)[0] == pytest.approx(sums(whole)[0])
    weights = [
        o.work.n * o.work.k * o.work.weight_bytes for o in cut.serial if isinstance(o.work, Gemm) and o.calls > 1
    ]
    assert sums(cut)[1] - sums(whole)[1] == pytest.approx(3 * sum(weights))
