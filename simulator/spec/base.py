"""Reading YAML into frozen records, with errors that name file, line and field path.

The YAML subset is deliberately small: no anchors (so no bombs), no duplicate keys, no tags, at most one
document of at most one mebibyte. Catalogs are folders of YAML files found from a checkout or an installed wheel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from simulator.errors import SpecError, nearest

MAX_FILE_BYTES = 2**20
MAX_DEPTH = 32
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_TAG + name for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")}


class Spec(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A parsed YAML file: plain data, its text, and the line of every field path."""

    data: dict[str, Any]
    lines: Mapping[tuple[str, ...], int]
    file: str
    text: str

    def error(self, message: str, path: tuple[str, ...] = ()) -> SpecError:
        """A SpecError at the line of `path`, or of its nearest parent that stands in the file."""
        for size in range(len(path), -1, -1):
            if path[:size] in self.lines:
                return SpecError(message, file=self.file, line=self.lines[path[:size]], path=".".join(path))
        return SpecError(message, file=self.file, path=".".join(path))


def read_document(file: str | Path) -> Document:
    """The file's mapping with line numbers. Raises SpecError where it can't be read or is no plain YAML mapping."""
    path, name = Path(file), str(file)
    try:
        if not path.is_file():
            raise SpecError("no such file", file=name)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SpecError(f"larger than {MAX_FILE_BYTES} bytes: this is no run file", file=name)
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise SpecError("not text: expected UTF-8 YAML", file=name) from None
    except OSError as error:
        raise SpecError(f"can't be read: {error.strerror}", file=name) from None
    return parse_document(text, name)


def parse_document(text: str, name: str = "<text>") -> Document:
    """Like `read_document`, from text."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise SpecError(f"not valid YAML: {error.problem or error.context}", file=name, line=line) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"not valid YAML: {str(error).splitlines()[0]}", file=name) from None
    if node is None:
        raise SpecError("the file is empty", file=name)
    lines: dict[tuple[str, ...], int] = {}
    data = _plain(node, (), lines, name, yaml, set())
    if not isinstance(data, dict):
        raise SpecError("expected a mapping of keys to values", file=name, line=1)
    return Document(data, lines, name, text)


def _plain(
    node: Any, path: tuple[str, ...], lines: dict[tuple[str, ...], int], name: str, yaml: Any, seen: set[int]
) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    dotted = ".".join(path) or None
    if id(node) in seen:
        raise SpecError("YAML anchors and aliases are not allowed here", file=name, line=line, path=dotted)
    seen.add(id(node))
    if len(path) > MAX_DEPTH:
        raise SpecError(f"nested deeper than {MAX_DEPTH} levels", file=name, line=line, path=dotted)
    if node.tag not in _PLAIN_TAGS:
        shown = str(node.tag).replace(_TAG, "!!")[:80]
        raise SpecError(f"YAML tag {shown} is not allowed here", file=name, line=line, path=dotted)
    if node.id == "mapping":
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if key_node.id != "scalar":
                raise SpecError("a key must be a plain word", file=name, line=key_line, path=dotted)
            key = str(key_node.value)
            if key in out:
                raise SpecError("this key stands twice", file=name, line=key_line, path=".".join((*path, key)))
            lines[(*path, key)] = key_line
            out[key] = _plain(value_node, (*path, key), lines, name, yaml, seen)
        return out
    if node.id == "sequence":
        return [_plain(v, (*path, str(i)), lines, name, yaml, seen) for i, v in enumerate(node.value)]
    try:
        return yaml.constructor.construct_object(node, deep=True)
    except Exception:
        raise SpecError(f"can't read the value '{node.value[:80]}'", file=name, line=line, path=dotted) from None


def validate(kind: type[S], document: Document) -> S:
    """`document` as a record of `kind`. Raises SpecError for the first wrong field, with the nearest valid name."""
    try:
        return kind.model_validate(document.data)
    except ValidationError as error:
        raise first_error(error, kind, document) from None


def first_error(error: ValidationError, kind: type[BaseModel], document: Document) -> SpecError:
    """The first problem pydantic found, in our words and at its line; unknown keys go first: they explain the rest."""
    found = [e for e in error.errors() if e["type"] != "default_factory_not_called"]  # an echo of another problem
    problems = sorted(found, key=lambda e: e["type"] != "extra_forbidden")
    problem = problems[0]
    path = _path(problem["loc"], document.data, ends_in_key=problem["type"] in ("extra_forbidden", "missing"))
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        known = _fields_at(kind, path[:-1])
        return document.error(f"unknown key '{path[-1][:200]}'.{nearest(path[-1], known)}{more}", path)
    if problem["type"] == "missing":
        return document.error(f"missing; it is required{more}", path)
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if problem["type"] != "value_error":
        shown = repr(problem["input"])
        message += f", got {shown[:80]}"
    return document.error(message + more, path)


def _path(location: tuple[int | str, ...], data: Any, *, ends_in_key: bool) -> tuple[str, ...]:
    """The field path of a pydantic location, which also names the unions and validators passed on the way."""
    path: list[str] = []
    for place, part in enumerate(location, start=1):
        stands = (isinstance(data, Mapping) and part in data) or (isinstance(data, list) and isinstance(part, int))
        if stands:
            data = data[part]
        elif _is_tag(str(part)) and not (ends_in_key and place == len(location)):
            continue
        path.append(str(part))
    return tuple(path)


def _is_tag(part: str) -> bool:
    """Whether pydantic put this part into a location for a union or a validator."""
    return part.startswith("function-") or "[" in part or (part[:1].isupper() and part.isidentifier())


def _fields_at(kind: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """Field names valid at `path` below `kind`."""
    for part in path:
        if part.isdigit():  # of a list of records
            continue
        field = kind.model_fields.get(part)
        inner = next(models_in(field.annotation), None) if field else None
        if inner is None:
            return []
        kind = inner
    return [field.alias or name for name, field in kind.model_fields.items()]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The records that an annotation names, such as Training in `Training | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from models_in(argument)


@lru_cache(maxsize=1)
def data_root() -> Path:
    """The folder that holds `hardware_profiles/` and `workloads/`: the checkout, or `simulator/data` in a wheel."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "data"
    return installed if installed.is_dir() else package.parent


CATALOGS = {
    "model": "workloads/models",
    "framework": "workloads/frameworks",
    "device": "hardware_profiles/devices",
    "network": "hardware_profiles/networks",
}


@lru_cache(maxsize=8)
def catalog(kind: str) -> Mapping[str, Path]:
    """Name -> file of the catalog `kind` (a key of CATALOGS), by name."""
    return {p.stem: p for p in sorted((data_root() / CATALOGS[kind]).glob("*.yaml"))}


@lru_cache(maxsize=512)
def read_catalog(kind: str, name: str) -> Document:
    """The catalog file of that name. Raises SpecError with the nearest names where there is none."""
    known = catalog(kind)
    if name not in known:
        raise SpecError(f"unknown {kind} '{name[:200]}'.{nearest(name, known)}")
    return read_document(known[name])
