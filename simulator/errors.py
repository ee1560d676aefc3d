"""The exception tree.

SimulatorError ├── SpecError          the input is wrong: says file, line, field path, what was expected ├──
InfeasibleError    the input is right but cannot run: says needed, available, what would work ├── CoverageError
outside the calibrated range, where the caller did not allow extrapolation ├── DeadlockError      operators wait for
each other └── CalibrationError   no device, unstable measurements, damaged profile
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class SimulatorError(Exception):
    """Everything this package raises for a reason its user can mend."""


class SpecError(SimulatorError):
    """A file or value the user gave is wrong.

    Reads `file:line: field.path: message`, each part only where known.
    """

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, path: str | None = None
    ) -> None:
        self.message, self.file, self.line, self.path = message, file, line, path
        place = f"{file}:{line}" if file and line else file
        super().__init__(": ".join(part for part in (place, path, message) if part))


class InfeasibleError(SimulatorError):
    """The run cannot exist on this machine: it does not divide or does not fit.

    `breakdown` holds what the need is made of (same unit as needed), `suggestion` the nearest change that helps.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        needed: float | None = None,
        available: float | None = None,
        breakdown: Mapping[str, float] | None = None,
        suggestion: str | None = None,
    ) -> None:
        self.message, self.path = message, path
        self.needed, self.available = needed, available
        self.breakdown, self.suggestion = dict(breakdown or {}), suggestion
        full = f"{message.removesuffix('.')}. Nearest change that fits: {suggestion}." if suggestion else message
        super().__init__(f"{path}: {full}" if path else full)


class CoverageError(SimulatorError):
    """A question outside the calibrated range."""


class DeadlockError(SimulatorError):
    """Operators that wait for each other; the message names them."""


class CalibrationError(SimulatorError):
    """Measuring, fitting or loading a profile failed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the known names where none is near, ready to follow a message."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    if close:
        return " Did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f" Known: {shown}." if names else ""
