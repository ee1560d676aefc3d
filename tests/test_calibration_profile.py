"""Profiles: written, read again, refused when damaged; and the shipped ones against shipped measurements."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from simulator.calibration.fit import fit_series
from simulator.calibration.profile_file import build_profile, write_profile
from simulator.calibration.series import Series, series_of
from simulator.calibration.table import read_table
from simulator.errors import CalibrationError, CoverageError, SpecError
from simulator.spec.base import data_root
from simulator.spec.forms import Sheet
from simulator.spec.forms_index import physics
from simulator.spec.hardware import load_device
from simulator.spec.profile import Profile, profile_names, read_profile
from simulator.spec.transfer import transferred

SHEET = Sheet(peak=989.4e12, bandwidth=3.35e12, sms=132, link=450e9)


def made_up(device: str = "h100-sxm") -> Profile:
    m, n, k = (
        column.ravel().astype(float) for column in np.meshgrid([1, 16, 256, 4096], [512, 2048, 8192], [512, 4096])
    )
    shape = {"m": m, "n": n, "k": k}
    true = {"ec": 0.8, "em": 0.9, "t0_us": 3.0, "p": 2.5, "tk_us": 1.0, "w": 0.1}
    seconds = physics("gemm", true, shape, SHEET) * np.where(n > 2000, 1.3, 1.0)
    gemm = Series("gemm", "bf16", "cublas", "torch", "2.9", "made up", SHEET, shape, seconds)
    fits = [gemm]
    for ranks in (2, 8):
        size = {"bytes": 2.0 ** np.arange(9, 29), "group_size": np.full(20, float(ranks))}
        times = physics("all_gather", {"a_us": 3.0 + ranks, "b": 0.75, "q": 0.6}, size, SHEET)
        fits.append(Series("all_gather", "bytes", "nccl", "nccl", "2.29", "made up", SHEET, size, times))
    return build_profile([fit_series(one) for one in fits], device=device, date="2026-01-31", source="made up")


@pytest.fixture(scope="module")
def profile() -> Profile:
    return made_up()


@pytest.fixture
def written(profile: Profile, tmp_path: Path) -> Path:
    return write_profile(profile, tmp_path)


def test_what_was_written_predicts_the_same(profile: Profile, written: Path) -> None:
    again = read_profile(written)
    m = np.array([3, 300, 30000])
    for one, two in zip(
        profile.gemm_seconds("bf16", m, 4096, 4096), again.gemm_seconds("bf16", m, 4096, 4096), strict=True
    ):
        assert (one == two).all()
    assert again == profile
    assert again.fits[0].covered["m"] == (1.0, 4096.0)


def test_the_same_fits_make_the_same_files(profile: Profile, written: Path, tmp_path: Path) -> None:
    other = write_profile(made_up(), tmp_path / "again")
    assert other.read_bytes() == written.read_bytes()
    assert other.with_suffix(".npz").read_bytes() == written.with_suffix(".npz").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_profile_reads_as_json_and_as_yaml(written: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited.yaml"
    shutil.copy(written.with_suffix(".npz"), edited.with_suffix(".npz"))
    edited.write_text("# by hand\n" + written.read_text())
    assert read_profile(edited) == read_profile(written)
    assert json.loads(written.read_text())["device"] == "h100-sxm"


def test_shapes_broadcast(profile: Profile) -> None:
    seconds, error, basis = profile.gemm_seconds("bf16", np.ones((3, 1)), np.array([512, 1024]), 512)
    assert seconds.shape == error.shape == basis.shape == (3, 2)
    assert profile.gemm_seconds("bf16", 1, 512, 512).seconds.shape == (1,)


def test_a_power_limit_slows_what_computes(profile: Profile) -> None:
    def seconds(m: int, limit: float | None) -> float:
        return float(profile.gemm_seconds("bf16", m, 4096, 4096, rate_limit=limit).seconds[0])

    assert seconds(4096, 300e12) > 2 * seconds(4096, None)
    assert seconds(1, 300e12) == pytest.approx(seconds(1, None), rel=0.02)


def test_basis_and_error_outside_the_range(profile: Profile) -> None:
    _, error, basis = profile.gemm_seconds("bf16", [256, 2**16], 2048, 4096)
    assert basis.tolist() == ["interpolated", "extrapolated"]
    assert error[1] >= error[0] > 0


def test_group_sizes_between_and_beyond(profile: Profile) -> None:
    two, four, eight, sixteen = (profile.collective_seconds("all_gather", 1e8, ranks) for ranks in (2, 4, 8, 16))
    assert two.seconds < four.seconds < eight.seconds < sixteen.seconds
    assert four.seconds[0] == pytest.approx(np.sqrt(two.seconds[0] * eight.seconds[0]))
    assert eight.basis[0] == "interpolated"
    assert sixteen.basis[0] == "extrapolated"
    assert sixteen.relative_error > eight.relative_error
    assert profile.collective_seconds("all_gather", 1e8, 1).seconds.tolist() == [0.0]


def test_what_was_not_fitted(profile: Profile) -> None:
    with pytest.raises(CoverageError) as error:
        profile.gemm_seconds("fp8", 1, 1, 1)
    assert str(error.value) == "the profile of h100-sxm has no gemm in fp8; it has gemm bf16 (cublas, torch)"
    with pytest.raises(CoverageError, match="the profile of h100-sxm has no decode in bf16; it has no decode at all"):
        profile.decode_seconds("bf16", batch=1, seq=1, heads=1, kv_heads=1, head_dim=128)
    with pytest.raises(CoverageError, match="has no gemm in bf16 by cutlass"):
        profile.gemm_seconds("bf16", 1, 1, 1, kernel="cutlass")
    assert profile.covers("gemm", "bf16", "torch")
    assert not profile.covers("moe", "bf16")


def test_half_written(written: Path) -> None:
    text = written.read_text()
    written.write_text(text[: len(text) // 2])
    with pytest.raises(CalibrationError, match=r"h100-sxm\.yaml: damaged or half-written"):
        read_profile(written)


def test_tables_of_another_calibration(written: Path) -> None:
    tables = written.with_suffix(".npz")
    tables.write_bytes(tables.read_bytes()[:-1] + b"x")
    with pytest.raises(CalibrationError, match=r"h100-sxm\.npz: not the tables the profile was written with"):
        read_profile(written)
    tables.unlink()
    with pytest.raises(CalibrationError, match=r"h100-sxm\.npz: the residual tables of the profile are missing"):
        read_profile(written)


def test_tables_of_the_wrong_size(profile: Profile) -> None:
    with pytest.raises(CalibrationError, match=r"the residual tables of fits\.0 are not \d+ values"):
        profile.with_values({**profile.values, "0": profile.values["0"][:-1]})


def test_profile_of_another_device(written: Path) -> None:
    with pytest.raises(CalibrationError, match="a profile of h100-sxm, where b200-sxm is meant"):
        read_profile(written, device="b200-sxm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fitts": []}, "unknown key 'fitts'. Did you mean 'fits'?"),
        ({"format": 2}, "format: Input should be 1, got 2"),
        ({"device": None}, "device: Input should be a valid string, got None"),
    ],
)
def test_wrong_fields(written: Path, change: dict[str, object], message: str) -> None:
    written.write_text(json.dumps({**json.loads(written.read_text()), **change}))
    with pytest.raises(SpecError) as error:
        read_profile(written)
    assert message in str(error.value)


def test_a_parameter_that_is_no_number(written: Path) -> None:
    written.write_text(written.read_text().replace('"t0_us": ', '"t0_us": -'))
    with pytest.raises(SpecError, match=r"fits\.0: t0_us must be a finite number of at least 0, got -"):
        read_profile(written)


def test_unknown_names() -> None:
    with pytest.raises(SpecError, match="unknown profile 'h100'"):
        read_profile("h100")
    with pytest.raises(SpecError, match=r"nowhere\.yaml: no such file"):
        read_profile("nowhere.yaml")


MEASURED_DEVICES = [
    "a100-sxm-80gb", "b200-sxm", "b300-sxm", "gb200", "gb300", "h100-sxm", "h200-sxm", "l40s", "rtx-pro-6000",
]  # fmt: skip


def test_the_measured_devices_ship() -> None:
    assert profile_names() == MEASURED_DEVICES


@pytest.mark.parametrize("name", MEASURED_DEVICES)
def test_shipped_profile_agrees_with_shipped_measurements(name: str) -> None:
    profile = read_profile(name, device=name)
    table = read_table(data_root() / f"hardware_profiles/measured/{name}.csv")
    errors: dict[str, list[np.ndarray]] = {}
    for one in series_of(table, load_device(name)):
        fits = [fit for fit in profile.find(one.op, one.dtype, one.kernel) if fit.group_size == one.group_size]
        assert fits, f"{one.op} {one.dtype} {one.kernel}"
        seconds = profile.model(fits[0]).predict(one.shape).seconds
        errors.setdefault(one.op, []).append(np.abs(np.log(seconds / one.seconds)))
    for op, logs in errors.items():
        assert np.median(np.concatenate(logs)) < 0.10, op


def test_shipped_profiles_know_published_rates() -> None:
    # cuBLAS on 4096^3 in bf16 at burst clocks: 700 to 830 TFLOP/s on H100, 1.4 to 1.8 PFLOP/s on B200
    for name, low, high in (("h100-sxm", 700e12, 830e12), ("b200-sxm", 1400e12, 1800e12)):
        seconds = read_profile(name).gemm_seconds("bf16", 4096, 4096, 4096).seconds[0]
        assert low < 2 * 4096**3 / seconds < high
    # NCCL 8 x H100: all-reduce through the switch at 430 to 460 GB/s bus bandwidth
    size = 2.0**29
    seconds = read_profile("h100-sxm").collective_seconds("all_reduce", size, 8, kernel="nccl").seconds[0]
    assert 430e9 < 2 * 7 / 8 * size / seconds < 460e9


def test_a_measured_model_is_known_better_than_a_new_one() -> None:
    profile = read_profile("h100-sxm")
    shape = {"tokens": 1024, "inter": 14336, "topk": 2, "experts": 8}
    mixtral, other = (profile.moe_seconds("bf16", hidden=hidden, **shape) for hidden in (4096, 4224))
    assert mixtral.basis[0] == "interpolated"
    assert other.basis[0] == "transferred"
    assert mixtral.relative_error < other.relative_error
    assert mixtral.seconds[0] == pytest.approx(other.seconds[0], rel=0.4)


def test_exchanges_across_nodes_only_where_measured() -> None:
    shape = {"tokens": 4096, "hidden": 7168, "topk": 8, "experts": 256, "group_size": 16, "nodes": 2}
    profile = read_profile("h100-sxm")
    near = profile.exchange_seconds(
        "dispatch", "fp8", **{**shape, "group_size": 8, "nodes": 1}, kernel="deepep"
    ).seconds
    assert profile.exchange_seconds("dispatch", "fp8", **shape, kernel="deepep").seconds > near
    with pytest.raises(CoverageError, match="the profile of b200-sxm has no dispatch by deepep across nodes"):
        read_profile("b200-sxm").exchange_seconds("dispatch", "fp8", **shape)


def test_carried_over_within_an_architecture() -> None:
    source, target = read_profile("h100-sxm"), load_device("h200-sxm")
    carried, own = transferred(source, target), read_profile("h200-sxm")
    m = np.array([16, 256, 4096])
    prediction = carried.gemm_seconds("bf16", m, 4096, 4096)
    assert prediction.basis.tolist() == ["transferred"] * 3
    assert prediction.seconds == pytest.approx(own.gemm_seconds("bf16", m, 4096, 4096).seconds, rel=0.2)
    assert (prediction.relative_error > source.gemm_seconds("bf16", m, 4096, 4096).relative_error).all()


def test_carried_over_between_architectures() -> None:
    carried = transferred(read_profile("h100-sxm"), load_device("a100-sxm-80gb"))
    assert not carried.covers("gemm", "fp8")  # A100 has none
    own = read_profile("a100-sxm-80gb").gemm_seconds("bf16", 4096, 4096, 4096)
    prediction = carried.gemm_seconds("bf16", 4096, 4096, 4096)
    assert prediction.seconds[0] == pytest.approx(own.seconds[0], rel=0.35)
    assert prediction.relative_error[0] > 0.2


def test_a_copy_predicts_for_its_own_device() -> None:
    source, target = read_profile("h100-sxm"), load_device("h20-sxm")  # a seventh of the peak
    alone = source.gemm_seconds("bf16", 8192, 8192, 8192)
    carried = transferred(source, target).gemm_seconds("bf16", 8192, 8192, 8192)
    assert carried.seconds[0] > 4 * alone.seconds[0]
