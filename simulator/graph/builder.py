"""From a training run to its operator graph."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.graph import parameters_held as held
from simulator.graph.backward import backward_of, recomputed
from simulator.graph.graph import Chunk, OperatorGraph, Phase, Pipeline, Program, StageEnd
from simulator.graph.layers import Layer, Portion, Stack, stack_of
from simulator.graph.moe import ExpertLoad, expert_load, moe_feed_forward
from simulator.graph.operator import Collective, Group, HostTransfer, Operator, Traffic
from simulator.graph.overlap import hide
from simulator.graph.parallel import Layout, build_layout
from simulator.graph.peer import peer_feed_forward
from simulator.graph.transformer import ACTIVATION_BYTES, Shapes, attention, embedding, feed_forward, head
from simulator.spec.constants import Constants, read_constants
from simulator.spec.run import Run

FP32_BYTES, BF16_BYTES = 4.0, 2.0
ADAM_BYTES = 34.0
"""Per parameter of a shard and step: reads gradient (4), master weight and two moments (12), writes them (12) and the
bf16 weight (2), and reads or zeroes the gradient buffer (4)."""
LOCAL_GRADIENT_BYTES = 6.0
"""Per parameter a rank holds: gradient norm and scaling read it and write it once in mixed precision."""


@dataclass(frozen=True, slots=True)
class Build:
    """All that building a graph needs."""

    run: Run
    layout: Layout
    shapes: Shapes
    load: ExpertLoad | None
    constants: Constants


def prepare(run: Run) -> Build:
    """Layout, shapes and expert load of a training run. Raises InfeasibleError where the split does not divide."""
    assert run.training is not None
    layout = build_layout(run)
    shapes = Shapes(
        model=run.model,
        layout=layout,
        precision=run.training.precision,
        tokens=layout.tokens,
        context=float(layout.seq),
        sequences=float(layout.micro_batch),
        phase="forward",
        transposed_operands=run.hardware.device.architecture.startswith("blackwell"),
        weight_precision=run.training.precision,
        loss_bytes=run.defaults.loss_bytes,
        context_balanced=run.defaults.balances_context,
    )
    load = None
    if run.model.num_experts:
        load = expert_load(shapes, run.routing.imbalance, run.routing.capacity_factor)
    return Build(run, layout, shapes, load, read_constants())


def build_graph(b: Build) -> OperatorGraph:
    """The operator graph of one training step."""
    run = b.run
    layout, settings = b.layout, b.layout.settings
    stack = stack_of(run.model, layout.pp, layout.vpp, run.defaults.pads_uneven_pipeline)
    forward: dict[Layer | str, Program] = {}
    backward: dict[Layer | str, Program] = {}
    for layer in stack.layers:
        forward[layer], backward[layer] = _layer_programs(b, layer)
    forward["embedding"], backward["embedding"] = _programs(b, "embedding", embedding(b.shapes))
    forward["head"], backward["head"] = _programs(b, "logits and loss", head(b.shapes))

    last = (layout.pp - 1, layout.vpp - 1)

    def chunks(stage: int, phase: Phase, programs: dict[Layer | str, Program]) -> tuple[Chunk, ...]:
        row = []
        for index, portion in enumerate(stack.chunks[stage]):
            runs = [(programs[layer], count) for layer, count in portion]
            if (stage, index) == (0, 0):
                runs.insert(0, (programs["embedding"], 1))
            if (stage, index) == last:
                runs.append((programs["head"], 1))
            row.append(Chunk(stage, index, phase, tuple(runs if phase == "forward" else reversed(runs))))
        return tuple(row)

    stages = range(layout.pp)
    return OperatorGraph(
        pipeline=Pipeline(
            stages=layout.pp,
            chunks=layout.vpp,
            micro_batches=layout.micro_batches,
            schedule=run.training.schedule if run.training else "1f1b",
            send=pipeline_send(b),
            overlap_send=settings.p2p_overlap and layout.vpp > 1,
        ),
        forward=tuple([chunks(stage, "forward", forward) for stage in stages]),
        backward=tuple([chunks(stage, "backward", backward) for stage in stages]),
        ends=_stage_ends(b, stack),
        overlap_gradients=settings.dp_overlap,
        replicas=layout.gpus // layout.pp,
        programs=(*forward.values(), *backward.values()),
    )


def forward_layer(b: Build, layer: Layer) -> list[Operator]:
    """The forward operators of one layer in issue order."""
    s, model = b.shapes, b.run.model
    operators = attention(s, layer.window, causal=not layer.encoder)
    if layer.cross_attention:  # of the decoder's queries to all that the encoder yields
        operators += attention(s, None, causal=False)
    match layer.kind:
        case "moe":
            assert b.load is not None
            operators += moe_feed_forward(s, b.load)
        case "peer":
            operators += peer_feed_forward(s)
        case _:
            operators += feed_forward(s, float(model.intermediate_size))
    return operators


def _layer_programs(b: Build, layer: Layer) -> tuple[Program, Program]:
    side = "encoder " if layer.encoder else ""
    name = f"{side}{layer.kind} layer" + (f", window {layer.window}" if layer.window else "")
    return _programs(b, name, forward_layer(b, layer), layer)


def _programs(
    b: Build, name: str, operators: list[Operator], layer: Layer | None = None
) -> tuple[Program, Program]:
    """Forward and backward programs: recompute, sharded parameters, overlap and host work added."""
    settings = b.layout.settings
    sharded = settings.sharding == "zero3"
    accumulate = BF16_BYTES if sharded else 2 * b.run.defaults.gradient_bytes
    grads = backward_of(b.shapes, operators, accumulate)
    modules = 0
    launches = 0.0
    if layer is not None:
        if settings.recompute == "full":
            grads = [*operators, *grads]
        elif settings.recompute == "selective":
            grads = recomputed(operators, frozenset(settings.recompute_modules), settings.recompute_fraction) + grads
        modules, launches = _host_work(b, layer)
    prefetch = _sharded_collectives(b, layer, "forward") if sharded else []
    resync = _sharded_collectives(b, layer, "backward") if sharded else []
    backward_ratio = b.constants.host_backward_ratio + (settings.recompute == "full")
    return (
        hide(name, "forward", operators, prefetch, b, modules, launches),
        hide(name, "backward", grads, resync, b, round(modules * backward_ratio), launches * backward_ratio),
    )


def _host_work(b: Build, layer: Layer) -> tuple[int, float]:
    """(module calls, kernel launches of experts) the host makes for a layer's forward pass."""
    settings, host = b.layout.settings, b.constants
    if settings.cuda_graph == "full_iteration":
        return 0, 0.0
    low = b.shapes.precision not in ("bf16", "fp16", "fp32", "tf32")
    modules = host.host_dense_modules
    if settings.attention == "unfused":
        modules += host.host_unfused_attention_modules
    if low:
        modules += host.host_fp8_modules
    if settings.cuda_graph == "transformer_engine":
        modules = round(modules * host.host_graphed_share)
    if layer.kind == "dense" or b.load is None:
        return modules, 0.0
    per_expert = host.host_fp8_expert_launches if low else host.host_expert_launches
    return modules + host.host_moe_modules, b.load.local_experts * per_expert


