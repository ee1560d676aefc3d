"""How each component of memory is counted, in a phrase, for the report's table."""

from __future__ import annotations

from simulator.cost.capacity import PREFILL_CHUNK_TOKENS
from simulator.cost.memory import CONTEXT_BYTES, FRAGMENTATION
from simulator.graph.builder import Build
from simulator.graph.inference_layers import Widths, widths_of
from simulator.graph.kv_cache import cache_shape, kv_precision
from simulator.graph.order import CUTTING
from simulator.units import GIB, KIB


def memory_rules(b: Build) -> dict[str, str]:
    """A phrase by component of a training run."""
    layout, settings, framework = b.layout, b.layout.settings, b.run.defaults
    assert b.run.training is not None
    data, expert_data = layout.data_group.size, layout.expert_data_group.size
    split = f"over {data}" + (f" ranks (experts over {expert_data})" if b.run.model.is_moe else " ranks")
    mirrored = ", of the mirrored stage too" if layout.parts_held > 1 else ""
    kept = "" if b.run.training.activation_precision == "bf16" else "; GEMM inputs in fp8"
    if layout.schedule in CUTTING:
        kept += "; operands of GEMMs until their weight gradients run"
    rules = {
        "parameters": "bf16, 2 bytes a parameter held here" + mirrored,
        "gradients": f"{framework.gradient_memory_bytes:g} bytes a parameter",
        "optimizer_states": f"{b.run.training.optimizer}, {framework.optimizer_state_bytes} bytes a parameter",
        "activations": f"what each module keeps, times the chunks in flight; recompute {settings.recompute}{kept}",
        "buffers": "logits, fresh vocabulary gradients, pipeline buffers, workspaces",
        "framework": f"CUDA context and NCCL {CONTEXT_BYTES / GIB:g} GiB, {FRAGMENTATION:.0%} fragmentation",
    }
    match settings.sharding:
        case "zero1":
            rules["optimizer_states"] += f", sharded {split}"
        case "zero2":
            rules["optimizer_states"] += f", sharded {split}"
            rules["gradients"] += f", sharded {split}"
        case "zero3":
            rules["parameters"] = f"fp32 shard, 4 bytes a parameter, {split}"
            rules["gradients"] = f"fp32 shard, 4 bytes a parameter, {split}"
            rules["optimizer_states"] = f"two moments, 8 bytes a parameter, {split}"
            rules["buffers"] = "two gathered layers, embedding, logits, workspaces"
    return rules


def serving_rules(b: Build) -> dict[str, str]:
    """A phrase by component of a run of inference."""
    run, work = b.run, b.run.inference
    assert work is not None
    widths = widths_of(run.model, work.precision, run.hardware.device)
    shape = cache_shape(b.run, b.layout)
    token = f"{shape.bytes_per_token / KIB:.3g} KiB a token here"
    if shape.window_bytes:
        token += f", {shape.open_bytes / KIB:.3g} KiB beyond {shape.window:.0f} tokens"
    return {
        "parameters": f"{_formats(widths)}, embedding and head in 16 bits"
        + (", a draft's too" if work.speculative is not None else ""),
        "activations": f"the widest layer for {PREFILL_CHUNK_TOKENS:,} prompt tokens at most",
        "kv_cache": f"{kv_precision(run)}, {token}; of requests in flight",
        "buffers": "workspaces",
        "framework": f"CUDA context and NCCL {CONTEXT_BYTES / GIB:g} GiB, {FRAGMENTATION:.0%} fragmentation",
    }


def _formats(widths: Widths) -> str:
    """How weights are stored."""
    dense, experts = widths.dense[1], widths.experts[1]
    return dense if dense == experts else f"experts {experts}, the rest {dense}"
