"""One step of a verification case: as a callable to time, and as a trace to price."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from simulator.calibration.calls import Trace
from simulator.calibration.kernels_device import TorchDevice
from simulator.calibration.torch_experts import MixtureOfExperts, Routing
from simulator.calibration.torch_models import Decoder, loss_of
from simulator.calibration.torch_trace import trace, without_values
from simulator.calibration.verify_cases import VerifyCase

BATCHES = 64
"""Token batches taken in turn: branches and sparse rows of a repeated one would be learned."""
SEED = 1
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Step = Callable[[], object]
Counts = Sequence[Sequence[int]]
"""By mixture-of-experts layer, the tokens of each expert."""


def step_of(case: VerifyCase, device: TorchDevice) -> tuple[Step, Decoder]:
    """What runs a case once on real tensors, and its model."""
    torch.manual_seed(SEED)
    model = Decoder(case.model).to(device=device.torch_device, dtype=device.dtype)
    return model_step(case, model, seed=SEED), model


def model_step(case: VerifyCase, model: Decoder, *, seed: int) -> Step:
    """One step of a case on a model, on tokens drawn by a seed."""
    generator = torch.Generator().manual_seed(seed)
    shape = (case.batch, 1 if case.mode == "decode" else case.sequence)
    batches = [torch.randint(0, case.model.vocab_size, shape, generator=generator) for _ in range(BATCHES)]
    turn = itertools.cycle([batch.to(model.head.weight.device) for batch in batches])
    return _step(case, model, lambda: next(turn))


def _step(case: VerifyCase, model: Decoder, tokens: Callable[[], torch.Tensor]) -> Step:
    match case.mode:
        case "forward":
            return lambda: _inference(model, tokens())
        case "decode":
            caches = model.caches(case.batch, case.sequence + 1)
            for cache in caches:
                cache.length = case.sequence  # every step writes the same place
            model.eval()
            return lambda: _inference(model, tokens(), caches)
        case "train":
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True, foreach=False)

            def train() -> None:
                batch = tokens()
                loss_of(model(batch), batch).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            return train


def _inference(model: Decoder, tokens: torch.Tensor, caches: Any = None) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(tokens, caches)
    return logits


def counts_of(case: VerifyCase, device: TorchDevice) -> Counts:
    """The tokens each expert gets in one step: an input of the prediction, as a table of measured routing is."""
    if not case.model.is_moe:
        return ()
    step, model = step_of(case, device)
    step()
    layers = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    return [[n for row in layer.seen.arriving for n in row] for layer in layers if layer.seen]


class _KnownExchange:
    """The exchange of a traced model: routing is given, rows have no values, and what travels is written down."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.routing: list[Routing] = []
        self.turn = itertools.count()
        self.sent_bytes: list[float] = []

    def agree(self, counts: torch.Tensor) -> Routing:
        self.sent_bytes.append(float(counts.numel() * 8))
        return self.routing[next(self.turn) % len(self.routing)]

    def rows(self, rows: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
        self.sent_bytes.append(max(sum(sent), sum(received)) * rows.shape[1] * float(rows.element_size()))
        return rows.new_empty(sum(received), rows.shape[1])


def parallel_trace_of(
    case: VerifyCase, routing: Sequence[Routing], dtype: torch.dtype, kind: str = "cpu"
) -> tuple[Trace, list[float]]:
    """The calls of one rank's step, and the buffer bytes of each all-to-all in it."""
    with without_values(dtype, kind):
        exchange = _KnownExchange(case.ranks)
        exchange.routing = list(routing)
        model = Decoder(case.model, exchange)
        tokens = torch.zeros((case.batch, case.sequence), dtype=torch.int64)
        result = trace(_step(case, model, lambda: tokens))
        return result, exchange.sent_bytes[: 3 * len(routing)]


def trace_of(case: VerifyCase, counts: Counts, dtype: torch.dtype, kind: str = "cpu") -> Trace:
    """The calls of one step, from shapes and expert counts alone."""
    with without_values(dtype, kind):
        model = Decoder(case.model)
        layers = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
        for layer, read in zip(layers, counts, strict=True):
            layer.read = lambda _, read=read: list(read)  # type: ignore[misc]
        shape = (case.batch, 1 if case.mode == "decode" else case.sequence)
        turn = itertools.cycle([torch.zeros(shape, dtype=torch.int64) for _ in range(2)])
        return trace(_step(case, model, lambda: next(turn)))
