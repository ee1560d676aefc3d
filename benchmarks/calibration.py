"""Prints how well the fitted profiles predict measurements held out of their fits, next to what was aimed at.

python benchmarks/calibration.py                          the shipped profiles, as they were fitted
python benchmarks/calibration.py h100-sxm --refit         fit again, from the installed database (extra `silicon`)
python benchmarks/calibration.py h100-sxm --refit FOLDER  the same from a folder that holds the database
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterable

import numpy as np

from simulator.calibration.calibration import SILICON, calibrate_from
from simulator.spec.forms import COLLECTIVES
from simulator.spec.hardware import load_device
from simulator.spec.profile import Fit, HeldOut, Profile, profile_names, read_profile
from simulator.spec.transfer import transferred

# (operation, dtypes, held-out set, error aimed at)
AIMS = (
    ("gemm", ("bf16",), "new (n, k)", 0.05),
    ("gemm", ("fp8",), "new (n, k)", 0.06),
    ("gemm", ("bf16",), "beyond", 0.12),
    ("gemm", ("fp8",), "beyond", 0.12),
    ("moe", None, "new token counts", 0.06),
    ("moe", None, "new models", 0.15),
    ("prefill", None, "new head shapes", 0.06),
    ("decode", None, "new head shapes", 0.06),
    ("mla_prefill", None, "new head shapes", 0.06),
    ("mla_decode", None, "new head shapes", 0.06),
    ("nccl", None, "new sizes", 0.06),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("devices", nargs="*", help="catalog names; all shipped profiles if none is given")
    parser.add_argument("--refit", nargs="?", const=SILICON, metavar="FOLDER")
    parser.add_argument("--fits", action="store_true", help="print every fit")
    arguments = parser.parse_args()
    profiles = []
    for name in arguments.devices or profile_names():
        if arguments.refit:
            started, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
            report = calibrate_from(arguments.refit, name)
            spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime - cpu
            print(f"{name}: fitted in {time.perf_counter() - started:.0f} s ({spent:.0f} s of CPU)")
            profiles.append(report.profile)
            if arguments.fits:
                print(report.summary())
        else:
            profiles.append(read_profile(name))
    print_errors(profiles)
    print_coverage(profiles)
    if not arguments.refit and not arguments.devices:
        print_transfer()
        print_speed()


def print_errors(profiles: list[Profile]) -> None:
    """Mean absolute error per device: mean over the fits, best fit."""
    print("\nError on held-out shapes: mean over kernels (best kernel)")
    for op, dtypes, test, aim in AIMS:
        label = f"{op} {'/'.join(dtypes or ('all',))}, {test}"
        print(f"{label:34s} aim {aim:4.0%} |", end="")
        for profile in profiles:
            errors = [held.mean_absolute for held in held_out(profile, op, dtypes, test)]
            shown = f"{np.mean(errors):.1%} ({min(errors):.1%})" if errors else "-"
            print(f" {profile.device} {shown} |", end="")
        print()


def held_out(profile: Profile, op: str, dtypes: tuple[str, ...] | None, test: str) -> Iterable[HeldOut]:
    for fit in profile.fits:
        if _is(fit, op) and (dtypes is None or fit.dtype in dtypes):
            yield from (held for name, held in fit.held_out.items() if name.startswith(test))


def _is(fit: Fit, op: str) -> bool:
    return (fit.op in COLLECTIVES and fit.kernel == "nccl") if op == "nccl" else fit.op == op


def print_coverage(profiles: list[Profile]) -> None:
    """Share of held-out measurements inside 90 % intervals that other held-out points set."""
    print("\n90 % intervals cover, mean over fits: inside the measured range, outside it")
    for profile in profiles:
        inside, outside = [], []
        for fit in profile.fits:
            for name, held in fit.held_out.items():
                if held.covered is not None:
                    (outside if name.startswith("beyond") else inside).append(held.covered)
        print(f"  {profile.device}: {np.mean(inside):.0%}, {np.mean(outside):.0%}")


def print_transfer() -> None:
    """How well H100's profile predicts the other devices' profiles on a grid of shapes."""
    print("\nbf16 GEMM of other devices from h100-sxm's profile: mean absolute difference to their own, bias")
    source = read_profile("h100-sxm")
    m, n, k = np.meshgrid([16, 128, 1024, 8192], [1024, 4096, 14336], [1024, 4096, 14336])
    for name in profile_names():
        if name != source.device:
            own = read_profile(name).gemm_seconds("bf16", m, n, k).seconds
            carried = transferred(source, load_device(name)).gemm_seconds("bf16", m, n, k).seconds
            print(f"  {name}: {np.abs(carried / own - 1).mean():.1%}, {(carried / own - 1).mean():+.1%}")


def print_speed() -> None:
    read_profile("h100-sxm")
    started = time.perf_counter()
    profile = read_profile("h100-sxm")
    print(f"\nReading a profile: {1e3 * (time.perf_counter() - started):.0f} ms")
    random = np.random.default_rng(0)
    m, n, k = (2.0 ** random.uniform(5, 14, 10**6) for _ in range(3))
    profile.gemm_seconds("bf16", m[:10], n[:10], k[:10])
    started, cpu = time.perf_counter(), time.process_time()
    profile.gemm_seconds("bf16", m, n, k)
    spent = time.process_time() - cpu
    print(f"One million GEMM predictions: {time.perf_counter() - started:.2f} s ({spent:.2f} s of CPU)")


if __name__ == "__main__":
    main()
