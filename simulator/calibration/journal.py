"""The journal of a measuring session: one JSON line per visit, appended, so a killed session loses nothing measured.

The first line says on what was measured; a journal of another device, library or settings is refused, since minima of
two machines mean nothing. A half-written last line is what a crash leaves: it is dropped.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from simulator.errors import CalibrationError

SYNC_S = 1.0
"""At most this much measuring is lost when the whole machine dies; a killed process loses nothing."""


@dataclass(frozen=True)
class Visit:
    """Trials of one point taken in one visit, seconds each."""

    key: str
    seconds: list[float]


class Journal:
    """Trials, skipped points and notes by key; read on opening, appended to afterwards."""

    def __init__(self, file: Path | None, header: Mapping[str, object]) -> None:
        """Open or begin a journal; None keeps it in memory. Raises CalibrationError where it is of another machine."""
        self.trials: dict[str, list[float]] = {}
        self.skipped: dict[str, str] = {}
        self.notes: dict[str, dict[str, float]] = {}
        """What was measured of a point beside its time."""
        self._file, self._synced = None, time.monotonic()
        if file is None:
            return
        self._resume(file, dict(header))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("a", encoding="utf-8")
        except OSError as error:
            raise CalibrationError(f"{file}: can't write here: {error.strerror}") from None
        if self._file.tell() == 0:
            self._write(dict(header))
            self.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, visit: Visit) -> None:
        """Keep the trials of a visit."""
        if not all(math.isfinite(s) and s > 0 for s in visit.seconds):
            raise CalibrationError(f"the clock gave {visit.seconds} for {visit.key}")
        self.trials.setdefault(visit.key, []).extend(visit.seconds)
        self._write({"key": visit.key, "seconds": visit.seconds})

    def skip(self, key: str, reason: str) -> None:
        """Keep the reason a point was not measured."""
        self.skipped[key] = reason
        self._write({"key": key, "skipped": reason})

    def note(self, key: str, values: Mapping[str, float]) -> None:
        """Keep numbers measured of a point beside its time."""
        self.notes[key] = dict(values)
        self._write({"key": key, "note": dict(values)})

    def sync(self) -> None:
        """Bring everything written to the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close the file."""
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None

    def _write(self, line: Mapping[str, object]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()

    def _resume(self, file: Path, header: dict[str, object]) -> None:
        if not file.exists():
            return
        text = file.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # the line a crash cut short
            os.truncate(file, len(whole))
        for number, raw in enumerate(whole.splitlines(), start=1):
            try:
                line = json.loads(raw)
                if number == 1:
                    _same(line, json.loads(json.dumps(header)), file)
                elif "skipped" in line:
                    self.skipped[line["key"]] = str(line["skipped"])
                elif "note" in line:
                    self.notes[line["key"]] = {name: float(value) for name, value in line["note"].items()}
                else:
                    self.trials.setdefault(line["key"], []).extend(float(s) for s in line["seconds"])
            except (ValueError, KeyError, TypeError, AttributeError):
                raise CalibrationError(
                    f"{file}: line {number} is no journal line; move the file away to begin anew"
                ) from None


def read_trials(file: Path) -> dict[str, list[float]]:
    """The trials of a finished journal, by key."""
    trials: dict[str, list[float]] = {}
    for line in file.read_text(encoding="utf-8").splitlines()[1:]:
        found = json.loads(line)
        if "seconds" in found:
            trials.setdefault(found["key"], []).extend(found["seconds"])
    return trials


def _same(found: Mapping[str, object], wanted: Mapping[str, object], file: Path) -> None:
    for name in wanted:
        if found.get(name) != wanted[name]:
            raise CalibrationError(
                f"{file}: measured with {name} {found.get(name)}, this is {wanted[name]}; "
                "choose another folder to begin anew"
            )
