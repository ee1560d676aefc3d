"""Uneven routing: from popularity to the fullest rank, drops, placement, and files of counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import simulate
from simulator.errors import SpecError
from simulator.graph.builder import prepare
from simulator.graph.moe import ExpertLoad
from simulator.graph.routing import popularities
from simulator.result import Result
from simulator.spec.run import Run
from simulator.spec.workload import Routing

TOKENS = 2**16
"""Tokens of a rank: many, so that chance is small."""


def moe_run(**routing: Any) -> Run:
    """Eight experts, two for each token, one on each of eight GPUs."""
    training = {"seq_len": TOKENS, "global_batch": 8}
    return toy.run(gpus=8, model=toy.MOE_MODEL, parallelism={"ep": 8}, training=training, routing=routing)


def load(**routing: Any) -> ExpertLoad:
    found = prepare(moe_run(**routing)).load
    assert found is not None
    return found


def counts_file(folder: Path, rows: list[str], header: str = "expert,count") -> str:
    file = folder / "counts.csv"
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(file)


EVEN = [f"{expert},10" for expert in range(8)]


def test_measured_counts_set_the_fullest_rank(tmp_path: Path) -> None:
    # 20 of 90 rows go to expert 3: 16/9 of the mean
    file = counts_file(tmp_path, [*EVEN[:3], "3,20", *EVEN[4:]])
    found = load(balance="counts", counts=file)
    assert found.rows / found.sent_rows == pytest.approx(16 / 9, rel=0.01)
    assert found.sent_rows == 2 * TOKENS
    assert found.dropped_fraction == 0.0


def test_layers_of_a_file_are_drawn_in_turn(tmp_path: Path) -> None:
    even = [f"0,{line}" for line in EVEN]
    uneven = [f"1,{line}" for line in [*EVEN[:3], "3,20", *EVEN[4:]]]
    found = load(balance="counts", counts=counts_file(tmp_path, even + uneven, "layer,expert,count"))
    assert found.rows / found.sent_rows == pytest.approx((1 + 16 / 9) / 2, rel=0.01)


def test_no_expert_is_chosen_twice_by_a_token(tmp_path: Path) -> None:
    """An expert that all want gets every token once; the other choice is spread over the rest."""
    found = load(balance="counts", counts=counts_file(tmp_path, ["0,1000", *[f"{e},1" for e in range(1, 8)]]))
    assert found.rows == pytest.approx(8 * TOKENS, rel=0.01)


def test_a_capacity_factor_drops_the_excess(tmp_path: Path) -> None:
    # expert 3 would get 20/90 of the rows and may take 1.25/8
    file = counts_file(tmp_path, [*EVEN[:3], "3,20", *EVEN[4:]])
    found = load(balance="counts", counts=file, capacity_factor=1.25)
    assert found.rows / found.sent_rows == pytest.approx(1.25, rel=1e-6)
    assert found.dropped_fraction == pytest.approx(20 / 90 - 1.25 / 8, rel=0.02)


def test_what_experts_drop_is_counted_over_all_ranks(tmp_path: Path) -> None:
    """One expert of eight is asked for 20/90 of the rows and takes 1.25/8; the others drop nothing."""
    file = counts_file(tmp_path, [*EVEN[:3], "3,20", *EVEN[4:]])
    result = simulate(moe_run(balance="counts", counts=file, capacity_factor=1.25))
    assert result.dropped_rows is not None
    assert result.dropped_rows_per_layer is not None
    routed = 8 * TOKENS * 2
    assert result.dropped_rows_per_layer.value == pytest.approx(routed * (20 / 90 - 1.25 / 8), rel=0.02)
    assert result.dropped_rows.value == 4 * result.dropped_rows_per_layer.value  # four MoE layers
    assert simulate(moe_run()).dropped_rows is None


def test_of_a_stated_imbalance_the_fullest_rank_drops() -> None:
    """It has 2 of 8 shares and keeps 1.5: half a share of eight."""
    found = load(imbalance=2.0, capacity_factor=1.5)
    assert found.rows == 1.5 * found.sent_rows
    assert found.dropped_fraction == 0.5 / 8
    assert found.mean_rows == pytest.approx(found.sent_rows * (1 - 0.5 / 8))


def test_no_rank_has_more_rows_than_there_are() -> None:
    assert load(imbalance=100.0).rows == 8 * load().rows


def test_work_is_counted_for_all_ranks_and_time_for_the_fullest() -> None:
    """The cluster multiplies as much as with even routing; its slowest rank takes twice as long for it."""
    even, uneven = simulate(moe_run()), simulate(moe_run(imbalance=2.0))
    assert even.hardware_flops_per_gpu is not None
    assert uneven.hardware_flops_per_gpu is not None
    assert even.all_to_all_bytes_per_gpu is not None
    assert uneven.all_to_all_bytes_per_gpu is not None
    assert uneven.hardware_flops_per_gpu.value == pytest.approx(even.hardware_flops_per_gpu.value, rel=1e-12)
    assert uneven.all_to_all_bytes_per_gpu.value == pytest.approx(even.all_to_all_bytes_per_gpu.value, rel=1e-12)

    def seconds(result: Result) -> float:
        return sum(row.seconds for row in result.operators if row.name in ("expert up", "expert down"))

    assert seconds(uneven) == pytest.approx(2 * seconds(even), rel=0.02)  # weights are read once all the same


def test_zipf_of_exponent_one() -> None:
    # the rank of the most popular expert gets 1 / H(8) of the rows, its fair share is 1/8
    harmonic = sum(1 / rank for rank in range(1, 9))
    found = load(balance="zipf", skew=1.0)
    assert found.rows / found.sent_rows == pytest.approx(8 / harmonic, rel=0.01)


def test_an_exponent_of_zero_is_even_but_for_chance() -> None:
    for balance in ("zipf", "uniform"):
        even = popularities(Routing(balance=balance, skew=0.0), 8)  # type: ignore[arg-type]
        assert even == pytest.approx(np.full(even.shape, 1 / 8))
    found = load(balance="zipf", skew=0.0)
    assert 1.0 < found.rows / found.sent_rows < 1.01


def test_a_power_law_is_cut_off() -> None:
    drawn = popularities(Routing(balance="power_law", skew=1.0), 64)
    assert (drawn.max(axis=1) / drawn.min(axis=1) <= 100.0).all()
    # log-uniform between 1 and 100: half of the experts lie above 10 times the least
    assert 8.0 < np.median(drawn / drawn.min(axis=1, keepdims=True)) < 11.0
    assert popularities(Routing(balance="power_law", skew=2.0), 64).max() > 1 / 64


def test_balanced_placement_pairs_the_popular_with_the_others(tmp_path: Path) -> None:
    """Sixteen experts on eight ranks, the first eight twice as popular: as numbered two of them share a rank."""
    model = {**toy.MOE_MODEL, "num_experts": 16}
    file = counts_file(tmp_path, [f"{expert},{20 if expert < 8 else 10}" for expert in range(16)])

    def fullest(placement: str) -> float:
        routing = {"balance": "counts", "counts": file, "placement": placement}
        training = {"seq_len": TOKENS, "global_batch": 8}
        b = prepare(toy.run(gpus=8, model=model, parallelism={"ep": 8}, training=training, routing=routing))
        assert b.load is not None
        return b.load.rows / b.load.sent_rows

    assert fullest("as_numbered") == pytest.approx(4 / 3, rel=0.01)
    assert fullest("balanced") == pytest.approx(1.0, rel=0.01)


def test_the_seed_decides() -> None:
    one, same, other = (load(balance="power_law", skew=1.2, seed=seed).rows for seed in (3, 3, 4))
    assert one == same
    assert one != other


def test_correlation_is_that_of_ranks_between_layers() -> None:
    """Popularity falls with the rank, so its order tells the rank; 512 experts know it to a few percent."""

    def correlation(stated: float) -> float:
        drawn = popularities(Routing(balance="zipf", skew=1.0, correlation=stated, seed=5), 512)
        ranks = drawn.argsort(axis=1).argsort(axis=1)
        pairs = np.corrcoef(ranks[:32])
        return float(pairs[~np.eye(32, dtype=bool)].mean())

    for stated in (0.0, 0.3, 0.8, 1.0):
        assert correlation(stated) == pytest.approx(stated, abs=0.03)
    same = popularities(Routing(balance="power_law", skew=1.2, correlation=1.0), 64)
    assert (same == same[0]).all()


def test_a_rank_that_is_full_in_all_layers_holds_more_activations() -> None:
    """The fullest rank of each layer is as full; only where it is always the same one do its activations add up."""
    alone, always = (load(balance="zipf", skew=1.0, correlation=c) for c in (0.0, 1.0))
    assert always.rows == pytest.approx(alone.rows, rel=0.01)
    assert always.held_rows == pytest.approx(always.rows, rel=0.01)
    assert alone.mean_rows < alone.held_rows < 0.8 * alone.rows  # over four layers
    turned = load(balance="zipf", skew=1.0, correlation=1.0, placement="balanced")
    assert turned.mean_rows < turned.held_rows < 0.8 * turned.rows  # another rank takes the most popular in each layer


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["zipf", "power_law"]), st.floats(0.0, 2.0), st.sampled_from(["as_numbered", "balanced"]))
def test_the_fullest_rank_lies_between_the_mean_and_all(balance: str, skew: float, placement: str) -> None:
    found = load(balance=balance, skew=skew, placement=placement)
    assert found.sent_rows <= found.rows <= 8 * TOKENS
    assert 1.0 <= found.touched <= found.local_experts


def test_uneven_routing_takes_longer_and_the_report_says_so() -> None:
    even, uneven = simulate(moe_run()), simulate(moe_run(balance="zipf", skew=1.0))
    assert even.step_time_s is not None
    assert uneven.step_time_s is not None
    assert uneven.step_time_s.value > even.step_time_s.value
    (row,) = [row for row in uneven.assumptions if row.name == "Expert load"]
    assert row.value == "zipf 1: fullest rank 2.94 x the mean"
    assert row.path == "routing.balance"
    assert not any("Uneven routing" in line for line in uneven.not_modelled)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (EVEN, "expert,rows", "{file} needs columns expert,count or layer,expert,count"),
        ([*EVEN, "8,1"], "expert,count", "{file}:10: expert 8, but the model has 8 experts"),
        ([*EVEN, "7,1"], "expert,count", "{file}:10: expert 7, but it is counted twice"),
        (EVEN[:-1], "expert,count", "{file} lacks expert 7 of layer 0"),
        ([], "expert,count", "{file} lacks every expert"),
        ([*EVEN[:-1], "7,nan"], "expert,count", "{file}:9: expected whole numbers and a count, not 7,nan"),
        ([*EVEN[:-1], "7,-1"], "expert,count", "{file}:9: expected whole numbers and a count, not 7,-1"),
        ([*EVEN[:-1], "7"], "expert,count", "{file}:9: expected whole numbers and a count, not 7"),
        ([*EVEN[:-1], "7,1,1"], "expert,count", "{file}:9: expected whole numbers and a count, not 7,1,1"),
        ([f"{e},0" for e in range(8)], "expert,count", "{file} has a layer in which no expert was chosen"),
    ],
)
def test_files_that_are_no_counts_are_refused(tmp_path: Path, rows: list[str], header: str, message: str) -> None:
    file = counts_file(tmp_path, rows, header)
    with pytest.raises(SpecError) as error:
        load(balance="counts", counts=file)
    assert str(error.value) == "routing.counts: " + message.format(file=file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"routing.counts: no file of expert counts: .*No such file"):
        load(balance="counts", counts=str(tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        ({"balance": "zipf"}, "balance zipf needs skew, such as 0.8"),
        ({"balance": "counts"}, "balance counts and a file of counts go together"),
        ({"counts": "x.csv"}, "balance counts and a file of counts go together"),
        (
            {"balance": "uniform", "correlation": 0.5},
            r"correlation is of popularities that are drawn \(zipf, power_law\), not of uniform",
        ),
        (
            {"redundant_experts": 8, "placement": "as_numbered"},
            "redundant_experts are placed by popularity: drop placement as_numbered",
        ),
        (
            {"redundant_experts": 8, "imbalance": 2.0},
            "imbalance is stated, and redundant_experts imply another: drop one of them",
        ),
        (
            {"balance": "zipf", "skew": 1.0, "imbalance": 2.0},
            "imbalance is stated, and balance zipf implies another: drop one of them",
        ),
    ],
)
def test_contradictions_are_refused(routing: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        moe_run(**routing)
