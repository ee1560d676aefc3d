"""Which measured fit stands for an operation on a device: of the device itself, of one of its architecture, of another.

The nearest wins. A fit of another device is carried over with data-sheet ratios, the bias such transfers showed, and a
wider error (`transfer.py`); beyond the last one there is only the data sheet, with the priors of the architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import log

from simulator.errors import CalibrationError, CoverageError
from simulator.spec.curves import generation
from simulator.spec.hardware import Device, load_device
from simulator.spec.prediction import FittedModel
from simulator.spec.profile import Fit, Profile, profile_names, read_profile
from simulator.spec.transfer import transferred

AUTO, NONE = "auto", "none"
SHARED = frozenset({("gemm", "bf16"), ("gemm", "fp8_block"), ("prefill", "bf16"), ("mla_prefill", "bf16")})
"""(operation, dtype) whose kernels all software shares: cuBLAS, DeepGEMM and its like, and the FlashAttention family.
The others change with the library that brings them and its release, by up to a factor of two, and collectives with the
machine around the GPUs; they count where the run names its profile."""


@dataclass(frozen=True, slots=True)
class Found:
    """A fit, the profile that holds it, and its predictor."""

    profile: Profile
    fit: Fit
    model: FittedModel


@dataclass(frozen=True, eq=False)
class Evidence:
    """The profiles that may speak for a device, nearest first, read when they are needed."""

    device: Device
    own: Profile | None
    stated: bool = False
    """Whether the run names the profile, so that its kernels are those that were measured."""
    _known: dict[tuple[str, str, str, tuple[str, ...]], Found | None] = field(default_factory=dict)

    def find(self, op: str, dtype: str, *, library: str = "", kernels: tuple[str, ...] = ()) -> Found | None:
        """The nearest fit of an operation and precision; None where no device was measured in it.

        Among a profile's fits that of `library` comes first. With `kernels` (as named after the library's colon) only
        those count, and only of one architecture: another has kernels of its own.
        """
        if not self.stated and (op, dtype) not in SHARED:
            return None
        key = op, dtype, library, kernels
        if key not in self._known:
            self._known[key] = next(self._matching(*key), None)
        return self._known[key]

    def _matching(self, op: str, dtype: str, library: str, kernels: tuple[str, ...]) -> Iterator[Found]:
        for profile in self.profiles(same=bool(kernels)):
            fits = [fit for fit in profile.find(op, dtype) if not kernels or fit.kernel.split(":")[-1] in kernels]
            for fit in sorted(fits, key=lambda fit: fit.library != library):
                yield Found(profile, fit, profile.model(fit))

    def profiles(self, *, same: bool = False) -> Iterator[Profile]:
        """The device's own profile, then what those of others say of it; only of `same` architecture where asked."""
        if self.own is not None:
            yield self.own
        if self.device.vendor != "NVIDIA":
            return  # kernels of another vendor's devices say nothing of this one
        for name in _nearest(self.device):
            alike = generation(load_device(name).architecture) == generation(self.device.architecture)
            if name == self.device.name:  # what a profile measured here lacks, the shipped one may hold
                if self.own is None or self.own.residuals != _shipped(name).residuals:
                    yield _shipped(name)
            elif alike or not same:
                try:
                    yield transferred(_shipped(name), self.device)
                except CoverageError:
                    continue


@lru_cache(maxsize=32)
def _shipped(name: str) -> Profile:
    return read_profile(name)


def _nearest(device: Device) -> list[str]:
    """Devices whose profiles ship: the one it extends, those of its architecture, others; each by how alike peak and
    memory bandwidth are."""

    def distance(name: str) -> tuple[bool, bool, float]:
        other = load_device(name)
        peak = max(device.peak.values()) / max(other.peak.values())
        memory = device.memory.bandwidth / other.memory.bandwidth
        foreign = generation(other.architecture) != generation(device.architecture)
        return name != device.extends, foreign, abs(log(peak)) + abs(log(memory))

    return sorted(profile_names(), key=distance)


def evidence(device: Device, profile: str) -> Evidence | None:
    """What a run's `profile` means for its device: `auto` what all software shares of its own shipped profile, `none`
    nothing measured, else all of the profile of that name or path.

    A device that extends another one takes its profile as a transfer. Raises SpecError and CalibrationError for a
    profile that is wrong, damaged, or of another device.
    """
    if profile == NONE:
        return None
    if profile == AUTO:
        return Evidence(device, _shipped(device.name) if device.name in profile_names() else None)
    own = read_profile(profile)
    if own.device == device.name:
        return Evidence(device, own, stated=True)
    if own.device == device.extends:
        return Evidence(device, transferred(own, device), stated=True)
    raise CalibrationError(f"profile '{profile}' is of {own.device}, where {device.name} is meant")
