"""The legal splits of a run, generated: each choice is made among what still divides, so none is made in vain.

The rules are those of `graph.parallel`, where a run that breaks one is refused; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from simulator.spec.plan import Splits
from simulator.spec.run import Run


class Split(NamedTuple):
    """How one model is cut; `etp` is None where the framework decides it."""

    tp: int
    pp: int
    vpp: int
    cp: int
    ep: int
    etp: int | None

    def fields(self) -> dict[str, int]:
        """As the `parallelism` block of a run."""
        return {name: value for name, value in self._asdict().items() if value is not None}


@lru_cache(maxsize=4096)
def divisors(number: int) -> tuple[int, ...]:
    """All divisors, smallest first."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(small + [number // d for d in reversed(small) if d * d != number])


def legal_splits(run: Run, allowed: Splits) -> Iterator[Split]:
    """Every split of `run` that divides and that `allowed` allows, tensor parallelism changing slowest.

    Where a part is left open: tp stays within a scale-up domain, cp is 1, interleaved stages hold equally many layers,
    and etp is what the framework makes it.
    """
    gpus, heads = run.hardware.gpus, run.model.num_attention_heads
    inside = [d for d in divisors(gpus) if d <= run.hardware.scale_up_domain]
    for tp in _open(allowed.tp, inside):
        if heads % tp or gpus % tp:
            continue
        for cp in _open(allowed.cp, (1,)):
            if gpus % (tp * cp) or (run.training is not None and run.training.seq_len % cp):
                continue
            for pp, vpp in _pipelines(run, allowed, gpus // (tp * cp)):
                for etp, ep in _experts(run, allowed, tp, gpus // pp):
                    yield Split(tp, pp, vpp, cp, ep, etp)


def _open(stated: Sequence[int] | None, otherwise: Sequence[int]) -> Sequence[int]:
    return otherwise if stated is None else stated


def _pipelines(run: Run, allowed: Splits, ranks: int) -> Iterator[tuple[int, int]]:
    """(pp, vpp) over `ranks` ranks that differ in stage or data."""
    layers = run.model.num_encoder_layers + run.model.num_hidden_layers
    pads = run.defaults.pads_uneven_pipeline
    for pp in _open(allowed.pp, divisors(ranks)):
        if ranks % pp or not _holds_layers(pp, layers, pads):
            continue
        micro_batches = _micro_batches(run, ranks // pp)
        if micro_batches is None:
            continue
        even = [v for v in range(1, layers // pp + 1) if v == 1 or layers % (pp * v) == 0] if pp > 1 else [1]
        for vpp in _open(allowed.vpp, even):
            interleaves = pp > 1 and micro_batches % pp == 0 and run.kind == "training"
            if vpp == 1 or (interleaves and _holds_layers(pp * vpp, layers, pads)):
                yield pp, vpp


def _holds_layers(chunks: int, layers: int, pads: bool) -> bool:
    return chunks <= layers or (pads and chunks == layers + 2)


def _micro_batches(run: Run, dp: int) -> int | None:
    """Micro-batches of a step; None where the global batch is not a multiple of theirs."""
    if run.training is None:
        return 1
    step = dp * run.training.micro_batch
    return None if run.training.global_batch % step else run.training.global_batch // step


def _experts(run: Run, allowed: Splits, tp: int, stage_gpus: int) -> Iterator[tuple[int | None, int]]:
    """(etp as the run states it, ep) on the GPUs of a pipeline stage."""
    model = run.model
    experts = model.peer.num_experts if model.peer is not None else model.num_experts
    if not experts:
        if 1 in _open(allowed.ep, (1,)):
            yield from ((etp, 1) for etp in _open_tensor(allowed.etp))
        return
    follows = run.defaults.etp_follows_tp
    width = model.moe_intermediate_size or 0
    for etp in _open_tensor(allowed.etp):
        for ep in _open(allowed.ep, [d for d in divisors(stage_gpus) if experts % d == 0]):
            size = etp if etp is not None else tp if model.is_moe and (ep == 1 or follows) else 1
            if experts % ep == 0 and stage_gpus % (ep * size) == 0 and not (width and width % size):
                yield etp, ep


def _open_tensor(stated: Sequence[int] | None) -> Sequence[int | None]:
    return (None,) if stated is None else stated
