"""Speculative decoding: how many tokens a draft proposes, how often they hold, and what proposes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from simulator.errors import SpecError
from simulator.spec.base import Spec
from simulator.spec.model import ModelSpec, resolve_model


def _draft(value: Any) -> ModelSpec | None:
    if value is None or isinstance(value, ModelSpec):
        return value
    try:
        return resolve_model(value)
    except SpecError as error:
        if error.file is not None:
            raise
        path = "inference.speculative.draft_model" + (f".{error.path}" if error.path else "")
        raise SpecError(error.message, path=path) from None


class Speculative(Spec):
    """A draft proposes `tokens` in a row; one pass of the model checks them all and adds one of its own.

    What comes before the first that fails is kept (Leviathan et al., arXiv 2211.17192).
    """

    tokens: Annotated[int, Field(ge=1, le=64)] = 1
    """Drafted for each sequence and step."""
    acceptance: Annotated[float, Field(ge=0, le=1)]
    """Probability that a drafted token holds, given that those before it do. DeepSeek-V3's second token: 0.85 to 0.90
    (arXiv 2412.19437, section 5.4.3)."""
    draft_model: Annotated[ModelSpec | None, BeforeValidator(_draft, json_schema_input_type=str | ModelSpec | None)] = (
        None
    )
    """What drafts: a model as in `model`. Absent: the model's own multi-token prediction modules."""

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens a sequence gains in a step: 1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a)."""
        return sum(self.acceptance**place for place in range(self.tokens + 1))
