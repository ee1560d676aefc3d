"""Importers: the unit traps of the published database, nccl-tests' text, and our own table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simulator.calibration.calibration import calibrate_from, calibrate_table
from simulator.calibration.series import series_of
from simulator.calibration.sources_nccl import is_nccl_tests, read_nccl_tests
from simulator.calibration.sources_silicon import read_silicon
from simulator.errors import CalibrationError, SpecError
from simulator.spec.base import data_root
from simulator.spec.hardware import load_device
from simulator.spec.profile import read_profile


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database folder whose Parquet files are CSV inside, so that the test needs no Parquet reader."""
    monkeypatch.setattr(pd, "read_parquet", pd.read_csv)
    root = tmp_path / "systems" / "data"
    gemm = [(m, 128 * n, 128 * k) for m in range(1, 26) for n in range(1, 6) for k in range(1, 5)]
    for framework, floor in (("vllm", 0.055), ("trtllm", 0.005)):
        rows = [
            {"framework": framework, "kernel_source": "kernel", "gemm_dtype": dtype, "m": m, "n": n, "k": k,
             "latency": floor + m * 1e-4}
            for dtype in ("bfloat16", "fp8_block") for m, n, k in gemm
        ]  # fmt: skip
        put(root / f"h100_sxm/gemm/{framework}/1.0.0/gemm_perf.parquet", rows)
    nccl = [
        {"kernel_source": "NCCL", "nccl_dtype": dtype, "op_name": op, "num_gpus": 8, "message_size": size,
         "latency": 0.02 if dtype == "half" else 0.01}
        for dtype in ("half", "int8") for op in ("alltoall", "all_reduce") for size in (1024, 2048)
    ]  # fmt: skip
    put(root / "h100_sxm/comm/nccl/2.29.2/nccl_perf.parquet", nccl)
    deepep = [
        {"node_num": nodes, "hidden_size": 7168, "num_token": 64, "num_topk": 8, "num_experts": 256,
         "dispatch_sms": 20, "dispatch_transmit_us": 30.0 * nodes, "dispatch_notify_us": 5.0,
         "combine_sms": 20, "combine_transmit_us": 50.0, "combine_notify_us": 0.0}
        for nodes in (1, 2, 8)
    ]  # fmt: skip
    for gpu in ("h100_sxm", "h200_sxm"):
        put(root / f"{gpu}/comm/sglang/0.5.6/wideep_deepep_normal_perf.parquet", deepep)
    return tmp_path


