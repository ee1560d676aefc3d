"""Finished shards on disk: Parquet files that are there whole or not at all, and a manifest of what is computed.

`points/_manifest.json` says what the shards are of; work goes on only with the same plan or sweep and program. All
shards of a folder have one schema, so that the folder can be queried as one table without loading it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator import __version__
from simulator.errors import SpecError

if TYPE_CHECKING:
    import pandas

SHARD_POINTS = 1024
FOLDER, MANIFEST = "points", "_manifest.json"
"""Readers of a folder of Parquet files pass over names that start with a line or a dot."""
MOST_DIFFERENCES = 5


@dataclass(frozen=True)
class Memory:
    """Shards of work that nobody wants to resume."""

    frames: dict[str, pandas.DataFrame] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether a shard is done."""
        return name in self.frames

    def write(self, name: str, frame: pandas.DataFrame) -> None:
        """Keep a finished shard."""
        self.frames[name] = frame

    def read(self, name: str) -> pandas.DataFrame:
        """A finished shard."""
        return self.frames[name]


@dataclass(frozen=True)
class Store:
    """Shards in a folder."""

    folder: Path

    def has(self, name: str) -> bool:
        """Whether a shard is done."""
        return self.file(name).is_file()

    def write(self, name: str, frame: pandas.DataFrame) -> None:
        """Leave a finished shard. Raises SpecError where the disk refuses; the shards before it stay."""
        import pyarrow.parquet as pq

        scratch = self.folder / f".{name}-{os.getpid()}"
        try:
            pq.write_table(_typed(frame), scratch)
            scratch.replace(self.file(name))
        except OSError as error:
            scratch.unlink(missing_ok=True)
            reason = error.strerror or str(error)
            message = f"can't write here: {reason}; what is finished is kept, go on with --resume"
            raise SpecError(message, file=str(self.folder)) from None

    def read(self, name: str) -> pandas.DataFrame:
        """A finished shard, its numbers to the last bit."""
        import pandas

        return pandas.read_parquet(self.file(name))

    def table(self, names: Sequence[str], *, status: str | None = None) -> pandas.DataFrame:
        """The rows of some shards in their order, those of one status where it is given; words as categories.

        Columns that are empty throughout are left out.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        first = pq.read_schema(self.file(names[0]))
        words = [column.name for column in first if pa.types.is_string(column.type)]
        filters = None if status is None else [("status", "==", status)]
        parts = [pq.read_table(self.file(name), read_dictionary=words, filters=filters) for name in names]
        whole = pa.concat_tables(parts).unify_dictionaries()
        del parts
        empty = [name for name in whole.column_names if _nowhere(whole[name])] if len(whole) else []
        frame: pandas.DataFrame = whole.drop_columns(empty).to_pandas(split_blocks=True, self_destruct=True)
        return frame

    def file(self, name: str) -> Path:
        """Where a shard is once it is done."""
        return self.folder / f"{name}.parquet"


def _typed(frame: pandas.DataFrame) -> Any:
    """The table with words where a column has nothing but missing ones, so that all shards have one schema."""
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    wordless = pa.string()
    fields = [
        pa.field(f.name, wordless if pa.types.is_null(f.type) or _is_large(f.type) else f.type) for f in table.schema
    ]
    return table.cast(pa.schema(fields))


def _is_large(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_large_string(kind))


def _nowhere(column: Any) -> bool:
    """Whether a column has nothing but missing values."""
    import pyarrow.compute as pc

    return bool(pc.all(pc.is_null(column, nan_is_null=True)).as_py())


def open_store(out: Path, described: Mapping[str, Any], *, resume: bool) -> Store:
    """The shards below `out` of what is described: a new folder, or with `resume` those of the same.

    Raises SpecError where there is nothing to resume, where what is described or the program is another, or on a full
    disk.
    """
    folder = out / FOLDER
    manifest = {"version": __version__, "shard_points": SHARD_POINTS, **described}
    if resume:
        _check_same(folder / MANIFEST, manifest)
        return Store(folder)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"can't write here: {error.strerror}", file=str(out)) from None
    return Store(folder)


def _check_same(manifest: Path, described: dict[str, Any]) -> None:
    try:
        before = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SpecError("nothing to resume here; start it without --resume", file=str(manifest)) from None
    then, now = _flat(before), _flat(json.loads(json.dumps(described)))
    changed = [path for path in dict.fromkeys((*then, *now)) if then.get(path) != now.get(path)]
    if not changed:
        return
    lines = [f"{path.removeprefix('plan.')}: {then.get(path)} -> {now.get(path)}" for path in changed]
    shown = "; ".join(lines[:MOST_DIFFERENCES])
    more = f" and {len(changed) - MOST_DIFFERENCES} more" if len(changed) > MOST_DIFFERENCES else ""
    raise SpecError(f"what began here was another: {shown}{more}", file=str(manifest))


def _flat(value: object, path: str = "") -> dict[str, object]:
    """Dotted path to value of nested data; lists count as one value."""
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: inner
        for name, part in value.items()
        for key, inner in _flat(part, f"{path}.{name}" if path else str(name)).items()
    }
