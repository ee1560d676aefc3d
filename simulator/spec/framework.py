"""What a training framework or serving engine does unless told otherwise: one small documented YAML each."""

from __future__ import annotations

import re
from functools import lru_cache

from pydantic import Field

from simulator.spec.base import Spec, catalog, read_catalog, validate
from simulator.spec.workload import AttentionKernel, CudaGraph, Dispatcher, Recompute, Sharding


class Recipe(Spec):
    """What a framework's published recipe sets for MoE models of one precision on one architecture."""

    architecture: str
    precision: str
    moe_dispatcher: Dispatcher
    cuda_graph: CudaGraph
    a2a_overlap: bool


class Framework(Spec):
    """Defaults and software properties of one framework. Never keyed by model or row."""

    name: str
    source: str
    recompute: Recompute = "none"
    recompute_modules: tuple[str, ...] = ("core_attn",)
    recompute_forward_fraction: float = 0.0
    """Share of a layer's forward that `recompute: selective` repeats beyond `recompute_modules` (per-op policies)."""
    recompute_kept_fraction: float = 1.0
    """Share of a layer's activations that such a policy keeps."""
    sharding: Sharding = "none"
    sequence_parallel: bool = False
    """Whether tensor parallelism brings sequence parallelism."""
    attention: dict[str, AttentionKernel]
    """Attention kernel by device architecture; `default` for the rest."""
    moe_dispatcher: Dispatcher = "alltoall"
    a2a_overlap: bool = False
    moe_recipes: tuple[Recipe, ...] = ()
    """Recipes for MoE models that differ from the defaults below."""
    a2a_overlap_graphed: bool = False
    """Recipes with a full-iteration CUDA graph also overlap the all-to-all of two micro-batches."""
    tp_overlap: bool = False
    tp_overlap_hidden: float = 1.0
    """Share of an overlapped tensor-parallel collective that hides behind its GEMM."""
    async_tensor_gradients: bool = False
    """The sum of a column-parallel GEMM's input gradient runs beside its weight gradient (Megatron-LM since 2021)."""
    dp_overlap: bool = True
    gradient_bucket: float | None = None
    """Parameters of a bucket of overlapped gradients: the last one to be reduced, and the first of the parameters to be
    gathered, has no compute left to hide behind. None: as small as it takes."""
    gradient_bucket_per_rank: float = 0.0
    """A bucket has at least this many parameters for each data-parallel rank."""
    p2p_overlap: bool = True
    cuda_graph: CudaGraph = "none"
    fused: bool = True
    """Elementwise operators are fused by hand-written or compiled kernels; eager torch moves more bytes."""
    python_norms: bool = False
    """RMSNorm and rotary embedding are chains of torch operators unless compiled."""
    gradient_bytes: int = 4
    """Bytes per element of accumulated gradients."""
    gradient_memory_bytes: float = Field(default_factory=lambda data: float(data.get("gradient_bytes", 4)))
    """Bytes per parameter that gradients take: both copies where a bf16 one is added to an fp32 one."""
    optimizer_state_bytes: int = 12
    """Bytes per parameter of optimizer state: fp32 master weight and two moments for Adam."""
    logits_bytes: float = 10.0
    """Peak bytes per logit element around the loss."""
    loss_bytes: float = 14.0
    """Bytes moved per logit by the loss, forward and backward: about 14 fused on bf16 logits, 40 through fp32
    copies."""
    balances_context: bool = True
    """Context-parallel ranks share causal attention evenly; else the last rank attends to nearly twice the mean."""
    host_speed: float = 1.0
    """Host launch cost relative to the calibrated one (older CPUs and deeper Python stacks are above 1)."""
    collective_nics: int | None = None
    """NICs of a node one collective can use; None where it uses all (rings of old stacks use one)."""
    engine_step_us: float = 0.0
    """Serving: scheduler and sampling time of one step that the GPU waits for."""
    sequence_us: float = 0.0
    """Serving: host time per sequence and step (detokenise, stream)."""
    offline_sequence_us: float | None = None
    """Serving: the same where no client waits for the tokens (static batches, throughput runs); None where alike."""
    memory_fraction: float = 0.9
    """Serving: share of device memory the engine takes for weights and KV cache."""
    request_us: float = 0.0
    """Serving: time of a request outside the model's steps: HTTP, tokeniser, first response."""
    memory_after_weights: bool = False
    """Serving: `memory_fraction` is of what weights and work space leave free, not of the whole device."""
    fp8_expert_kernels: float = 0.0
    """Serving: small kernels that the fp8 experts of a layer need beyond others (quantisation of rows by blocks)."""
    shared_query_groups: tuple[int, ...] | None = None
    """Serving: query heads per key-value head for which decode attention reads the cache once; None where always."""
    prompt_layer_us: float = 150.0
    """Serving: host time of a layer in a step with prompts, which no CUDA graph replays."""
    first_token_steps: float = 0.0
    """Serving: decode steps that pass before a request's first token reaches its client."""
    kv_follows_weights: bool = False
    """Serving: checkpoints quantised to 8 bits or fewer bring scales of an fp8 KV cache."""
    max_sequences: int = 1024
    """Serving: most sequences in flight per instance."""
    step_tokens: int = 8192
    """Serving: most tokens of one step."""
    chunks_prompts: bool = True
    """Serving: a prompt that does not fit into a step is cut; else it waits for a step that holds it whole."""
    mixes_phases: bool = True
    """Serving: prompt and decode tokens share steps; else a step of prompts alone goes first."""
    reserves_output: bool = False
    """Serving: a request is admitted only where its whole output fits into the KV cache; else the cache grows and
    preempts."""
    etp_follows_tp: bool = False
    """Experts are cut by tp unless etp is stated (stacks without parallel folding)."""
    pads_uneven_pipeline: bool = True
    """Embedding and loss count as layers where the layers plus two divide by the stages."""


def engine_file(name: str, version: str | None) -> str:
    """The catalog's file for an engine of that version: the newest of its major version that is not newer, such as
    `vllm-0.15` for 0.18. The engine's own file where there is none."""
    wanted = _release(version or "")
    files = {
        _release(file.removeprefix(f"{name}-")): file for file in catalog("framework") if file.startswith(f"{name}-")
    }
    older = [release for release in files if release[:1] == wanted[:1] and release <= wanted]
    return files[max(older)] if older else name


def _release(version: str) -> tuple[int, ...]:
    """Major and minor number; none where a version has no numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


@lru_cache(maxsize=64)
def read_framework(name: str) -> Framework:
    """The catalog's framework of that name."""
    return validate(Framework, read_catalog("framework", name))
