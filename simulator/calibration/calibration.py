"""From measurements to a fitted profile: read a source, fit every series, write profile and representative points."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.calibration.fit import Fitted, fit_series
from simulator.calibration.profile_file import build_profile, write_profile
from simulator.calibration.representatives import representatives
from simulator.calibration.series import series_of
from simulator.calibration.sources_nccl import is_nccl_tests, read_nccl_tests
from simulator.calibration.sources_silicon import GPUS, read_silicon
from simulator.calibration.table import read_table, write_table
from simulator.errors import CalibrationError
from simulator.spec.hardware import Device, load_device
from simulator.spec.profile import Profile

if TYPE_CHECKING:
    import pandas as pd

SILICON = "silicon"
Progress = Callable[[int, int, str], None]
"""Called with fits done, fits to do, and what is being fitted."""


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration made: the profile, its fits, the rows nobody has a form for, and the files written."""

    profile: Profile
    fitted: tuple[Fitted, ...]
    refused: tuple[str, ...] = ()
    written: tuple[Path, ...] = field(default=())

    def summary(self) -> str:
        """A line a fit: rows, and mean absolute error of every held-out set."""
        lines = [f"{self.profile.device}: {len(self.fitted)} fits ({self.profile.source})"]
        for one in self.fitted:
            ranks = f" x{one.series.group_size}" if one.series.group_size > 1 else ""
            lines.append(
                f"{one.series.op}{ranks} {one.series.dtype}, {one.series.kernel}: {len(one.series.seconds)} rows"
            )
            lines += [
                f"    {name}: {test.mean_absolute:.1%} (bias {test.bias:+.1%}, p90 {test.p90:.1%}, "
                f"90 % interval covers {'-' if test.covered is None else f'{test.covered:.0%}'}), {test.rows} rows"
                for name, test in one.held_out.items()
            ]
        return "\n".join([*lines, *(f"refused: {reason}" for reason in self.refused)])


def calibrate_from(
    source: str | Path,
    device: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    *,
    date: str | None = None,
) -> CalibrationReport:
    """Fit a profile to `source`: "silicon" (the installed database), a folder that holds it, a table, or nccl-tests'
    output.

    `device` names the catalog entry whose data sheet the fit stands on; a table names it itself. With `out`, writes
    <out>/fitted/<device>.yaml and .npz and <out>/measured/<device>.csv. Raises CalibrationError and SpecError.
    """
    name, table, left_out = _read(source, device)
    report = calibrate_table(table, load_device(name), progress, date=date, left_out=left_out)
    if out is None:
        return report
    fitted = write_profile(report.profile, Path(out) / "fitted")
    measured = Path(out) / "measured" / f"{name}.csv"
    write_table(representatives([one.series for one in report.fitted], name), measured)
    return replace(report, written=(fitted, measured))


def calibrate_table(
    table: pd.DataFrame,
    device: Device,
    progress: Progress | None = None,
    *,
    date: str | None = None,
    left_out: Sequence[str] = (),
) -> CalibrationReport:
    """The same from a checked table of one device; writes nothing. `left_out` says what its source holds besides."""
    fitted: list[Fitted] = []
    refused = list(left_out)
    series = series_of(table, device)
    for place, one in enumerate(series):
        if progress is not None:
            progress(place, len(series), f"{one.op} {one.dtype} {one.kernel}")
        try:
            fitted.append(fit_series(one))
        except CalibrationError as error:
            refused.append(str(error))
    if progress is not None:
        progress(len(series), len(series), "")
    if not fitted:
        raise CalibrationError("nothing in the table can be fitted" + (f": {refused[-1]}" if refused else ""))
    releases = dict.fromkeys(one.series.source.split(",")[0] for one in fitted)
    when = date or datetime.date.today().isoformat()
    profile = build_profile(fitted, device=device.name, date=when, source="; ".join(releases), notes="\n".join(refused))
    return CalibrationReport(profile, tuple(fitted), tuple(refused))


def _read(source: str | Path, device: str | None) -> tuple[str, pd.DataFrame, tuple[str, ...]]:
    """The device, its table, and what of the source was left out."""
    path = Path(source)
    if str(source) == SILICON or path.is_dir():
        if device is None:
            raise CalibrationError(f"say which device to read: --device with one of {', '.join(GPUS)}")
        return device, *read_silicon(device, None if str(source) == SILICON else path)
    if path.suffix in (".txt", ".out", ".log") or is_nccl_tests(path):
        if device is None:
            raise CalibrationError(f"{source}: say which device it was measured on with --device")
        return device, read_nccl_tests(path, device=device), ()
    table = read_table(path)
    return _one_device(table, device, str(source)), table, ()


def _one_device(table: pd.DataFrame, device: str | None, file: str) -> str:
    names: Sequence[str] = sorted(set(table["device"]))
    if len(names) != 1:
        raise CalibrationError(f"{file}: rows of {len(names)} devices ({', '.join(names)}); a profile is of one")
    if device is not None and names[0] != device:
        raise CalibrationError(f"{file}: rows of {names[0]}, but --device says {device}")
    return names[0]
