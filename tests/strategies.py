"""Hypothesis strategies: small runs and pipelines, most of which divide and some of which do not."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from simulator.engine.pipeline import Times

SIZES = st.sampled_from([1, 1, 1, 2, 2, 3, 4, 6, 8])


@st.composite
def splits(draw: st.DrawFn) -> dict[str, Any]:
    """GPUs and blocks of a training run; many do not divide."""
    parallelism = {name: draw(SIZES) for name in ("tp", "pp", "cp", "ep")}
    if parallelism["pp"] > 1:
        parallelism["vpp"] = draw(st.sampled_from([1, 1, 2, 3]))
    if draw(st.booleans()):
        parallelism["etp"] = draw(SIZES)
    return {
        "gpus": draw(st.sampled_from([1, 2, 4, 8, 16, 24, 64])),
        "parallelism": parallelism,
        "training": {
            "global_batch": draw(st.integers(1, 200)),
            "micro_batch": draw(st.sampled_from([1, 2, 4])),
            "seq_len": draw(st.sampled_from([60, 64])),
        },
    }


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Times, int, str]:
    """Seconds of every chunk's passes, micro-batches, and a schedule that can run."""
    stages, chunks = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    if stages == 1:
        chunks = 1
    kind = draw(st.sampled_from(["1f1b", "gpipe"]))
    rounds = draw(st.integers(1, 20))
    rest = draw(st.integers(0, stages - 1)) if chunks == 1 else 0
    seconds = draw(st.sampled_from([st.floats(0.01, 10.0), st.floats(0.95, 1.05)]))  # near ties settle late
    rows = st.lists(st.lists(seconds, min_size=chunks, max_size=chunks).map(tuple), min_size=stages, max_size=stages)
    send = draw(st.one_of(st.just(0.0), st.floats(0.0, 5.0)))
    times = Times(tuple(draw(rows)), tuple(draw(rows)), send)
    return times, rounds * stages + rest, kind
