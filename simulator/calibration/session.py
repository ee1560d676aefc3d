"""Calibration of a device here: measure, fit, and say how good it is. What `moesim calibrate` calls."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.calibration.journal import Journal, read_trials
from simulator.calibration.protocol import Measured, Progress, estimate, measure
from simulator.calibration.table import Measurement, to_frame, write_table
from simulator.errors import CalibrationError

if TYPE_CHECKING:
    import pandas as pd

    from simulator.calibration.kernels import Plan
    from simulator.calibration.kernels_device import DeviceInfo, TorchDevice
    from simulator.calibration.prices import Prices

DEFAULT_MINUTES = 5.0
COLLECTIVE_SHARE = 0.1
START_S = 90.0
"""What starting processes may take beyond their measuring time."""


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration measured, refused and fitted, and where it was written."""

    info: DeviceInfo
    table: pd.DataFrame
    prices: Prices
    measured: Measured
    folder: Path

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
            *(f"  skipped {key}: {reason}" for key, reason in m.skipped.items()),
            "error of points held out, by operator (n):",
            *(f"  {name}: {family.relative_error:.1%} ({family.points})" for name, family in errors),
        ]
        return "\n".join(lines)

    def page(self) -> dict[str, Any]:
        """What `report.calibration_page.render_calibration` draws: plain data, times in seconds."""
        from simulator.calibration.session_page import page_data

        return page_data(self.table, self.prices, self.measured)


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
    ranks: Sequence[int] = (2,),
    largest_message: int | None = None,
) -> CalibrationReport:
    """Measure every point on a device, fit prices, and write measured.csv and prices.yaml to `out`.

    Collectives are measured between as many processes as `ranks` says, in a tenth of the time each.

    Continues where a killed calibration into the same folder stopped. Raises CalibrationError where the device is not
    there, its journal is another device's, or too little was measured to fit.
    """
    if not 0 < minutes <= 24 * 60:
        raise CalibrationError(f"minutes must lie between 0 and 1440, got {minutes:g}")
    opened = open_device(device)
    from simulator.calibration.cpu_fit import fit_prices
    from simulator.calibration.kernels import cases, plan_of
    from simulator.calibration.prices_file import write_prices

    info = opened.info
    chosen = cases(plan or plan_of(opened.kind), info.dtype)
    share = COLLECTIVE_SHARE * len(ranks)
    with Journal(out / "journal.jsonl", info.header()) as journal:
        measured = measure(chosen, opened, journal, seconds=60 * minutes * (1 - share), progress=progress)
    rows = rows_of(measured, info, source=f"measured here ({out.name})")
    for size in ranks:
        seconds = 60 * minutes * COLLECTIVE_SHARE
        rows += collective_rows(opened, size, out, seconds=seconds, largest=largest_message)
    table = to_frame(rows)
    write_table(table, out / "measured.csv")
    prices = fit_prices(table, statistic=opened.statistic)
    write_prices(prices, out / "prices.yaml")
    return CalibrationReport(info, table, prices, measured, out)


def rows_of(
    measured: Measured, info: DeviceInfo, *, source: str, power: Mapping[str, float] | None = None
) -> list[Measurement]:
    """The stable points of a session as table rows; `power` is watts by key of the case, where it was measured."""
    if not measured.points:
        raise CalibrationError("no point was stable: is another job running on this machine?")
    watts = power or {}
    return [
        Measurement(
            device=info.device,
            op=point.case.op,
            dtype=point.case.dtype,
            kernel=point.case.kernel,
            shape=point.case.shape,
            latency_s=point.seconds,
            spread=point.spread,
            trials=len(point.trials),
            power_w=watts.get(point.case.key),
            library=info.library,
            version=info.version,
            date=today(),
            source=source,
        )
        for point in measured.points
    ]


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
    rows = []
    for key, trials in read_trials(file).items():
        op, size, how = key.split("|")
        latency, spread = estimate(trials, device.statistic)
        rows.append(
            Measurement(
                device=info.device,
                op=op,
                dtype=info.dtype,
                kernel=backend if how == "alone" else f"{backend} {how}",
                shape={"bytes": float(size)},
                group_size=ranks,
                latency_s=latency,
                spread=spread,
                trials=len(trials),
                library=info.library,
                version=info.version,
                date=today(),
                source=f"measured here ({out.name})",
            )
        )
    return rows


def today() -> str:
    """The date of a measurement, ISO."""
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()
