"""The points of a sweep as runs, each block of a run validated once for every combination of the axes inside it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError, create_model

from simulator.errors import SpecError, nearest
from simulator.spec.base import Document, Spec, first_error, models_in
from simulator.spec.framework import read_framework
from simulator.spec.run import Run, build_run, set_path
from simulator.spec.sweep import Sweep

# Fields of a run that no axis can change: the kind decides which blocks there are.
_FIXED = ("name", "kind", "source_text")


@dataclass(slots=True)
class Block:
    """A field of the run that axes change: which ones, and the values built so far by the numbers of theirs."""

    name: str
    axes: list[int]
    known: dict[tuple[int, ...], object] = field(default_factory=dict)


class Grid:
    """The runs of a sweep's points. A combination that breaks a rule of its block yields a SpecError instead."""

    def __init__(self, sweep: Sweep, base: Document) -> None:
        self.paths: tuple[str, ...] = tuple(sweep.axes)
        self.values: tuple[list[Any], ...] = tuple(sweep.axes.values())
        self.base = _base_run(base, dict(zip(self.paths, (values[0] for values in self.values), strict=True)))
        self.engine = sweep.engine
        self._data = base.data
        blocks: dict[str, Block] = {}
        for axis, path in enumerate(self.paths):
            name = path.partition(".")[0]
            blocks.setdefault(name, Block(name, [])).axes.append(axis)
        self._blocks = list(blocks.values())
        self._stated = self.base.model_fields_set | set(blocks)
        self._shared = {name: getattr(self.base, name) for name in Run.model_fields if name not in blocks}

    def check(self, document: Document) -> None:
        """Raise SpecError, at its line in the sweep's document, for the first path or value that can never be right."""
        for axis, path in enumerate(self.paths):
            self._check_path(path, document)
            for number, value in enumerate(self.values[axis]):
                try:
                    self._field(path.partition(".")[0], {path: value})
                except SpecError as error:
                    alone = error.path is None or f"{error.path}.".startswith(f"{path}.")
                    if alone:  # it breaks no rule between fields, which another axis may mend
                        raise document.error(error.message, ("axes", path, str(number))) from None

    def _check_path(self, path: str, document: Document) -> None:
        name, dot, _ = path.partition(".")
        place = ("axes", path)
        if name in _FIXED:
            raise document.error(f"'{name}' can't be an axis", place)
        if name not in Run.model_fields:
            known = [field for field in Run.model_fields if field not in _FIXED]
            raise document.error(f"unknown key '{name[:200]}'.{nearest(name, known)}", place)
        if dot and not list(models_in(Run.model_fields[name].annotation)):
            raise document.error(f"{name} is no block, so {path} can't be set", place)
        if name in ("training", "inference") and name != self.base.needed:
            raise document.error(f"the run is of kind {self.base.kind} and has no block '{name}'", place)

    def run(self, numbers: Sequence[int]) -> Run | SpecError:
        """The run with the values of these numbers, one number an axis; SpecError where they break a rule."""
        changed: dict[str, Any] = {}
        for block in self._blocks:
            key = tuple([numbers[axis] for axis in block.axes])
            value = block.known.get(key)
            if value is None:
                value = block.known[key] = self._outcome(block, key)
            if isinstance(value, SpecError):
                return value
            changed[block.name] = value
        # All parts are validated; to validate the whole again would take most of a sweep's time.
        return Run.model_construct(_fields_set=self._stated, **self._shared, **changed)

    def _outcome(self, block: Block, key: tuple[int, ...]) -> object:
        settings = {self.paths[axis]: self.values[axis][number] for axis, number in zip(block.axes, key, strict=True)}
        try:
            return self._field(block.name, settings)
        except SpecError as error:
            return error

    def _field(self, name: str, settings: Mapping[str, Any]) -> object:
        """The run's field `name` with some paths in it set. Raises SpecError with the path in the run."""
        data = _with({name: self._data.get(name)}, settings)
        try:
            value = getattr(_alone(name).model_validate(data), name)
        except ValidationError as error:
            raise first_error(error, _alone(name), Document(data, {}, "", "")) from None
        if name == "framework":
            read_framework(value)
        return value


@lru_cache(maxsize=16)
def _alone(name: str) -> type[BaseModel]:
    """A record of one field of the run, so that it can be validated by itself."""
    known = Run.model_fields[name]
    fields: dict[str, Any] = {name: (known.annotation, known)}
    return create_model("Run", __base__=Spec, **fields)


def _with(data: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `data` with paths set, a whole block before what is inside it."""
    changed = copy.deepcopy(dict(data))
    for path in sorted(settings, key=lambda path: path.count(".")):
        set_path(changed, path, copy.deepcopy(settings[path]))  # a path inside a block that is set must not change it
    return changed


def _base_run(base: Document, first_values: Mapping[str, Any]) -> Run:
    """The run as written or, since what an axis sets may be left out there, with the axes' first values."""
    try:
        return build_run(base)
    except SpecError:
        try:
            return build_run(Document(_with(base.data, first_values), base.lines, base.file, base.text))
        except SpecError:
            pass
        raise
