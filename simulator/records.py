"""The records a result is made of: numbers with intervals and their basis, and what a report draws.

Part of the schema of `simulator.result`, which hands them out; nothing here computes physics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Basis = Literal["measured", "interpolated", "extrapolated", "transferred", "datasheet", "exact"]
# Colour of a thing in every chart of a report.
Color = Literal["expert", "dense", "mem", "a2a", "comm", "wait", "host"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Number(Record):
    """A value with its 90 % interval and the weakest label that carries at least 10 % of it."""

    value: float
    low: float
    high: float
    basis: Basis

    @classmethod
    def exact(cls, value: float) -> Number:
        return cls(value=value, low=value, high=value, basis="exact")


class Exposure(Record):
    """Communication of one kind in one step: all of it, and the part that nothing hides."""

    total: Number
    exposed: Number


class Communication(Record):
    all_to_all: Exposure
    all_reduce: Exposure
    all_gather: Exposure
    reduce_scatter: Exposure
    send_recv: Exposure


class Memory(Record):
    """GiB of the fullest GPU, by component; the parts sum to peak_memory_gib."""

    parameters: Number
    gradients: Number
    optimizer_states: Number
    activations: Number
    buffers: Number
    kv_cache: Number
    framework: Number


class Energy(Record):
    """Joules of one step (training), one batch (inference); `facility` is the surcharge of power delivery and
    cooling."""

    compute: Number
    memory: Number
    network: Number
    static: Number
    facility: Number


class BreakdownItem(Record):
    """One kind of time in a step, mean over the GPUs. The `seconds` of all items sum to the step time."""

    key: str
    label: str
    group: Literal["computing", "communicating", "waiting", "host"]
    color: Color
    seconds: Number
    hidden_s: float = 0.0


class StageMemory(Record):
    """Peak memory of one GPU of a pipeline stage, GiB."""

    stage: int
    label: str
    parts: dict[str, float]
    total: Number
    peak_moment: str


class OperatorRow(Record):
    """One kind of operator in one step of the busiest stage: per-GPU totals over all its calls."""

    name: str
    color: Color
    calls: int
    flops: float
    bytes: float
    seconds: float
    relative_error: float
    bound: Literal["compute", "memory", "network", "latency"]
    share_of_step: float
    basis: Basis
    source: str


@dataclass(slots=True)
class Chunk:
    """What one pipeline stage does from `start_s` to `end_s`: a chunk of layers, for one micro-batch.

    A plain record: a timeline has thousands of them, and a checked one takes four times as long to make.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    stage: int
    start_s: float
    end_s: float
    phase: Literal["forward", "backward", "weight_grad", "prefill", "decode", "optimizer", "gradients"]
    micro_batch: int
    chunk: int


class Span(Record):
    """One operator on one stream inside a chunk; times relative to the chunk's start."""

    stream: str
    name: str
    color: Color
    start_s: float
    end_s: float


