"""Where tokens go in a MoE layer: rows and touched experts of a rank, bytes of dispatch and combine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from simulator.graph.builder import Build, forward_layer, prepare
from simulator.graph.layers import layers_of
from simulator.graph.moe import distinct_ranks
from simulator.graph.operator import Collective, Gemm, Operator
from simulator.spec.model import resolve_model

SEQ, HIDDEN, TOP_K = 64, 128, 2
ROW = HIDDEN * 2


def build(gpus: int, *, model: dict[str, Any] | None = None, **run: Any) -> Build:
    return prepare(toy.run(gpus=gpus, model={**toy.MOE_MODEL, **(model or {})}, training={"global_batch": 64}, **run))


def operators(b: Build) -> dict[str, Operator]:
    """The forward operators of the first layer by name."""
    return {o.name: o for o in forward_layer(b, layers_of(b.run)[0])}


def exchange(b: Build) -> Collective:
    work = operators(b)["dispatch"].work
    assert isinstance(work, Collective)
    assert operators(b)["combine"].work == work  # what is sent out comes back
    return work


def test_rows_of_a_balanced_rank() -> None:
    """Every rank sends its 64 tokens to two experts each and receives as much."""
    for split in ({}, {"ep": 2}, {"ep": 8}):
        load = build(8, parallelism=split).load
        assert load is not None
        assert (load.rows, load.sent_rows, load.dropped_fraction) == (SEQ * TOP_K, SEQ * TOP_K, 0)


def test_ranks_that_cut_an_expert_gather_each_others_rows() -> None:
    load = build(8, parallelism={"ep": 2, "etp": 4}).load
    assert load is not None
    assert (load.rows, load.sent_rows, load.local_experts) == (4 * SEQ * TOP_K, SEQ * TOP_K, 4)


def test_tensor_ranks_dispatch_their_share() -> None:
    load = build(8, parallelism={"tp": 2, "ep": 4}).load
    assert load is not None
    assert load.sent_rows == SEQ / 2 * TOP_K


@pytest.mark.parametrize(
    ("routing", "rows", "dropped"),
    [
        ({"imbalance": 1.5}, 1.5, 0),
        ({"capacity_factor": 1.25}, 1, 0),  # balanced routing drops none
        ({"capacity_factor": 0.5}, 0.5, 0.5),
        ({"imbalance": 2.0, "capacity_factor": 1.25}, 1.25, 0.375),
    ],
)
def test_imbalance_fills_a_rank_and_capacity_caps_it(routing: dict[str, float], rows: float, dropped: float) -> None:
    load = build(8, parallelism={"ep": 8}, routing=routing).load
    assert load is not None
    assert load.rows == rows * SEQ * TOP_K
    assert load.dropped_fraction == dropped


@pytest.mark.parametrize(
    ("seq", "ep", "touched"),
    [
        (1, 1, 2.0),  # one token reaches its two experts
        (2, 1, 8 * (1 - 0.75**2)),
        (1, 2, 8 * (1 - 0.75**2) / 2),  # the tokens of both ranks, the experts of one
        (64, 8, 1.0),
    ],
)
def test_experts_that_receive_a_row(seq: int, ep: int, touched: float) -> None:
    """Each of E experts is touched with 1 - (1 - k/E)^T by T tokens."""
    run = toy.run(gpus=ep, model=toy.MOE_MODEL, parallelism={"ep": ep}, training={"seq_len": seq})
    load = prepare(run).load
    assert load is not None
    assert load.touched == pytest.approx(touched)


def test_touched_experts_agree_with_a_draw() -> None:
    generator = np.random.default_rng(7)
    drawn = [len({e for _ in range(5) for e in generator.choice(8, 2, replace=False)}) for _ in range(4000)]
    load = prepare(toy.run(model=toy.MOE_MODEL, training={"seq_len": 5})).load
    assert load is not None
    assert load.touched == pytest.approx(np.mean(drawn), rel=0.01)


def test_only_touched_experts_weights_are_read() -> None:
    b = prepare(toy.run(model=toy.MOE_MODEL, training={"seq_len": 1}))
    up = operators(b)["expert up"].work
    assert isinstance(up, Gemm)
    assert (up.groups, up.m, up.n, up.k) == (2, 2, 256, 128)
    assert up.bytes == 2 * (2 * 256 * 128 + 2 * 128 + 2 * 256)


def test_the_plain_dispatcher_sends_a_copy_to_every_selected_expert() -> None:
    """k (ep - 1) / ep rows a token in one domain; over two, half of the copies cross the network."""
    near = exchange(build(8, parallelism={"ep": 8}))
    assert (near.bytes, near.network_bytes) == (SEQ * ROW * TOP_K * 7 / 8, 0)
    many = {"num_experts": 16}
    far = exchange(build(16, model=many, parallelism={"ep": 16}))
    assert (far.bytes, far.network_bytes) == (SEQ * ROW * TOP_K * 7 / 16, SEQ * ROW * TOP_K * 8 / 16)


def test_the_gathering_dispatcher_sends_every_token_to_all() -> None:
    work = exchange(
        build(16, model={"num_experts": 16}, parallelism={"ep": 16}, execution={"moe_dispatcher": "allgather"})
    )
    assert (work.bytes, work.network_bytes) == (SEQ * ROW * 7, SEQ * ROW * 8)


@pytest.mark.parametrize("dispatcher", ["deepep", "hybridep"])
def test_one_copy_crosses_to_a_node_and_is_forwarded_inside(dispatcher: str) -> None:
    """Sixteen ranks in two nodes, two experts a token: 1.9375 distinct ranks, 1.5 distinct nodes."""
    run = {"model": {"num_experts": 16}, "parallelism": {"ep": 16}, "execution": {"moe_dispatcher": dispatcher}}
    work = exchange(build(16, **run))
    assert work.network_bytes == SEQ * ROW * 1.5 / 2
    assert work.bytes == SEQ * ROW * 1.9375 * 7 / 8


def test_node_limited_routing_bounds_the_nodes_a_token_reaches() -> None:
    """DeepSeek-V3 on eight nodes: 8 experts in at most 4 of 8 groups, 7 of 8 of them elsewhere."""
    model = resolve_model("deepseek-v3")
    run = toy.run(
        gpus=64,
        model="deepseek-v3",
        training={"global_batch": 64},
        parallelism={"ep": 64},
        execution={"moe_dispatcher": "deepep"},
    )
    b = prepare(run)
    work = next(o.work for o in forward_layer(b, layers_of(run)[-1]) if o.name == "dispatch")
    assert isinstance(work, Collective)
    nodes = work.network_bytes / (SEQ * model.hidden_size * 2)
    assert nodes == pytest.approx(4 * (1 - 0.75**8) * 7 / 8)


@pytest.mark.parametrize("routing", [{"imbalance": 1.5}, {"imbalance": 2.0, "capacity_factor": 1.5}])
def test_the_fullest_rank_receives_more(routing: dict[str, float]) -> None:
    even, skewed = (exchange(build(8, parallelism={"ep": 8}, routing=chosen)) for chosen in ({}, routing))
    assert skewed.bytes == 1.5 * even.bytes


@given(st.integers(1, 512), st.integers(1, 16))
def test_distinct_ranks_lie_between_one_and_all(ranks: int, top_k: int) -> None:
    """The closed form R (1 - (1 - 1/R)^k): what k draws with replacement from R ranks reach."""
    reached = distinct_ranks(ranks, top_k)
    assert 1 - 1e-9 <= reached <= min(ranks, top_k) + 1e-9
    assert reached <= distinct_ranks(ranks, top_k + 1) + 1e-9
    assert distinct_ranks(ranks, 1) == pytest.approx(1)


def test_distinct_ranks_agree_with_a_draw() -> None:
    generator = np.random.default_rng(3)
    drawn = [len(set(generator.integers(0, 8, 6))) for _ in range(4000)]
    assert distinct_ranks(8, 6) == pytest.approx(np.mean(drawn), rel=0.01)


def test_no_exchange_without_expert_parallelism() -> None:
    names = operators(build(8))
    assert "dispatch" not in names
    assert "expert all-gather" not in names


def test_shared_experts_are_gated_as_the_routed_ones_are() -> None:
    model = {"expert_gated_ffn": True, "n_shared_experts": 1}
    ops = operators(build(1, model=model))
    assert ops["shared expert up"].work.n == ops["expert up"].work.n == 2 * 256  # type: ignore[union-attr]


def test_a_fixed_routing_table_needs_no_router() -> None:
    assert "router" in operators(build(1))
    assert "router" not in operators(build(1, model={"routing": "fixed"}))
