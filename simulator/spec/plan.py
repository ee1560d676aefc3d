"""A plan: a run with free fields, what the answer must keep to, and what makes one answer better than another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from simulator.errors import SpecError
from simulator.spec.base import Document, Spec, read_document, validate
from simulator.spec.price_table import rents
from simulator.spec.run import apply_overrides, parse_override
from simulator.spec.selection import is_selection, select
from simulator.spec.sweep import MAX_POINTS, Sweep, Values, base_document
from simulator.units import Mass, Money, Power, Size, Time

Objective = Literal["time", "money", "energy", "carbon", "gpus", "throughput", "ttft"]
End = Literal["value", "pessimistic", "optimistic"]
SPLIT = ("tp", "pp", "vpp", "cp", "ep", "etp")
_RENT = "economics.gpu_hour"


def _whole(values: list[Any]) -> list[Any]:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"expected whole numbers from 1, got {value!r}")
    return values


class Splits(Spec):
    """Sizes that each part of a split may have. What is left out may have any that divides; cp then stays 1."""

    tp: Values | None = None
    pp: Values | None = None
    vpp: Values | None = None
    cp: Values | None = None
    ep: Values | None = None
    etp: Values | None = None

    @field_validator(*SPLIT)
    @classmethod
    def _sizes(cls, values: list[Any] | None) -> list[Any] | None:
        return None if values is None else _whole(values)


def _splits(value: object) -> object:
    return {} if value == "legal" else value


class Constraints(Spec):
    """Limits of the answer; each is absent or one number with its unit."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    deadline: Time | None = None
    """Of the whole training."""
    budget: Money | None = None
    """Rent of the whole training."""
    price: Money | None = None
    """Of a million output tokens."""
    memory_headroom: Size | None = None
    """Free on the fullest GPU, at least."""
    power: Power | None = None
    """Mean draw of the cluster at the meter."""
    carbon: Mass | None = None
    """Emitted by the whole training."""
    gpus: Annotated[int, Field(gt=0)] | None = None
    """At most."""
    ttft: Time | None = None
    tpot: Time | None = None
    throughput: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Tokens per second of the cluster, at least."""
    goodput: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Requests per second that keep the objectives of `serving.ttft_slo` and `serving.tpot_slo`, at least."""
    ttft_p99: Time | None = None
    """Of 99 of 100 requests, as those arrive."""
    tpot_p99: Time | None = None

    def stated(self) -> dict[str, float]:
        """The limits there are, by name, in SI units."""
        return {name: float(value) for name in type(self).model_fields if (value := getattr(self, name)) is not None}


# Limits and objectives that only one kind of run has.
ONLY = {
    "training": {"deadline", "budget", "carbon"},
    "inference": {"price", "ttft", "tpot", "goodput", "ttft_p99", "tpot_p99"},
}
_ARRIVING = {"goodput", "ttft_p99", "tpot_p99"}


class Search(Spec):
    """A part of a space that is too large to time whole, chosen by Optuna."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    points: Annotated[int, Field(gt=0, le=MAX_POINTS)] = 50_000
    """To be timed, at least; with every split of the last combination chosen."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


