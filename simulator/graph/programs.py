"""The programs of a rank: what one layer, the embedding or the head runs forward and backward.

They follow from far less than a whole run, so that the points of a sweep share most of them: see `Rank`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from simulator.graph import parameters_held as held
from simulator.graph.backward import backward_of, halves, recomputed
from simulator.graph.graph import Program
from simulator.graph.layers import Layer
from simulator.graph.moe import ExpertLoad, moe_feed_forward
from simulator.graph.operator import Collective, Operator
from simulator.graph.order import CUTTING, PAIRING, Pass
from simulator.graph.overlap import Body, hide
from simulator.graph.parallel import Layout
from simulator.graph.peer import peer_feed_forward
from simulator.graph.transformer import Shapes, attention, embedding, feed_forward, head, parallel_layer
from simulator.spec.constants import Constants
from simulator.spec.framework import Framework
from simulator.spec.model import ModelSpec
from simulator.spec.workload import Routing

BF16_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class Rank:
    """All that a rank's programs follow from."""

    shapes: Shapes
    load: ExpertLoad | None
    routing: Routing
    framework: Framework = field(hash=False)
    constants: Constants

    @property
    def model(self) -> ModelSpec:
        """The architecture."""
        return self.shapes.model

    @property
    def layout(self) -> Layout:
        """Group sizes; those that programs must not depend on are 0."""
        return self.shapes.layout


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs by pass, then by layer, `embedding` and `head`; `all` holds each once, in order of first use."""

    by_pass: Mapping[Pass, Mapping[Layer | str, Program]]
    all: tuple[Program, ...]


@lru_cache(maxsize=512)
def programs_of(rank: Rank, layers: tuple[Layer, ...]) -> Programs:
    """The programs of a training step."""
    found: dict[Layer | str, dict[Pass, Program]] = {layer: _layer_programs(rank, layer) for layer in layers}
    table, weights = held.embedding_held(rank.model, rank.layout), held.head_held(rank.model, rank.layout)
    found["embedding"] = _programs(rank, "embedding", embedding(rank.shapes), (table, 0.0))
    found["head"] = _programs(rank, "logits and loss", head(rank.shapes), (weights, 0.0))
    by_pass = {what: {name: passes[what] for name, passes in found.items()} for what in found["head"]}
    return Programs(by_pass, tuple([program for programs in by_pass.values() for program in programs.values()]))


def layer_operators(rank: Rank, layer: Layer) -> list[Operator]:
    """The forward operators of one layer in issue order."""
    s, model = rank.shapes, rank.model
    if model.parallel_attention and layer.kind == "dense" and not model.num_encoder_layers:
        return parallel_layer(s, layer.window)
    operators = attention(s, layer.window, causal=not layer.encoder)
    if layer.cross_attention:  # of the decoder's queries to all that the encoder yields
        operators += attention(s, None, causal=False)
    match layer.kind:
        case "moe":
            assert rank.load is not None
            operators += moe_feed_forward(s, rank.load)
        case "peer":
            operators += peer_feed_forward(s)
        case _:
            operators += feed_forward(s, float(model.intermediate_size))
    return operators


def _layer_programs(rank: Rank, layer: Layer) -> dict[Pass, Program]:
    side = "encoder " if layer.encoder else ""
    name = f"{side}{layer.kind} layer" + (f", window {layer.window}" if layer.window else "")
    parameters = held.layer_held(rank.model, rank.layout, layer)
    return _programs(rank, name, layer_operators(rank, layer), parameters, layer)


def _programs(
    rank: Rank, name: str, operators: list[Operator], parameters: tuple[float, float], layer: Layer | None = None
) -> dict[Pass, Program]:
    """The programs of the passes that the schedule runs: recompute, sharded parameters, overlap and host work added.

    `parameters` are the dense ones and those of experts that the rank holds for it.
    """
    settings = rank.layout.settings
    sharded = settings.sharding == "zero3"
    accumulate = BF16_BYTES if sharded else 2 * rank.framework.gradient_bytes
    grads = backward_of(rank.shapes, operators, accumulate)
    modules = 0
    launches = 0.0
    if layer is not None:
        if settings.recompute == "full":
            grads = [*operators, *grads]
        elif settings.recompute == "selective":
            grads = recomputed(operators, frozenset(settings.recompute_modules), settings.recompute_fraction) + grads
        modules, launches = _host_work(rank, layer)
    gathers, scatters = _sharded_collectives(rank, parameters) if sharded else ([], [])
    again = gathers if layer is not None else []  # FSDP keeps the head, and the embedding's gradient needs no weights
    ratio = rank.constants.host_backward_ratio + (settings.recompute == "full")
    there = Body(name=name, phase="forward", operators=operators, sharded=gathers, modules=modules, launches=launches)
    back = Body(
        name=name,
        phase="backward",
        operators=grads,
        sharded=[*again, *scatters],
        modules=round(modules * ratio),
        launches=launches * ratio,
    )
    bodies = {Pass.FORWARD: there, Pass.BACKWARD: back}
    if rank.layout.schedule in CUTTING:
        inputs, weights = halves(grads)
        half = replace(back, modules=round(modules * ratio / 2), launches=launches * ratio / 2)
        bodies[Pass.INPUT_GRADIENT] = replace(half, operators=inputs, sharded=again)
        bodies[Pass.WEIGHT_GRADIENT] = replace(half, operators=weights, sharded=scatters)
    if rank.layout.schedule in PAIRING:
        bodies[Pass.PAIRED_FORWARD] = replace(there, paired=True)
        bodies[Pass.PAIRED_BACKWARD] = replace(back, paired=True, beside=operators)
    return {what: hide(body, rank) for what, body in bodies.items()}


def _host_work(rank: Rank, layer: Layer) -> tuple[int, float]:
    """(module calls, kernel launches of experts) the host makes for a layer's forward pass."""
    settings, host = rank.layout.settings, rank.constants
    if settings.cuda_graph == "full_iteration":
        return 0, 0.0
    low = rank.shapes.precision not in ("bf16", "fp16", "fp32", "tf32")
    modules = host.host_dense_modules
    if settings.attention == "unfused":
        modules += host.host_unfused_attention_modules
    if low:
        modules += host.host_fp8_modules
    if settings.cuda_graph == "transformer_engine":
        modules = round(modules * host.host_graphed_share)
    if layer.kind == "dense" or rank.load is None:
        return modules, 0.0
    per_expert = host.host_fp8_expert_launches if low else host.host_expert_launches
    return modules + host.host_moe_modules, rank.load.local_experts * per_expert


def _sharded_collectives(rank: Rank, parameters: tuple[float, float]) -> tuple[list[Operator], list[Operator]]:
    """(gathers of the next program's parameters, reduce-scatters of its gradients) under ZeRO-3 or FSDP."""
    layout, nics = rank.layout, rank.framework.collective_nics
    gathers, scatters = [], []
    for count, group in zip(parameters, (layout.data_group, layout.expert_data_group), strict=True):
        if group.size == 1 or not count:
            continue
        gather = Collective("all_gather", count * BF16_BYTES, group, nics=nics)
        scatter = Collective("reduce_scatter", count * rank.framework.gradient_bytes, group, nics=nics)
        gathers.append(Operator("parameter all-gather", "parameter_gather", gather))
        scatters.append(Operator("gradient reduce-scatter", "gradient_sync", scatter))
    return gathers, scatters
