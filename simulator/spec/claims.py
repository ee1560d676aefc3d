"""Claims made about machines and models, each with its source, the figure it states and the runs that test it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from simulator.errors import SpecError, nearest
from simulator.result import Communication, Energy, Memory, Number, Result
from simulator.spec.base import Document, Spec, models_in, read_document, validate
from simulator.spec.model import resolve_model
from simulator.spec.run import Run, build_run, set_path
from simulator.spec.sweep import base_document

Text = Annotated[str, Field(min_length=1, max_length=1000)]

DERIVED = {
    "parameters": "all parameters",
    "active_parameters": "parameters a token passes through",
    "forward_flops_per_token": "FLOPs of a token's forward pass",
    "training_flops": "FLOPs of the whole training, attention included, each counted once",
    "six_nd": "6 x active parameters x tokens, the usual count of a training's FLOPs",
    "hours": "hours of the whole training",
    "gpu_hours": "hours of the whole training times GPUs",
    "watts_per_gpu": "mean draw of a GPU with its share of server and network, before power delivery and cooling",
    "pue": "power at the meter over that of the machines",
    "computing_s": "seconds of a step that GPUs compute",
}
"""Figures that follow from those of a result, and what they are."""
UNITS = {
    "": 1.0,
    "%": 0.01,
    "billion": 1e9,
    "trillion": 1e12,
    "MWh": 3.6e9,
    "W": 1.0,
    "J": 1.0,
    "h": 1.0,
    "GiB": 1.0,
    "ms": 1e-3,
}
"""What a figure in SI units is divided by."""
_NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
_FORMS = re.compile(rf"(?:(?P<sign>[<>])\s*)?(?P<low>{_NUMBER})(?:\s+to\s+(?P<high>{_NUMBER}))?")


def published_range(text: str) -> tuple[float, float]:
    """The values that read as `text`: 46.7 is 46.65 to 46.75, and `20 to 30`, `< 1`, `> 10` what they say."""
    found = _FORMS.fullmatch(text.strip())
    if found is None or (found["sign"] and found["high"]):
        raise ValueError(f"'{text[:40]}' is no figure; write it like '46.7', '20 to 30', '< 1' or '> 10'")
    low, below = _rounded(found["low"])
    if found["sign"] == "<":
        return -inf, low
    if found["sign"] == ">":
        return low, inf
    high, above = _rounded(found["high"]) if found["high"] else (low, below)
    if high < low:
        raise ValueError(f"'{text}' goes down; write the smaller figure first")
    return low - below, high + above


def _rounded(text: str) -> tuple[float, float]:
    """A figure, and half a unit of its last digit."""
    number = Decimal(text.replace(",", ""))
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return float(number), float(Decimal((0, (5,), exponent - 1)))


def _published(text: str) -> str:
    published_range(text)
    return text


def known_figures() -> list[str]:
    """Names of all figures a claim may be about, those of the breakdown aside (breakdown.expert_gemm)."""
    names = list(DERIVED)
    for name, field in Result.model_fields.items():
        for record in models_in(field.annotation):
            if record is Number:
                names.append(name)
            elif record in (Memory, Energy):
                names += [f"{name}.{part}" for part in record.model_fields]
            elif record is Communication:
                names += [f"{name}.{kind}.{part}" for kind in record.model_fields for part in ("total", "exposed")]
    return list(dict.fromkeys(names))


def _figure(name: str) -> str:
    if not name.startswith("breakdown.") and name not in (known := known_figures()):
        raise ValueError(f"no figure '{name[:60]}'.{nearest(name, known)}")
    return name


Figure = Annotated[str, AfterValidator(_figure)]


def _unit(name: str) -> str:
    if name not in UNITS:
        raise ValueError(f"unknown unit '{name[:20]}'.{nearest(name, [unit for unit in UNITS if unit])}")
    return name


class Hold(Spec):
    """Two machines are compared where users see the same: the most requests in flight with a figure within a limit."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    figure: Literal["tpot_s", "ttft_s"] = "tpot_s"
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    among: tuple[dict[str, Any], ...] = ()
    """Settings to choose from, such as splits: those with the most tokens per second and GPU count."""


class Side(Spec):
    """What a figure is taken from: a run with changes, or a model of the catalog."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    run: str | dict[str, Any] | None = None
    """The name of a shipped run, a run file's path relative to this file, or the run itself."""
    model: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted paths of the run and their values."""
    at: Hold | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.run is None) == (self.model is None):
            raise ValueError("expected either a run or a model")
        if self.model is not None and (self.set or self.at):
            raise ValueError("a model has nothing to set")
        return self


class Claim(Spec):
    """One claim: what it states, and what is computed to test it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: Annotated[str, Field(pattern=r"[a-z0-9][a-z0-9-]*")]
    topic: Text
    claim: Text
    """In the words of whoever makes it, or close to them."""
    source: Text
    published: Annotated[str, AfterValidator(_published)]
    """The figure as printed: `46.7`, `20 to 30`, `< 1`, `> 10`."""
    unit: Annotated[str, AfterValidator(_unit)] = ""
    neutral: float | None = None
    """The value that says there is no effect: 1 of a ratio. An interval on the right side of it holds in part."""
    figure: Figure
    of: Side
    per: Figure | None = None
    """Divide by this figure of the same run: a share."""
    over: Side | None = None
    """Divide by the figure of this one: a ratio."""
    note: Annotated[str, Field(max_length=1000)] = ""
    """What the test takes for granted."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        only = {"parameters", "active_parameters"}
        for side in (self.of, self.over):
            if side is not None and side.model is not None and self.figure not in only:
                raise ValueError(f"a model by itself has {' and '.join(sorted(only))}; {self.figure} needs a run")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """The published values, in SI units."""
        low, high = published_range(self.published)
        return low * UNITS[self.unit], high * UNITS[self.unit]


class Untested(Spec):
    """A claim that a simulator of machines can't judge."""

    claim: Text
    source: Text
    why: Text


class Claims(Spec):
    """Claims to be judged, and those that can't be."""

    title: Text
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]
    untested: tuple[Untested, ...] = ()

    @model_validator(mode="after")
    def _own_names(self) -> Self:
        names = [claim.id for claim in self.claims]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the id {name} stands twice")
        return self


def read_claims(file: str | Path) -> Claims:
    """The claims in a YAML file, every run of theirs read. Raises SpecError at the line."""
    document = read_document(file)
    claims = validate(Claims, document)
    for number, claim in enumerate(claims.claims):
        for name in ("of", "over"):
            side: Side | None = getattr(claim, name)
            if side is not None:
                _check(side, document, ("claims", str(number), name))
    return claims


def _check(side: Side, document: Document, place: tuple[str, ...]) -> None:
    try:
        if side.model is not None:
            resolve_model(side.model)
        else:
            run_of(side, Path(document.file).parent)
    except SpecError as error:
        if error.file is not None and error.file != "<claim>":
            raise
        where = f"{error.path}: " if error.path else ""
        raise document.error(f"{where}{error.message}", place) from None


def run_of(side: Side, folder: Path, changes: Iterable[tuple[str, object]] = ()) -> Run:
    """The run of a side with its settings, and more of them. Raises SpecError."""
    import copy

    assert side.run is not None
    document = base_document(side.run, folder)
    data = copy.deepcopy(document.data)
    for path, value in (*side.set.items(), *changes):
        set_path(data, path, value)
    return build_run(Document(data, {}, "<claim>", document.text))