def put(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(file, index=False)


def test_milliseconds_become_seconds_and_provenance_stays(database: Path) -> None:
    table = read_silicon("h100-sxm", database, ops=["gemm"]).table
    bf16 = table[table["dtype"] == "bf16"]
    assert len(bf16) == 500
    assert bf16["latency_s"].min() == pytest.approx((0.0551e-3 + 0.0051e-3) / 2)  # the median of two libraries
    assert set(bf16["library"]) == {"torch"}
    assert set(bf16["kernel"]) == {"cublas"}
    assert set(bf16["version"]) == {"vllm 1.0.0, trtllm 1.0.0"}
    assert (
        bf16["source"]
        .iloc[0]
        .endswith(
            "data/h100_sxm/gemm/vllm/1.0.0/gemm_perf.parquet; systems/data/h100_sxm/gemm/trtllm/1.0.0/gemm_perf.parquet"
        )
    )


def test_block_scaled_gemms_timed_with_the_host_are_left_out(database: Path) -> None:
    table = read_silicon("h100-sxm", database, ops=["gemm"]).table
    assert set(table[table["dtype"] == "fp8_block"]["library"]) == {"trtllm"}


def test_message_sizes_are_elements(database: Path) -> None:
    table = read_silicon("h100-sxm", database, ops=["collective"]).table
    reduce = table[table["op"] == "all_reduce"]  # 16-bit rows alone
    assert reduce["bytes"].tolist() == [2048, 4096]
    exchange = table[table["op"] == "all_to_all"]  # either type: bytes are bytes, and of two times the smaller counts
    assert exchange["bytes"].tolist() == [1024, 2048, 4096]
    assert exchange["latency_s"].tolist() == pytest.approx([10e-6, 10e-6, 20e-6])
    assert set(table["group_size"]) == {8}


def test_deepep_is_in_microseconds_and_its_eight_nodes_are_left_out(database: Path) -> None:
    table = read_silicon("h100-sxm", database, ops=["exchange"]).table
    dispatch = table[table["op"] == "dispatch"]
    assert dispatch["latency_s"].tolist() == pytest.approx([35e-6, 65e-6])
    assert dispatch["nodes"].tolist() == [1, 2]
    assert dispatch["group_size"].tolist() == [8, 16]
    assert set(dispatch["dtype"]) == {"fp8"}
    assert set(table[table["op"] == "combine"]["dtype"]) == {"bf16"}


def test_a_file_copied_from_another_gpu_is_no_measurement(database: Path) -> None:
    with pytest.raises(CalibrationError, match="no measurements of exchange"):
        read_silicon("h200-sxm", database, ops=["exchange"])


def test_devices_and_folders_without_measurements(database: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="the database has no measurements of 'tpu-v4'; it has a100-sxm-80gb"):
        read_silicon("tpu-v4", database)
    with pytest.raises(CalibrationError, match="no measured database here"):
        read_silicon("h100-sxm", tmp_path / "systems" / "data" / "h100_sxm")


def test_the_database_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CalibrationError, match=r"not installed; run: pip install 'moesim\[silicon\]'"):
        read_silicon("h100-sxm")


