"""The table of measurements: it survives its file, and every wrong value is named by file, row and column."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from simulator.calibration.calibration import calibrate_from
from simulator.calibration.table import Measurement, read_table, shape_columns, to_frame, write_table
from simulator.errors import CalibrationError, SpecError

HEAD = "device,op,dtype,m,latency_s,source"
GOOD = "h100-sxm,gemm,bf16,16,1e-5,me"


def file_of(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_survive_their_file(tmp_path: Path) -> None:
    rows = [
        Measurement(device="x", op="gemm", dtype="bf16", shape={"m": 2, "k": 1e6}, latency_s=1.25e-6, power_w=300.0),
        Measurement(device="x", op="all_reduce", dtype="bf16", shape={"bytes": 512}, latency_s=3e-6, group_size=8),
    ]
    frame = to_frame(rows)
    write_table(frame, tmp_path / "t.csv")
    found = read_table(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(found, frame)
    assert shape_columns(found) == ["m", "k", "bytes"]
    assert found["group_size"].tolist() == [1, 8]
    assert list(tmp_path.iterdir()) == [tmp_path / "t.csv"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            (HEAD.replace("latency_s", "latency_ms"), GOOD),
            "column 'latency_ms': its unit isn't ours; give latency_s in seconds",
        ),
        ((HEAD + ",power", GOOD + ",300"), "column 'power': its unit isn't ours; give power_w in watts"),
        ((HEAD.replace("m,", "M,"), GOOD), "column 'M': a column is named in lower case, like head_dim"),
        (("device,op,m", "x,gemm,1"), "no column 'dtype'; a table needs device, op, dtype, latency_s, source"),
        ((HEAD, GOOD, "h100-sxm,gemm,bf16,16,,me"), "row 2: latency_s: must be above 0 seconds, got nan"),
        ((HEAD, "h100-sxm,gemm,bf16,16,-1e-5,me"), "row 1: latency_s: must be above 0 seconds, got -1e-05"),
        ((HEAD, "h100-sxm,gemm,bf16,16,inf,me"), "row 1: latency_s: must be a finite number, got inf"),
        ((HEAD, "h100-sxm,gemm,bf16,16,fast,me"), "row 1: latency_s: must be a finite number, got fast"),
        ((HEAD, "h100-sxm,gemm,bf16,16,7200,me"), "row 1: latency_s: is over an hour: seconds are meant, got 7200.0"),
        ((HEAD, GOOD, "h100-sxm,,bf16,16,1e-5,me"), "row 2: op: must not be empty, got "),
        ((HEAD + ",power_w", GOOD + ",0"), "row 1: power_w: must be above 0 watts, got 0.0"),
        ((HEAD + ",trials", GOOD + ",0"), "row 1: trials: must be at least 1, got 0.0"),
        ((HEAD + ",date", GOOD + ",tomorrow"), "row 1: date: must be a date like 2026-01-31, got tomorrow"),
        (
            (HEAD, "x,gemm,bf16,16,nan,me", "x,gemm,bf16,8,nan,me"),
            "row 1: latency_s: must be a finite number, got nan (1 more rows)",
        ),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    path = file_of(tmp_path, *lines)
    with pytest.raises(CalibrationError) as error:
        read_table(path)
    assert str(error.value) == f"{path}: {message}"


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\n"')
    with pytest.raises(CalibrationError, match=r"t\.csv: not a readable table: "):
        read_table(path)
    with pytest.raises(CalibrationError, match=r"^none\.csv: no such table$"):
        read_table("none.csv")


def test_parquet_needs_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_reader(*_: object, **__: object) -> None:  # as pandas without pyarrow
        raise ImportError("Unable to find a usable engine; tried using: 'pyarrow', 'fastparquet'.")

    monkeypatch.setattr(pd, "read_parquet", without_reader)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", without_reader)
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1")
    words = f"{path}: Parquet needs pyarrow: pip install 'moesim[silicon]', or give a CSV"
    with pytest.raises(SpecError) as error:
        calibrate_from(path)
    assert str(error.value) == words
    with pytest.raises(SpecError) as error:
        write_table(read_table(file_of(tmp_path, HEAD, GOOD)), path)
    assert str(error.value) == words
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.parquet"]


def test_a_row_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValidationError, match="latency_s"):
        Measurement(device="x", op="gemm", dtype="bf16", shape={}, latency_s=float("nan"))
