"""Writing a fitted profile: the YAML (in its JSON subset) and the .npz of residual tables beside it, each whole or not
at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.calibration.fit import Fitted
from simulator.spec.profile import Fit, Profile, TableHead
from simulator.spec.residual import Table

STEPS = 127
"""A knot is stored as a whole number of 1/127 of its table's largest value: at most 0.4 % of that is lost."""
DIGITS = 6


def build_profile(fitted: Sequence[Fitted], *, device: str, date: str, source: str, notes: str = "") -> Profile:
    """The profile of these fits, tables and all, as it will be read again."""
    values: dict[str, NDArray[np.int8]] = {}
    fits = []
    for place, one in enumerate(fitted):
        heads, parts = [], []
        for table in one.model.tables:
            head, part = _stored(table)
            heads.append(head)
            parts.append(part)
        if parts:
            values[str(place)] = np.concatenate(parts)
        fits.append(_fit(one, tuple(heads)))
    digest = hashlib.sha256(_packed(values)).hexdigest() if values else ""
    profile = Profile(device=device, date=date, source=source, notes=notes, residuals=digest, fits=tuple(fits))
    return profile.with_values(values)


def write_profile(profile: Profile, folder: str | Path) -> Path:
    """Write <device>.yaml and <device>.npz into the folder, the tables first; returns the YAML's path."""
    target = Path(folder) / f"{profile.device}.yaml"
    target.parent.mkdir(parents=True, exist_ok=True)
    if profile.residuals:
        _replace(target.with_suffix(".npz"), _packed(profile.values))
    _replace(target, _text(profile).encode())
    return target


def _stored(table: Table) -> tuple[TableHead, NDArray[np.int8]]:
    largest = float(np.abs(table.values).max())
    scale = _rounded(largest / STEPS) if largest else 1.0
    axes = tuple((axis.feature, axis.start, axis.step, axis.count) for axis in table.axes)
    head = TableHead(axes=axes, scale=scale, gate=table.gate, only=dict(table.only))
    return head, np.clip(np.rint(table.values.ravel() / scale), -STEPS, STEPS).astype(np.int8)


def _fit(one: Fitted, heads: tuple[TableHead, ...]) -> Fit:
    series, model = one.series, one.model
    return Fit(
        op=series.op,
        dtype=series.dtype,
        kernel=series.kernel,
        library=series.library,
        version=series.version,
        source=series.source,
        date=series.date,
        group_size=series.group_size,
        measurements=len(series.seconds),
        sheet={name: float(value) for name, value in asdict(series.sheet).items()},
        parameters={name: _rounded(value) for name, value in model.parameters.items()},
        covered={name: (float(column.min()), float(column.max())) for name, column in series.shape.items()},
        bounds={name: (_rounded(low), _rounded(high)) for name, (low, high) in model.bounds.items()},
        spread=one.spread.model_copy(update={name: _rounded(value) for name, value in one.spread.model_dump().items()}),
        held_out=dict(one.held_out),
        tables=heads,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _packed(values: Mapping[str, NDArray[np.int8]]) -> bytes:
    """The same bytes for the same tables: zip entries carry no time of their own."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **values)  # type: ignore[arg-type]
    return buffer.getvalue()


def _text(profile: Profile) -> str:
    """One line a fit's field: readable in a diff, and read by a JSON parser in a millisecond."""
    data = profile.model_dump(mode="json", exclude_defaults=True, exclude={"fits"})
    lines = ["{"] + [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in data.items()]
    lines.append('"fits": [')
    for place, fit in enumerate(profile.fits):
        fields = fit.model_dump(mode="json", exclude_defaults=True)
        body = ",\n  ".join(
            f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()
        )
        lines.append(" {" + body + "}" + ("," if place < len(profile.fits) - 1 else ""))
    return "\n".join([*lines, "]}", ""])


def _replace(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