def test_a_database_that_cannot_be_read(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_reader(file: Path) -> pd.DataFrame:
        raise ImportError("Unable to find a usable engine")

    def damaged(file: Path) -> pd.DataFrame:
        raise ValueError("Parquet magic bytes not found in footer.")

    monkeypatch.setattr(pd, "read_parquet", without_reader)
    with pytest.raises(CalibrationError, match="reading the database needs pyarrow"):
        read_silicon("h100-sxm", database, ops=["gemm"])
    monkeypatch.setattr(pd, "read_parquet", damaged)
    with pytest.raises(CalibrationError, match=r"gemm_perf\.parquet: not a readable Parquet file: Parquet magic bytes"):
        read_silicon("h100-sxm", database, ops=["gemm"])


NCCL_TESTS = """\
# Collective test starting: all_gather_perf
# nThread 1 nGpus 2 minBytes 1048576 maxBytes 4194304 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1
#
# Using devices
#  Rank  0 Group  0 Pid   9932 on   node-1 device  0 [0x07] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid   9932 on   node-1 device  1 [0x0f] NVIDIA H100 80GB HBM3
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
     1048576        131072     float    none      -1    16.60   63.17   31.58      0    15.92   65.87   32.93      0
     2097152        262144     float    none      -1    27.03   77.59   38.79      0    26.10   80.35   40.18      0
     4194304        524288     float    none      -1    36.27  115.64   57.82      0    35.98  116.57   58.29    N/A
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 43.2
"""


def test_nccl_tests(tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    file.write_text(NCCL_TESTS)
    table = read_nccl_tests(file, device="h100-sxm")
    assert is_nccl_tests(file)
    assert table["op"].unique().tolist() == ["all_gather"]
    assert table["bytes"].tolist() == [2**20, 2**21, 2**22]
    assert table["latency_s"].tolist() == pytest.approx([16.6e-6, 27.03e-6, 36.27e-6])
    assert table["group_size"].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# Collective test starting: all_gather_perf\n", "", "doesn't say which program of nccl-tests wrote it"),
        ("#  Rank", "#", "no '#  Rank' line says how many ranks took part"),
        ("31.58      0", "31.58      7", r"run\.txt:11: 7 wrong values"),
        (" float ", " ", "no line of nccl-tests' results found"),
    ],
)
def test_broken_output_of_nccl_tests(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = tmp_path / "run.txt"
    file.write_text(NCCL_TESTS.replace(old, new))
    with pytest.raises(CalibrationError, match=message):
        read_nccl_tests(file, device="h100-sxm")


SHIPPED = data_root() / "hardware_profiles/measured/h100-sxm.csv"


def test_recorded_measurements_go_the_same_way(tmp_path: Path) -> None:
    table = pd.read_csv(SHIPPED)
    recorded = tmp_path / "recorded.csv"
    table[table["op"].isin(["gemm", "all_gather", "decode"])].to_csv(recorded, index=False)
    seen: list[tuple[int, int]] = []
    report = calibrate_from(
        recorded, None, tmp_path / "out", lambda done, total, what: seen.append((done, total)), date="2026-01-31"
    )
    assert seen[-1][0] == seen[-1][1] == len(report.fitted) > 5
    assert [path.name for path in report.written] == ["h100-sxm.yaml", "h100-sxm.csv"]
    profile = read_profile(report.written[0])
    assert profile == report.profile
    gemm = next(fit for fit in profile.fits if fit.op == "gemm" and fit.dtype == "bf16")
    assert gemm.held_out["new (n, k)"].mean_absolute < 0.15  # from 80 points; 0.045 from all 35,742
    full = read_profile("h100-sxm").gemm_seconds("bf16", [64, 1024, 8192], 4096, 4096).seconds
    assert profile.gemm_seconds("bf16", [64, 1024, 8192], 4096, 4096).seconds == pytest.approx(full, rel=0.2)
    assert "gemm bf16, cublas: 40 rows" in report.summary()
    assert json.loads(report.written[0].read_text())["date"] == "2026-01-31"


def test_tables_of_several_or_other_devices(tmp_path: Path) -> None:
    table = pd.read_csv(SHIPPED).head(40)
    table.to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(CalibrationError, match="rows of h100-sxm, but --device says b200-sxm"):
        calibrate_from(tmp_path / "one.csv", "b200-sxm")
    table.loc[0, "device"] = "b200-sxm"
    table.to_csv(tmp_path / "two.csv", index=False)
    with pytest.raises(CalibrationError, match=r"rows of 2 devices \(b200-sxm, h100-sxm\); a profile is of one"):
        calibrate_from(tmp_path / "two.csv")


def test_sources_that_need_a_device() -> None:
    with pytest.raises(CalibrationError, match="say which device to read: --device with one of a100-sxm-80gb"):
        calibrate_from("silicon")
    with pytest.raises(CalibrationError, match=r"nothing\.csv: no such table"):
        calibrate_from("nothing.csv")


def test_rows_without_their_shape_are_left_out_and_formats_are_known() -> None:
    device = load_device("h100-sxm")
    rows = {"device": "h100-sxm", "op": "gemm", "dtype": "bf16", "kernel": "", "library": "", "version": "",
            "date": "", "source": "x", "group_size": 1, "latency_s": [1e-5, 2e-5, 1.5e-5]}  # fmt: skip
    table = pd.DataFrame({**rows, "m": [1, 2, 2], "n": [1.0, np.nan, 3.0], "k": 4})
    (one,) = series_of(table, device)
    assert one.shape["m"].tolist() == [1, 2]
    assert one.seconds.tolist() == [1e-5, 1.5e-5]
    with pytest.raises(SpecError, match=r"unknown dtype 'bf61'\. Did you mean 'bf16'"):
        series_of(table.assign(dtype="bf61"), device)
    with pytest.raises(SpecError, match="h100-sxm has no nvfp4 arithmetic, which gemm in nvfp4 needs"):
        series_of(table.assign(dtype="nvfp4"), device)
    with pytest.raises(CalibrationError, match="nothing in the table can be fitted: gemm bf16 by : 2 points"):
        calibrate_table(table, device)
