"""Starts the processes of a group with torchrun, and says clearly when one of them dies."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import simulator
from simulator.errors import CalibrationError

_RANK, _CODE = re.compile(r"rank\s*:\s*(\d+)"), re.compile(r"exitcode\s*:\s*(-?\d+)")


def run_ranks(module: str, arguments: Sequence[str], *, ranks: int, timeout_s: float) -> None:
    """Run `python -m module arguments` as `ranks` processes of one group, and wait.

    Raises CalibrationError where one dies (torchrun ends the others), and where they take longer than `timeout_s`.
    """
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", module,
        *arguments,
    ]  # fmt: skip
    # The folder of the package, so that the ranks import this very one.
    folder = Path(simulator.__file__).resolve().parent.parent
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun passes it on to its ranks
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
        raise CalibrationError(f"{ranks} processes took longer than {timeout_s:.0f} s; they were ended") from None
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode:
        raise CalibrationError(_reason(said, ranks))


def _reason(said: str, ranks: int) -> str:
    """Which rank died, with what, from what torchrun says."""
    rank, code = _RANK.findall(said), _CODE.findall(said)
    errors = [line.strip() for line in said.splitlines() if re.search(r"(Error|error|Exception): ", line)]
    who = f"process {rank[-1]} of {ranks}" if rank else f"one of {ranks} processes"
    how = f"was killed by signal {code[-1].removeprefix('-')}" if code and code[-1].startswith("-") else "failed"
    why = f": {_plain(errors[0])}" if errors and "killed" not in how else ""
    return f"{who} {how}; nothing measured before is lost{why}"


def _plain(line: str) -> str:
    """The message without torchrun's prefix."""
    return re.sub(r"^\[[^\]]*\]:?\s*", "", line)[:300]
