"""Legal splits: exactly those that a run accepts, and none made in vain."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import toy

from simulator.errors import InfeasibleError, SpecError
from simulator.graph.parallel import build_layout
from simulator.planning.splits import Split, divisors, legal_splits
from simulator.spec.plan import Splits
from simulator.spec.run import Run, run_from_mapping


def make(model: dict[str, Any], gpus: int, **blocks: Any) -> Run:
    return run_from_mapping(
        {
            "name": "toy",
            "kind": "training",
            "model": model,
            "hardware": {"device": toy.DEVICE, "gpus": gpus, "gpus_per_node": 8, "network": toy.NETWORK},
            "training": {**toy.TRAINING, "global_batch": 24},
            **blocks,
        }
    )


def accepted(run: Run, sizes: Splits) -> set[Split]:
    """The splits of all combinations of `sizes` that the simulator itself accepts."""
    found = set()
    parts = [getattr(sizes, name) for name in ("tp", "pp", "vpp", "cp", "ep", "etp")]
    for combination in itertools.product(*(values or [None] for values in parts)):
        split = Split(*combination)
        try:
            data = {**run.model_dump(include={"name", "kind"}), "parallelism": split.fields()}
            changed = run.model_copy(update={"parallelism": type(run.parallelism)(**data["parallelism"])})
            build_layout(changed, advise=False)
        except (InfeasibleError, SpecError, ValueError):
            continue
        found.add(split)
    return found


def test_divisors_come_smallest_first() -> None:
    assert divisors(12) == (1, 2, 3, 4, 6, 12)
    assert divisors(16) == (1, 2, 4, 8, 16)
    assert divisors(1) == (1,)


@pytest.mark.parametrize("gpus", [8, 16, 24])
@pytest.mark.parametrize("model", [toy.MODEL, toy.MOE_MODEL], ids=["dense", "moe"])
@pytest.mark.parametrize("etp", [None, [1, 2, 3]])
def test_generated_splits_are_those_that_a_run_accepts(model: dict[str, Any], gpus: int, etp: list[int] | None) -> None:
    run = make(model, gpus)
    sizes = Splits(
        tp=[1, 2, 3, 4, 8, 16], pp=[1, 2, 3, 4, 6, 8], vpp=[1, 2, 3], cp=[1, 2, 3, 4], ep=[1, 2, 3, 4, 8], etp=etp
    )
    generated = list(legal_splits(run, sizes))
    assert len(generated) == len(set(generated))
    assert set(generated) == accepted(run, sizes)
    assert len(generated) > 10


def test_what_is_left_open_is_filled_with_what_divides() -> None:
    # 8 GPUs, 4 layers, 8 experts, 8 heads, 24 sequences of one micro-batch each: dp must divide 24.
    splits = set(legal_splits(make(toy.MOE_MODEL, 8), Splits(tp=[1], pp=[2])))
    # 4 GPUs a stage: ep 1, 2, 4 divide them and the 8 experts; vpp 2 needs 4 layers over 4 chunks and 6 micro-batches
    # that pp 2 divides.
    assert splits == {Split(1, 2, vpp, 1, ep, None) for vpp in (1, 2) for ep in (1, 2, 4)}


def test_tensor_parallelism_left_open_stays_in_a_domain() -> None:
    splits = list(legal_splits(make(toy.MODEL, 16), Splits(pp=[1], vpp=[1])))
    # dp = 16/tp must divide 24, which 16 does not.
    assert [split.tp for split in splits] == [2, 4, 8]


def test_no_split_is_legal_where_the_batch_never_divides() -> None:
    assert list(legal_splits(make(toy.MODEL, 7 * 8), Splits(tp=[1], pp=[1]))) == []
