"""Real decoder models in torch, built from a ModelSpec: what `verify` runs and times.

Plain eager implementations as a reader would write them: rotary positions, fused attention, a router with top-k
experts, PEER's product keys, a key-value cache. With `group`, the experts of a layer are spread over its ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from simulator.calibration.torch_experts import Exchange, FeedForward, MixtureOfExperts, Peer
from simulator.errors import CalibrationError
from simulator.spec.model import ModelSpec

ROTARY_BASE = 10_000.0
NORM_EPSILON = 1e-6


class Cache:
    """Keys and values of one layer for a batch: (batch, kv_heads, capacity, head_dim) each."""

    def __init__(self, spec: ModelSpec, batch: int, capacity: int, *, like: Tensor) -> None:
        shape = (batch, spec.num_key_value_heads, capacity, spec.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2))
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values after writing the new ones behind the others."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end].copy_(keys)
        self.values[:, :, self.length : end].copy_(values)
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module):  # type: ignore[misc]  # torch is untyped to mypy
    """Causal self-attention with rotary positions, grouped heads and an optional cache."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = nn.Linear(spec.hidden_size, width, bias=spec.attention_bias)
        self.out = nn.Linear(self.heads * self.head_dim, spec.hidden_size, bias=spec.attention_output_bias)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: Cache | None = None) -> Tensor:
        batch, sequence, _ = x.shape
        heads = self.qkv(x).view(batch, sequence, self.heads + 2 * self.kv_heads, self.head_dim)
        turned, v = heads.split([self.heads + self.kv_heads, self.kv_heads], dim=2)
        q, k = rotate(turned, rotation).split([self.heads, self.kv_heads], dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(k, v)
        y = functional.scaled_dot_product_attention(
            q, k, v, is_causal=sequence > 1, enable_gqa=self.heads != self.kv_heads
        )
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, sequence, -1))
        return out


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions (arXiv 2104.09864) on (batch, sequence, heads, head_dim), halves paired."""
    cos, sin = rotation
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def rotation_of(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of shape (positions, 1, head_dim)."""
    steps = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[:, None].float() * ROTARY_BASE**-steps
    angles = torch.cat((angles, angles), dim=-1)[:, None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


class Layer(nn.Module):  # type: ignore[misc]  # torch is untyped to mypy
    """Attention and feed-forward network, each after a norm and added to the stream."""

    def __init__(self, spec: ModelSpec, kind: str, group: Exchange | None) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = norm_of(spec), norm_of(spec)
        self.attention = Attention(spec)
        self.ffn: nn.Module
        match kind:
            case "moe":
                self.ffn = MixtureOfExperts(spec, group)
            case "peer":
                assert spec.peer is not None
                self.ffn = Peer(spec.hidden_size, spec.peer)
            case _:
                self.ffn = FeedForward(
                    spec.hidden_size, spec.intermediate_size, gated=spec.gated_ffn, bias=spec.mlp_bias
                )

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: Cache | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation, cache)
        out: Tensor = x + self.ffn(self.ffn_norm(x))
        return out


def norm_of(spec: ModelSpec) -> nn.Module:
    """The norm a model uses, over its hidden dimension."""
    if spec.norm == "rmsnorm":
        return nn.RMSNorm(spec.hidden_size, eps=NORM_EPSILON)
    affine = spec.norm != "nonparametric"
    return nn.LayerNorm(spec.hidden_size, eps=NORM_EPSILON, elementwise_affine=affine, bias=spec.norm == "layernorm")


class Decoder(nn.Module):  # type: ignore[misc]  # torch is untyped to mypy
    """Embedding, layers, norm and head. Tokens of shape (batch, sequence) to logits (batch, sequence, vocabulary)."""

    def __init__(self, spec: ModelSpec, group: Exchange | None = None) -> None:
        super().__init__()
        _supported(spec)
        self.spec = spec
        self.embedding = nn.Embedding(spec.vocab_size, spec.hidden_size)
        self.layers = nn.ModuleList(Layer(spec, kind, group) for kind in spec.layer_kinds)
        self.norm = norm_of(spec)
        self.head = nn.Linear(spec.hidden_size, spec.vocab_size, bias=spec.head_bias)
        if spec.tie_word_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, caches: list[Cache] | None = None) -> Tensor:
        past = caches[0].length if caches else 0
        positions = torch.arange(past, past + tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens)
        rotation = rotation_of(positions, self.spec.head_dim, x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, caches[index] if caches else None)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def caches(self, batch: int, capacity: int) -> list[Cache]:
        """Empty caches, one a layer."""
        return [Cache(self.spec, batch, capacity, like=self.head.weight) for _ in self.layers]


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of (batch, sequence, vocabulary) logits."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _supported(spec: ModelSpec) -> None:
    """Raises CalibrationError for what these implementations don't do."""
    absent = {
        "latent attention": spec.is_mla,
        "an encoder": spec.num_encoder_layers > 0,
        "sliding windows": spec.sliding_window is not None,
        "learned positions": spec.learned_positions > 0,
        "parallel attention": spec.parallel_attention,
        "norms on queries and keys": spec.qk_norm,
        "attention sinks": spec.attention_sinks,
        "routing that is not learned": spec.is_moe and spec.routing != "learned",
        "a gate on shared experts": spec.shared_expert_gate,
        "experts shared by layers": spec.experts_shared_layers > 1,
    }
    for feature, present in absent.items():
        if present:
            raise CalibrationError(f"{spec.name}: models to verify with don't implement {feature}")
