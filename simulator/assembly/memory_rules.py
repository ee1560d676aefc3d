"""How each component of memory is counted, in a phrase, for the report's table."""

from __future__ import annotations

from simulator.cost.memory import CONTEXT_BYTES, FRAGMENTATION
from simulator.graph.builder import Build
from simulator.units import GIB


def memory_rules(b: Build) -> dict[str, str]:
    """A phrase by component of a training run."""
    layout, settings, framework = b.layout, b.layout.settings, b.run.defaults
    assert b.run.training is not None
    data, expert_data = layout.data_group.size, layout.expert_data_group.size
    split = f"over {data}" + (f" ranks (experts over {expert_data})" if b.run.model.is_moe else " ranks")
    rules = {
        "parameters": "bf16, 2 bytes a parameter held here",
        "gradients": f"{framework.gradient_memory_bytes:g} bytes a parameter",
        "optimizer_states": f"{b.run.training.optimizer}, {framework.optimizer_state_bytes} bytes a parameter",
        "activations": f"what each module keeps, times the chunks in flight; recompute {settings.recompute}",
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
