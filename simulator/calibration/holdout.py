"""Which measured points a fit may not see: whole shapes and whole ranges, chosen before anything is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.spec.forms import Array, Shape

Mask = NDArray[np.bool_]
FRACTION = 0.2
MODEL_FOLDS = 4
FEWEST_GROUPS = 5
_MODEL = ("hidden", "inter", "topk", "experts")
_HEADS = ("heads", "kv_heads", "head_dim")


@dataclass(frozen=True)
class Split:
    """`out` is held out, `train` is fitted; points may be in neither. `name` says what is new about the held-out
    ones.
    """

    name: str
    train: Mask
    out: Mask
    beyond: bool = False
    """Whether the held-out points lie outside the fitted range."""
    groups: NDArray[np.intp] | None = None
    """Which group of shapes each point belongs to."""


def splits(op: str, x: Shape) -> list[Split]:
    """The held-out sets of an operation, those with too few points left out."""
    match op:
        case "gemm":
            wanted = [_groups("new (n, k)", x, ("n", "k")), *_gemm_ranges(x)]
        case "moe":
            wanted = [
                _groups("new token counts", x, ("tokens",), apart=_MODEL, inner=True),
                *_folds("new models", x, _MODEL),
                _range("beyond: tokens", x["tokens"] <= 512, x["tokens"] >= 2048),
                _range("beyond: expert parallel", x["ep"] <= 4, x["ep"] >= 8),
            ]
        case "prefill" | "decode":
            wanted = [
                _groups("new head shapes", x, _HEADS),
                _groups("new sequence lengths", x, ("seq",), apart=_HEADS, inner=True),
                _range("beyond: sequence", x["seq"] <= 2048, x["seq"] >= 8192),
                _range("beyond: heads", x["heads"] <= 16, x["heads"] >= 32),
            ]
        case "mla_prefill" | "mla_decode":
            wanted = [
                _groups("new head shapes", x, ("heads",), inner=True),
                _groups("new sequence lengths", x, ("seq",), apart=("heads",), inner=True),
                _range("beyond: sequence", x["seq"] <= 2048, x["seq"] >= 8192),
                _range("beyond: heads", x["heads"] <= 16, x["heads"] >= 32),
            ]
        case "dispatch" | "combine":
            wanted = [
                _alternate("new token counts", x["tokens"]),
                _groups("new models", x, ("hidden", "topk", "experts")),
                _range("beyond: tokens", x["tokens"] <= x["tokens"].max() / 8, x["tokens"] >= x["tokens"].max() / 2),
            ]
        case _:
            size = x["bytes"]
            wanted = [
                _alternate("new sizes", size),
                _range("beyond: above 16 MiB", size <= 2**24, size > 2**25),
                _range("beyond: above 1 MiB", size <= 2**20, size > 2**21),
            ]
    return [split for split in wanted if split is not None and split.train.sum() >= 8 and split.out.sum() >= 2]


def _keys(x: Shape, columns: tuple[str, ...]) -> tuple[Array, NDArray[np.intp]]:
    keys, owner = np.unique(np.stack([x[name] for name in columns], axis=1), axis=0, return_inverse=True)
    return keys, owner.ravel()


def _groups(
    name: str, x: Shape, columns: tuple[str, ...], *, apart: tuple[str, ...] = (), inner: bool = False
) -> Split | None:
    """A fifth of the groups of equal `columns`; the smallest and largest stay in where `inner`.

    What is held out counts as one group for every value of `apart`.
    """
    keys, owner = _keys(x, columns)
    pool = np.arange(len(keys))[1:-1] if inner else np.arange(len(keys))
    if len(pool) < FEWEST_GROUPS:
        return None
    chosen = np.random.default_rng(7).permutation(pool)[: max(1, round(FRACTION * len(pool)))]
    out = np.isin(owner, chosen)
    return Split(name, ~out, out, groups=_keys(x, (*columns, *apart))[1])


def _folds(name: str, x: Shape, columns: tuple[str, ...]) -> list[Split]:
    """Every group held out once."""
    keys, owner = _keys(x, columns)
    if len(keys) < FEWEST_GROUPS:
        return []
    fold = np.random.default_rng(7).permutation(len(keys)) % MODEL_FOLDS
    return [Split(name, fold[owner] != i, fold[owner] == i, groups=owner) for i in range(MODEL_FOLDS)]


def _alternate(name: str, size: Array) -> Split:
    values, owner = np.unique(size, return_inverse=True)
    out = (owner % 2 == 1) & (owner < len(values) - 1)
    return Split(name, ~out, out, groups=owner)


def _range(name: str, train: Mask, out: Mask) -> Split:
    return Split(name, train, out, beyond=True)


def _gemm_ranges(x: Shape) -> list[Split]:
    few, many = x["m"] <= 1024, x["m"] >= 2048
    small, large = (x["n"] <= 4096) & (x["k"] <= 4096), (x["n"] >= 8192) & (x["k"] >= 8192)
    return [
        _range("beyond: m", few, many),
        _range("beyond: n, k", small, large),
        _range("beyond: m, n, k", few & small, many & large),
    ]
