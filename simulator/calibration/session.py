"""Calibration of a device here: measure, fit, and say how good it is. What `moesim calibrate --device` calls."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from simulator.calibration.journal import Journal, read_trials
from simulator.calibration.protocol import Measured, Progress, estimate, measure
from simulator.calibration.table import Measurement, to_frame, write_table
from simulator.errors import CalibrationError

if TYPE_CHECKING:
    import pandas as pd

    from simulator.calibration.calibration import CalibrationReport
    from simulator.calibration.cuda import CudaDevice
    from simulator.calibration.kernels import Plan
    from simulator.calibration.kernels_device import DeviceInfo, TorchDevice
    from simulator.calibration.prices import Prices

DEFAULT_MINUTES = 5.0
COLLECTIVE_SHARE = 0.1
"""Of the time, for each number of processes."""
POWER_SHARE = 0.2
"""Of the time of a GPU."""
LEAST_ROUND_S = {"cpu": 20.0, "cuda": 120.0}
"""A round over all points: about 15 ms each on a CPU; on a GPU, where a graph is captured first, perhaps 100 ms."""
START_S = 90.0
"""What starting processes may take beyond their measuring time."""


@dataclass(frozen=True)
class SessionReport:
    """What a calibration here measured, refused and fitted, and where it was written."""

    info: DeviceInfo
    table: pd.DataFrame
    prices: Prices
    measured: Measured
    folder: Path
    fitted: CalibrationReport | None
    """The profile for runs; None where no data sheet is known to build it on."""
    profile_file: Path | None = None
    remarks: tuple[str, ...] = ()
    """What could not be measured here, in sentences."""

    def summary(self) -> str:
        """The outcome in a few lines."""
        m = self.measured
        errors = sorted(self.prices.families.items(), key=lambda item: -item[1].points)
        lines = [
            f"{self.info.device}, {self.info.library} {self.info.version}, {self.info.dtype}, "
            f"{self.info.threads} thread{'s' * (self.info.threads != 1)}: predicts the {self.prices.statistic} time",
            f"{len(m.points)} points in {m.rounds} rounds, {m.settled} settled; {len(m.unstable)} unstable refused, "
            f"{len(m.skipped)} skipped",
            *(f"  refused {p.case.key}: smallest trials {p.spread:.0%} apart" for p in m.unstable),
            *_skipped(m.skipped),
            *self.remarks,
            "error of points held out, by operator (n):",
            *(f"  {name}: {family.relative_error:.1%} ({family.points})" for name, family in errors),
        ]
        if self.fitted is not None:
            lines.append(self.fitted.summary())
        return "\n".join(lines)

    def page(self) -> dict[str, Any]:
        """What `report.calibration_page.render_calibration` draws: plain data, times in seconds."""
        from simulator.calibration.report_data import measured_here

        return measured_here(self)


def _skipped(reasons: Mapping[str, str]) -> list[str]:
    """A line a reason, with the point, or the first of several."""
    lines = []
    for reason in dict.fromkeys(reasons.values()):
        keys = [key for key, mine in reasons.items() if mine == reason]
        points = keys[0] if len(keys) == 1 else f"{len(keys)} points such as {keys[0]}"
        lines.append(f"  skipped {points}: {reason}")
    return lines


def open_device(name: str) -> TorchDevice:
    """The device to measure on: `cpu` or `cuda:0`. Raises CalibrationError without torch or without that device."""
    try:
        import simulator.calibration.kernels_device as devices
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise CalibrationError("measuring needs PyTorch: pip install 'moesim[calibrate]'") from None
    if name == "cpu":
        return devices.CpuDevice()
    if name.startswith("cuda"):
        from simulator.calibration.cuda import CudaDevice

        return CudaDevice(name)
    raise CalibrationError(f"unknown device '{name}': cpu, or cuda:0 and so on")


def calibrate(
    device: str,
    out: Path,
    *,
    minutes: float = DEFAULT_MINUTES,
    progress: Progress | None = None,
    plan: Plan | None = None,
    ranks: Sequence[int] | None = None,
    largest_message: int | None = None,
    like: str | None = None,
) -> SessionReport:
    """Measure every point on a device, fit, and write measured.csv, prices.yaml and the device's profile to `out`.

    Collectives are measured between as many processes as each of `ranks` says (by default 2 on a CPU, and 2, 4, 8 of
    the GPUs there are), in a tenth of the time each; power of a GPU in a fifth. `like` names the device of the catalog,
    or a file of one, whose data sheet the profile stands on; a GPU of the catalog is recognised.

    Continues where a killed calibration into the same folder stopped. Where power or collectives can't be measured,
    the report's remarks say why. Raises CalibrationError where the device is not there, its journal is another
    device's, a whole plan can't be measured in that time, or too little was measured to fit; SpecError for a `like`
    that is no device.
    """
    if not 0 < minutes <= 24 * 60:
        raise CalibrationError(f"minutes must lie between 0 and 1440, got {minutes:g}")
    opened = open_device(device)  # says so where torch is missing, which the points need
    from simulator.calibration.kernels import PLANS, cases
    from simulator.calibration.live_profile import catalog_device, profile_of
    from simulator.calibration.prices import write_prices
    from simulator.calibration.prices_fit import fit_prices
    from simulator.calibration.profile_file import write_profile

    info = opened.info
    sheet = catalog_device(info, like)
    groups = opened.groups() if ranks is None else ranks
    seconds = 60 * minutes * (1 - COLLECTIVE_SHARE * len(groups) - (POWER_SHARE if opened.kind == "cuda" else 0.0))
    chosen = list(cases(plan or PLANS[opened.kind], info.dtype))
    file = out / "journal.jsonl"
    if plan is None and not file.exists():
        _enough(seconds, minutes, opened.kind)
    with Journal(file, info.header()) as journal:
        measured = measure(chosen, opened, journal, seconds=seconds, progress=progress)
        remarks = _power(opened, measured, journal, seconds=60 * minutes * POWER_SHARE)
        rows = rows_of(measured, info, source=f"measured here ({out.name})", notes=journal.notes)
    for size in groups:
        share = 60 * minutes * COLLECTIVE_SHARE
        try:
            rows += collective_rows(opened, size, out, seconds=share, largest=largest_message)
        except CalibrationError as error:  # everything else was measured and is of use
            remarks = (*remarks, f"collectives between {size} processes were not measured: {error}")
    table = to_frame(rows)
    write_table(table, out / "measured.csv")
    prices = fit_prices(table, statistic=opened.statistic)
    write_prices(prices, out / "prices.yaml")
    fitted = None if sheet is None else profile_of(table, sheet, date=today())
    written = None if fitted is None else write_profile(fitted.profile, out)
    return SessionReport(info, table, prices, measured, out, fitted, written, remarks)


def _enough(seconds: float, minutes: float, kind: str) -> None:
    """Refuse a budget in which not every point can be measured once, before any time is spent."""
    least = LEAST_ROUND_S[kind]
    if seconds < least:
        raise CalibrationError(
            f"--minutes {minutes:g} leaves {seconds:.0f} s for the operators; one round over all of them takes about "
            f"{least:.0f} s: give at least {least / seconds * minutes + 0.05:.1f} minutes"
        )


def _power(device: TorchDevice, measured: Measured, journal: Journal, *, seconds: float) -> tuple[str, ...]:
    """Note the power of a GPU under the longest points, and of the largest product for seconds; say where it can't."""
    if device.kind != "cuda":
        return ()
    from simulator.calibration.power import measure_power, measure_sustained

    gpu = cast("CudaDevice", device)
    ordered = sorted(measured.points, key=lambda point: -point.seconds)
    largest = next((point for point in ordered if point.case.op == "gemm"), None)
    try:
        if largest is not None:
            measure_sustained(gpu, largest.case, largest.seconds, journal)
        timed = [(p.case, p.seconds) for p in ordered if p.case.clock == "device"]
        measure_power(gpu, timed, journal, seconds=seconds)
    except CalibrationError as error:
        return (f"power was not measured: {error}",)
    return ()


