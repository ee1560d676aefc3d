"""A fitted profile: what calibration learned about one device, and the predictions it makes.

The YAML holds parameters, measured ranges, errors on held-out shapes and provenance; the residual tables lie beside it,
one byte a knot, in an .npz file that it names with its digest. The YAML is written in the JSON subset, which a reader
gets through in a millisecond; one edited by hand is read as YAML.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from simulator.errors import CalibrationError, CoverageError, SpecError, nearest
from simulator.spec.base import Document, Spec, data_root, first_error, parse_document, read_document
from simulator.spec.forms import COLUMNS, Operation, Sheet
from simulator.spec.prediction import FittedModel, Prediction, joined
from simulator.spec.residual import Axis, Table

FOLDER = "hardware_profiles/fitted"
Z90 = 1.645


class TableHead(Spec):
    """Where the values of a residual table lie in the .npz, and what they span."""

    axes: tuple[tuple[str, float, float, int], ...]
    """Feature, first knot, step, number of knots."""
    scale: float
    """Log ratio of one unit of the stored bytes."""
    gate: str | None = None
    only: dict[str, float] = Field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of knots."""
        return math.prod(axis[3] for axis in self.axes)


class Spread(Spec):
    """90 % of |log(measured/predicted)| lie below this, on shapes held out of the fit."""

    known: float = Field(gt=0)
    """Inside the measured range, where this very model or head shape was measured at other sizes."""
    inside: float = Field(gt=0)
    """Inside the measured range."""
    per_octave: float = Field(ge=0)
    """Added for every octave outside it."""


class HeldOut(Spec):
    """Errors on rows whose whole shape (or range) was kept from a fit made for this purpose: predicted/measured - 1."""

    rows: int
    mean_absolute: float
    bias: float
    p50: float
    p90: float
    p99: float
    covered: float | None = None
    """Share of measurements inside the 90 % interval that other held-out groups set."""


class Fit(Spec):
    """One fitted form: an operation in one precision, by one kernel of one library."""

    op: Operation
    dtype: str
    kernel: str
    library: str
    version: str
    source: str
    date: str = ""
    group_size: int = 1
    carried_from: str = ""
    """The device it was measured on, where that is another one."""
    measurements: int = Field(ge=1)
    sheet: dict[str, float]
    parameters: dict[str, float]
    covered: dict[str, tuple[float, float]]
    """Smallest and largest value of every shape column."""
    bounds: dict[str, tuple[float, float]]
    """The same of the features that distance is counted in."""
    spread: Spread
    held_out: dict[str, HeldOut] = Field(default_factory=dict)
    tables: tuple[TableHead, ...] = ()

    @model_validator(mode="after")
    def _numbers_are_finite(self) -> Self:
        for name, value in (*self.parameters.items(), *self.sheet.items()):
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
        return self

    @property
    def knots(self) -> int:
        """Knots of all its residual tables."""
        return sum(table.size for table in self.tables)


