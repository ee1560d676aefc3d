"""One table format for every measurement, whoever made it: a row is one kernel or collective at one shape.

Columns: device, op, dtype, kernel (the variant that ran: a kernel's name, or how its operands lay), group_size
(ranks; 1 for a kernel), latency_s, power_w, spread (re-measuring uncertainty of latency_s, a fraction), trials,
library, version, date (ISO), source. Every other column is a shape column: a number, empty where the op has no such
dimension; bytes and elements, never prefixed units. CSV or Parquet.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from simulator.errors import CalibrationError, SpecError
from simulator.spec.base import Spec

if TYPE_CHECKING:
    import pandas as pd

TEXT = ("device", "op", "dtype", "kernel", "library", "version", "date", "source")
NUMBERS = ("group_size", "latency_s", "power_w", "spread", "trials")
REQUIRED = ("device", "op", "dtype", "latency_s", "source")
_SHAPE_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Columns people write when they mean latency_s or power_w.
_OTHER_UNITS = ("latency", "latency_ms", "latency_us", "time_ms", "time_us", "power")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Measurement(Spec):
    """One row of a table."""

    device: str
    op: str
    dtype: str
    shape: Mapping[str, float]
    """Shape columns by name: numbers of elements, rows or bytes."""
    latency_s: Positive
    kernel: str = ""
    group_size: int = Field(default=1, ge=1)
    power_w: Positive | None = None
    spread: float | None = Field(default=None, ge=0)
    trials: int = Field(default=1, ge=1)
    library: str = ""
    version: str = ""
    date: str = ""
    source: str = ""


def to_frame(rows: Iterable[Measurement]) -> pd.DataFrame:
    """A table of measurements; shape columns are the union of all rows' shapes."""
    import pandas as pd

    plain = [{**row.model_dump(exclude={"shape"}), **row.shape} for row in rows]
    return check_table(pd.DataFrame(plain), "measurements")


def read_table(file: str | Path) -> pd.DataFrame:
    """The checked table of a CSV or Parquet file.

    Raises CalibrationError naming file, row and column; SpecError for a Parquet file where nothing reads one.
    """
    import pandas as pd

    path = Path(file)
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise CalibrationError(f"{file}: no such table") from None
    except ImportError:
        raise _no_parquet(file) from None
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        raise CalibrationError(f"{file}: not a readable table: {str(error).splitlines()[0]}") from None
    return check_table(frame, str(file))


def write_table(frame: pd.DataFrame, file: str | Path) -> None:
    """Write a table whole, by renaming a finished file into its place; Parquet by suffix, CSV else.

    Raises SpecError for Parquet where nothing writes it.
    """
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}-{os.getpid()}{path.suffix}")
    try:
        if path.suffix == ".parquet":
            frame.to_parquet(scratch, index=False)
        else:
            frame.to_csv(scratch, index=False)
        scratch.replace(path)
    except ImportError:
        raise _no_parquet(file) from None
    finally:
        scratch.unlink(missing_ok=True)


def _no_parquet(file: str | Path) -> SpecError:
    return SpecError(f"{file}: Parquet needs pyarrow: pip install 'moesim[silicon]', or give a CSV")


def shape_columns(frame: pd.DataFrame) -> list[str]:
    """The shape columns of a table, in its order."""
    return [str(name) for name in frame.columns if name not in TEXT + NUMBERS]


def check_table(frame: pd.DataFrame, file: str) -> pd.DataFrame:
    """The table with optional columns filled. Raises CalibrationError at the first wrong value."""
    import pandas as pd

    _check_columns(frame, file)
    filled = frame.copy()
    for name in TEXT:
        filled[name] = (filled[name] if name in filled else pd.Series("", filled.index)).fillna("").astype(str)
    defaults = {"group_size": 1, "trials": 1, "power_w": float("nan"), "spread": float("nan")}
    for name, value in defaults.items():
        if name not in filled:
            filled[name] = value
    for name in (*NUMBERS, *shape_columns(filled)):
        filled[name] = _numbers(filled[name], name, file)
    for name in ("device", "op", "dtype"):
        _refuse(filled, filled[name] == "", name, "must not be empty", file)
    _refuse(filled, ~(filled["latency_s"] > 0), "latency_s", "must be above 0 seconds", file)
    _refuse(filled, filled["latency_s"] > 3600, "latency_s", "is over an hour: seconds are meant", file)
    _refuse(filled, filled["power_w"] <= 0, "power_w", "must be above 0 watts", file)
    for name in ("group_size", "trials"):
        _refuse(filled, ~(filled[name] >= 1), name, "must be at least 1", file)
    _refuse(filled, ~filled["date"].map(_is_date), "date", "must be a date like 2026-01-31", file)
    order = [*TEXT, *shape_columns(filled), *NUMBERS]
    return filled[order].astype({"group_size": int, "trials": int})


def _check_columns(frame: pd.DataFrame, file: str) -> None:
    for name in frame.columns:
        if name in _OTHER_UNITS:
            wanted = "power_w in watts" if name == "power" else "latency_s in seconds"
            raise CalibrationError(f"{file}: column '{name}': its unit isn't ours; give {wanted}")
        if not isinstance(name, str) or not _SHAPE_NAME.fullmatch(name):
            raise CalibrationError(f"{file}: column '{name}': a column is named in lower case, like head_dim")
    for name in REQUIRED:
        if name not in frame.columns:
            raise CalibrationError(f"{file}: no column '{name}'; a table needs {', '.join(REQUIRED)}")


def _numbers(column: pd.Series, name: str, file: str) -> pd.Series:
    """The column as floats; infinities and words are refused, empty cells stay empty."""
    import numpy as np
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce").astype(float)
    wrong = (values.isna() & column.notna()) | np.isinf(values)
    _refuse(pd.DataFrame({name: column}), wrong, name, "must be a finite number", file)
    return values


def _refuse(frame: pd.DataFrame, wrong: pd.Series, name: str, rule: str, file: str) -> None:
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        more = f" ({int(wrong.sum()) - 1} more rows)" if wrong.sum() > 1 else ""
        raise CalibrationError(f"{file}: row {row + 1}: {name}: {rule}, got {frame[name].iloc[row]}{more}")


def _is_date(text: str) -> bool:
    try:
        return text == "" or bool(datetime.date.fromisoformat(text))
    except ValueError:
        return False