def rows_of(
    measured: Measured, info: DeviceInfo, *, source: str, notes: Mapping[str, Mapping[str, float]] | None = None
) -> list[Measurement]:
    """The stable points of a session as table rows; `notes` holds power windows by key, and those of one product."""
    if not measured.points:
        raise CalibrationError("no point was stable: is another job running on this machine?")
    windows = notes or {}
    common: dict[str, Any] = {"device": info.device, "dtype": info.dtype, **_provenance(info, source)}
    rows = [
        Measurement(
            **common,
            op=point.case.op,
            kernel=point.case.kernel,
            shape=point.case.shape,
            latency_s=point.seconds,
            spread=point.spread,
            trials=len(point.trials),
            power_w=windows.get(point.case.key, {}).get("watts"),
        )
        for point in measured.points
    ]
    for key, window in windows.items():
        if key.startswith("sustained|"):
            shape = {"second": float(key.split("|")[1]), "clock_hz": window["clock_hz"]}
            latency, watts = window["seconds"], window["watts"]
            rows.append(
                Measurement(**common, op="sustained", kernel="gemm", shape=shape, latency_s=latency, power_w=watts)
            )
    return rows


def collective_rows(
    device: TorchDevice, ranks: int, out: Path, *, seconds: float, largest: int | None = None
) -> list[Measurement]:
    """Collectives between `ranks` processes as table rows. Raises CalibrationError where a process dies."""
    from simulator.calibration.ranks import run_ranks

    info, file = device.info, out / f"collectives{ranks}.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    arguments = ["points", device.kind, str(file.resolve()), f"{seconds:.1f}", *([str(largest)] if largest else [])]
    run_ranks("simulator.calibration.collectives_worker", arguments, ranks=ranks, timeout_s=seconds + START_S)
    backend = "nccl" if device.kind == "cuda" else "gloo"
    common: dict[str, Any] = {"device": info.device, "dtype": info.dtype, "group_size": ranks}
    common |= _provenance(info, f"measured here ({out.name})")
    rows = []
    for key, trials in read_trials(file).items():
        op, size, how = key.split("|")
        latency, spread = estimate(trials, device.statistic)
        kernel = backend if how == "alone" else f"{backend} {how}"
        times = {"latency_s": latency, "spread": spread, "trials": len(trials)}
        rows.append(Measurement(**common, **times, op=op, kernel=kernel, shape={"bytes": float(size)}))
    return rows


def _provenance(info: DeviceInfo, source: str) -> dict[str, str]:
    return {"library": info.library, "version": info.version, "date": today(), "source": source}


def today() -> str:
    """The date of a measurement, ISO."""
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()
