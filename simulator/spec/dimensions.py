"""Whole numbers as a user writes them: how many layers, how wide."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field


def _no_flag(value: object) -> object:
    """Pydantic would read `true` as 1."""
    if isinstance(value, bool):
        raise ValueError(f"expected a whole number, got {str(value).lower()}")
    return value


def _zero_if_null(value: object) -> object:
    return 0 if value is None else _no_flag(value)


# The upper bound only refuses nonsense: no dimension of a network comes near 2**40.
Count = Annotated[int, BeforeValidator(_no_flag), Field(gt=0, lt=2**40)]
CountOrNone = Annotated[int, BeforeValidator(_zero_if_null), Field(ge=0, lt=2**40)]
LayerCount = Annotated[int, BeforeValidator(_no_flag), Field(gt=0, le=10_000)]
LayerCountOrNone = Annotated[int, BeforeValidator(_zero_if_null), Field(ge=0, le=10_000)]
