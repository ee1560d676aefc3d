"""What the machines are asked to do: a training step, a static inference batch, and how it is executed and paid."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from simulator.spec.base import Spec
from simulator.spec.speculative import Speculative
from simulator.units import CarbonPerEnergy, PriceOfEnergy, PricePerHour, Time

Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "fp8_block", "mxfp8", "nvfp4", "mxfp4", "int8", "int4"]
# Bytes of one stored element; the 4-bit and micro-scaled formats carry a scale per block of 16 (nvfp4) or 32 (mx).
ELEMENT_BYTES: dict[str, float] = {
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0 + 4 / (128 * 128),
    "mxfp8": 1.0 + 1 / 32,
    "int8": 1.0,
    "nvfp4": 0.5 + 1 / 16,
    "mxfp4": 0.5 + 1 / 32,
    "int4": 0.5 + 2 / 128,
}

Recompute = Literal["none", "selective", "full"]
Sharding = Literal["none", "zero1", "zero2", "zero3"]
Schedule = Literal["gpipe", "1f1b", "zb-h1", "dualpipe"]
Dispatcher = Literal["alltoall", "allgather", "deepep", "hybridep"]
CudaGraph = Literal["none", "transformer_engine", "full_iteration"]
AttentionKernel = Literal["unfused", "flash1", "flash2", "flash3", "cudnn"]
AllReduce = Literal["auto", "ring", "tree", "nvls", "hierarchical"]
Positive = Annotated[int, Field(gt=0, lt=2**40)]


def _whole(value: object) -> object:
    """A whole number may be written 2.0e12."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole), Field(gt=0, lt=2**62)]


class Training(Spec):
    """One optimizer step. `recompute` and `sharding` default to what the framework does."""

    global_batch: Positive
    """Sequences per step, over all data-parallel ranks."""
    seq_len: Annotated[int, Field(gt=0, le=2**27)]
    micro_batch: Positive = 1
    """Sequences per forward pass of one rank."""
    precision: Precision = "bf16"
    recompute: Recompute | None = None
    recompute_modules: tuple[Literal["core_attn", "mlp", "moe_act", "layernorm", "mla_up_proj", "moe"], ...] | None = (
        None
    )
    """What `selective` recomputes; the framework's choice where absent."""
    activation_precision: Literal["bf16", "fp8"] = "bf16"
    """In what GEMM inputs wait for the backward pass; `fp8` is DeepSeek-V3's (arXiv 2412.19437 section 3.3.3)."""
    sharding: Sharding | None = None
    optimizer: Literal["adam", "adafactor", "sgd"] = "adam"
    offload: Literal["none", "optimizer"] = "none"
    """`optimizer` keeps its states in host memory and updates there (ZeRO-Offload)."""
    schedule: Schedule = "1f1b"
    """In which order pipeline stages run their passes; with vpp above 1, 1f1b is interleaved. `zb-h1` runs weight
    gradients apart, where the pipeline would idle; `dualpipe` feeds it from both ends and holds parameters twice."""
    tokens: Count | None = None
    """Tokens of the whole training, for days, money and energy."""


Lengths = Literal["fixed", "uniform_0.8_1"]
CHAT_PROMPT_TOKENS = 256
"""Prompt of an ordinary chat request, where a run states none (ShareGPT's first turns: a median of about 200
tokens)."""


def _one_batch(data: dict[str, Any]) -> bool:
    return data.get("request_rate") is None and data.get("concurrency") != "max"


class Inference(Spec):
    """Requests of `isl` prompt and `osl` output tokens each.

    `batching: static` is one batch of `concurrency` prompts, decoded in lockstep. `continuous` keeps `concurrency`
    requests in flight, each replaced as it finishes (a closed loop); with `request_rate` requests arrive at random at
    that rate; with `concurrency: max` all requests wait from the start and memory bounds how many are in flight.
    """

    isl: Annotated[int, Field(gt=0, le=2**27)] = CHAT_PROMPT_TOKENS
    """Where it is not stated, TPOT is that of steady decode, undisturbed by prompts."""
    osl: Annotated[int, Field(gt=0, le=2**27)]
    concurrency: Positive | Literal["max"] = 1
    request_rate: Annotated[float, Field(gt=0)] | None = None
    """Requests per second (Poisson); infinite where all arrive at once."""
    batching: Literal["static", "continuous"] = Field(
        default_factory=lambda data: "static" if _one_batch(data) else "continuous"
    )
    """Absent: one batch where a number of requests is all that is said."""
    lengths: Lengths = "fixed"
    """`uniform_0.8_1`: drawn between 0.8 of the longest and the longest; `isl` and `osl` are the means, 0.9 of it."""
    requests: Positive | None = None
    """How many there are; the benchmark's usual number where absent."""
    precision: Precision = "bf16"
    kv_cache_precision: Literal["fp16", "bf16", "fp8"] | None = None
    speculative: Speculative | None = None
    """Speculative decoding; one token a step where absent."""
    framework: str | None = None
    """The serving engine, a name in workloads/frameworks."""
    framework_version: Annotated[str, BeforeValidator(str)] | None = None
    """Finds the file of a version, where the catalog has one: trtllm-0.10 for 0.17."""

    @model_validator(mode="after")
    def _rules(self) -> Inference:
        if self.batching == "static" and (self.request_rate is not None or self.concurrency == "max"):
            raise ValueError("requests that arrive or fill the memory need batching: continuous")
        return self

    @property
    def in_flight(self) -> int:
        """Requests in flight as the run states them; 1 where memory or arrivals decide."""
        return 1 if self.concurrency == "max" or self.request_rate is not None else self.concurrency


