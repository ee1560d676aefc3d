"""PEER layers by hand: what a token meets among a million single-neuron experts (arXiv 2407.04153)."""

from __future__ import annotations

from typing import Any

import pytest
import toy

from simulator.graph.builder import build_graph, forward_layer, prepare
from simulator.graph.dispatch import distinct_ranks
from simulator.graph.layers import layers_of
from simulator.graph.operator import Collective, Gemm, Operator, Traffic
from simulator.graph.parallel import build_layout
from simulator.graph.parameters_held import layer_held
from simulator.spec import parameters as counts

# 1,024 experts found with 2 x 32 half-keys; 4 heads of width 16 choose 8 each.
PEER = {"layers": [1], "num_experts": 1024, "num_heads": 4, "top_k": 8, "query_dim": 16}
MODEL = {**toy.MODEL, "peer": PEER}
TOKENS, HIDDEN, CHOSEN = 64, 128, 4 * 8


def operators(**run: Any) -> dict[str, Operator]:
    """The forward operators of the PEER layer by name."""
    b = prepare(toy.run(model=MODEL, training={"global_batch": 64}, **run))
    return {o.name: o for o in forward_layer(b, layers_of(b.run)[1])}


def test_queries_meet_two_sets_of_half_keys() -> None:
    ops = operators()
    queries, keys = ops["peer queries"].work, ops["peer keys"].work
    assert isinstance(queries, Gemm)
    assert isinstance(keys, Gemm)
    assert (queries.m, queries.n, queries.k) == (TOKENS, 4 * 16, HIDDEN)
    assert (keys.m, keys.n, keys.k, keys.groups) == (2 * TOKENS * 4, 32, 8, 2)


def test_every_chosen_expert_is_gathered_row_by_row() -> None:
    """Two vectors of 128 elements for each of 32 experts a token; the work is a scalar product and a scaling."""
    for name in ("peer gather down", "peer gather up"):
        assert operators()[name].work == Traffic(
            TOKENS * CHOSEN * HIDDEN * 2, 2.0 * TOKENS * CHOSEN * HIDDEN, gather=True
        )


def test_gathers_run_at_the_rate_of_scattered_rows() -> None:
    _, costed = toy.costed(toy.run(model=MODEL))
    program = next(p for p in costed.graph.programs if p.name == "peer layer" and p.phase == "forward")
    seconds = dict(zip([o.name for o in program.serial], costed.of(program).serial, strict=True))
    assert seconds["peer gather up"] == pytest.approx(TOKENS * CHOSEN * HIDDEN * 2 / 0.5e12)


def test_flops_are_those_of_the_parameters_a_token_meets() -> None:
    ops = operators()
    flops = sum(o.work.flops for o in ops.values() if o.item in ("expert_gemm", "gather"))  # type: ignore[union-attr]
    retrieval = 2 * 4 * 16 * HIDDEN + 2 * 4 * 32 * 16
    assert flops == TOKENS * (retrieval + 4 * HIDDEN * CHOSEN)


@pytest.mark.parametrize("ranks", [2, 8])
def test_tokens_travel_to_the_ranks_of_their_experts(ranks: int) -> None:
    """With an index and a gate for each expert; a partial sum of the vectors comes back from each rank."""
    ops = operators(gpus=8, parallelism={"ep": ranks})
    there, back = ops["peer dispatch"].work, ops["peer combine"].work
    assert isinstance(there, Collective)
    assert isinstance(back, Collective)
    vectors = distinct_ranks(ranks, CHOSEN) * HIDDEN * 2
    assert there.bytes == pytest.approx(TOKENS * (vectors + CHOSEN * 8) * (ranks - 1) / ranks)
    assert back.bytes == pytest.approx(TOKENS * vectors * (ranks - 1) / ranks)
    assert there.network_bytes == back.network_bytes == 0


def test_tables_in_several_nodes_are_reached_over_the_network() -> None:
    """Of 16 ranks 7 others are near and 8 far."""
    work = operators(gpus=16, parallelism={"ep": 16})["peer combine"].work
    assert isinstance(work, Collective)
    one = TOKENS * distinct_ranks(16, CHOSEN) * HIDDEN * 2 / 16
    assert (work.bytes, work.network_bytes) == (pytest.approx(7 * one), pytest.approx(8 * one))


@pytest.mark.parametrize("ranks", [2, 8, 64, 512])
def test_vectors_both_ways_are_fewer_than_the_rows_they_stand_for(ranks: int) -> None:
    """Rows of u and of v for each chosen expert, against a vector to and from each rank that holds one of them."""
    assert 2 * distinct_ranks(ranks, CHOSEN) < 2 * CHOSEN


def test_tensor_ranks_read_the_experts_of_their_own_rows() -> None:
    """With sequence parallelism a rank has half of the rows; without it every rank does all of the work again."""
    split = operators(gpus=2, parallelism={"tp": 2, "sequence_parallel": True})
    again = operators(gpus=2, parallelism={"tp": 2, "sequence_parallel": False})
    whole = operators()
    for name in ("peer queries", "peer keys", "peer gather up"):
        assert split[name].work.flops == whole[name].work.flops / 2  # type: ignore[union-attr]
        assert again[name].work == whole[name].work


def test_tensor_parallelism_does_not_cut_the_experts() -> None:
    run = toy.run(gpus=4, model=MODEL, parallelism={"tp": 4})
    layout = build_layout(run)
    assert layout.etp == 1
    dense, expert = layer_held(run.model, layout, layers_of(run)[1])
    assert expert == 2 * 1024 * HIDDEN
    replicated = counts.peer_retrieval_parameters(run.model) + 2 * HIDDEN  # queries, keys, two norms
    assert dense == 4 * HIDDEN * HIDDEN / 4 + replicated


def test_only_peer_layers_gather() -> None:
    graph = build_graph(prepare(toy.run(model=MODEL)))
    gathering = {p.name for p in graph.programs for o in p.serial if o.item == "gather"}
    assert gathering == {"peer layer"}
