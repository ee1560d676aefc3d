"""Hypothesis strategies: small runs and pipelines, most of which divide and some of which do not."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from simulator.engine.pipeline import Times
from simulator.spec.run import Run, run_from_mapping

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
    kind = draw(st.sampled_from(["1f1b", "gpipe", "zb-h1", "dualpipe"]))
    stages, chunks = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    if kind == "dualpipe":
        stages, chunks = draw(st.sampled_from([2, 4, 6])), 2
    elif kind == "zb-h1":
        stages, chunks = max(2, stages), 1
    elif stages == 1:
        chunks = 1
    rounds = draw(st.integers(1, 20))
    rest = draw(st.integers(0, stages - 1)) if chunks == 1 or kind == "dualpipe" else 0
    seconds = draw(st.sampled_from([st.floats(0.01, 10.0), st.floats(0.95, 1.05)]))  # near ties settle late
    rows = st.lists(st.lists(seconds, min_size=chunks, max_size=chunks).map(tuple), min_size=stages, max_size=stages)
    send = draw(st.one_of(st.just(0.0), st.floats(0.0, 5.0)))
    others = [tuple(draw(rows)) for _ in range({"zb-h1": 2, "dualpipe": 4}.get(kind, 0))]
    times = Times(tuple(draw(rows)), tuple(draw(rows)), send, *others)
    return times, rounds * stages + rest, kind


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Training runs of small models on real devices; most divide."""
    moe = draw(st.booleans())
    pp = draw(st.sampled_from([1, 1, 2, 4]))
    parallelism = {
        "tp": draw(st.sampled_from([1, 1, 2, 4])),
        "pp": pp,
        "cp": draw(st.sampled_from([1, 1, 2])),
        "vpp": draw(st.sampled_from([1, 2])) if pp > 1 else 1,
        "ep": draw(st.sampled_from([1, 2, 8])) if moe else 1,
    }
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 1024} if moe else {}
    data = {
        "name": "drawn",
        "kind": "training",
        "model": {
            "name": "drawn",
            "num_hidden_layers": 8,
            "hidden_size": draw(st.sampled_from([512, 2048])),
            "num_attention_heads": 16,
            "num_key_value_heads": draw(st.sampled_from([2, 16])),
            "intermediate_size": 4096,
            "vocab_size": 32000,
            **experts,
        },
        "hardware": {"device": draw(st.sampled_from(DEVICES)), "gpus": draw(st.sampled_from([8, 16, 64]))},
        "parallelism": parallelism,
        "training": {
            "global_batch": draw(st.sampled_from([64, 128])),
            "micro_batch": draw(st.sampled_from([1, 2])),
            "seq_len": draw(st.sampled_from([512, 4096])),
            "precision": "bf16",
            "sharding": draw(st.sampled_from(["none", "zero1", "zero3"])),
            "recompute": draw(st.sampled_from(["none", "selective", "full"])),
        },
        "framework": draw(st.sampled_from(["megatron-core", "nemo", "torchtitan", "megatron-2022"])),
        "execution": {"moe_dispatcher": draw(st.sampled_from(["alltoall", "deepep"]))},
    }
    return run_from_mapping(data)


DEVICES = ["h100-sxm", "a100-sxm-80gb", "b200-sxm", "gb200"]