class Routing(Spec):
    """How tokens spread over experts."""

    redundant_experts: Annotated[int, Field(ge=0, lt=2**20)] = 0
    """Copies of popular experts beyond one of each, over all expert ranks, in inference and serving (EPLB)."""
    balance: Literal["uniform", "zipf", "power_law", "counts"] = "uniform"
    """Expert popularity in training: even, e^-skew by rank, drawn from a density x^-skew, or measured `counts`."""
    skew: Annotated[float, Field(ge=0.0, le=3.0)] | None = None
    """Exponent of expert popularity; 0 is even. Absent in serving: that of ordinary text (Zipf)."""
    counts: str | None = None
    """A CSV of measured rows: columns expert,count or layer,expert,count."""
    correlation: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Rank correlation of popularity between the experts of one number in two layers. A rank that is full in one layer
    is then full in others, which memory feels."""
    placement: Literal["as_numbered", "balanced"] = Field(
        default_factory=lambda data: "balanced" if data.get("redundant_experts") else "as_numbered"
    )
    """Which rank holds which expert; `balanced` deals them by popularity, as load balancers do."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    imbalance: Annotated[float, Field(ge=1.0, le=1e6)] = 1.0
    """Rows of the fullest expert rank over the mean of all ranks; the slowest rank sets the time."""
    capacity_factor: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Rows an expert accepts over its fair share; excess tokens are dropped. None where nothing is capped."""
    dropless: bool | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Routing:
        if self.balance in ("zipf", "power_law") and self.skew is None:
            raise ValueError(f"balance {self.balance} needs skew, such as 0.8")
        if (self.balance == "counts") != (self.counts is not None):
            raise ValueError("balance counts and a file of counts go together")
        if self.balance != "uniform" and "imbalance" in self.model_fields_set:
            raise ValueError(f"imbalance is stated, and balance {self.balance} implies another: drop one of them")
        if self.correlation and self.balance not in ("zipf", "power_law"):
            raise ValueError(f"correlation is of popularities that are drawn (zipf, power_law), not of {self.balance}")
        if self.redundant_experts and self.placement == "as_numbered":
            raise ValueError("redundant_experts are placed by popularity: drop placement as_numbered")
        if self.redundant_experts and "imbalance" in self.model_fields_set:
            raise ValueError("imbalance is stated, and redundant_experts imply another: drop one of them")
        return self


class Execution(Spec):
    """How the software runs the step; what is absent is what the framework does by default."""

    moe_dispatcher: Dispatcher | None = None
    cuda_graph: CudaGraph | None = None
    compile: bool | None = None
    async_tp: bool | None = None
    a2a_overlap: bool | None = None
    tp_overlap: bool | None = None
    dp_overlap: bool | None = None
    gradient_bucket: Positive | None = None
    """Parameters of a bucket of overlapped gradients; the framework's where absent."""
    p2p_overlap: bool | None = None
    attention: AttentionKernel | None = None
    all_reduce: AllReduce = "auto"
    """How all-reduces are done; `auto` takes the fastest of those that NCCL has for a group."""
    communication_sms: Positive | None = None
    """SMs that communication takes while it runs beside compute, beyond what the calibrated overlap holds; played
    with events."""


class Reliability(Spec):
    """What goes wrong in a long training. Days, money and energy of all its tokens then hold the time that is lost."""

    gpu_mtbf: Time = 50_000 * 3600.0
    """Time between failures of one GPU and its share of the machine: 419 unexpected stops of 16,384 H100 in 54 days
    (arXiv 2407.21783 table 5)."""
    checkpoint_time: Time
    """How long a checkpoint stops the training."""
    restart_time: Time
    """From a failure to the first repeated step."""
    checkpoint_interval: Time | None = None
    """Work between checkpoints; absent: what loses the least time (Young, Daly)."""
    repair_time: Time | None = None
    """How long a failed GPU's node is away. Absent: another takes its place within the restart."""
    spare_nodes: Annotated[int, Field(ge=0, le=2**20)] = 0
    """Nodes kept ready, and paid for, to take the place of those away for repair."""
    elastic: bool = False
    """Where no spare is left the job goes on with fewer data-parallel replicas; otherwise it waits."""

    @model_validator(mode="after")
    def _spares_stand_in_for_repairs(self) -> Reliability:
        if self.repair_time is None and (self.spare_nodes or self.elastic):
            raise ValueError("spare_nodes and elastic need repair_time: how long a failed node is away, such as 24 h")
        return self

    @model_validator(mode="after")
    def _above_zero(self) -> Reliability:
        for name in ("gpu_mtbf", "checkpoint_interval"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} must be above 0")
        return self


class Economics(Spec):
    """Prices and the grid. Money is absent from a result where no price is given."""

    gpu_hour: PricePerHour | None = None
    electricity: PriceOfEnergy | None = None
    pue: Annotated[float, Field(ge=1.0, le=5.0)] = 1.2
    carbon_intensity: CarbonPerEnergy | None = None
    region: str | None = None
    """A country code or grid region of codecarbon's bundled table, such as USA; needs the extra `carbon`."""


class Parallelism(Spec):
    """Megatron's names. Data parallelism follows from the number of GPUs."""

    tp: Positive = 1
    pp: Positive = 1
    vpp: Positive = 1
    """Chunks of layers per pipeline stage (interleaving)."""
    cp: Positive = 1
    ep: Positive = 1
    etp: Positive | None = None
    """Tensor parallelism of the experts. Absent: tp where ep is 1, else 1. PEER's single neurons are not cut."""
    sequence_parallel: bool | None = None
    dp_attention: int | bool | None = None

    @model_validator(mode="after")
    def _rules(self) -> Parallelism:
        if self.vpp > 1 and self.pp == 1:
            raise ValueError(f"vpp {self.vpp} needs pp above 1")
        return self
