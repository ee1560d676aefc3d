"""A machine whose costs are mental arithmetic: 1 TFLOP/s, 1 TB/s of memory, 1 GB/s links and NICs, 1 us of latency.

Every efficiency is 1 and every overhead 0, but for the microsecond of a collective. A GEMM takes its compute time plus
its memory time (p = 1), and latency and transfer of a collective add up (q = 1).
"""

from __future__ import annotations

from typing import Any

from simulator.cost.annotation import CostedGraph, annotate
from simulator.cost.machine import Machine
from simulator.graph.builder import Build, build_graph, prepare
from simulator.spec.curves import Curves
from simulator.spec.hardware import Hardware, resolve_hardware
from simulator.spec.run import Run, run_from_mapping

DEVICE: dict[str, Any] = {
    "name": "toy",
    "architecture": "other",
    "peak": dict.fromkeys(("fp32", "fp16", "bf16", "fp8"), "1 TFLOP/s"),
    "memory": {"capacity": "1 TiB", "bandwidth": "1 TB/s"},
    "tdp": "100 W",
    "idle_power": "10 W",
    "scale_up": {"kind": "nvlink4", "bandwidth": "1 GB/s", "domain": 8},
    "host": {"memory": "1 TiB", "bandwidth": "1 GB/s"},
    "node": {"gpus": 8, "network": "ib-ndr400-rail", "overhead_power": "80 W"},
}
NETWORK: dict[str, Any] = {
    "name": "toy-net",
    "kind": "infiniband",
    "topology": "fat-tree",
    "bandwidth": "1 GB/s",
    "nics_per_node": 8,
    "latency": "1 us",
    "link_energy": "10 pJ/b",
}
# Four layers of four square matrices of width 128 and an FFN of 512: 65,536 + 131,072 weights each.
MODEL: dict[str, Any] = {
    "name": "toy-model",
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "num_attention_heads": 8,
    "intermediate_size": 512,
    "vocab_size": 1024,
    "gated_ffn": False,
}
MOE_MODEL: dict[str, Any] = {
    **MODEL,
    "name": "toy-moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
}
_SOURCE = {"source": "toy"}
_GEMM = {"ec": 1.0, "em": 1.0, "t0_us": 0.0, "p": 1.0, "tk_us": 0.0, "relative_error": 0.1, "basis": "exact", **_SOURCE}
CURVES: dict[str, Any] = {
    "name": "toy",
    "basis": "exact",
    "gemm": dict.fromkeys(("bf16", "fp16", "fp32", "fp8"), _GEMM),
    "grouped": {
        "loss": 0.0, "group_us": 0.0, "device_loss_share": 0.0, "device_group_us": 0.0, "relative_error": 0.1,
        **_SOURCE,
    },
    "attention": {
        kernel: {"forward": 1.0, "backward": 1.0, **_SOURCE}
        for kernel in ("unfused", "flash1", "flash2", "flash3", "cudnn")
    },
    "memory": {"efficiency": 1.0, "gather_efficiency": 0.5, "t0_us": 0.0, "relative_error": 0.1, **_SOURCE},
    "collective": {
        "ring": 1.0, "in_network": 1.0, "in_network_us": 1.0, "all_to_all": 1.0, "all_to_all_us": 1.0, "base_us": 1.0,
        "hop_us": 0.0, "q": 1.0, "relative_error": 0.1, **_SOURCE,
    },
    "network": {
        "efficiency": 1.0, "base_us": 1.0, "ring_us": 1.0, "all_to_all_us": 1.0, "relative_error": 0.1, **_SOURCE,
    },
    "power": {
        "limits_clock": False, "p0_w": 0.0, "pj_per_flop": {}, "floor": 0.5, "a": 0.3, "alpha": 1.0, "b": 0.2,
        "beta": 1.0, "relative_error": 0.1, **_SOURCE,
    },
}  # fmt: skip
TRAINING: dict[str, Any] = {
    "global_batch": 8,
    "micro_batch": 1,
    "seq_len": 64,
    "precision": "bf16",
    "recompute": "none",
    "sharding": "none",
}


def curves(**parts: dict[str, Any]) -> Curves:
    """The toy's curves with fields of some parts replaced, as in `curves(network={"efficiency": 0.5})`."""
    return Curves.model_validate({**CURVES, **{name: {**CURVES[name], **part} for name, part in parts.items()}})


def hardware(gpus: int = 8, *, network: dict[str, Any] | None = None, **device: Any) -> Hardware:
    """Toy nodes of eight; `device` replaces fields of the device, `network` of the network."""
    return resolve_hardware(
        {"device": {**DEVICE, **device}, "gpus": gpus, "gpus_per_node": 8, "network": {**NETWORK, **(network or {})}}
    )


def machine(gpus: int = 8, *, network: dict[str, Any] | None = None, **parts: dict[str, Any]) -> Machine:
    """The toy cluster with its curves; `parts` replace fields of the curves."""
    return Machine(hardware(gpus, network=network), curves(**parts))


def run(
    *,
    gpus: int = 1,
    model: dict[str, Any] | str = MODEL,
    training: dict[str, Any] | None = None,
    parallelism: dict[str, Any] | None = None,
    device: dict[str, Any] | None = None,
    **blocks: Any,
) -> Run:
    """A training run of the toy model on the toy cluster."""
    return run_from_mapping(
        {
            "name": "toy",
            "kind": "training",
            "model": model,
            "hardware": {"device": {**DEVICE, **(device or {})}, "gpus": gpus, "gpus_per_node": 8, "network": NETWORK},
            "training": {**TRAINING, **(training or {})},
            "parallelism": parallelism or {},
            **blocks,
        }
    )


def inference(
    *, gpus: int = 1, model: dict[str, Any] | str = MODEL, work: dict[str, Any] | None = None, **blocks: Any
) -> Run:
    """An inference run of the toy model: 8 prompts of 64 tokens, 32 tokens out."""
    return run_from_mapping(
        {
            "name": "toy",
            "kind": "inference",
            "model": model,
            "hardware": {"device": DEVICE, "gpus": gpus, "gpus_per_node": 8, "network": NETWORK},
            "inference": {"isl": 64, "osl": 32, "concurrency": 8, **(work or {})},
            "framework": "vllm",
            **blocks,
        }
    )


def costed(given: Run) -> tuple[Build, CostedGraph]:
    """The build and the costed graph of a run on its hardware with the toy's curves; no host cost."""
    b = prepare(given)
    return b, annotate(build_graph(b), Machine(given.hardware, curves()), 0.0)