def _sharded_collectives(b: Build, layer: Layer | None, phase: Phase) -> list[Operator]:
    """Parameter gathers of the next layer, and in the backward pass the gradient's reduce-scatter (ZeRO-3, FSDP)."""
    if layer is None:
        return []
    dense, expert = held.layer_held(b.run.model, b.layout, layer)
    layout = b.layout
    parts = []
    for count, group in ((dense, layout.data_group), (expert, layout.expert_data_group)):
        if group.size == 1 or not count:
            continue
        size, nics = count * BF16_BYTES, b.run.defaults.collective_nics
        gather = Collective("all_gather", size, group, nics=nics)
        parts.append(Operator("parameter all-gather", "parameter_gather", gather))
        if phase == "backward":
            scatter = Collective("reduce_scatter", count * b.run.defaults.gradient_bytes, group, nics=nics)
            parts.append(Operator("gradient reduce-scatter", "gradient_sync", scatter))
    return parts


def pipeline_send(b: Build) -> Operator | None:
    """The activation transfer between neighbouring stages; None without pipeline parallelism."""
    layout = b.layout
    if layout.pp == 1:
        return None
    size = b.shapes.tokens * b.run.model.hidden_size * ACTIVATION_BYTES / layout.sequence_split
    near = layout.group(layout.pp, layout.gpus // layout.pp).per_domain > 1
    return Operator("pipeline send", "send_recv", Collective("send_recv", size, Group(2, 2 if near else 1)))


def _stage_ends(b: Build, stack: Stack) -> tuple[StageEnd, ...]:
    """The ends of all stages; stages between the first and the last that hold the same share one."""
    middle: dict[Portion, StageEnd] = {}
    ends = []
    for stage, portion in enumerate(stack.stages):
        if stage in (0, b.layout.pp - 1):
            ends.append(_stage_end(b, portion, stage))
            continue
        if portion not in middle:
            middle[portion] = _stage_end(b, portion, stage)
        ends.append(middle[portion])
    return tuple(ends)


def _stage_end(b: Build, portion: Portion, stage: int) -> StageEnd:
    """Gradient synchronisation, update and parameter gather of a stage."""
    layout, settings, framework = b.layout, b.layout.settings, b.run.defaults
    assert b.run.training is not None
    dense, expert = held.stage_held(b.run.model, layout, dict(portion), stage)
    sync, gather = [], []
    sharded_update = 0.0
    for count, group in ((dense, layout.data_group), (expert, layout.expert_data_group)):
        sharded_update += count / (group.size if settings.sharding != "none" else 1)
        if group.size == 1 or not count or settings.sharding == "zero3":
            continue
        nics = framework.collective_nics
        size = count * framework.gradient_bytes
        kind = "all_reduce" if settings.sharding == "none" else "reduce_scatter"
        sync.append(Operator("gradient synchronisation", "gradient_sync", Collective(kind, size, group, nics=nics)))  # type: ignore[arg-type]
        if settings.sharding != "none":
            weights = Collective("all_gather", count * BF16_BYTES, group, nics=nics)
            gather.append(Operator("parameter all-gather", "parameter_gather", weights))
    local = dense + expert if settings.sharding != "zero3" else sharded_update
    moved = sharded_update * ADAM_BYTES + local * LOCAL_GRADIENT_BYTES
    update = [Operator("optimizer", "optimizer", Traffic(moved))]
    if b.run.training.offload == "optimizer":
        host = HostTransfer(sharded_update * (framework.gradient_bytes + BF16_BYTES))
        update = [Operator("optimizer on host", "optimizer", host)]
    return StageEnd(tuple(sync), tuple(update), tuple(gather))
