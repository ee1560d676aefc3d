"""A run: model, machines, split and work, read from YAML; every field has a dotted path.

`--set parallelism.tp=4`, the axes of a sweep and the columns of a validation table are such paths.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from simulator.errors import SpecError
from simulator.spec.base import Document, Spec, first_error, parse_document, read_document
from simulator.spec.evidence import AUTO, NONE
from simulator.spec.framework import Framework, engine_file, read_framework
from simulator.spec.hardware import Hardware
from simulator.spec.model import ModelSpec, resolve_model
from simulator.spec.serving import Serving
from simulator.spec.workload import Economics, Execution, Inference, Parallelism, Reliability, Routing, Training

DEFAULT_ENGINE = "vllm"


def _model(value: Any) -> ModelSpec:
    if isinstance(value, ModelSpec):
        return value
    try:
        return resolve_model(value)
    except SpecError as error:
        raise _below("model", error) from None


def _below(field: str, error: SpecError) -> SpecError:
    """The error of a nested record with the field's own path in front; errors in other files keep their place."""
    if error.file is not None:
        return error
    return SpecError(error.message, path=f"{field}.{error.path}" if error.path else field)


class Run(Spec):
    """Everything `simulate` needs. `framework` fills what the run leaves open."""

    name: Annotated[str, Field(min_length=1, max_length=300)]
    kind: Literal["training", "inference", "serving"]
    model: Annotated[ModelSpec, BeforeValidator(_model, json_schema_input_type=str | ModelSpec)]
    hardware: Hardware
    parallelism: Parallelism = Parallelism()
    training: Training | None = None
    inference: Inference | None = None
    serving: Serving | None = None
    """How requests arrive, where the kind is serving; the block `inference` says what they are."""
    routing: Routing = Routing()
    framework: str = "megatron-core"
    execution: Execution = Execution()
    economics: Economics = Economics()
    reliability: Reliability | None = None
    profile: str = Field(default_factory=lambda data: NONE if data.get("kind") == "training" else AUTO)
    """What measured kernels are believed. `auto`: those that all software shares, of the device's own fitted profile or
    carried over from others' (the default of inference and serving). A name in hardware_profiles/fitted or the path of
    a profile: all of that one. `none`: priors alone (the default of training, whose constants are fitted with them)."""

    source_text: str = Field(default="", exclude=True, repr=False)
    """The file the run was read from, for the report; set by `read_run`."""

    @model_validator(mode="after")
    def _one_kind_of_work(self) -> Run:
        if (self.training is None) == (self.kind == "training"):
            raise ValueError(f"kind is {self.kind}, so the block '{self.needed}' is needed and no other work")
        if (self.inference is None) == (self.kind != "training"):
            raise ValueError(f"kind is {self.kind}, so the block '{self.needed}' is needed and no other work")
        if self.kind == "serving" and self.inference is not None and self.inference.batching == "static":
            self.__dict__["inference"] = self.inference.model_copy(update={"batching": "continuous"})
        if self.serving is not None and self.kind != "serving":
            raise ValueError("the block 'serving' needs kind: serving")
        if self.kind != "training" and (self.hardware.faults or self.hardware.stragglers):
            raise ValueError("faults and stragglers of the hardware are played in training runs only")
        try:
            read_framework(self.software)
        except SpecError as error:
            if error.file is not None:
                raise
            raise SpecError(error.message, path="framework") from None
        return self

    @model_validator(mode="after")
    def _has_a_draft(self) -> Run:
        draft = self.inference.speculative if self.inference is not None else None
        if draft is not None and draft.draft_model is None and not self.model.num_nextn_predict_layers:
            raise SpecError(
                f"{self.model.name} has no multi-token prediction modules; name a draft_model",
                path="inference.speculative",
            )
        return self

    @model_validator(mode="after")
    def _pools_are_the_machine(self) -> Run:
        pools = self.serving.disaggregated if self.serving is not None else None
        if pools is None:
            return self
        if "parallelism" in self.model_fields_set:
            raise SpecError("the pools of serving.disaggregated have splits of their own", path="parallelism")
        gpus = pools.prefill.gpus + pools.decode.gpus
        if gpus != self.hardware.gpus:
            text = f"the pools have {pools.prefill.gpus} + {pools.decode.gpus} = {gpus} GPUs"
            raise SpecError(f"{text}, hardware.gpus is {self.hardware.gpus}", path="serving.disaggregated")
        return self

    @property
    def needed(self) -> str:
        """The block that says what work a run of this kind does."""
        return "training" if self.kind == "training" else "inference"

    @cached_property
    def defaults(self) -> Framework:
        """The framework's record."""
        return read_framework(self.software)

    @property
    def software(self) -> str:
        """The training framework or serving engine: stated, or what most runs of the kind use."""
        if self.inference is None:
            return self.framework
        stated = self.framework if "framework" in self.model_fields_set else DEFAULT_ENGINE
        return engine_file(self.inference.framework or stated, self.inference.framework_version)


def with_field(run: Run, path: str, value: object) -> Run:
    """The run with one field of one block replaced, as in ("parallelism.tp", 4).

    Raises ValueError where the block's own rules refuse it.
    """
    block, _, field = path.partition(".")
    record: Spec = getattr(run, block)
    stated = {name: getattr(record, name) for name in record.model_fields_set}
    return run.model_copy(update={block: type(record).model_validate({**stated, field: value})})


def set_path(data: dict[str, Any], path: str, value: object) -> None:
    """Set `a.b.c` in nested mappings. A catalog name on the way (`device: h100-sxm`) becomes `{extends: name}`."""
    *parents, last = path.split(".")
    for part in parents:
        inner = data.get(part)
        if inner is None:
            inner = data[part] = {}
        elif isinstance(inner, str):
            inner = data[part] = {"extends": inner}
        elif not isinstance(inner, dict):
            raise SpecError(f"{part} is no block, so {path} can't be set", path=path)
        data = inner
    data[last] = value


def parse_override(text: str) -> tuple[str, object]:
    """`path=value` with the value read as YAML. Raises SpecError where there is no path or no '='."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise SpecError(f"'{text}' is not of the form path=value, such as parallelism.tp=4")
    return path.strip(), parse_document(f"value: {value}", "--set").data["value"]


def apply_overrides(document: Document, overrides: Iterable[str]) -> Document:
    """`document` with `path=value` texts applied to a copy of its data."""
    data = copy.deepcopy(document.data)
    for text in overrides:
        path, value = parse_override(text)
        set_path(data, path, value)
    return Document(data, document.lines, document.file, document.text)


def build_run(document: Document) -> Run:
    """The run a document describes. Raises SpecError with file, line and field path."""
    try:
        run = Run.model_validate(document.data)
    except ValidationError as error:
        raise first_error(error, Run, document) from None
    except SpecError as error:
        if error.file is not None:
            raise
        raise document.error(error.message, tuple(error.path.split(".")) if error.path else ()) from None
    return run.model_copy(update={"source_text": document.text})


def read_run(file: str | Path, overrides: Iterable[str] = ()) -> Run:
    """The run in a YAML file with overrides such as `parallelism.tp=4` applied."""
    return build_run(apply_overrides(read_document(file), overrides))


def run_from_mapping(data: Mapping[str, Any], origin: str = "<mapping>") -> Run:
    """A run from nested plain data, as a sweep point or a validation row makes it."""
    return build_run(Document(dict(data), {}, origin, ""))
