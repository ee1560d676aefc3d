"""The draft of speculative decoding as a run of its own: a smaller model, or the model's prediction modules.

A multi-token prediction module (arXiv 2412.19437, section 2.2) is one layer like the last between the model's own
embedding and head, and before it a projection of the hidden state joined with the embedding of the next token, 2d x d.
Where more tokens are drafted than there are modules, they go around again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd

from simulator.errors import InfeasibleError
from simulator.graph.inference_layers import gemm, kernel, widths_of
from simulator.graph.operator import Operator
from simulator.graph.transformer import ACTIVATION_BYTES, Shapes
from simulator.spec.model import ModelSpec
from simulator.spec.run import Run


@dataclass(frozen=True, slots=True)
class Draft:
    """What drafts, as a run on the GPUs of the model: `passes` a step, by `modules` in turn or by a model alone."""

    run: Run
    passes: int
    modules: int
    """Prediction modules, which share embedding and head with the model; 0 where a model of its own drafts."""

    @property
    def readers(self) -> int:
        """How many caches a prompt is read into."""
        return max(1, self.modules)


def draft_of(run: Run) -> Draft | None:
    """The draft of a run that `serving_split` has split; None where nothing is drafted.

    Raises InfeasibleError with pipeline stages: a draft goes on from what the last of them yields.
    """
    work = run.inference
    assert work is not None
    asked, split = work.speculative, run.parallelism
    if asked is None:
        return None
    if split.pp > 1:
        raise InfeasibleError("speculative decoding needs pp: 1", path="parallelism.pp", suggestion="parallelism.pp: 1")
    model = asked.draft_model or prediction_module(run.model)
    if not model.num_experts:
        changed = {"tp": gcd(split.tp, model.num_attention_heads), "ep": 1, "etp": None}
        split = split.model_copy(update=changed)
    work = work.model_copy(update={"speculative": None})
    drafting = run.model_copy(update={"model": model, "parallelism": split, "inference": work})
    modules = 0 if asked.draft_model is not None else run.model.num_nextn_predict_layers
    return Draft(drafting, asked.tokens, modules)


@lru_cache(maxsize=64)
def prediction_module(model: ModelSpec) -> ModelSpec:
    """One module of a model as a model of one layer, with the embedding and the head that it shares."""
    changed = {"num_hidden_layers": 1, "num_nextn_predict_layers": 0, "first_k_dense_replace": 0, "moe_every": 1}
    return model.model_copy(update={"name": f"{model.name} prediction module", **changed})


def joined_input(run: Run, s: Shapes) -> list[Operator]:
    """Two norms and the projection before the layer of a prediction module; whole on every rank, as engines have it."""
    hidden = run.model.hidden_size
    widths = widths_of(run.model, s.weight_precision, run.hardware.device)
    return [
        kernel("norms of hidden state and embedding", s.tokens * 2 * hidden * 2 * ACTIVATION_BYTES),
        gemm("projection of both", "attention_projection", s.tokens, hidden, 2.0 * hidden, widths.dense),
    ]
