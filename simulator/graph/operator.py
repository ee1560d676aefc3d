"""Operators: what one kernel or collective has to do, before anyone says how long it takes."""

from __future__ import annotations

from typing import Literal, NamedTuple

from simulator.result import Color

# What an operator's time is called in a breakdown.
Item = Literal[
    "expert_gemm",
    "ffn_gemm",
    "attention_projection",
    "attention_core",
    "logits",
    "elementwise",
    "gather",
    "optimizer",
    "all_to_all",
    "tensor_parallel",
    "expert_tensor_parallel",
    "context_parallel",
    "send_recv",
    "gradient_sync",
    "parameter_gather",
]
COLORS: dict[str, Color] = {
    "expert_gemm": "expert",
    "ffn_gemm": "dense",
    "attention_projection": "dense",
    "attention_core": "dense",
    "logits": "dense",
    "elementwise": "mem",
    "gather": "mem",
    "optimizer": "mem",
    "all_to_all": "a2a",
    "tensor_parallel": "comm",
    "expert_tensor_parallel": "comm",
    "context_parallel": "comm",
    "send_recv": "comm",
    "gradient_sync": "comm",
    "parameter_gather": "comm",
}

Grouping = Literal["", "host", "device"]
"""Who schedules the groups of a grouped GEMM; empty for a plain or batched one."""
CollectiveKind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]
ExchangeKernel = Literal["nccl", "deepep", "deepep_ll", "two_sided"]
"""What exchanges tokens: NCCL's all-to-all, DeepEP for throughput or for low latency, TensorRT-LLM over an NVLink
rack."""


class Group(NamedTuple):
    """Ranks of one collective: how many, and how many of them share a scale-up domain."""

    size: int
    per_domain: int

    @property
    def domains(self) -> int:
        """Scale-up domains the group touches."""
        return self.size // self.per_domain


class Gemm(NamedTuple):
    """`groups` products (m/groups, k) x (k, n); m counts rows over all groups.

    `weight_bytes` and `row_bytes` are bytes per element of the (k, n) and of the row operands, `out_bytes` of the
    result including what accumulating into it reads.
    """

    m: float
    n: float
    k: float
    precision: str
    groups: float = 1.0
    weight_bytes: float = 2.0
    row_bytes: float = 2.0
    out_bytes: float = 2.0
    grouped: Grouping = ""
    reached: float = 1.0
    """Share of a plain GEMM's memory rate that its kernel reaches; below 1 where a serving engine fuses experts."""

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.n * self.k

    @property
    def bytes(self) -> float:
        weights = self.groups * self.n * self.k * self.weight_bytes
        return weights + self.m * (self.k * self.row_bytes + self.n * self.out_bytes)


class WeightGrad(NamedTuple):
    """`groups` products (n, m/groups) x (m/groups, k) accumulated into an (n, k) gradient each."""

    m: float
    n: float
    k: float
    precision: str
    groups: float
    row_bytes: float
    accumulate_bytes: float
    grouped: Grouping = ""

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.n * self.k

    @property
    def bytes(self) -> float:
        return self.m * (self.n + self.k) * self.row_bytes + self.groups * self.n * self.k * self.accumulate_bytes


class Attention(NamedTuple):
    """A fused attention kernel. `flops` is the work done (causal and window counted once), `seq` keys per query
    block.

    `sequences` of `length` tokens, or caches of `length` keys in decode, with `heads` and `kv_heads` on this rank;
    `window` is 0 where all keys are seen.
    """

    flops: float
    bytes: float
    seq: float
    head_dim: float
    phase: Literal["forward", "backward"]
    kernel: str
    precision: str = "bf16"
    decode: bool = False
    sequences: float = 0.0
    length: float = 0.0
    heads: float = 0.0
    kv_heads: float = 0.0
    window: float = 0.0
    cache_bytes: float = 2.0
    latent: bool = False
    """Multi-head latent attention: keys and values of a head have different widths, a cache holds latents."""


class Experts(NamedTuple):
    """The experts of one layer as a serving engine runs them: permutation, two grouped GEMMs, weighted sum.

    `tokens` of all expert ranks together go to `topk` of `experts` each, whose matrices are `stored` in that precision
    and cut by `tp` and `ep`. `parts` are the kernels with their calls, for machines where the whole wasn't measured.
    """

    tokens: float
    hidden: float
    inter: float
    topk: float
    experts: float
    tp: float
    ep: float
    skew: float
    """Exponent of the routing's power law, as the measured tables have it; 0 where balanced."""
    gated: bool
    stored: str
    precision: str
    parts: tuple[tuple[Gemm | Traffic, float], ...]

    @property
    def flops(self) -> float:
        return sum(work.flops * calls for work, calls in self.parts)

    @property
    def bytes(self) -> float:
        return sum(work.bytes * calls for work, calls in self.parts)


class Traffic(NamedTuple):
    """An HBM-bound kernel: bytes read and written; `gather` where rows are scattered."""

    bytes: float
    flops: float = 0.0
    gather: bool = False
    served: bool = False
    """A small kernel of a serving engine's step, with the start-up measured there."""


class HostTransfer(NamedTuple):
    """Bytes over the link between GPU and host, one direction."""

    bytes: float
    flops: float = 0.0


class Collective(NamedTuple):
    """A collective of `group`. `bytes` has nccl-tests' meaning: the full buffer of one rank.

    For all_to_all, `bytes` is what one rank sends to other ranks of its domain and `network_bytes` what it sends to
    other domains, duplicates to one destination counted as the dispatcher sends them.
    """

    kind: CollectiveKind
    bytes: float
    group: Group
    network_bytes: float = 0.0
    nics: int | None = None
    direct: bool = False
    """A serving engine's own kernel over peer memory may do it, where that is faster."""
    kernel: ExchangeKernel = "nccl"
    """Of an all_to_all."""
    combines: bool = False
    """An all_to_all that brings tokens back from their experts and adds them up."""
    sms: int | None = None
    """SMs an exchange kernel is given, where not its usual number."""


Work = Gemm | WeightGrad | Attention | Traffic | HostTransfer | Collective | Experts


class Operator(NamedTuple):
    """One kernel or collective of a rank; `calls` times, possibly a fraction where a policy repeats part of a layer."""

    name: str
    item: Item
    work: Work
    calls: float = 1.0
    module: str = ""
    """What selective recompute calls the module it belongs to."""
    mean_share: float = 1.0
    """What the mean rank does of it, where the fullest one's work is written down because it sets the time."""

    @property
    def is_communication(self) -> bool:
        return isinstance(self.work, Collective)
