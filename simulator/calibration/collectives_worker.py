"""One rank of a group, started by torchrun: `collectives_worker points|models KIND FILE SECONDS [LARGEST]`."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Measure collectives, or models whose experts are spread over the ranks, into a journal."""
    what, kind, file, seconds, *rest = sys.argv[1:]
    if what == "points":
        from simulator.calibration.collectives import measure_points

        measure_points(kind, Path(file), seconds=float(seconds), largest=int(rest[0]) if rest else None)
    else:
        from simulator.calibration.collectives_models import measure_models

        measure_models(kind, Path(file), seconds=float(seconds), cases=rest[0] if rest else "all")


if __name__ == "__main__":
    main()