def _objectives(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Plan(Spec):
    """What may vary, within which limits, and what to look for."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1, max_length=300)]
    title: Annotated[str, Field(max_length=300)] = ""
    """Heading of the report."""
    run: str | dict[str, Any]
    """What all points share: a run file's path, relative to this file; the name of a shipped run; or the run itself."""
    prices: str | dict[str, str] | None = None
    """Rent of one GPU by device: the name of a shipped table, or `device: 2.95 USD/h`."""
    vary: dict[
        str,
        Annotated[
            Values,
            WithJsonSchema({"anyOf": [{"type": "array"}, {"type": "object"}, {"type": "string"}]}),
        ],
    ] = Field(default_factory=dict)
    """Dotted path of the run: a list, a range of numbers, or a choice such as `devices where memory >= 80 GiB`."""
    splits: Annotated[Splits | None, BeforeValidator(_splits)] = None
    """`legal`: every split that divides; or the sizes that parts of it may have."""
    constraints: Constraints = Constraints()
    objectives: Annotated[tuple[Objective, ...], BeforeValidator(_objectives), Field(min_length=1, max_length=4)] = (
        "money",
        "time",
    )
    """The first ranks; the front is that of all of them."""
    decide_on: End = "value"
    """Which end of the 90 % interval has to keep the limits and is ranked."""
    search: Search | None = None
    """Time only a part of the points, for spaces beyond a million; every point otherwise."""

    @field_validator("prices", mode="before")
    @classmethod
    def _known_prices(cls, value: object) -> object:
        for device, price in value.items() if isinstance(value, Mapping) else ():
            if not isinstance(price, str):
                raise ValueError(f"{device}: {price!r} has no unit; a price per hour is written like '2.95 USD/h'")
        if isinstance(value, str | Mapping):
            try:
                rents(value)
            except SpecError as error:
                raise ValueError(error.message) from None
        return value

    @model_validator(mode="after")
    def _something_varies(self) -> Self:
        if not self.vary and self.splits is None:
            raise ValueError("nothing varies; give `vary` or `splits`")
        if self.splits is not None:
            for path in self.vary:
                if path == "parallelism" or (path.startswith("parallelism.") and path[12:] in SPLIT):
                    raise ValueError(f"{path} stands in `vary` and `splits` sets it too; keep one")
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError("an objective stands twice")
        return self

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The values of every path that varies, splits aside."""
        return dict(self.vary)


def read_plan(file: str | Path, overrides: Iterable[str] = ()) -> Plan:
    """The plan in a YAML file, its run read and every value checked. Raises SpecError at the line.

    An override such as `constraints.deadline=20 d` changes the plan, one of a path of the run changes that.
    """
    document = read_document(file)
    texts = list(overrides)
    fields = set(Plan.model_fields) - {"run", "name"}
    own = [text for text in texts if parse_override(text)[0].partition(".")[0] in fields]
    rest = [text for text in texts if text not in own]
    document = _chosen(apply_overrides(document, own))
    plan = validate(Plan, document)
    run = apply_overrides(base_document(plan.run, Path(file).parent, document), rest)
    plan = plan.model_copy(update={"run": run.data})
    _check(plan, run, document)
    return plan


def _chosen(document: Document) -> Document:
    """The document with what it selects from catalogs written out. Raises SpecError at the line of a selection."""
    vary = document.data.get("vary")
    if not isinstance(vary, dict) or not any(is_selection(values) for values in vary.values()):
        return document
    prices = document.data.get("prices")
    try:
        priced = rents(prices) if isinstance(prices, str | dict) else {}
    except (SpecError, ValueError, AttributeError):
        priced = {}  # validation will say what is wrong with them
    written = dict(vary)
    for path, values in vary.items():
        try:
            written[path] = select(values, priced) if is_selection(values) else values
        except ValueError as error:
            raise document.error(str(error), ("vary", path)) from None
    return Document({**document.data, "vary": written}, document.lines, document.file, document.text)


def _check(plan: Plan, run: Document, document: Document) -> None:
    from simulator.spec.grid import Grid

    places = {("axes", *path[1:]): line for path, line in document.lines.items() if path[:1] == ("vary",)}
    try:
        grid = Grid(Sweep.model_construct(name=plan.name, run=run.data, axes=plan.axes), run)
        grid.check(Document(document.data, {**document.lines, **places}, document.file, document.text))
    except SpecError as error:
        if error.path is None or not error.path.startswith("axes."):
            raise
        path = error.path.replace("axes.", "vary.", 1)
        raise SpecError(error.message, file=error.file, line=error.line, path=path) from None
    kind = "training" if grid.base.kind == "training" else "inference"
    for other, names in ONLY.items():
        for name in names & set(plan.constraints.stated()):
            if other != kind:
                raise document.error(f"{name} is a limit of {other}; the run is of kind {kind}", ("constraints", name))
    for name in _ARRIVING & set(plan.constraints.stated()):
        if grid.base.kind != "serving":
            message = f"{name} needs requests that arrive: a run of kind serving, this is of kind {grid.base.kind}"
            raise document.error(message, ("constraints", name))
    slo = grid.base.serving
    if plan.constraints.goodput is not None and (slo is None or slo.ttft_slo is slo.tpot_slo is None):
        raise document.error(
            "goodput counts requests within serving.ttft_slo or tpot_slo; the run states neither",
            ("constraints", "goodput"),
        )
    for name, only in (("ttft", "inference"), ("carbon", "training")):
        if name in plan.objectives and kind != only:
            raise document.error(f"{name} is an objective of {only}; the run is of kind {kind}", ("objectives",))
    if kind == "training" and {"deadline", "budget"} & set(plan.constraints.stated()):
        assert grid.base.training is not None
        if grid.base.training.tokens is None and "training.tokens" not in plan.vary:
            raise document.error("a deadline or budget needs training.tokens in the run", ("constraints",))
    _check_prices(plan, grid.base.economics.gpu_hour is not None, document)


def _check_prices(plan: Plan, run_has_price: bool, document: Document) -> None:
    """Every device that may be chosen has a price, where money matters."""
    if plan.prices is None:
        wants_money = "money" in plan.objectives or {"budget", "price"} & set(plan.constraints.stated())
        if wants_money and not run_has_price and _RENT not in plan.vary:
            message = f"money matters here and no price is given; add `prices` or {_RENT} to the run"
            raise document.error(message, ("objectives",))
        return
    if _RENT in plan.vary:
        raise document.error(f"{_RENT} stands in `vary` and `prices` sets it too; keep one", ("prices",))
    known = rents(plan.prices)
    for device in devices_of(plan):
        if device not in known:
            have = ", ".join(sorted(known))
            raise document.error(f"no price for {device} (there are prices for: {have})", ("prices",))


def devices_of(plan: Plan) -> list[str]:
    """The device of each point along the axis that decides it: names as the plan writes them."""
    assert isinstance(plan.run, dict)
    for path, values in plan.vary.items():
        if path == "hardware.device":
            return [_device_name(value) for value in values]
        if path == "hardware":
            return [_device_name(value.get("device")) for value in values]
    return [_device_name((plan.run.get("hardware") or {}).get("device"))]


def device_axis(plan: Plan) -> str | None:
    """The path that decides the device; None where all points have the same."""
    return next((path for path in plan.vary if path in ("hardware.device", "hardware")), None)


def _device_name(value: object) -> str:
    if isinstance(value, Mapping):
        return str(value.get("extends") or value.get("name") or "custom")
    return str(value)