class Profile(Spec):
    """Everything fitted for a device. Of several fits of one operation and precision the first is the default."""

    format: Literal[1] = 1
    device: str
    date: str
    source: str
    notes: str = ""
    residuals: str = ""
    """SHA-256 of the .npz beside the file; empty where no fit has tables."""
    fits: tuple[Fit, ...]
    _values: Mapping[str, NDArray[np.int8]] = PrivateAttr(default_factory=dict)
    _models: dict[int, FittedModel] = PrivateAttr(default_factory=dict)
    """Predictors by position of the fit, made when first asked for."""

    def __eq__(self, other: object) -> bool:  # tables are what their digest says
        return isinstance(other, Profile) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash((self.device, self.date, self.source, self.residuals, len(self.fits)))

    def with_values(self, values: Mapping[str, NDArray[np.int8]]) -> Profile:
        """The same profile with its tables' values, by position of the fit. Raises CalibrationError where they don't
        match.
        """
        for place, fit in enumerate(self.fits):
            if fit.tables and (str(place) not in values or values[str(place)].size != fit.knots):
                raise CalibrationError(
                    f"profile of {self.device}: the residual tables of fits.{place} are not {fit.knots} values"
                )
        profile = self.model_copy()
        profile._values = values
        profile._models = {}  # a copy shares what it was copied from
        return profile

    @property
    def values(self) -> Mapping[str, NDArray[np.int8]]:
        """Knots of the residual tables, by position of the fit."""
        return self._values

    def model(self, fit: Fit) -> FittedModel:
        """The predictor of one of the profile's fits."""
        place = next(i for i, mine in enumerate(self.fits) if mine is fit)
        if place not in self._models:
            self._models[place] = FittedModel(
                op=fit.op,
                parameters=fit.parameters,
                sheet=Sheet(**{**fit.sheet, "sms": int(fit.sheet["sms"])}),  # type: ignore[arg-type]
                bounds=fit.bounds,
                tables=_tables(fit, self._values.get(str(place))),
                known=fit.spread.known / Z90,
                inside=fit.spread.inside / Z90,
                per_octave=fit.spread.per_octave / Z90,
                transferred=bool(fit.carried_from),
            )
        return self._models[place]

    def find(self, op: str, dtype: str, kernel: str | None = None) -> list[Fit]:
        """Fits of an operation and precision, default first; only those whose kernel or library is named, where one
        is.
        """
        return [
            fit
            for fit in self.fits
            if fit.op == op and fit.dtype == dtype and (kernel is None or kernel in (fit.kernel, fit.library))
        ]

    def covers(self, op: str, dtype: str, kernel: str | None = None) -> bool:
        """Whether there is a fit of it."""
        return bool(self.find(op, dtype, kernel))

    def _first(self, op: str, dtype: str, kernel: str | None) -> Fit:
        found = self.find(op, dtype, kernel)
        if not found:
            has = sorted({f"{fit.op} {fit.dtype} ({fit.kernel}, {fit.library})" for fit in self.fits if fit.op == op})
            raise CoverageError(
                f"the profile of {self.device} has no {op} in {dtype}{f' by {kernel}' if kernel else ''}; "
                + (f"it has {', '.join(has)}" if has else f"it has no {op} at all")
            )
        return found[0]

    def _predict(
        self, op: str, dtype: str, kernel: str | None, rate_limit: float | None, shape: Mapping[str, ArrayLike]
    ) -> Prediction:
        return self.model(self._first(op, dtype, kernel)).predict(shape, rate_limit)

    def gemm_seconds(
        self,
        dtype: str,
        m: ArrayLike,
        n: ArrayLike,
        k: ArrayLike,
        *,
        kernel: str | None = None,
        rate_limit: float | None = None,
    ) -> Prediction:
        """Seconds of products (m, k) x (k, n); shapes broadcast. `rate_limit` is the FLOP/s that power sustains.

        Low-precision kernels include the quantisation of their rows. Raises CoverageError where nothing fits `dtype`.
        """
        return self._predict("gemm", dtype, kernel, rate_limit, {"m": m, "n": n, "k": k})

    def moe_seconds(
        self,
        dtype: str,
        *,
        tokens: ArrayLike,
        hidden: ArrayLike,
        inter: ArrayLike,
        topk: ArrayLike,
        experts: ArrayLike,
        tp: ArrayLike = 1,
        ep: ArrayLike = 1,
        skew: ArrayLike = 0.0,
        gated: ArrayLike = 1,
        kernel: str | None = None,
        rate_limit: float | None = None,
    ) -> Prediction:
        """Seconds of one expert layer's kernels on the busiest rank, without the exchange of tokens.

        `tokens` counts those of all `ep` ranks together; `skew` is the exponent of the routing's power law, 0 if
        balanced.
        """
        shape = {"tokens": tokens, "hidden": hidden, "inter": inter, "topk": topk, "experts": experts}
        rest = {"tp": tp, "ep": ep, "skew": skew, "gated": gated}
        return self._predict("moe", dtype, kernel, rate_limit, {**shape, **rest})

    def prefill_seconds(
        self,
        dtype: str,
        *,
        batch: ArrayLike,
        seq: ArrayLike,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: ArrayLike,
        window: ArrayLike = 0,
        kernel: str | None = None,
        rate_limit: float | None = None,
    ) -> Prediction:
        """Seconds of causal attention over whole sequences; `window` 0 is full attention."""
        shape = {"batch": batch, "seq": seq, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
        return self._predict("prefill", dtype, kernel, rate_limit, {**shape, "window": window})

    def decode_seconds(
        self,
        dtype: str,
        *,
        batch: ArrayLike,
        seq: ArrayLike,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: ArrayLike,
        window: ArrayLike = 0,
        kernel: str | None = None,
    ) -> Prediction:
        """Seconds of attention of one new token a sequence against `seq` cached ones."""
        shape = {"batch": batch, "seq": seq, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
        return self._predict("decode", dtype, kernel, None, {**shape, "window": window})

    def collective_seconds(
        self, kind: str, size: ArrayLike, group_size: int, *, dtype: str = "bytes", kernel: str | None = None
    ) -> Prediction:
        """Seconds of a collective of `size` bytes (nccl-tests' meaning: one rank's full buffer) inside a scale-up
        domain.

        Between measured group sizes the logarithm of time is interpolated in log2 of the group; beyond the largest one
        its efficiency and the growth of latency between the two largest are carried on, and the error grows.
        """
        fits = sorted(
            self.find(kind, dtype, kernel or self._first(kind, dtype, kernel).kernel), key=lambda f: f.group_size
        )
        if group_size == 1:
            zeros = np.zeros_like(np.atleast_1d(np.asarray(size, dtype=np.float64)))
            return Prediction(zeros, zeros, np.full(zeros.shape, "exact"))
        return joined([(fit.group_size, self.model(fit)) for fit in fits], size, group_size)

    def exchange_seconds(
        self,
        phase: Literal["dispatch", "combine"],
        dtype: str,
        *,
        tokens: ArrayLike,
        hidden: ArrayLike,
        topk: ArrayLike,
        experts: ArrayLike,
        group_size: ArrayLike,
        nodes: ArrayLike = 1,
        sms: ArrayLike = 0,
        kernel: str | None = None,
    ) -> Prediction:
        """Seconds of the token exchange of expert parallelism; `tokens` is what one rank sends."""
        fit = self._first(phase, dtype, kernel)
        if "en" not in fit.parameters and np.any(np.asarray(nodes) > 1):
            raise CoverageError(f"the profile of {self.device} has no {phase} by {fit.kernel} across nodes")
        shape = {"tokens": tokens, "hidden": hidden, "topk": topk, "experts": experts}
        return self._predict(
            phase, dtype, kernel, None, {**shape, "group_size": group_size, "nodes": nodes, "sms": sms}
        )


def _tables(fit: Fit, values: NDArray[np.int8] | None) -> tuple[Table, ...]:
    tables, start = [], 0
    for head in fit.tables:
        assert values is not None, "with_values checked it"
        raw = values[start : start + head.size]
        start += head.size
        axes = tuple(Axis(name, first, step, count) for name, first, step, count in head.axes)
        shaped = (raw.astype(np.float32) * np.float32(head.scale)).reshape([axis.count for axis in axes])
        tables.append(Table(axes, shaped, gate=head.gate, only=head.only))
    return tuple(tables)


def profile_names() -> list[str]:
    """Devices whose profiles ship."""
    return sorted(path.stem for path in (data_root() / FOLDER).glob("*.yaml"))


def read_profile(name_or_path: str | Path, *, device: str | None = None) -> Profile:
    """The profile of a shipped name or of a path ending in .yaml.

    Raises SpecError for a name or field that is wrong, CalibrationError for a damaged file, for tables that are missing
    or not those it was written with, and for the profile of another device than `device`.
    """
    text = str(name_or_path)
    path = Path(text) if text.endswith(".yaml") else data_root() / FOLDER / f"{text}.yaml"
    if not text.endswith(".yaml") and text not in profile_names():
        raise SpecError(f"unknown profile '{text[:200]}'.{nearest(text, profile_names())}")
    profile = _validated(_document(path))
    if device is not None and profile.device != device:
        raise CalibrationError(f"{path}: a profile of {profile.device}, where {device} is meant")
    if not profile.residuals:
        return profile.with_values({})
    return profile.with_values(_read_values(path.with_suffix(".npz"), profile.residuals))


def _document(path: Path) -> Document:
    """The file as a document: as JSON where it is some, else as YAML with its line numbers."""
    try:
        raw = path.read_text(encoding="utf-8")
        if raw.startswith("{") and isinstance(data := json.loads(raw), dict):
            return Document(data, {(): 1}, str(path), raw)
    except (OSError, UnicodeDecodeError):
        return read_document(path)  # which says what is wrong with it
    except ValueError as error:
        if raw.startswith("{\n"):
            raise CalibrationError(f"{path}: damaged or half-written: {error}") from None
    return parse_document(raw, str(path))


def _validated(document: Document) -> Profile:
    try:
        profile = Profile.model_validate(document.data)
    except ValidationError as error:
        raise first_error(error, Profile, document) from None
    for place, fit in enumerate(profile.fits):
        if missing := set(COLUMNS[fit.op]) - set(fit.covered):
            raise document.error(f"no measured range of {', '.join(sorted(missing))}", ("fits", str(place), "covered"))
    return profile


def _read_values(path: Path, digest: str) -> dict[str, NDArray[Any]]:
    try:
        raw = path.read_bytes()
    except OSError:
        raise CalibrationError(f"{path}: the residual tables of the profile are missing") from None
    if hashlib.sha256(raw).hexdigest() != digest:
        raise CalibrationError(
            f"{path}: not the tables the profile was written with: damaged, or of another calibration"
        )
    with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
