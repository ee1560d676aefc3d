"""Reads the text that nccl-tests print (https://github.com/NVIDIA/nccl-tests).

Lines of numbers: size (B), count, type, redop, root, then time (us), algbw, busbw and #wrong out of place, and the same
in place. The ranks are those of the header's "# Rank" lines, the operation is that of the program's name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.calibration.table import Measurement, to_frame
from simulator.errors import CalibrationError

if TYPE_CHECKING:
    import pandas as pd

_PROGRAMS = {
    "all_reduce_perf": "all_reduce",
    "all_gather_perf": "all_gather",
    "reduce_scatter_perf": "reduce_scatter",
    "alltoall_perf": "all_to_all",
    "sendrecv_perf": "send_recv",
}
_RANK = re.compile(r"^#\s+Rank\s+(\d+)\b.*?\bdevice\s+\S+\s+\[[^\]]*\]\s+(.*)$")
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_ROW = re.compile(rf"^\s*(\d+)\s+(\d+)\s+([a-z]\w*)\s+(\S+)\s+(-?\d+)\s+({_NUMBER})\s+{_NUMBER}\s+{_NUMBER}\s+(\S+)")
_VERSION = re.compile(r"nccl[-_ ]?(?:headers|version|library)\D*([\d.]+)", re.IGNORECASE)
_US = 1e-6


def read_nccl_tests(file: str | Path, *, device: str, op: str | None = None) -> pd.DataFrame:
    """Rows of our table from one run's output; times out of place. `op` names the operation where the text does not.

    Raises CalibrationError where the text holds no measurement, no rank, no known program, or a wrong result.
    """
    path = Path(file)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{file}: can't be read as text: {error}") from None
    kind = op or _operation(lines, str(file))
    ranks = sum(1 for line in lines if _RANK.match(line))
    if ranks == 0:
        raise CalibrationError(f"{file}: no '#  Rank' line says how many ranks took part")
    versions = [found.group(1) for line in lines if (found := _VERSION.search(line))]
    rows = []
    for number, line in enumerate(lines, start=1):
        match = _ROW.match(line)
        if not match or int(match.group(1)) == 0:
            continue
        if match.group(7) not in ("0", "N/A"):
            raise CalibrationError(f"{file}:{number}: {match.group(7)} wrong values: the link or the build is broken")
        rows.append(
            Measurement(
                device=device,
                op=kind,
                dtype="bytes",
                shape={"bytes": float(match.group(1))},
                latency_s=float(match.group(6)) * _US,
                kernel="nccl",
                group_size=ranks,
                library="nccl-tests",
                version=versions[0] if versions else "",
                source=f"nccl-tests, {path.name}",
            )
        )
    if not rows:
        raise CalibrationError(f"{file}: no line of nccl-tests' results found")
    return to_frame(rows)


def is_nccl_tests(file: str | Path) -> bool:
    """Whether a file looks like the output of nccl-tests."""
    try:
        head = Path(file).read_text(encoding="utf-8", errors="ignore")[:20000]
    except OSError:
        return False
    return "algbw" in head and "busbw" in head


def _operation(lines: list[str], file: str) -> str:
    for line in lines:
        for program, kind in _PROGRAMS.items():
            if program in line:
                return kind
    raise CalibrationError(f"{file}: doesn't say which program of nccl-tests wrote it; known: {', '.join(_PROGRAMS)}")
