"""Prices as a YAML file: written whole, read back with every value checked."""

from __future__ import annotations

import json
import os
from pathlib import Path

from simulator.calibration.prices import Prices
from simulator.errors import CalibrationError, SpecError
from simulator.spec.base import read_document, validate


def write_prices(prices: Prices, file: Path) -> None:
    """Write the file by renaming a finished one into its place. Raises CalibrationError where that can't be."""
    data = prices.model_dump(mode="json")
    # JSON is YAML: one line a family keeps a file of hundreds of fitted numbers readable.
    lines = ["# Written by `moesim calibrate`; not meant for editing."]
    for key, value in data.items():
        if key == "families" and value:
            lines.append("families:")
            lines += [f"  {json.dumps(name)}: {json.dumps(family)}" for name, family in value.items()]
        else:
            lines.append(f"{key}: {json.dumps(value)}")
    scratch = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text("\n".join(lines) + "\n", encoding="utf-8")
        scratch.replace(file)
    except OSError as error:
        raise CalibrationError(f"{file}: can't write here: {error.strerror}") from None
    finally:
        scratch.unlink(missing_ok=True)


def read_prices(file: Path) -> Prices:
    """The prices in a file. Raises CalibrationError where it is damaged or no prices file."""
    try:
        return validate(Prices, read_document(file))
    except SpecError as error:
        raise CalibrationError(f"not a whole prices file: {error}") from None
