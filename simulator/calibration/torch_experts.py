"""Feed-forward networks in torch: dense, routed experts on one or several ranks, and PEER."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from simulator.errors import CalibrationError
from simulator.spec.model import ModelSpec
from simulator.spec.peer import PeerSpec


class Routing(NamedTuple):
    """Who sends how many rows to whom."""

    sent: list[int]
    """Rows sent to each rank."""
    arriving: list[list[int]]
    """By source rank, rows for each expert of this rank."""


class Exchange(Protocol):
    """The ranks that share the experts of a layer."""

    ranks: int

    def agree(self, counts: Tensor) -> Routing:
        """The routing, from the rows this rank has for each expert of all ranks."""

    def rows(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Rows from all ranks in order, for rows sent to all ranks in order. Differentiable."""


class FeedForward(nn.Module):  # type: ignore[misc]  # torch is untyped to mypy
    """Up (and gate), activation, down: silu where gated, gelu where not."""

    def __init__(self, hidden: int, width: int, *, gated: bool, bias: bool) -> None:
        super().__init__()
        self.gated = gated
        self.up = nn.Linear(hidden, width * (2 if gated else 1), bias=bias)
        self.down = nn.Linear(width, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(x)
        if self.gated:
            gate, value = inner.chunk(2, dim=-1)
            inner = functional.silu(gate) * value
        else:
            inner = functional.gelu(inner)
        out: Tensor = self.down(inner)
        return out


class MixtureOfExperts(nn.Module):  # type: ignore[misc]  # torch is untyped to mypy
    """Every token goes to its best experts by a learned router, weights normalised over them."""

    def __init__(self, spec: ModelSpec, group: Exchange | None = None) -> None:
        super().__init__()
        assert spec.num_experts is not None
        ranks = group.ranks if group else 1
        if spec.num_experts % ranks:
            raise CalibrationError(f"{spec.num_experts} experts can't be spread evenly over {ranks} processes")
        self.total, self.top_k, self.group = spec.num_experts, spec.num_experts_per_tok, group
        self.router = nn.Linear(spec.hidden_size, self.total, bias=False)
        gated, bias = spec.expert_gated_ffn, spec.expert_bias
        width = spec.moe_intermediate_size
        self.experts = nn.ModuleList(
            FeedForward(spec.hidden_size, width, gated=gated, bias=bias) for _ in range(self.total // ranks)
        )
        shared = spec.shared_expert_intermediate_size
        self.shared = FeedForward(spec.hidden_size, shared, gated=gated, bias=bias) if shared else None
        self.read: Callable[[Tensor], list[int]] = _integers
        """Reads the rows of each expert off the device; a trace, whose tensors hold no values, puts its own here."""
        self.seen: Routing | None = None
        """The routing of the last pass."""

    def forward(self, x: Tensor) -> Tensor:
        batch, sequence, hidden = x.shape
        flat = x.view(-1, hidden)
        weights, chosen = torch.softmax(self.router(flat), dim=-1).topk(self.top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        choice = chosen.flatten()
        order = torch.sort(choice, stable=True).indices
        token = order // self.top_k
        counts = torch.histc(choice.to(flat.dtype), bins=self.total, min=0, max=self.total - 1)
        rows = flat.index_select(0, token)
        done = self._here(rows, counts) if self.group is None else self._exchanged(rows, counts, self.group)
        done = done * weights.flatten().index_select(0, order)[:, None]
        out = torch.zeros_like(flat).index_add(0, token, done)
        if self.shared is not None:
            out = out + self.shared(flat)
        return out.view(batch, sequence, hidden)

    def _here(self, rows: Tensor, counts: Tensor) -> Tensor:
        """The rows, sorted by expert, each through its expert."""
        read = self.read(counts)
        self.seen = Routing([sum(read)], [read])
        return torch.cat(self._run(list(rows.split(read))))

    def _exchanged(self, rows: Tensor, counts: Tensor, group: Exchange) -> Tensor:
        """The same where experts live on several ranks: rows travel to their expert and back."""
        routing = self.seen = group.agree(counts)
        received = [sum(row) for row in routing.arriving]
        pieces = group.rows(rows, routing.sent, received).split([n for row in routing.arriving for n in row])
        local = len(self.experts)
        by_expert = [torch.cat(pieces[expert::local]) for expert in range(local)]
        splits = [[row[expert] for row in routing.arriving] for expert in range(local)]
        outs = [out.split(split) for out, split in zip(self._run(by_expert), splits, strict=True)]
        back = torch.cat([outs[expert][rank] for rank in range(group.ranks) for expert in range(local)])
        return group.rows(back, received, routing.sent)

    def _run(self, parts: list[Tensor]) -> list[Tensor]:
        """Each part through its expert; experts without rows are not called."""
        return [expert(part) if part.shape[0] else part for expert, part in zip(self.experts, parts, strict=True)]


def _integers(counts: Tensor) -> list[int]:
    return [int(count) for count in counts.tolist()]


class Peer(nn.Module):  # type: ignore[misc]  # torch is untyped to mypy
    """Parameter-efficient expert retrieval (arXiv 2407.04153): one-neuron experts found by product keys."""

    def __init__(self, hidden: int, spec: PeerSpec) -> None:
        super().__init__()
        self.spec, self.keys_per_set = spec, isqrt(spec.num_experts)
        half = spec.query_dim // 2
        self.query = nn.Linear(hidden, spec.num_heads * spec.query_dim, bias=False)
        self.norm = nn.BatchNorm1d(spec.num_heads * spec.query_dim) if spec.query_batch_norm else nn.Identity()
        self.keys = nn.Parameter(torch.randn(2, self.keys_per_set, half) * half**-0.5)
        self.down = nn.Parameter(torch.randn(spec.num_experts, hidden) * hidden**-0.5)
        self.up = nn.Parameter(torch.randn(spec.num_experts, hidden) * hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        batch, sequence, hidden = x.shape
        flat = x.view(-1, hidden)
        gates, experts = self.retrieve(self.norm(self.query(flat)))
        inner = torch.bmm(functional.embedding(experts, self.down), flat[:, :, None])[:, :, 0]
        inner = functional.gelu(inner) * gates
        out = torch.bmm(inner[:, None, :], functional.embedding(experts, self.up))[:, 0]
        return out.view(batch, sequence, hidden)

    def retrieve(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Gates and expert numbers of shape (tokens, heads top_k), for queries (tokens, heads query_dim)."""
        heads, k = self.spec.num_heads, self.spec.top_k
        tokens = queries.shape[0]
        halves = queries.view(tokens * heads, 2, -1).transpose(0, 1)
        scores, places = torch.bmm(halves, self.keys.mT).topk(k)
        sums = (scores[0][:, :, None] + scores[1][:, None, :]).view(tokens * heads, k * k)
        best, at = sums.topk(k)
        experts = places[0].gather(1, at // k) * self.keys_per_set + places[1].gather(1, at % k)
        return torch.softmax(best, dim=-1).view(tokens, heads * k), experts.view(tokens, heads * k)
