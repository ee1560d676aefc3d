"""The models verification runs: small enough to run in milliseconds, from below to above the calibrated shapes.

Some are fixed, some drawn by a seed, so that a reader can ask for models nobody looked at when the method was made.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from simulator.spec.model import ModelSpec

Mode = Literal["forward", "train", "decode"]
GROUPS = ("dense forward", "dense training", "moe forward", "moe training", "peer", "decode")
VOCABULARY = 1000


@dataclass(frozen=True)
class VerifyCase:
    """One model step: what is run, on how many tokens."""

    group: str
    model: ModelSpec
    mode: Mode
    batch: int
    sequence: int
    """Tokens a sequence; in decode the tokens already in the cache."""
    ranks: int = 1
    drawn: bool = False
    """Chosen by a seed: nobody looked at it when the method was made."""

    @property
    def name(self) -> str:
        """What distinguishes the case, readable."""
        return f"{self.model.name}, {self.batch} x {self.sequence}" + (f", {self.ranks} processes" * (self.ranks > 1))


def fixed_cases() -> Iterator[VerifyCase]:
    """The models every verification runs."""
    for hidden, layers, batch, sequence in (
        (32, 2, 1, 16), (64, 2, 1, 32), (128, 4, 1, 64), (256, 2, 2, 32), (384, 1, 1, 96), (512, 2, 1, 48),
        (768, 1, 1, 48), (1024, 1, 1, 24),
    ):  # fmt: skip
        yield VerifyCase("dense forward", dense(hidden, layers), "forward", batch, sequence)
    for hidden, layers, batch, sequence in (
        (32, 2, 1, 32), (64, 2, 2, 32), (128, 2, 2, 48), (192, 1, 1, 64), (256, 1, 1, 64), (384, 1, 1, 40),
    ):  # fmt: skip
        yield VerifyCase("dense training", dense(hidden, layers), "train", batch, sequence)
    for hidden, layers, experts, batch, sequence in (
        (64, 2, 4, 1, 32), (128, 2, 8, 1, 64), (128, 2, 8, 4, 64), (256, 1, 8, 2, 64), (256, 1, 16, 1, 48),
        (384, 1, 8, 1, 64),
    ):  # fmt: skip
        yield VerifyCase("moe forward", moe(hidden, layers, experts), "forward", batch, sequence)
    for hidden, layers, experts, batch, sequence in ((64, 2, 4, 2, 32), (128, 1, 8, 2, 64), (192, 1, 4, 1, 64)):
        yield VerifyCase("moe training", moe(hidden, layers, experts), "train", batch, sequence)
    for hidden, keys, heads, k, tokens in (
        (64, 64, 2, 8, 32), (64, 128, 4, 8, 64), (128, 128, 8, 16, 64), (128, 256, 4, 16, 128), (256, 128, 8, 8, 128),
        (256, 256, 8, 16, 64), (128, 512, 4, 16, 64),
    ):  # fmt: skip
        yield VerifyCase("peer", peer(hidden, keys, heads, k), "forward", 1, tokens)
    for hidden, layers, batch, context in (
        (64, 2, 1, 64), (128, 4, 1, 256), (256, 2, 4, 128), (256, 4, 1, 1024), (512, 2, 1, 256), (512, 2, 8, 512),
        (768, 2, 1, 128),
    ):  # fmt: skip
        yield VerifyCase("decode", dense(hidden, layers), "decode", batch, context)


def drawn_cases(seed: int, count: int) -> Iterator[VerifyCase]:
    """`count` models drawn by a seed, taking the groups in turn."""
    generator = random.Random(seed)
    for index in range(count):
        group = GROUPS[index % len(GROUPS)]
        yield replace(_draw(group, generator), drawn=True)


def _draw(group: str, generator: random.Random) -> VerifyCase:
    pick = generator.choice
    hidden, batch = pick((64, 96, 128, 160, 192, 256, 320, 384)), pick((1, 1, 1, 2, 3))
    sequence = pick((16, 24, 32, 48, 64))
    match group:
        case "dense forward":
            return VerifyCase(group, dense(hidden, pick((1, 2, 3)), **_variant(pick)), "forward", batch, sequence)
        case "dense training":
            return VerifyCase(group, dense(min(hidden, 192), pick((1, 2)), **_variant(pick)), "train", batch, sequence)
        case "moe forward":
            model = moe(min(hidden, 256), pick((1, 2)), pick((4, 6, 8, 16)))
            return VerifyCase(group, model, "forward", batch, sequence)
        case "moe training":
            return VerifyCase(group, moe(min(hidden, 160), 1, pick((4, 8))), "train", batch, sequence)
        case "peer":
            model = peer(min(hidden, 256), pick((64, 96, 128, 192, 256, 320)), pick((2, 4, 6, 8)), pick((4, 8, 12, 16)))
            return VerifyCase(group, model, "forward", 1, sequence)
        case _:
            return VerifyCase(
                "decode", dense(hidden, pick((1, 2, 3))), "decode", pick((1, 2, 4, 8)), pick((48, 96, 200, 400, 700))
            )


def _variant(pick: Any) -> dict[str, Any]:
    return pick(({}, {}, {"norm": "layernorm"}, {"gated_ffn": False}))  # type: ignore[no-any-return]


def parallel_cases() -> Iterator[VerifyCase]:
    """Mixtures of experts whose experts are spread over two processes."""
    for hidden, layers, experts, batch, sequence in (
        (64, 2, 4, 1, 64), (128, 2, 4, 2, 64), (128, 2, 8, 4, 64), (256, 1, 8, 2, 64), (256, 2, 8, 2, 128),
        (384, 1, 8, 4, 64),
    ):  # fmt: skip
        yield VerifyCase("expert parallel", moe(hidden, layers, experts), "forward", batch, sequence, ranks=2)


def _attention(hidden: int) -> dict[str, Any]:
    head_dim = 64 if hidden >= 256 else 32 if hidden % 32 == 0 else 16
    heads = max(1, hidden // head_dim)
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2 if heads % 2 == 0 else heads,
        "head_dim": head_dim,
        "vocab_size": VOCABULARY,
    }


def _model(name: str, fields: dict[str, Any]) -> ModelSpec:
    return ModelSpec.model_validate({"name": name, "status": "ours", **fields})


def dense(hidden: int, layers: int, **variant: Any) -> ModelSpec:
    """A Llama-like model."""
    fields = {**_attention(hidden), "num_hidden_layers": layers, "intermediate_size": 3 * hidden, **variant}
    suffix = "".join(f" {value if isinstance(value, str) else 'ungated'}" for value in variant.values())
    return _model(f"dense d{hidden} L{layers}{suffix}", fields)


def moe(hidden: int, layers: int, experts: int) -> ModelSpec:
    """A Mixtral-like model, two experts a token."""
    fields = {**_attention(hidden), "num_hidden_layers": layers, "num_experts": experts, "num_experts_per_tok": 2}
    return _model(f"moe d{hidden} L{layers} E{experts}", {**fields, "moe_intermediate_size": 2 * hidden})


def peer(hidden: int, keys: int, heads: int, k: int) -> ModelSpec:
    """A model of one layer with keys^2 single-neuron experts."""
    layer = {"num_experts": keys**2, "num_heads": heads, "top_k": k, "query_dim": 64, "layers": [0]}
    fields = {**_attention(hidden), "num_hidden_layers": 1, "peer": layer}
    return _model(f"peer d{hidden} N{keys}^2 h{heads} k{k}", fields)
