"""The profile of one device carried over to another that nobody measured: data-sheet ratios, a known bias, wider
intervals.

Fitted on H100 and checked on H200, B200, A100, GB200, L40S and RTX PRO 6000 (docs/calibration.md). Within an
architecture the residual tables carry over too. Between architectures they help little, and the other device is slower
than ratios say, whichever way the step goes; so its compute efficiency is taken 10 % lower and its collectives' latency
higher.
"""

from __future__ import annotations

from dataclasses import asdict

from simulator.errors import CoverageError, SpecError
from simulator.spec.curves import generation
from simulator.spec.formats import sheet_of
from simulator.spec.forms import COLLECTIVES
from simulator.spec.hardware import Device, load_device
from simulator.spec.profile import Fit, Profile, Spread

EFFICIENCY = 0.90
LATENCY = 1.3
"""A100 and B200 start collectives 1.6 times as slowly as H100; the geometric middle."""
# 90 % error that carrying over adds, within an architecture and between two.
_ADDED = {"gemm": (0.12, 0.35), "moe": (0.15, 0.45), "prefill": (0.20, 0.45), "decode": (0.15, 0.60)}
_ADDED_OTHERS = (0.15, 0.50)


def transferred(profile: Profile, device: Device) -> Profile:
    """`profile` as it is expected for `device`: every fit the device can run, its basis `transferred`.

    Raises CoverageError where none is left.
    """
    origin = load_device(profile.device)
    same = generation(origin.architecture) == generation(device.architecture)
    kept = [(place, fit) for place, fit in enumerate(profile.fits) if _runs(fit, device)]
    if not kept:
        raise CoverageError(f"nothing in the profile of {profile.device} runs on {device.name}")
    fits = tuple(_carried(fit, device, profile.device, same) for _, fit in kept)
    values = {str(new): profile.values[str(old)] for new, (old, fit) in enumerate(kept) if same and fit.tables}
    notes = f"carried over from {profile.device}"
    return profile.model_copy(update={"device": device.name, "notes": notes, "fits": fits}).with_values(values)


def _runs(fit: Fit, device: Device) -> bool:
    try:
        sheet_of(device, fit.dtype, fit.op)
    except SpecError:
        return False
    return True


def _carried(fit: Fit, device: Device, origin: str, same: bool) -> Fit:
    parameters = dict(fit.parameters)
    if not same and "ec" in parameters:
        parameters["ec"] *= EFFICIENCY
    if not same and fit.op in COLLECTIVES:
        parameters["a_us"] *= LATENCY
    added = _ADDED.get(fit.op, _ADDED_OTHERS)[0 if same else 1]
    spread = fit.spread
    wider = Spread(
        known=(spread.known**2 + added**2) ** 0.5,
        inside=(spread.inside**2 + added**2) ** 0.5,
        per_octave=spread.per_octave,
    )
    sheet = {name: float(value) for name, value in asdict(sheet_of(device, fit.dtype, fit.op)).items()}
    changes = {"sheet": sheet, "parameters": parameters, "spread": wider, "carried_from": origin}
    return fit.model_copy(update=changes if same else {**changes, "tables": ()})
