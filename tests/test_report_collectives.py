"""How collectives are done, as a result and its report name it."""

from __future__ import annotations

from typing import get_args

import toy

from simulator.cost.algorithms import Algorithm
from simulator.report.traffic_tables import _ALGORITHMS, algorithms_table
from simulator.result import CollectiveUse
from simulator.simulation import simulate


def test_a_result_names_the_algorithm_of_every_collective() -> None:
    """16 GPUs, tensor-parallel pairs: eight data-parallel ranks, four in each of two nodes, add their gradients."""
    result = simulate(toy.run(gpus=16, parallelism={"tp": 2, "sequence_parallel": False}))
    assert result.traffic is not None
    found = {use.item: use for use in result.traffic.collectives}
    tensor, gradients = found["Tensor-parallel collectives"], found["Gradient synchronisation"]
    assert (tensor.kind, tensor.algorithm, tensor.ranks, tensor.domains) == ("all_reduce", "ring", 2, 1)
    assert (gradients.kind, gradients.ranks, gradients.domains) == ("all_reduce", 8, 2)
    assert gradients.algorithm in ("ring", "tree")
    ordered = [use.calls * use.seconds for use in result.traffic.collectives]
    assert ordered == sorted(ordered, reverse=True)


def test_a_run_that_says_how_is_believed() -> None:
    run = toy.run(gpus=16, training={"global_batch": 16}, execution={"all_reduce": "hierarchical"})
    traffic = simulate(run).traffic
    assert traffic is not None
    assert {use.algorithm for use in traffic.collectives if use.kind == "all_reduce"} == {"hierarchical"}


def test_the_table_says_it_in_words() -> None:
    use = CollectiveUse(
        item="Gradient synchronisation",
        kind="all_reduce",
        algorithm="nvls",
        ranks=1024,
        domains=128,
        bytes=2.5e9,
        calls=3.0,
        seconds=4e-3,
    )
    (row,) = algorithms_table([use]).rows
    assert [cell.text.replace("\N{NO-BREAK SPACE}", " ") for cell in row] == [
        "Gradient synchronisation", "All-reduce", "in the switch (NVLS)", "1,024", "128", "2.50 GB", "3", "4.00 ms",
    ]  # fmt: skip


def test_every_algorithm_has_a_name() -> None:
    assert set(_ALGORITHMS) == set(get_args(Algorithm)) - {"none"}
