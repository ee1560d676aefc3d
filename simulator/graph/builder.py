"""From a training run to its operator graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from simulator.graph import parameters_held as held
from simulator.graph.graph import Chunk, Chunks, OperatorGraph, Phase, Pipeline, Program, StageEnd
from simulator.graph.layers import Layer, Portion, Stack, stack_of
from simulator.graph.moe import ExpertLoad, expert_load
from simulator.graph.operator import Collective, CollectiveKind, Group, HostTransfer, Operator, Traffic
from simulator.graph.order import CUTTING, Pass, position
from simulator.graph.parallel import Layout, build_layout
from simulator.graph.programs import BF16_BYTES, Rank, layer_operators, programs_of
from simulator.graph.routing import routed_load
from simulator.graph.transformer import ACTIVATION_BYTES, Shapes
from simulator.spec.constants import Constants, read_constants
from simulator.spec.run import Run

UPDATE_BYTES = {"adam": 34.0, "sgd": 26.0, "adafactor": 22.0}
"""Per parameter of a shard and step. Adam reads gradient (4), master weight and two moments (12), writes them (12) and
the bf16 weight (2), and reads or zeroes the gradient buffer (4); SGD has one moment less, and Adafactor none, whose
factored ones take another reading of the gradient."""
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


def prepare(run: Run, *, advise: bool = True) -> Build:
    """Layout, shapes and expert load of a training run.

    Raises InfeasibleError where the split does not divide; `advise` adds the nearest that does.
    """
    assert run.training is not None
    layout = build_layout(run, advise=advise)
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
        routing = run.routing
        load = (
            expert_load(shapes, routing.imbalance, routing.capacity_factor)
            if routing.balance == "uniform"
            else routed_load(shapes, routing)
        )
    return Build(run, layout, shapes, load, read_constants())


def build_graph(b: Build) -> OperatorGraph:
    """The operator graph of one training step."""
    run = b.run
    layout, settings = b.layout, b.layout.settings
    stack = stack_of(run.model, layout.pp, layout.vpp, run.defaults.pads_uneven_pipeline)
    programs = programs_of(rank_of(b), stack.layers)
    parts = layout.parts_held
    tables = {what: _chunks(b, stack, what, by_layer) for what, by_layer in programs.by_pass.items()}
    return OperatorGraph(
        pipeline=Pipeline(
            stages=layout.pp,
            chunks=max(parts, layout.vpp),
            micro_batches=layout.micro_batches // parts,
            schedule=layout.schedule,
            send=pipeline_send(b),
            overlap_send=settings.p2p_overlap and (layout.vpp > 1 or layout.schedule in CUTTING),
        ),
        forward=tables[Pass.FORWARD],
        backward=tables[Pass.BACKWARD],
        ends=_stage_ends(b, stack),
        overlap_gradients=settings.dp_overlap,
        replicas=layout.gpus // layout.pp,
        programs=programs.all,
        input_gradient=tables.get(Pass.INPUT_GRADIENT, ()),
        weight_gradient=tables.get(Pass.WEIGHT_GRADIENT, ()),
        paired_forward=tables.get(Pass.PAIRED_FORWARD, ()),
        paired_backward=tables.get(Pass.PAIRED_BACKWARD, ()),
    )


def _chunks(b: Build, stack: Stack, what: Pass, by_layer: Mapping[Layer | str, Program]) -> Chunks:
    """What a pass runs of every chunk of every stage. Chunks that hold the same share their programs."""
    layout = b.layout
    forward, last = what.goes_forward, layout.pp * layout.vpp - 1
    phase: Phase = "forward" if forward else "backward"
    known: dict[tuple[Portion, bool, bool], tuple[tuple[Program, int], ...]] = {}
    rows = []
    for stage in range(layout.pp):
        row = []
        for index in range(max(layout.parts_held, layout.vpp)):
            place = position(layout.schedule, stage, index, layout.pp)
            portion = stack.chunks[place % layout.pp][place // layout.pp]
            key = (portion, place == 0, place == last)
            if key not in known:
                runs = [(by_layer[layer], count) for layer, count in portion]
                first, end = [(by_layer["embedding"], 1)] * key[1], [(by_layer["head"], 1)] * key[2]
                known[key] = (*first, *runs, *end) if forward else (*end, *reversed(runs), *first)
            row.append(Chunk(stage, index, phase, known[key]))
        rows.append(tuple(row))
    return tuple(rows)


def rank_of(b: Build) -> Rank:
    """What the programs of a rank follow from, everything else blanked.

    Runs that differ only in what is blanked share their programs. What a program comes to need must be let through
    here:
    a blank is 0, so that reading one fails or shows.
    """
    layout, settings = b.layout, b.layout.settings
    sharded = settings.sharding == "zero3"  # only then do programs hold collectives over replicas
    cut = replace(
        layout,
        gpus=0,
        pp=0,
        vpp=0,
        micro_batches=0,
        dp=layout.dp if sharded else 0,
        edp=layout.edp if sharded else 0,
        settings=settings if sharded else replace(settings, sharding="none"),
        schedule=layout.schedule if layout.schedule in CUTTING else "1f1b",
    )
    return Rank(replace(b.shapes, layout=cut), b.load, b.run.routing, b.run.defaults, b.constants)


def forward_layer(b: Build, layer: Layer) -> list[Operator]:
    """The forward operators of one layer in issue order."""
    return layer_operators(rank_of(b), layer)


def pipeline_send(b: Build) -> Operator | None:
    """The activation transfer between neighbouring stages; None without pipeline parallelism."""
    layout = b.layout
    if layout.pp == 1:
        return None
    size = b.shapes.tokens * b.run.model.hidden_size * ACTIVATION_BYTES / layout.sequence_split
    near = layout.group(layout.pp, layout.gpus // layout.pp).per_domain > 1
    return Operator("pipeline send", "send_recv", Collective("send_recv", size, Group(2, 2 if near else 1)))


def _stage_ends(b: Build, stack: Stack) -> tuple[StageEnd, ...]:
    """The ends of all stages; stages that hold the same share one."""
    last = b.layout.pp - 1
    portions = [dict(portion) for portion in stack.stages]
    known: dict[tuple[Portion, Portion, bool, bool], StageEnd] = {}
    ends = []
    for stage, portion in enumerate(stack.stages):
        mirrored = stack.stages[last - stage] if b.layout.parts_held > 1 else portion
        key = (portion, mirrored, stage == 0, stage == last)
        if key not in known:
            known[key] = _stage_end(b, *held.rank_held(b.run.model, b.layout, portions, stage))
        ends.append(known[key])
    return tuple(ends)


def _stage_end(b: Build, dense: float, expert: float) -> StageEnd:
    """Gradient synchronisation, update and parameter gather of a rank that holds so many parameters."""
    layout, settings, framework = b.layout, b.layout.settings, b.run.defaults
    assert b.run.training is not None
    sync, gather = [], []
    sharded_update = 0.0
    for count, group in ((dense, layout.data_group), (expert, layout.expert_data_group)):
        sharded_update += count / (group.size if settings.sharding != "none" else 1)
        if group.size == 1 or not count or settings.sharding == "zero3":
            continue
        nics = framework.collective_nics
        size = count * framework.gradient_bytes
        kind: CollectiveKind = "all_reduce" if settings.sharding == "none" else "reduce_scatter"
        sync.append(Operator("gradient synchronisation", "gradient_sync", Collective(kind, size, group, nics=nics)))
        if settings.sharding != "none":
            weights = Collective("all_gather", count * BF16_BYTES, group, nics=nics)
            gather.append(Operator("parameter all-gather", "parameter_gather", weights))
    local = dense + expert if settings.sharding != "zero3" else sharded_update
    moved = sharded_update * UPDATE_BYTES[b.run.training.optimizer] + local * LOCAL_GRADIENT_BYTES
    update = [Operator("optimizer", "optimizer", Traffic(moved))]
    if b.run.training.offload == "optimizer":
        host = HostTransfer(sharded_update * (framework.gradient_bytes + BF16_BYTES))
        update = [Operator("optimizer on host", "optimizer", host)]
    return StageEnd(tuple(sync), tuple(update), tuple(gather), min(1.0, _bucket(b) / (dense + expert)))


def _bucket(b: Build) -> float:
    """Parameters of a bucket of gradients; 0 where they are not reduced in buckets.

    Buckets are launched one after the other as backward passes fill them and follow each other through the ring as the
    chunks of one collective do, so they take its time; but the last one is full when no compute is left.
    """
    framework, layout = b.run.defaults, b.layout
    stated = b.run.execution.gradient_bucket
    if not layout.settings.dp_overlap or (stated is None and framework.gradient_bucket is None):
        return 0.0
    least = framework.gradient_bucket_per_rank * layout.data_group.size
    return float(stated) if stated else max(framework.gradient_bucket or 0.0, least)
