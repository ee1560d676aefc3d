"""Shards of a search on disk: each a CSV that is there whole or not at all, and a manifest of what is searched.

`search/manifest.json` holds the plan as it was read; a search goes on only with the same plan and program.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator import __version__
from simulator.errors import SpecError
from simulator.spec.plan import Plan
from simulator.sweeps import KINDS, METRICS

if TYPE_CHECKING:
    import pandas

SHARD_POINTS = 1024
FOLDER, MANIFEST = "search", "manifest.json"
MOST_DIFFERENCES = 5


@dataclass(frozen=True)
class Shards:
    """The shards in a folder."""

    folder: Path

    def has(self, name: str) -> bool:
        """Whether a shard is done."""
        return self._file(name).is_file()

    def write(self, name: str, frame: pandas.DataFrame) -> None:
        """Leave a finished shard. Raises SpecError where the disk refuses; the shards before it stay."""
        scratch = self._file(name).with_suffix(f".tmp-{os.getpid()}")
        try:
            frame.to_csv(scratch, index=False)
            scratch.replace(self._file(name))
        except OSError as error:
            scratch.unlink(missing_ok=True)
            message = f"can't write here: {error.strerror}; what is finished is kept, go on with --resume"
            raise SpecError(message, file=str(self.folder)) from None

    def read(self, name: str) -> pandas.DataFrame:
        """A finished shard, its numbers to the last bit."""
        import pandas

        names = [f"{key}{end}" for key in METRICS for end in ("", ".low", ".high")]
        names += [f"seconds.{kind}" for kind in KINDS]
        # As text first: not every pandas reads a float to the last bit.
        frame = pandas.read_csv(self._file(name), dtype=dict.fromkeys([*names, "reason"], object))
        return frame.astype(dict.fromkeys(names, float))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.csv"


def open_shards(out: Path, plan: Plan, *, points: int, resume: bool) -> Shards:
    """The shards of a plan below `out`: a new folder, or with `resume` those of the same plan.

    Raises SpecError where there is nothing to resume, where the plan or the program is another, or on a full disk.
    """
    folder = out / FOLDER
    described = {
        "version": __version__,
        "shard_points": SHARD_POINTS,
        "points": points,
        "plan": plan.model_dump(mode="json"),
    }
    if resume:
        _check_same(folder / MANIFEST, described)
        return Shards(folder)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text(json.dumps(described, indent=1), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"can't write here: {error.strerror}", file=str(out)) from None
    return Shards(folder)


def _check_same(manifest: Path, described: dict[str, Any]) -> None:
    try:
        before = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SpecError("no search to resume here; start it without --resume", file=str(manifest)) from None
    then, now = _flat(before), _flat(json.loads(json.dumps(described)))
    changed = [path for path in dict.fromkeys((*then, *now)) if then.get(path) != now.get(path)]
    if not changed:
        return
    lines = [f"{path.removeprefix('plan.')}: {then.get(path)} -> {now.get(path)}" for path in changed]
    shown = "; ".join(lines[:MOST_DIFFERENCES])
    more = f" and {len(changed) - MOST_DIFFERENCES} more" if len(changed) > MOST_DIFFERENCES else ""
    raise SpecError(f"the search that began here was another: {shown}{more}", file=str(manifest))


def _flat(value: object, path: str = "") -> dict[str, object]:
    """Dotted path to value of nested data; lists count as one value."""
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: inner
        for name, part in value.items()
        for key, inner in _flat(part, f"{path}.{name}" if path else str(name)).items()
    }
