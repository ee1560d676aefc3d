"""Whether a run fits: memory of inference, the largest batch, and the nearest change that makes a run fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations

from simulator.cost.memory import BF16, CONTEXT_BYTES, FRAGMENTATION, WORKSPACE_BYTES, StageBytes, training_memory
from simulator.errors import InfeasibleError, SimulatorError
from simulator.graph import parameters_held as held
from simulator.graph.builder import Build, prepare
from simulator.graph.drafting import Draft, draft_of
from simulator.graph.inference import prepare_inference
from simulator.graph.inference_layers import Widths, widths_of
from simulator.graph.kv_cache import CacheShape, cache_shape
from simulator.graph.layers import stack_of
from simulator.graph.parallel import build_layout
from simulator.graph.precision import element_bytes
from simulator.spec import parameters as counts
from simulator.spec.run import Run, with_field
from simulator.units import GIB


def inference_memory(b: Build) -> list[StageBytes]:
    """Bytes of one GPU of each stage while a batch decodes its last token, a draft's weights and cache included."""
    run, layout = b.run, b.layout
    work = run.inference
    assert work is not None
    draft = draft_of(run)
    drafting = 0.0 if draft is None else _draft_weights(draft)
    out = []
    for stage, portion in enumerate(stack_of(run.model, layout.pp, 1, pads=False).stages):
        dense, expert = held.stage_held(run.model, layout, dict(portion), stage)
        wide = _kept_wide(b, stage)
        weights = _stored(run, dense - wide, expert) + wide * BF16 + drafting
        cache = held_cache(b, stage).bytes(work.isl + work.osl) * layout.micro_batch
        activations = _prefill_activations(b)
        framework = CONTEXT_BYTES + FRAGMENTATION * activations
        out.append(StageBytes(weights, 0.0, 0.0, activations, WORKSPACE_BYTES, cache, framework, "last output token"))
    return out


def _stored(run: Run, dense: float, expert: float) -> float:
    """Bytes of so many parameters in the checkpoint's formats."""
    assert run.inference is not None
    widths: Widths = widths_of(run.model, run.inference.precision, run.hardware.device)
    return dense * element_bytes(widths.dense[1]) + expert * element_bytes(widths.experts[1])


def _draft_weights(draft: Draft) -> float:
    """Bytes of what drafts on one GPU: a whole model, or prediction modules, which share embedding and head."""
    run = draft.run
    layout, model = build_layout(run), run.model
    (portion,) = stack_of(model, 1, 1, pads=False).stages
    dense, expert = held.stage_held(model, layout, dict(portion), 0)
    if not draft.modules:
        return _stored(run, dense, expert)
    joined = 2.0 * model.hidden_size**2 + 3 * counts.norm_size(model)
    shared = held.embedding_held(model, layout) + held.head_held(model, layout)
    return draft.modules * _stored(run, dense - shared + joined, expert)


def held_cache(b: Build, stage: int) -> CacheShape:
    """What one sequence takes of the KV cache of a GPU of that stage; a draft caches beside the model."""
    shape, draft = cache_shape(b.run, b.layout, stage), draft_of(b.run)
    if draft is None:
        return shape
    one = cache_shape(draft.run, build_layout(draft.run))
    return shape.joined(one, draft.readers)


def cache_room(run: Run, stage: StageBytes) -> float:
    """Bytes of a GPU that the engine gives to its KV cache; below 0 where weights and work space need more."""
    engine, capacity = run.defaults, run.hardware.device.memory.capacity
    fixed = stage.parameters + stage.activations + stage.buffers
    if engine.memory_after_weights:
        return engine.memory_fraction * (capacity - fixed - stage.framework)
    return engine.memory_fraction * capacity - fixed


def _kept_wide(b: Build, stage: int) -> float:
    """Parameters quantised models keep in 16 bits: embedding and head."""
    model, layout = b.run.model, b.layout
    wide = 0.0
    if stage == 0:
        wide += counts.embedding_parameters(model)
    if stage == layout.pp - 1:
        wide += counts.head_parameters(model)
    return wide / layout.tp


