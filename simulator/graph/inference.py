"""The operator graphs of inference: one engine step over prompt tokens, decode tokens, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.errors import InfeasibleError
from simulator.graph.builder import Build, pipeline_send
from simulator.graph.expert_traffic import served_load
from simulator.graph.graph import Chunk, OperatorGraph, Phase, Pipeline, Program
from simulator.graph.inference_layers import (
    Widths,
    attention_projections,
    cache_reads,
    data_ranks,
    decode_core,
    dense_ffn,
    expert_ffn,
    kernel,
    prompt_core,
    rank_sum,
    widths_of,
)
from simulator.graph.kv_cache import kv_precision
from simulator.graph.layers import Layer, layers_of
from simulator.graph.moe import ExpertLoad
from simulator.graph.operator import Operator
from simulator.graph.parallel import Layout, build_layout, split_layers
from simulator.graph.peer import peer_feed_forward
from simulator.graph.precision import element_bytes
from simulator.graph.transformer import ACTIVATION_BYTES, Shapes, embedding, head
from simulator.spec.constants import read_constants
from simulator.spec.evidence import AUTO, NONE
from simulator.spec.forms import SKEW_LOW
from simulator.spec.inference_constants import read_inference_constants
from simulator.spec.run import Run


@dataclass(frozen=True, slots=True)
class Pass:
    """What one step computes on one attention rank: decoding sequences with their mean context, and whole prompts."""

    decodes: float = 0.0
    context: float = 0.0
    prompts: float = 0.0
    length: float = 0.0
    queries: float = 1.0
    """Tokens of each decoding sequence: more than one where drafted ones are checked."""

    @property
    def tokens(self) -> float:
        """All that pass through the layers."""
        return self.decodes * self.queries + self.prompts * self.length

    @property
    def rows(self) -> float:
        """Those that pass through the head: every decoded one, and the last of each prompt."""
        return self.decodes * self.queries + self.prompts


def serving_split(run: Run) -> Run:
    """The run with attention and expert parallelism as serving engines mean them.

    An instance is the larger of tp and ep. Attention is cut over all of it (an engine told ep alone cuts attention by
    tp), or over instance / dp_attention; experts by ep, and each by what is left of the instance. Raises
    InfeasibleError, also for context parallelism and encoders, which no inference graph holds.
    """
    split = run.parallelism
    if split.cp > 1:
        text = f"cp {split.cp}: serving cuts a context over no ranks of its own"
        raise InfeasibleError(text, path="parallelism.cp", suggestion="parallelism.cp: 1")
    if run.model.num_encoder_layers:
        raise InfeasibleError(f"{run.model.name} has an encoder; only decoders are served", path="model")
    instance = max(split.tp, split.ep)
    data = split.dp_attention
    ranks = instance if data is True else int(data or 1)
    if ranks > 1 and instance % ranks:
        raise InfeasibleError(
            f"dp_attention {ranks} must divide the {instance} GPUs of an instance", path="parallelism.dp_attention"
        )
    etp = max(1, instance // split.ep) if split.etp is None else split.etp
    update = {"tp": instance // ranks, "etp": etp if run.model.num_experts else None, "dp_attention": None}
    return run.model_copy(update={"parallelism": split.model_copy(update=update)})


def prepare_inference(run: Run, phase: Phase, context: float) -> Build:
    """Layout, shapes and expert load of a phase of a static batch. `context` is the tokens a query may see."""
    assert run.inference is not None
    prompt = float(run.inference.isl)
    run = serving_split(run)
    layout = build_layout(run)
    batch = float(layout.micro_batch)
    step = Pass(prompts=batch, length=prompt) if phase == "prefill" else Pass(batch, context)
    return prepare_pass(run, layout, step)


def prepare_pass(run: Run, layout: Layout, step: Pass) -> Build:
    """Shapes and expert load of one step; `run` and `layout` are split as `serving_split` does."""
    work = run.inference
    assert work is not None
    shapes = Shapes(
        model=run.model,
        layout=layout,
        precision=widths_of(run.model, work.precision, run.hardware.device).experts[0],
        tokens=step.tokens,
        context=step.context or step.length,
        sequences=step.decodes + step.prompts,
        phase="decode" if step.decodes else "prefill",
        transposed_operands=True,  # no second copy: there is no backward pass
        kv_bytes=element_bytes(kv_precision(run)),
        weight_precision=work.precision,
    )
    return Build(run, layout, shapes, _load(run, shapes), read_constants())


def _load(run: Run, s: Shapes) -> ExpertLoad | None:
    if not run.model.num_experts:
        return None
    routing = run.routing
    even = routing.balance == "uniform" and "balance" in routing.model_fields_set  # said, not only the default
    usual = 0.0 if even else read_inference_constants().routing_skew
    skew = usual if routing.skew is None else routing.skew
    return served_load(s, run.routing, skew=skew, tokens=s.tokens * data_ranks(s.layout))


def build_inference(b: Build, step: Pass | None = None, *, joined: Sequence[Operator] = ()) -> OperatorGraph:
    """The graph of one step: every stage once, one after the other; `joined` come before the layers."""
    layout, run = b.layout, b.run
    step = step or _pass_of(b)
    phase: Phase = "decode" if step.decodes else "prefill"
    layers = layers_of(run)
    chunks = split_layers(len(layers), layout.pp, 1, pads=False)
    programs: dict[Layer | str, Program] = {
        layer: Program(f"{layer.kind} layer", phase, tuple(step_layer(b, layer, step)))
        for layer in dict.fromkeys(layers)
    }
    programs["embedding"] = Program("embedding", phase, (*embedding(b.shapes), *joined))
    programs["head"] = Program("logits", phase, tuple(head(b.shapes, tokens=step.rows)))

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


def _pass_of(b: Build) -> Pass:
    s = b.shapes
    if s.phase == "decode":
        return Pass(s.sequences, s.context)
    return Pass(prompts=s.sequences, length=s.tokens / s.sequences)


def step_layer(b: Build, layer: Layer, step: Pass) -> list[Operator]:
    """The operators of one layer in issue order."""
    s, widths = b.shapes, widths_of(b.run.model, b.shapes.weight_precision, b.run.hardware.device)
    before, after = attention_projections(s, widths)
    reads = cache_reads(b.run.model, b.run.defaults.shared_query_groups)
    cores = decode_core(s, layer.window, step.decodes, step.context, reads=reads, queries=step.queries)
    cores += prompt_core(s, layer.window, widths, step.prompts, step.length)
    return [*before, *cores, *after, *feed_forward(b, layer, widths)]


def feed_forward(b: Build, layer: Layer, widths: Widths) -> list[Operator]:
    """The second half of a layer: norm, FFN or experts, sum over ranks."""
    s, model = b.shapes, b.run.model
    if layer.kind == "peer":
        return peer_feed_forward(s)
    size = s.tokens * model.hidden_size
    parts = [] if model.parallel_attention else [kernel("norm and residual", size * FFN_NORM_BYTES)]
    if layer.kind == "moe":
        assert b.load is not None
        parts += _experts(b, widths)
        reduced = size * ACTIVATION_BYTES if s.layout.tp > 1 else 0.0
    else:
        parts += dense_ffn(s, widths.dense, float(model.intermediate_size), gated=model.gated_ffn, split=s.layout.tp)
        reduced = 0.0 if model.parallel_attention else size * ACTIVATION_BYTES
    return parts + rank_sum(s, "ffn all-reduce", reduced)


FFN_NORM_BYTES = 7.0


def _experts(b: Build, widths: Widths) -> list[Operator]:
    """The experts as the engine's kernels run them: their share of a plain GEMM's memory rate, and what is around
    them."""
    assert b.load is not None
    constants, engine = read_inference_constants(), b.run.defaults
    eight_bit = widths.experts[0].startswith("fp8")
    return expert_ffn(
        b.shapes,
        widths,
        b.load,
        reached=1 - constants.expert_kernel_loss,
        small_kernels=constants.expert_kernels + (engine.fp8_expert_kernels if eight_bit else 0.0),
        whole=measured_skew(b.run),
    )


def measured_skew(run: Run) -> float | None:
    """Skew of routing that measured expert layers are asked for; None where the run names no profile that may hold
    them. Text is as uneven as the milder power law they were measured with."""
    if run.profile in (AUTO, NONE):
        return None
    return 0.0 if run.routing.imbalance == 1 and "imbalance" in run.routing.model_fields_set else SKEW_LOW
