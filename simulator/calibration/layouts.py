"""Which residual tables each operation gets: the features they span and how stiff they are."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.spec.forms import COLLECTIVES, TILES


@dataclass(frozen=True)
class Layout:
    """A table to fit: (feature, step in its unit) per axis.

    `smooth` penalises squared second differences along the axes, `ridge` squared values; both in units of one measured
    point.
    """

    axes: tuple[tuple[str, float], ...]
    smooth: float
    ridge: float
    gate: str | None = None


def layouts(op: str) -> tuple[Layout, ...]:
    """The tables of an operation, fitted together."""
    match op:
        case "gemm":
            tiles = tuple(
                Layout(((f"waves_{a}x{b}", 1.0), (f"full_{a}x{b}", 0.2), ("k", 2.0)), 0.1, 0.01) for a, b in TILES
            )
            shape = Layout((("m", 1.0), ("n", 1.0), ("k", 1.0)), 0.1, 0.01)
            ragged = Layout((("m", 1.0), ("n", 3.0), ("k", 3.0)), 0.1, 0.01, gate="ragged")
            return (shape, ragged, *tiles)
        case "moe":
            return (
                _moe(("tokens", 1.0), ("rows_per_expert", 1.0), ("skew", 1.0)),
                _moe(("rows", 1.0), ("local_experts", 1.0), ("weights", 2.0)),
                _moe(("tokens", 1.0), ("ep", 1.0), ("skew", 1.0)),
                _moe(("spread", 1.0), ("tokens", 2.0), ("skew", 1.0)),
                _moe(("tp", 1.0), ("rows_per_expert", 1.0), ("inter", 1.0)),
            )
        case "prefill" | "mla_prefill":
            return (*_attention(), Layout((("waves", 1.0), ("full", 0.2), ("seq", 1.0)), 0.1, 0.1))
        case "decode" | "mla_decode":
            caches = (("cache_waves", 1.0), ("cache_full", 0.1), ("seen", 1.0), ("grouping", 1.0))
            windowed = Layout((("grouping", 1.0), ("rows", 1.0), ("seen", 1.0)), 0.1, 0.1, gate="windowed")
            return (*_attention(), Layout(caches, 0.1, 0.1), windowed)
        case "dispatch" | "combine":
            return (
                Layout((("tokens", 1.0), ("sms", 1.0), ("nodes", 1.0)), 0.3, 0.1),
                Layout((("tokens", 1.0), ("topk", 1.0)), 0.3, 1.0),
                Layout((("tokens", 1.0), ("hidden", 1.0)), 0.3, 1.0),
                Layout((("tokens", 1.0), ("group_size", 1.0)), 0.3, 0.3),
            )
        case _:
            assert op in (*COLLECTIVES, "memory"), op
            return (Layout((("bytes", 1.0),), 0.02, 0.02),)


def _moe(*axes: tuple[str, float]) -> Layout:
    return Layout(axes, 10.0, 30.0)


def _attention() -> tuple[Layout, ...]:
    return (
        Layout((("kv_rows", 1.0), ("seen", 1.0), ("grouping", 1.0), ("head_dim", 1.0)), 0.1, 0.1),
        Layout((("cut", 1.0), ("head_dim", 1.0), ("rows", 1.0)), 0.1, 0.1),
        Layout((("batch", 1.0), ("seq", 1.0), ("heads", 1.0)), 0.1, 0.1),
    )


MODEL_COLUMNS = ("hidden", "inter", "topk", "experts")
"""What makes two expert layers the same model."""
MODEL_LAYOUT = Layout((("tokens", 1.0), ("tp", 1.0), ("ep", 1.0), ("skew", 1.0)), 0.3, 0.05)
"""The table each measured model gets besides: measured models are the ones people ask for."""
