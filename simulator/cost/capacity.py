"""Whether a run fits: memory of inference, the largest batch, and the nearest change that makes a run fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations

from simulator.cost.memory import BF16, CONTEXT_BYTES, FRAGMENTATION, WORKSPACE_BYTES, StageBytes, training_memory
from simulator.errors import InfeasibleError, SimulatorError
from simulator.graph import parameters_held as held
from simulator.graph.builder import Build, prepare
from simulator.graph.inference import kv_bytes_per_token, prepare_inference
from simulator.graph.inference_layers import widths_of
from simulator.graph.layers import stack_of
from simulator.graph.precision import element_bytes
from simulator.spec import parameters as counts
from simulator.spec.run import Run, with_field
from simulator.units import GIB


def inference_memory(b: Build) -> list[StageBytes]:
    """Bytes of one GPU of each stage while a batch decodes its last token."""
    run, layout = b.run, b.layout
    work = run.inference
    assert work is not None
    widths = widths_of(run.model, work.precision, run.hardware.device)
    dense_size, expert_size = element_bytes(widths.dense[1]), element_bytes(widths.experts[1])
    out = []
    for stage, portion in enumerate(stack_of(run.model, layout.pp, 1, pads=False).stages):
        dense, expert = held.stage_held(run.model, layout, dict(portion), stage)
        wide = _kept_wide(b, stage)
        weights = (dense - wide) * dense_size + expert * expert_size + wide * BF16
        cache = kv_bytes_per_token(run, layout) * (work.isl + work.osl) * layout.micro_batch
        activations = _prefill_activations(b)
        framework = CONTEXT_BYTES + FRAGMENTATION * activations
        out.append(StageBytes(weights, 0.0, 0.0, activations, WORKSPACE_BYTES, cache, framework, "last output token"))
    return out


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
    """Raise InfeasibleError where the fullest GPU needs more than it has, if `advise` with the nearest change."""
    capacity = run.hardware.device.memory.capacity
    fullest = max(memory, key=lambda stage: stage.total)
    if fullest.total <= capacity:
        return
    raise InfeasibleError(
        f"it doesn't fit: the fullest GPU needs {fullest.total / GIB:.1f} of {capacity / GIB:.1f} GiB",
        path="hardware.device",
        needed=fullest.total / GIB,
        available=capacity / GIB,
        breakdown=fullest.parts(),
        suggestion=nearest_fit(run, capacity) if advise else None,
    )


def nearest_fit(run: Run, capacity: float) -> str | None:
    """The first change, mildest first, or else the first two together, after which the run divides and fits."""
    changes = list(_changes(run))
    for chosen in (*((change,) for change in changes), *combinations(changes, 2)):
        if _fits(run, chosen, capacity):
            return " and ".join(f"{path}: {value}" for path, value in chosen)
    return None


Change = tuple[str, object]


def _fits(run: Run, changes: Iterable[Change], capacity: float) -> bool:
    try:
        for path, value in changes:
            run = with_field(run, path, value)
        if run.kind == "training":
            memory = training_memory(prepare(run))
        else:
            memory = inference_memory(prepare_inference(run, "decode", 1.0))
    except (SimulatorError, ValueError):
        return False
    return max(stage.total for stage in memory) <= capacity


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
