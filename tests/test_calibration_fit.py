"""Fits find parameters that were put in, and hold out what they say they hold out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from simulator.calibration.disturbance import disturbed
from simulator.calibration.fit import fit_series
from simulator.calibration.holdout import splits
from simulator.calibration.physics_fit import fit_physics
from simulator.calibration.priors import priors
from simulator.calibration.series import Series
from simulator.errors import CalibrationError
from simulator.spec.forms import Sheet
from simulator.spec.forms_index import physics

H100 = Sheet(peak=989.4e12, bandwidth=3.35e12, sms=132, link=450e9)
TRUE = {"ec": 0.8, "em": 0.9, "t0_us": 3.0, "p": 2.5, "tk_us": 1.0, "w": 0.1}


def grid(m: list[int], n: list[int], k: list[int]) -> dict[str, np.ndarray]:
    found = np.meshgrid(m, n, k, indexing="ij")
    return {name: column.ravel().astype(np.float64) for name, column in zip("mnk", found, strict=True)}


def series(shape: dict[str, np.ndarray], seconds: np.ndarray, op: str = "gemm") -> Series:
    return Series(op, "bf16", "cublas", "torch", "2.9", "made up", H100, shape, seconds)


SHAPE = grid([2**i for i in range(14)], [256, 512, 1024, 2048, 4096, 8192, 16384], [256, 1024, 2048, 4096, 8192])


def test_parameters_are_found_again() -> None:
    found = fit_physics("gemm", SHAPE, physics("gemm", TRUE, SHAPE, H100), H100, priors("gemm"))
    assert found["ec"] == pytest.approx(0.8, rel=0.02)
    assert found["em"] == pytest.approx(0.9, rel=0.02)
    assert found["t0_us"] == pytest.approx(3.0, rel=0.05)
    assert found == fit_physics("gemm", SHAPE, physics("gemm", TRUE, SHAPE, H100), H100, priors("gemm"))


def test_without_points_worth_the_name_priors_rule() -> None:
    few = {name: column[:4] for name, column in SHAPE.items()}  # four tiny products: nothing about compute in them
    found = fit_physics("gemm", few, physics("gemm", TRUE, few, H100), H100, priors("gemm"))
    assert found["ec"] == pytest.approx(0.75, rel=0.05)


def test_outliers_move_little() -> None:
    seconds = physics("gemm", TRUE, SHAPE, H100)
    seconds[::50] *= 5.0
    found = fit_physics("gemm", SHAPE, seconds, H100, priors("gemm"))
    assert found["ec"] == pytest.approx(0.8, rel=0.05)


def test_parameters_stay_within_their_bounds() -> None:
    found = fit_physics("gemm", SHAPE, physics("gemm", TRUE, SHAPE, H100) / 3.0, H100, priors("gemm"))
    for name, prior in priors("gemm").items():
        assert prior.low * 0.999 <= found[name] <= prior.high * 1.001


@pytest.mark.parametrize("split", splits("gemm", SHAPE), ids=lambda split: split.name)
def test_a_split_shares_nothing(split: object) -> None:
    assert not (split.train & split.out).any()
    if split.beyond:
        far = SHAPE["m"][split.out].min() > SHAPE["m"][split.train].max()
        assert far or SHAPE["n"][split.out].min() > SHAPE["n"][split.train].max()
    else:
        weights = set(zip(SHAPE["n"][split.train], SHAPE["k"][split.train], strict=True))
        assert not weights & set(zip(SHAPE["n"][split.out], SHAPE["k"][split.out], strict=True))


def test_held_out_sets_of_gemms() -> None:
    names = [split.name for split in splits("gemm", SHAPE)]
    assert names == ["new (n, k)", "beyond: m", "beyond: n, k", "beyond: m, n, k"]


def test_every_model_is_held_out_once() -> None:
    base = grid([1, 8, 64, 512, 4096], [1, 2, 3, 4, 5, 6, 7, 8], [1])
    shape = {"tokens": base["m"], "hidden": 1024 * base["n"], "inter": 512 * base["n"], "topk": base["k"] * 2}
    shape |= {"experts": base["k"] * 16, "tp": base["k"], "ep": base["k"], "skew": base["k"] * 0, "gated": base["k"]}
    held = np.sum([split.out for split in splits("moe", shape) if split.name == "new models"], axis=0)
    assert (held == 1).all()


def test_the_fit_of_noise_says_how_noisy_it_is() -> None:
    noise = np.random.default_rng(1).normal(scale=0.1, size=len(SHAPE["m"]))
    fitted = fit_series(series(SHAPE, physics("gemm", TRUE, SHAPE, H100) * np.exp(noise)))
    assert 0.14 < fitted.spread.inside < 0.22  # 90 % of a deviation of 0.1 is 0.165; a little is learned wrongly
    test = fitted.held_out["new (n, k)"]
    assert 0.07 < test.mean_absolute < 0.11
    assert abs(test.bias) < 0.03
    assert test.covered is not None
    assert 0.8 < test.covered < 0.97


def test_what_physics_misses_the_residual_learns() -> None:
    slow = np.where(SHAPE["n"] >= 4096, 1.4, 1.0)  # another kernel for wide weights
    fitted = fit_series(series(SHAPE, physics("gemm", TRUE, SHAPE, H100) * slow))
    predicted = fitted.model.predict(SHAPE)
    assert np.abs(predicted.seconds / (physics("gemm", TRUE, SHAPE, H100) * slow) - 1).mean() < 0.03
    assert (predicted.basis == "interpolated").all()


def test_beyond_the_range_the_residual_fades_and_the_error_grows() -> None:
    fitted = fit_series(series(SHAPE, 1.3 * physics("gemm", TRUE, SHAPE, H100)))
    near, far = (
        fitted.model.predict({"m": 1024, "n": 4096, "k": 4096}),
        fitted.model.predict({"m": 1024, "n": 2**22, "k": 4096}),
    )
    assert far.basis[0] == "extrapolated"
    assert far.relative_error[0] >= near.relative_error[0]
    assert fitted.model.predict({"m": 2**20, "n": 4096, "k": 4096}).basis.tolist() == ["extrapolated"]


def test_too_few_points() -> None:
    short = series({name: column[:3] for name, column in SHAPE.items()}, np.ones(3))
    with pytest.raises(CalibrationError, match="gemm bf16 by cublas: 3 points; a fit needs 4"):
        fit_series(short)


def test_a_dozen_points_are_enough_for_something() -> None:
    chosen = np.arange(0, len(SHAPE["m"]), 41)
    few = {name: column[chosen] for name, column in SHAPE.items()}
    fitted = fit_series(series(few, physics("gemm", TRUE, few, H100)))
    everything = fitted.model.predict(SHAPE).seconds / physics("gemm", TRUE, SHAPE, H100) - 1
    assert np.abs(everything).mean() < 0.1


def test_a_collective_is_fitted_per_group_size() -> None:
    size = 2.0 ** np.arange(9, 30)
    shape = {"bytes": size, "group_size": np.full(21, 8.0)}
    seconds = physics("all_gather", {"a_us": 10.0, "b": 0.75, "q": 0.6}, shape, H100)
    fitted = fit_series(replace(series(shape, seconds, "all_gather"), dtype="bytes"))
    assert fitted.series.group_size == 8
    assert fitted.held_out["new sizes"].mean_absolute < 0.02


def campaign(tp: int, ep: int, times: list[float]) -> pd.DataFrame:
    tokens = [2**i for i in range(len(times))]
    model = {"hidden": 4096, "inter": 2048, "topk": 8, "experts": 256, "skew": 0.0, "gated": 1}
    return pd.DataFrame({"tokens": tokens, **model, "tp": tp, "ep": ep, "latency": times})


def test_a_campaign_slower_than_one_with_half_the_ranks_was_disturbed() -> None:
    honest = [campaign(1, ep, [100 / ep] * 6) for ep in (1, 2, 8)]
    rows = pd.concat([*honest, campaign(1, 4, [90.0] * 6)], ignore_index=True)
    assert set(rows[disturbed(rows)]["ep"]) == {4}


def test_a_campaign_out_of_proportion_to_one_with_twice_the_ranks_was_disturbed() -> None:
    rows = pd.concat([campaign(1, 1, [300.0] * 6), campaign(1, 2, [50.0] * 6), campaign(1, 4, [25.0] * 6)])
    assert set(rows[disturbed(rows)]["ep"]) == {1}


def test_splits_that_do_not_help_are_honest() -> None:
    rows = pd.concat([campaign(1, ep, [100.0] * 6) for ep in (1, 2, 4)])
    assert not disturbed(rows).any()


def test_a_batch_slower_than_a_larger_one_was_disturbed() -> None:
    rows = campaign(1, 1, [10.0, 11.0, 40.0, 13.0, 25.0, 19.0])  # 25 over 19 is what a change of tiles may cost
    assert rows[disturbed(rows)]["tokens"].tolist() == [4]


@pytest.mark.parametrize(("factor", "words"), [(1e3, "times as long"), (1e-3, "times as short")])
def test_times_in_another_unit_are_refused(factor: float, words: str) -> None:
    wrong = series(SHAPE, factor * physics("gemm", TRUE, SHAPE, H100))
    with pytest.raises(
        CalibrationError, match=rf"gemm bf16 by cublas: \d+ {words} as the data sheet suggests; .*seconds"
    ):
        fit_series(wrong)