@dataclass(slots=True)
class Flow:
    """A transfer of a pipeline stage as events played it, from its first to its last byte."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    stage: int
    stream: str
    name: str
    color: Color
    start_s: float
    end_s: float


class Timeline(Record):
    """When each stage computes. `blocks` holds the operators of one chunk of each (stage, phase), by
    'stage/phase/chunk'.

    Of a deep pipeline the chunks and blocks of some stages are kept: the first, the last and evenly spaced ones
    between.
    """

    stages: int
    duration_s: float
    chunks: list[Chunk]
    blocks: dict[str, list[Span]]
    # Share of each block's time by colour, by the same key; used to colour the overview.
    shares: dict[str, dict[str, float]]
    # Transfers of the drawn stages where events were played, the first ones of a long step.
    flows: list[Flow] = Field(default_factory=list)


class Lever(Record):
    """What one change does. Deltas are negative where the change saves; the interval is that of the difference."""

    kind: Literal["hardware", "run"]
    label: str
    path: str
    change: str
    step_time_s: Number
    cost_usd: Number | None
    feasible: bool
    reason: str | None = None
    # Kind of time it acts on, for its bar; None where it acts on several.
    color: Color | None = None


class Assumption(Record):
    """One thing the result takes for granted, and how far the step time moves if it is otherwise."""

    name: str
    value: str
    path: str | None
    stated_by: Literal["run file", "framework", "catalog", "default", "model"]
    influence: str | None
    source: str


class BasisRow(Record):
    """How one kind of operator was costed."""

    kind: str
    share_of_step: float
    basis: Basis
    measurements: int
    relative_error: float
    source: str


class Precedent(Record):
    """A published run near this one, and what the simulator says of it: predicted over measured."""

    name: str
    source: str
    ratio: float
    low: float
    high: float
    distance: float


class Price(Record):
    item: str
    amount: str
    usd: Number
    # Held in another item, as electricity in rent: shown, not added.
    included: bool = False


class Provenance(Record):
    version: str
    engine: str
    certificate: str
    profile: str
    created: str
    seconds_to_simulate: float


class Infeasible(Record):
    """Why a run cannot be: its numbers are absent."""

    reason: str
    needed_gib: float | None = None
    available_gib: float | None = None
    breakdown_gib: dict[str, float] = Field(default_factory=dict)
    suggestion: str | None = None


class Latency(Record):
    """Of one latency over all requests, seconds. `quantiles` are (share of the requests, seconds that none exceeds)."""

    mean: Number
    p50: Number
    p90: Number
    p99: Number
    quantiles: list[tuple[float, float]] = Field(default_factory=list)


class LoadSample(Record):
    """Requests in the batch and waiting at an instant, and the share of the KV cache that is taken."""

    at_s: float
    running: int
    waiting: int
    cache_share: float


class RequestSpan(Record):
    """When a request arrived, left the queue, and yielded its first and its last token."""

    arrival_s: float
    start_s: float
    first_token_s: float
    end_s: float
    prompt_tokens: int
    output_tokens: int


class Requests(Record):
    """What the simulated requests of a serving engine saw. `load` samples over time; `requests` has those
    of the busiest time, one after the other.

    Prices divide the rent: over all tokens read and written, and by the time that went to prompts and to answers.
    """

    served: int
    duration_s: float
    instances: int
    requests_per_s: Number
    sustainable_requests_per_s: Number | None
    goodput_requests_per_s: Number | None
    ttft_s: Latency
    tpot_s: Latency
    itl_s: Latency
    e2e_s: Latency
    queue_s: Latency | None = None
    """From a request's arrival until the engine takes it up."""
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
    good_share: float | None = None
    """Of the requests, those within the objectives."""
    objective_requests_per_s: Number | None = None
    """The largest rate of random arrivals at which `objective_share` of the requests keep the objectives."""
    objective_share: float | None = None
    preemptions: int
    busy_share: float
    """Of the time, when the GPUs compute; those that write answers, where others read the prompts."""
    reading_share: float | None = None
    """The same of the GPUs that read prompts, where others write the answers."""
    handover_bytes: Number | None = None
    """KV cache of a mean prompt, where it crosses from the GPUs that read to those that write ..."""
    handover_s: Number | None = None
    """... and how long it takes alone."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    usd_per_million_tokens: Number | None = None
    usd_per_million_prompt_tokens: Number | None = None
    usd_per_million_answer_tokens: Number | None = None
    joules_per_token: Number | None = None
    load: list[LoadSample]
    requests: list[RequestSpan]


class Summary(Record):
    """What the run is, for sentences."""

    model: str
    parameters: int
    active_parameters: int
    device: str
    gpus: int
    network: str
    gpus_per_node: int
    scale_up_domain: int
    capacity_gib: float
    allocatable_gib: float
    precision: str
    peak_flops_per_s: float
    memory_bandwidth_bytes_per_s: float
    tokens: float | None
    parallelism: dict[str, int | bool | str]
    flops_accounting: str
    gpu_hour_usd: float | None
    notes: list[str] = Field(default_factory=list)
