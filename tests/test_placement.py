"""Where experts and their copies lie: the balancer by hand, its published example, and what it costs a serving run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from simulator.cost.capacity import inference_memory
from simulator.errors import InfeasibleError
from simulator.graph.expert_traffic import fullest_rank
from simulator.graph.inference import prepare_inference
from simulator.graph.moe import ExpertLoad
from simulator.graph.parallel import build_layout
from simulator.graph.placement import as_numbered, balanced, pack, replicate


def held(popularity: list[float], ranks: int, **options: int) -> list[list[int]]:
    """The experts of every rank."""
    placed = balanced(np.array(popularity), ranks, **options)
    return [sorted(placed.expert[placed.rank == rank].tolist()) for rank in range(ranks)]


def test_slots_go_to_whoever_has_the_most_rows_per_copy() -> None:
    """10, 4, 3: the first slot to the 10; the second to it too, since 5 is more than 4; then 4 is more than 10/3."""
    popularity = np.array([10.0, 4.0, 3.0])
    assert [replicate(popularity, slots).tolist() for slots in (1, 2, 3)] == [[2, 1, 1], [3, 1, 1], [3, 2, 1]]


def test_packs_are_filled_evenly_from_the_heaviest_on() -> None:
    """8 and 5 open the packs; 4 joins 5, and 1 takes the room that is left."""
    assert pack(np.array([8.0, 1.0, 5.0, 4.0]), 2).tolist() == [0, 0, 1, 1]


def test_the_example_of_the_balancer() -> None:
    """The first layer of the example in the README of deepseek-ai/EPLB: 12 experts in 4 groups, 16 slots on 8 GPUs of 2
    nodes."""
    popularity = [90.0, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86]
    found = held(popularity, 8, redundant=4, groups=4, nodes=2)
    assert found == [[5, 6], [5, 7], [4, 8], [3, 4], [9, 10], [2, 10], [0, 1], [1, 11]]


def test_groups_stay_on_one_node() -> None:
    """Four groups of two on two nodes: the fullest with the emptiest."""
    found = held([9.0, 1, 1, 1, 4, 4, 5, 1], 4, groups=4, nodes=2)
    assert [sorted(found[0] + found[1]), sorted(found[2] + found[3])] == [[0, 1, 2, 3], [4, 5, 6, 7]]


@given(
    st.lists(st.floats(0.01, 100.0), min_size=16, max_size=16),
    st.sampled_from([0, 4, 8, 16]),
    st.sampled_from([(1, 1), (4, 2), (8, 2), (8, 4)]),
)
def test_every_expert_is_held_and_no_row_is_lost(
    popularity: list[float], redundant: int, grouping: tuple[int, int]
) -> None:
    weights, ranks = np.array(popularity), 4
    placed = balanced(weights, ranks, redundant=redundant, groups=grouping[0], nodes=grouping[1])
    rows = placed.rows(weights, ranks)
    assert np.bincount(placed.rank).tolist() == [(16 + redundant) // ranks] * ranks
    assert np.bincount(placed.expert).tolist() == [
        int(placed.copies[placed.expert == expert][0]) for expert in range(16)
    ]
    assert rows.sum() == pytest.approx(weights.sum())
    assert as_numbered(16, ranks).rows(weights, ranks).sum() == pytest.approx(weights.sum())


@given(st.lists(st.floats(0.01, 100.0), min_size=16, max_size=16))
def test_as_many_copies_as_ranks_make_all_ranks_alike(popularity: list[float]) -> None:
    """With a copy of each expert on each rank nothing is left to chance."""
    weights = np.array(popularity)
    alike = balanced(np.ones(16), 4, redundant=48).rows(weights, 4)
    assert alike == pytest.approx(np.full(4, weights.sum() / 4))


MODEL = {**toy.MOE_MODEL, "num_experts": 64, "num_experts_per_tok": 2}


def served(**routing: Any) -> ExpertLoad:
    work = {"concurrency": 256}
    run = toy.inference(gpus=8, model=MODEL, parallelism={"ep": 8}, work=work, routing={"skew": 1.0, **routing})
    found = prepare_inference(run, "decode", 64.0).load
    assert found is not None
    return found


def test_copies_even_out_what_text_prefers() -> None:
    """Zipf of exponent 1 over 64 experts: the first has 21 % of the rows, more than a rank of eight should."""
    random, placed, copied = served(), served(placement="balanced"), served(redundant_experts=16)
    assert random.rows / random.mean_rows == pytest.approx(fullest_rank(64, 2, 1.0, 8))
    popularity = 1 / np.arange(1, 65)
    first_rank = popularity[0] + popularity[-7:].sum()  # the seven least wanted take the room beside it
    assert placed.rows / placed.mean_rows == pytest.approx(8 * first_rank / popularity.sum())
    assert copied.rows / copied.mean_rows < 1.02
    assert (random.local_experts, copied.local_experts) == (8, 10)
    assert random.mean_rows == placed.mean_rows == copied.mean_rows


def test_copies_share_what_touches_an_expert() -> None:
    """Every rank of eight holds all 64 experts. 256 tokens of which 1 in 32 chooses an expert reach each of its eight
    copies with 1 - (1 - 1/256)^256."""
    found = served(skew=0.0, redundant_experts=448)
    assert found.local_experts == 64
    assert found.touched == pytest.approx(64 * (1 - (1 - 1 / 256) ** 256))


def counted(tmp_path: Path, rows: list[int]) -> str:
    file = tmp_path / "counts.csv"
    file.write_text("expert,count\n" + "".join(f"{e},{n}\n" for e, n in enumerate(rows)), encoding="utf-8")
    return str(file)


def test_measured_counts_say_which_rank_is_full(tmp_path: Path) -> None:
    """The first eight experts, all on the first rank, are chosen three times as often: 24 of 80 shares, not 1/8."""
    routing = {"balance": "counts", "counts": counted(tmp_path, [30] * 8 + [10] * 56), "skew": None}
    numbered, placed = served(**routing), served(**routing, placement="balanced")
    assert numbered.rows / numbered.mean_rows == pytest.approx(8 * 24 / 80)
    assert placed.rows / placed.mean_rows == pytest.approx(1.0)


def test_even_routing_that_is_stated_is_even() -> None:
    """Text is uneven where nothing is said."""
    stated = served(balance="uniform", skew=None)
    assert stated.rows == stated.mean_rows
    silent = served(skew=None)
    assert silent.rows > 1.5 * silent.mean_rows


def test_copies_take_memory() -> None:
    def parameters(**routing: Any) -> float:
        run = toy.inference(gpus=8, model=MODEL, parallelism={"ep": 8}, routing=routing)
        return inference_memory(prepare_inference(run, "decode", 64.0))[0].parameters

    two_matrices = 2 * 128 * 256 * 2  # in bf16
    assert parameters(redundant_experts=16) - parameters() == 4 * 2 * two_matrices  # two more experts in four layers


def test_slots_need_not_follow_the_experts() -> None:
    """288 of DeepSeek-V3's 256 experts and 32 copies divide by 9 ranks where 256 do not."""
    model = {**toy.MOE_MODEL, "num_experts": 7}
    run = toy.inference(gpus=8, model=model, parallelism={"ep": 8}, routing={"redundant_experts": 1})
    assert build_layout(run).expert_copies == 8 / 7


@pytest.mark.parametrize(
    ("given_run", "message"),
    [
        (
            toy.run(gpus=8, model=MODEL, parallelism={"ep": 8}, routing={"redundant_experts": 8}),
            "redundant_experts is for inference and serving: in training the gradients of all copies would have to be"
            " summed in every step",
        ),
        (
            toy.inference(gpus=8, model=MODEL, parallelism={"ep": 8}, routing={"redundant_experts": 9}),
            "ep 8 must divide the 64 experts and 9 copies",
        ),
        (
            toy.inference(gpus=8, model=MODEL, parallelism={"tp": 8}, routing={"redundant_experts": 8}),
            "redundant_experts needs ep above 1: one rank holds every expert anyway",
        ),
        (
            toy.inference(gpus=8, parallelism={"tp": 8}, routing={"redundant_experts": 8}),
            "redundant_experts needs experts; toy-model has none",
        ),
    ],
)
def test_copies_that_can_not_be_are_refused(given_run: Any, message: str) -> None:
    with pytest.raises(InfeasibleError) as error:
        build_layout(given_run)
    assert (error.value.message, error.value.path) == (message, "routing.redundant_experts")
