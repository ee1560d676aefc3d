"""A live calibration as a profile of the shipped kind: its rows in the words of the forms, fitted by the same code.

Measured points name operators as torch does, profiles as a transformer's layers do. A product in layout nt is a linear
layer's forward pass, nn the gradient of its input, tn that of its weights; each becomes a kernel of its own, nt the
first. Of a shape measured at several reuse distances the farthest counts: in a model, weights and caches come from
memory. What has no form (norms, routing, optimizer) stays in the prices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.calibration.calibration import CalibrationReport, calibrate_table
from simulator.calibration.calls import looped
from simulator.calibration.table import check_table, shape_columns
from simulator.errors import CalibrationError, nearest
from simulator.spec.base import catalog
from simulator.spec.forms import COLLECTIVES
from simulator.spec.hardware import Device, load_device
from simulator.units import GIB

if TYPE_CHECKING:
    import pandas as pd

    from simulator.calibration.kernels_device import DeviceInfo

STREAM = "copy_"
"""The kernel whose bytes and seconds stand for all that only move memory."""
LAYOUT_ORDER = {"nt": 0, "nn": 1, "tn": 2}
MEMORY_TOLERANCE = 0.05
"""A driver keeps some of the memory a data sheet promises."""


def profile_of(table: pd.DataFrame, device: Device, *, date: str) -> CalibrationReport:
    """The fitted profile of a live-measured table, standing on that device's data sheet.

    Raises CalibrationError where nothing in the table has a form.
    """
    return calibrate_table(in_forms(table, device.name), device, date=date)


def in_forms(table: pd.DataFrame, device: str) -> pd.DataFrame:
    """The rows of a live-measured table that have a form, as a checked table of that device."""
    import pandas as pd

    shape = [name for name in shape_columns(table) if name != "reuse"]
    farthest = table.assign(reuse=table["reuse"].fillna(0.0) if "reuse" in table else 0.0).sort_values("reuse")
    rows = farthest.drop_duplicates(["op", "dtype", "kernel", "group_size", *shape], keep="last").sort_index()
    parts = [_gemms(rows), _prefill(rows), _decode(rows), rows[rows["op"] == "moe"], _streams(rows), _collectives(rows)]
    wanted = pd.concat(parts, ignore_index=True).drop(columns="reuse").dropna(axis="columns", how="all")
    return check_table(wanted.assign(device=device), f"measurements of {device}")


def _gemms(rows: pd.DataFrame) -> pd.DataFrame:
    products = rows[rows["op"] == "gemm"]
    return products.sort_values("kernel", key=lambda kernels: kernels.map(LAYOUT_ORDER), kind="stable")


def _prefill(rows: pd.DataFrame) -> pd.DataFrame:
    whole = rows[(rows["op"] == "attention") & (rows.get("causal") == 1)]
    return whole.assign(op="prefill", seq=whole["keys"])


def _decode(rows: pd.DataFrame) -> pd.DataFrame:
    single = rows[(rows["op"] == "attention") & (rows.get("causal") == 0) & (rows.get("queries") == 1)]
    return single.assign(op="decode", seq=single["keys"])


def _streams(rows: pd.DataFrame) -> pd.DataFrame:
    copies = rows[(rows["op"] == "elementwise") & (rows["kernel"] == STREAM) & (rows.get("rows") == 1)]
    moved = [
        sum(touch.bytes for touch in looped("elementwise", STREAM, {"elements": elements, "rows": 1.0}, dtype).touches)
        for elements, dtype in zip(copies["elements"], copies["dtype"], strict=True)
    ]
    return copies.assign(op="memory", bytes=moved)


def _collectives(rows: pd.DataFrame) -> pd.DataFrame:
    """Those measured alone: between ranks that computed just before, the wait for the last one is not the network's."""
    alone = rows["op"].isin(COLLECTIVES) & ~rows["kernel"].str.contains(" ")
    return rows[alone].assign(dtype="bytes")


def catalog_device(info: DeviceInfo, named: str | None = None) -> Device | None:
    """The device of the catalog that was measured: the `named` one, or the GPU whose name, SMs and memory agree.

    None for a CPU nobody named. Raises SpecError for a name that is none, CalibrationError for a GPU no entry agrees
    with.
    """
    if named is not None:
        return load_device(named)
    if not info.sms:
        return None
    words = info.device.split("-")
    fits = [
        device
        for device in map(load_device, catalog("device"))
        if device.sms == info.sms
        and abs(info.memory_bytes / device.memory.capacity - 1) <= MEMORY_TOLERANCE
        and device.name.split("-")[0] in words
    ]
    if not fits:
        raise CalibrationError(
            f"no device of the catalog is a {info.device} with {info.sms} SMs and {info.memory_bytes / GIB:.0f} GiB: "
            f"name one with --as, or a file that extends one.{nearest(info.device, catalog('device'))}"
        )
    return max(fits, key=lambda device: _agreement(device.name.split("-"), words))


def _agreement(mine: list[str], words: list[str]) -> int:
    """Words of a catalog name that begin one of the measured name, less those that don't."""
    return sum(1 if any(word.startswith(part) for word in words) else -1 for part in mine)
