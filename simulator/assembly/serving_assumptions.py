"""What a result of inference takes for granted of the engine and of its requests."""

from __future__ import annotations

from simulator.graph.kv_cache import kv_precision
from simulator.result import Assumption
from simulator.spec.inference_constants import read_inference_constants
from simulator.spec.run import Run


def serving_assumptions(run: Run) -> list[Assumption]:
    """Cache, memory, routing, drafts and prefixes, each with who stated it."""
    work, engine = run.inference, run.defaults
    assert work is not None

    def row(name: str, value: str, path: str, *, stated: bool, influence: str, source: str) -> Assumption:
        by = "run file" if stated else "framework"
        return Assumption(
            name=name,
            value=value,
            path=path,
            stated_by=by,
            influence=influence,
            source="the run file" if stated else source,
        )

    rows = [
        row(
            "Precision of the KV cache",
            kv_precision(run),
            "inference.kv_cache_precision",
            stated=work.kv_cache_precision is not None,
            influence="users that fit, and the time of attention",
            source=engine.source,
        ),
        row(
            "Memory the engine takes",
            f"{engine.memory_fraction:.0%} of {'what weights leave' if engine.memory_after_weights else 'the device'}",
            "inference.framework",
            stated=False,
            influence="users that fit",
            source=engine.source,
        ),
    ]
    if run.model.num_experts:
        rows.append(_experts(run))
    if work.speculative is not None:
        drafts, model = work.speculative, work.speculative.draft_model
        by = "a prediction module" if model is None else model.name
        rows.append(
            row(
                "Drafted tokens that hold",
                f"{drafts.acceptance:.0%} of {drafts.tokens} a step, drafted by {by}",
                "inference.speculative.acceptance",
                stated=True,
                influence=f"{drafts.tokens_per_step:.3g} tokens a step",
                source="",
            )
        )
    hit = run.serving.prefix_hit if run.serving is not None else 0.0
    if hit:
        rows.append(
            row(
                "Prompt tokens found in the cache",
                f"{hit:.0%}",
                "serving.prefix_hit",
                stated=True,
                influence="time to first token, and what can be sustained",
                source="",
            )
        )
    return rows


def _experts(run: Run) -> Assumption:
    """How uneven experts are chosen."""
    stated = run.routing.skew is not None
    skew = run.routing.skew if run.routing.skew is not None else read_inference_constants().routing_skew
    return Assumption(
        name="Expert popularity",
        value=f"Zipf, exponent {skew:g}",
        path="routing.skew",
        stated_by="run file" if stated else "default",
        influence="experts a step touches, and the fullest rank",
        source="the run file" if stated else "fitted on published serving measurements",
    )