PREFILL_CHUNK_TOKENS = 8192
"""Tokens a serving engine passes through the model at once; longer prompts go in pieces."""


def _prefill_activations(b: Build) -> float:
    """The widest layer's live tensors for one chunk of prompt tokens."""
    work, model = b.run.inference, b.run.model
    assert work is not None
    tokens = min(work.isl * b.layout.micro_batch, PREFILL_CHUNK_TOKENS)
    width = max(model.intermediate_size, model.moe_intermediate_size * (model.num_experts_per_tok or 1))
    return tokens * (4 * model.hidden_size + 3 * width / b.layout.tp) * BF16


def check_fits(run: Run, memory: list[StageBytes], *, advise: bool = True) -> None:
    """Raise InfeasibleError where a GPU needs more than it has, if `advise` with the nearest change.

    In inference what it has is what the engine lets weights, work space and KV cache take.
    """
    tightest = max(memory, key=lambda stage: _demand(run, stage)[0] / _demand(run, stage)[1])
    needed, usable = _demand(run, tightest)
    if needed <= usable:
        return
    parts = tightest.parts()
    of = f"of {usable / GIB:.1f} GiB"
    if run.inference is not None:
        of = f"of the {usable / GIB:.1f} GiB that {run.defaults.name} uses"
        del parts["framework"]
    raise InfeasibleError(
        f"it doesn't fit: the fullest GPU needs {needed / GIB:.1f} {of}",
        path="hardware.device",
        needed=needed / GIB,
        available=usable / GIB,
        breakdown=parts,
        suggestion=nearest_fit(run) if advise else None,
    )


def _demand(run: Run, stage: StageBytes) -> tuple[float, float]:
    """(bytes needed, bytes there) of a GPU of a stage."""
    if run.inference is None:
        return stage.total, run.hardware.device.memory.capacity
    fixed = stage.parameters + stage.activations + stage.buffers
    return fixed + stage.kv_cache, max(1.0, fixed + cache_room(run, stage))


def nearest_fit(run: Run) -> str | None:
    """The first change, mildest first, or else the first two together, after which the run divides and fits."""
    changes = list(_changes(run))
    for chosen in (*((change,) for change in changes), *combinations(changes, 2)):
        if _fits(run, chosen):
            return " and ".join(f"{path}: {value}" for path, value in chosen)
    return None


Change = tuple[str, object]


def _fits(run: Run, changes: Iterable[Change]) -> bool:
    try:
        for path, value in changes:
            run = with_field(run, path, value)
        if run.kind == "training":
            memory = training_memory(prepare(run))
        else:
            memory = inference_memory(prepare_inference(run, "decode", 1.0))
        check_fits(run, memory, advise=False)
    except (SimulatorError, ValueError):
        return False
    return True


def _changes(run: Run) -> Iterator[Change]:
    split, device, gpus = run.parallelism, run.hardware.device, run.hardware.gpus
    if run.training is not None:
        yield from (("training.micro_batch", size) for size in _halves(run.training.micro_batch))
        yield from (("training.sharding", kind) for kind in ("zero1", "zero3"))
        yield from (("training.recompute", kind) for kind in ("selective", "full"))
    if run.inference is not None:
        yield from (("inference.concurrency", size) for size in _halves(run.inference.in_flight))
    yield from (("parallelism.ep", ep) for ep in _doubles(split.ep, gpus))
    yield from (("parallelism.tp", tp) for tp in _doubles(split.tp, device.scale_up.domain))
    yield from (("parallelism.pp", pp) for pp in _doubles(split.pp, gpus))
    yield from (("hardware.gpus", count) for count in _doubles(gpus, gpus * MAX_GROWTH))


MAX_GROWTH = 64
"""How many times the GPUs of a run are considered to make it fit."""


def _halves(value: int) -> Iterator[int]:
    while value > 1:
        value //= 2
        yield value


def _doubles(value: int, limit: int) -> Iterator[int]:
    while value * 2 <= limit:
        value *= 2
        yield value
