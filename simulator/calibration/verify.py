"""Verification: real torch models on the device, against the prediction from its freshly fitted prices.

Steps are timed in two separate measuring runs; the time of a step is the smallest (CPU) or median (GPU) trial of both,
and how far the runs differ is the floor no prediction can beat. A prediction sees shapes and, for mixtures of experts,
the tokens by expert, never the time of a model. What the host does around kernels depends on what else the machine does
just then, so its points are measured again between the models and replace the profile's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.calibration.calls import looped
from simulator.calibration.journal import Journal
from simulator.calibration.prices import Prices, read_prices
from simulator.calibration.prices_host import fit_host
from simulator.calibration.protocol import Case, Device, Point, Progress, estimate, measure
from simulator.calibration.session import open_device
from simulator.calibration.step_prices import Priced, price_step
from simulator.calibration.verify_cases import VerifyCase, drawn_cases, fixed_cases
from simulator.calibration.verify_report import Comparison, VerifyReport
from simulator.errors import CalibrationError

if TYPE_CHECKING:
    from simulator.calibration.kernels_device import TorchDevice

RUNS = 2
WARM_STEPS, STEPS = 4, 8
"""Steps of a model in a row before and while they are timed: a step in the steady state follows others."""
DRAWN = 24
PROCESSES = 2
DEFAULT_MINUTES = 4.0


def verify(
    device: str,
    profile: Prices | Path,
    progress: Progress | None = None,
    *,
    minutes: float = DEFAULT_MINUTES,
    seed: int = 0,
    drawn: int = DRAWN,
    cases: Sequence[VerifyCase] | None = None,
    parallel: bool = True,
) -> VerifyReport:
    """Measured against predicted steps of small real models, fixed ones and `drawn` ones chosen by `seed`; and of those
    whose experts are spread over two processes, where two GPUs or a CPU are there to run them.

    Raises CalibrationError where the profile is another device's, or was fitted with another library or number format.
    """
    prices = profile if isinstance(profile, Prices) else read_prices(profile)
    opened = open_device(device)
    found = opened.info
    for name, ours, theirs in (
        ("device", found.device, prices.device),
        ("library", f"{found.library} {found.version}", f"{prices.library} {prices.version}"),
        ("dtype", found.dtype, prices.dtype),
    ):
        if ours != theirs:
            raise CalibrationError(f"the profile is of {name} {theirs}, this is {ours}: calibrate this one first")
    chosen = list(cases) if cases is not None else [*fixed_cases(), *drawn_cases(seed, drawn)]
    parallel = parallel and PROCESSES in opened.groups()
    share = 0.75 if parallel else 1.0
    compared, now = _single(chosen, opened, prices, seconds=60 * minutes * share, progress=progress)
    together: list[Comparison] = []
    if parallel:
        from simulator.calibration.verify_parallel import compare_parallel

        together = compare_parallel(opened.kind, now, seconds=60 * minutes * (1 - share), ranks=PROCESSES)
    return VerifyReport(prices.device, prices.statistic, seed, tuple(compared), tuple(together))


def _single(
    chosen: Sequence[VerifyCase], device: TorchDevice, prices: Prices, *, seconds: float, progress: Progress | None
) -> tuple[list[Comparison], Prices]:
    from simulator.calibration.kernels_host import host_cases
    from simulator.calibration.torch_steps import counts_of, step_of, trace_of

    def point(index: int, case: VerifyCase) -> Case:
        shape = {"index": index}

        def build(opened: TorchDevice) -> Callable[[], object]:
            return step_of(case, opened)[0]

        return Case("model", case.group, prices.dtype, shape, build, warm_runs=WARM_STEPS, trials=STEPS)

    points = [point(index, case) for index, case in enumerate(chosen)]
    state = list(host_cases(prices.dtype))
    traces = [trace_of(case, counts_of(case, device), device.dtype, device.kind) for case in chosen]
    runs: list[dict[str, list[float]]] = []
    skipped: dict[str, str] = {}
    around: list[Point] = []
    for _ in range(RUNS):
        with Journal(None, {}) as journal:
            measured = measure(
                [*points, *state],
                device,
                journal,
                seconds=seconds / RUNS,
                progress=progress,
            )
            runs.append(journal.trials)
            skipped |= journal.skipped
            around += [p for p in (*measured.points, *measured.unstable) if p.case.op != "model"]
    now = with_host(prices, around)
    compared = [
        _comparison(case, price_step(now, traced, kind=device.kind), [run[point.key] for run in runs], device)
        for case, traced, point in zip(chosen, traces, points, strict=True)
        if point.key not in skipped
    ]
    return compared, now


def with_host(prices: Prices, around: Iterable[Point]) -> Prices:
    """The prices with the host's costs as measured now, the better of several measurements of a point."""
    best: dict[str, Point] = {}
    for point in around:
        known = best.get(point.case.key)
        if known is None or point.seconds < known.seconds:
            best[point.case.key] = point
    rows = [(looped(p.case.op, p.case.kernel, p.case.shape, prices.dtype), p.seconds) for p in best.values()]
    return prices.model_copy(update={"host": fit_host(rows, prices.memory)}) if rows else prices


def _comparison(case: VerifyCase, priced: Priced, runs: Iterable[list[float]], device: Device) -> Comparison:
    each = [estimate(trials, device.statistic)[0] for trials in runs]
    joined = min(each) if device.statistic == "minimum" else sum(each) / len(each)
    return Comparison(case.group, case.name, priced, joined, tuple(each), case.drawn)
