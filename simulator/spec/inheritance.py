"""Catalog records that may extend another: `{extends: h100-sxm, tdp: 500 W}`.

A reference is a catalog name, a path ending in .yaml, or an inline mapping. Mappings merge key by key, anything else
replaces, null takes a key out. Named records are read once, so a sweep can resolve thousands a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from simulator.errors import SpecError
from simulator.spec.base import Document, Spec, first_error, read_catalog, read_document

MAX_EXTENDS = 8

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True, eq=False)
class Kind(Generic[S]):
    """A kind of record: its catalog's name, its model, and which entry of `source` cites each of its fields."""

    name: str
    model: type[S]
    sources: Mapping[str, str]


def load(kind: Kind[S], reference: str) -> S:
    """The record of a catalog name or a path ending in .yaml. Raises SpecError."""
    return _load(kind, reference)[0]


def expand(kind: Kind[S], value: object) -> object:
    """A record for a name, a path or a bare `{extends: name}`; for other mappings the plain data to validate.

    Raises ValueError or SpecError where `value` refers to nothing.
    """
    if isinstance(value, str):
        return load(kind, value)
    if isinstance(value, Mapping) and set(value) == {"extends"} and isinstance(value["extends"], str):
        return load(kind, value["extends"])
    if isinstance(value, Mapping) and "extends" in value:
        return {"name": f"{value['extends']} (changed)", **_extended(kind, value, "the run")}
    if not isinstance(value, Mapping | kind.model):
        raise ValueError(f"expected the name of a {kind.name}, a path ending in .yaml, or a mapping, got {value!r}")
    return value


def _load(kind: Kind[S], reference: str, depth: int = 0) -> tuple[S, Mapping[str, Any]]:
    """The record and the plain data it was validated from, `extends` already followed."""
    if depth > MAX_EXTENDS:
        raise SpecError(f"{kind.name} '{reference}' extends a chain of more than {MAX_EXTENDS}, or itself")
    if not reference.endswith((".yaml", ".yml")):
        return _named(kind, reference, depth)
    path = Path(reference)
    return _stored(kind, path, path.stat().st_mtime_ns if path.is_file() else 0, depth)


@lru_cache(maxsize=512)
def _named(kind: Kind[S], name: str, depth: int) -> tuple[S, Mapping[str, Any]]:
    return _read(kind, read_catalog(kind.name, name), name, depth)


@lru_cache(maxsize=64)
def _stored(kind: Kind[S], path: Path, _changed: int, depth: int) -> tuple[S, Mapping[str, Any]]:
    return _read(kind, read_document(path), path.stem, depth)


def _read(kind: Kind[S], document: Document, name: str, depth: int) -> tuple[S, Mapping[str, Any]]:
    try:
        data = {"name": name, **_extended(kind, document.data, f"{name}.yaml", depth)}
    except (ValueError, SpecError) as error:
        if isinstance(error, SpecError) and error.file:  # a fault in the base's own file
            raise
        raise document.error(str(error), ("extends",)) from None
    try:
        return kind.model.model_validate(data), data
    except ValidationError as error:
        raise first_error(error, kind.model, document) from None


def _extended(kind: Kind[S], data: Mapping[str, Any], where: str, depth: int = 0) -> dict[str, Any]:
    """`data` laid over the record it extends. What it changes is no longer covered by the base's sources."""
    if "extends" not in data:
        return dict(data)
    if not isinstance(data["extends"], str):
        raise ValueError(f"extends takes the name of one {kind.name}")
    base = {key: value for key, value in _load(kind, data["extends"], depth + 1)[1].items() if key != "name"}
    cited = {kind.sources[key]: f"stated in {where}" for key in data if key in kind.sources}
    own = data.get("source")
    return _merge(base, {**data, "source": {**cited, **own} if isinstance(own, Mapping) else cited})


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged
