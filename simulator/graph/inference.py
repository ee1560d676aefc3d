"""The operator graphs of inference: the prefill of a batch of prompts, and one decode step at a context length."""

from __future__ import annotations

from simulator.graph.builder import Build, forward_layer, pipeline_send
from simulator.graph.graph import Chunk, OperatorGraph, Phase, Pipeline, Program
from simulator.graph.layers import Layer, layers_of
from simulator.graph.moe import expert_load
from simulator.graph.operator import Operator
from simulator.graph.parallel import Layout, build_layout, split_layers
from simulator.graph.precision import element_bytes
from simulator.graph.transformer import Shapes, embedding, head
from simulator.spec.constants import read_constants
from simulator.spec.run import Run

WEIGHT_ONLY = {"int4": "bf16"}
"""Formats of weights alone: they are expanded on the way into the tensor cores, which compute in 16 bits."""


def prepare_inference(run: Run, phase: Phase, context: float) -> Build:
    """Layout, shapes and expert load of one phase. `context` is the tokens a query may see, its own included."""
    assert run.inference is not None
    work, layout = run.inference, build_layout(run)
    per_sequence = layout.seq / layout.cp if phase == "prefill" else 1.0
    shapes = Shapes(
        model=run.model,
        layout=layout,
        precision=WEIGHT_ONLY.get(work.precision, work.precision),
        tokens=layout.micro_batch * per_sequence,
        context=context,
        sequences=float(layout.micro_batch),
        phase=phase,
        transposed_operands=True,  # no second copy: there is no backward pass
        kv_bytes=element_bytes(kv_precision(run)),
        weight_precision=work.precision,
    )
    load = expert_load(shapes, run.routing.imbalance, run.routing.capacity_factor) if run.model.num_experts else None
    return Build(run, layout, shapes, load, read_constants())


def kv_precision(run: Run) -> str:
    """Precision of the KV cache: stated, or 16 bits."""
    assert run.inference is not None
    return run.inference.kv_cache_precision or "bf16"


def build_inference(b: Build) -> OperatorGraph:
    """The graph of one phase: every stage once, one after the other."""
    layout, run, phase = b.layout, b.run, _phase(b)
    layers = layers_of(run)
    chunks = split_layers(len(layers), layout.pp, 1, pads=False)
    programs: dict[Layer | str, Program] = {
        layer: _program(b, f"{layer.kind} layer", forward_layer(b, layer)) for layer in dict.fromkeys(layers)
    }
    programs["embedding"] = _program(b, "embedding", embedding(b.shapes))
    programs["head"] = _program(b, "logits", head(b.shapes, tokens=b.shapes.sequences))

    def stage_chunk(stage: int) -> Chunk:
        counts: dict[Layer | str, int] = {"embedding": 1} if stage == 0 else {}
        for i in chunks[stage][0]:
            counts[layers[i]] = counts.get(layers[i], 0) + 1
        if stage == layout.pp - 1:
            counts["head"] = 1
        return Chunk(stage, 0, phase, tuple((programs[key], count) for key, count in counts.items()))

    return OperatorGraph(
        pipeline=Pipeline(layout.pp, 1, 1, phase, pipeline_send(b), overlap_send=True),
        forward=tuple((stage_chunk(stage),) for stage in range(layout.pp)),
        replicas=layout.gpus // layout.pp,
        programs=tuple(programs.values()),
    )


def _phase(b: Build) -> Phase:
    return "decode" if b.shapes.phase == "decode" else "prefill"


def _program(b: Build, name: str, operators: list[Operator]) -> Program:
    """Serving engines overlap nothing inside a layer; decode is replayed from a CUDA graph, prefill launched by the host."""
    graphed = b.shapes.phase == "decode" and b.layout.settings.cuda_graph != "none"
    modules = 0 if graphed or "layer" not in name else b.constants.host_dense_modules
    return Program(name, _phase(b), tuple(operators), (), modules)


def kv_bytes_per_token(run: Run, layout: Layout) -> float:
    """Bytes of KV cache one token takes on one GPU of a stage, all its layers; latent caches are held by every rank."""
    model, size = run.model, element_bytes(kv_precision(run))
    if model.is_mla:
        width = float((model.kv_lora_rank or 0) + model.qk_rope_head_dim)
    else:
        width = 2.0 * max(model.kv_dim / layout.tp, model.head_dim)
    return width * size * -(-model.num_hidden_layers // layout.pp)
