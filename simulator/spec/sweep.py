"""A sweep: a run and axes, each a dotted path of the run with its values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from simulator.errors import SpecError, nearest
from simulator.spec.base import Document, Spec, data_root, first_error, read_document, validate
from simulator.spec.run import apply_overrides, parse_override

MAX_POINTS = 1_000_000


class Range(Spec):
    """Numbers from `from` to at most `to`: each the one before times `factor`, or plus `step`."""

    model_config = ConfigDict(validate_by_alias=True)

    first: Annotated[int | float, Field(alias="from", allow_inf_nan=False)]
    to: Annotated[int | float, Field(allow_inf_nan=False)]
    factor: Annotated[int | float, Field(gt=1, allow_inf_nan=False)] | None = None
    step: Annotated[int | float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one_way_up(self) -> Self:
        if (self.factor is None) == (self.step is None):
            raise ValueError("a range needs a factor or a step, as in {from: 1, to: 64, factor: 2}")
        if self.to < self.first:
            raise ValueError(f"to ({self.to:g}) is below from ({self.first:g})")
        if self.factor is not None and self.first <= 0:
            raise ValueError(f"from ({self.first:g}) must be above 0 where values grow by a factor")
        return self

    def values(self) -> list[int | float]:
        """The numbers; whole where all that makes them is. Raises ValueError where there are too many."""
        if self.step and (self.to - self.first) / self.step >= MAX_POINTS:
            raise ValueError(f"this range has more than {MAX_POINTS:,} values")
        out, value, end = [], self.first, self.to + abs(self.to) * 1e-9
        while value <= end:
            out.append(value)
            grown = value * self.factor if self.factor else self.first + len(out) * (self.step or 0)
            value = grown if isinstance(grown, int) else float(f"{grown:.12g}")  # 0.1 + 0.2 as people write it
        return out


def _listed(value: object) -> object:
    """A list of values from a list or a range."""
    if isinstance(value, Mapping):
        value = _range_values(value)
    if not isinstance(value, list):
        raise ValueError("expected a list of values, or a range such as {from: 1, to: 64, factor: 2}")
    if not value:
        raise ValueError("an axis needs at least one value")
    for number, one in enumerate(value):
        if any(one == other and type(one) is type(other) for other in value[:number]):
            raise ValueError(f"the value {one!r} stands twice")
    return value


def _range_values(value: Mapping[Any, Any]) -> list[int | float]:
    try:
        return Range.model_validate(value).values()
    except ValidationError as error:
        found = first_error(error, Range, Document(dict(value), {}, "", ""))
        raise ValueError(f"{found.path}: {found.message}" if found.path else found.message) from None


_Written = Annotated[list[Any], Field(min_length=1)] | Range
Values = Annotated[list[Any], BeforeValidator(_listed, json_schema_input_type=_Written)]


class Sweep(Spec):
    """A grid of runs: every combination of the axes' values, the last axis changing fastest."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1, max_length=300)]
    run: str | dict[str, Any]
    """What all points share: a run file's path, relative to this file; the name of a shipped run; or the run itself."""
    axes: Annotated[dict[str, Values], Field(min_length=1)]
    """Dotted path of the run, such as parallelism.tp: a list of values, or a range of numbers."""
    engine: Literal["fast", "events", "auto"] = "fast"
    """Who times the training steps: longest paths, events with shared links, or either as needed."""

    @model_validator(mode="after")
    def _not_endless(self) -> Self:
        if self.size > MAX_POINTS:
            raise ValueError(f"the axes make {self.size:,} points; at most {MAX_POINTS:,} are allowed")
        return self

    @property
    def size(self) -> int:
        """Number of points."""
        return prod(len(values) for values in self.axes.values())


def read_sweep(file: str | Path, overrides: Iterable[str] = ()) -> Sweep:
    """The sweep in a YAML file, its run read and every value of an axis checked. Raises SpecError at the line.

    An override such as `parallelism.tp=4` changes the run; where the path is an axis, it replaces that axis's values.
    """
    from simulator.spec.grid import Grid

    document = read_document(file)
    axes, rest = _split_overrides(document, overrides)
    data = {**document.data, "axes": axes} if axes else document.data
    document = Document(data, document.lines, document.file, document.text)
    sweep = validate(Sweep, document)
    run = apply_overrides(base_document(sweep.run, Path(file).parent, document), rest)
    Grid(sweep, run).check(document)
    return sweep.model_copy(update={"run": run.data})


def _split_overrides(document: Document, overrides: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """(the axes with overridden ones replaced, the overrides that change the run)."""
    axes = document.data.get("axes")
    if not isinstance(axes, dict):
        return {}, list(overrides)
    replaced, rest = dict(axes), []
    for text in overrides:
        path, value = parse_override(text)
        if path in axes:
            replaced[path] = value if isinstance(value, list | dict) else [value]
        else:
            rest.append(text)
    return replaced, rest


def base_document(run: str | dict[str, Any], folder: Path, sweep: Document | None = None) -> Document:
    """The run that a sweep starts from, as plain data with its lines. Raises SpecError where there is none."""
    if not isinstance(run, str):
        inline = sweep.lines if sweep is not None else {}
        lines = {path[1:]: line for path, line in inline.items() if path[:1] == ("run",)}
        return Document(run, lines, sweep.file if sweep else "<mapping>", sweep.text if sweep else "")
    if run.endswith((".yaml", ".yml")):
        return read_document(folder / run)
    shipped = {path.stem: path for path in (data_root() / "workloads/runs").glob("*.yaml")}
    if run not in shipped:
        message = f"no shipped run '{run[:200]}', and a path ends in .yaml.{nearest(run, shipped)}"
        raise sweep.error(message, ("run",)) if sweep else SpecError(message, path="run")
    return read_document(shipped[run])
