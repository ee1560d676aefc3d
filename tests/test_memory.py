"""Bytes a GPU holds: states by hand, activations by the published formula, peaks as measured, and what fits."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import toy

from simulator.cost.capacity import inference_memory
from simulator.cost.memory import StageBytes, deferred_bytes, live_bytes, stored_bytes, training_memory
from simulator.errors import InfeasibleError
from simulator.graph.builder import prepare
from simulator.graph.inference import prepare_inference
from simulator.graph.kv_cache import cache_shape
from simulator.graph.layers import layers_of
from simulator.graph.order import fullest
from simulator.simulation import inference_batch, simulate, training_step
from simulator.spec.base import data_root
from simulator.spec.run import Run, run_from_mapping, set_path
from simulator.units import GIB
from simulator.validation.replay import read_table, replay

N = 4 * (4 * 128 * 128 + 2 * 128 * 512 + 2 * 128) + 2 * 1024 * 128 + 128
"""Parameters of the toy model: four layers, embedding, head and the norms."""


def stages(**run: Any) -> list[StageBytes]:
    return training_memory(prepare(toy.run(**run)))


def test_the_toy_model_has_as_many_parameters_as_we_say() -> None:
    assert toy.run().model.parameters == N


@pytest.mark.parametrize(
    ("sharding", "parameters", "gradients", "states"),
    [
        ("none", 2, 4, 12),
        ("zero1", 2, 4, 12 / 8),
        ("zero2", 2, 4 / 8, 12 / 8),
        ("zero3", 4 / 8, 4 / 8, 8 / 8),  # one fp32 copy is both weight and master weight
    ],
)
def test_bytes_of_the_states_of_a_parameter(sharding: str, parameters: float, gradients: float, states: float) -> None:
    """bf16 weights, fp32 gradients, fp32 master weight and two moments (arXiv 1910.02054), over eight ranks."""
    (stage,) = stages(gpus=8, training={"sharding": sharding})
    found = stage.parameters / N, stage.gradients / N, stage.optimizer_states / N
    assert found == pytest.approx((parameters, gradients, states), rel=1e-12)


@pytest.mark.parametrize(("optimizer", "size"), [("adam", 12), ("adafactor", 4), ("sgd", 8)])
def test_bytes_of_the_states_of_an_optimizer(optimizer: str, size: float) -> None:
    (stage,) = stages(training={"optimizer": optimizer})
    assert stage.optimizer_states == size * N


def test_offloaded_states_leave_the_gpu() -> None:
    (stage,) = stages(training={"offload": "optimizer"})
    assert (stage.optimizer_states, stage.parameters) == (0, 2 * N)


def test_experts_are_sharded_over_their_own_replicas() -> None:
    """Eight ranks hold one of eight experts each: dense states over 8 replicas, those of experts over one."""
    run = {"gpus": 8, "model": toy.MOE_MODEL, "parallelism": {"ep": 8}}
    model = toy.run(**run).model
    experts = 4 * 8 * 2 * 128 * 256
    (stage,) = stages(**run, training={"sharding": "zero1"})
    assert stage.parameters == 2 * (model.parameters - experts + experts / 8)
    assert stage.optimizer_states == 12 * ((model.parameters - experts) / 8 + experts / 8)


def kept(**run: Any) -> float:
    """Bytes a layer keeps for its backward pass, per token and element of the residual stream."""
    b = prepare(toy.run(**run))
    return stored_bytes(b, layers_of(b.run)[0]) / (b.layout.tokens * 128)


UNFUSED = {"framework": "megatron-2022", "execution": {"attention": "unfused"}}
SP = {"gpus": 4, "parallelism": {"tp": 4, "sequence_parallel": True}}
TP = {"gpus": 4, "parallelism": {"tp": 4, "sequence_parallel": False}}
SCORES = 5 * 8 * 64 / 128  # 5 a s / h


@pytest.mark.parametrize(
    ("run", "recompute", "expected"),
    [
        ({}, "none", 34 + SCORES),
        (TP, "none", 10 + 24 / 4 + SCORES / 4),
        (SP, "none", 34 / 4 + SCORES / 4),
        (SP, "selective", 34 / 4),
        (TP, "full", 2),
    ],
)
def test_activations_of_unfused_attention_are_those_of_the_paper(
    run: dict[str, Any], recompute: str, expected: float
) -> None:
    """sbh (34 + 5 a s / h) and its splits: arXiv 2205.05198, equations 1 to 5."""
    assert kept(**run, **UNFUSED, training={"recompute": recompute}) == pytest.approx(expected)


def test_fused_attention_keeps_no_scores() -> None:
    """So the bytes of a token no longer grow with the sequence."""
    assert kept(training={"seq_len": 64}) == kept(training={"seq_len": 4096})


def test_a_recomputed_moe_layer_keeps_its_input() -> None:
    chosen = {"recompute": "selective", "recompute_modules": ["moe"]}
    dense = kept(model={**toy.MODEL, "intermediate_size": 1}, training={"recompute": "none"})
    assert kept(model=toy.MOE_MODEL, training=chosen) == pytest.approx(dense - 2 * 2 / 128)


def test_a_layer_being_recomputed_is_alive_in_full() -> None:
    b, plain = (prepare(toy.run(training={"recompute": kind})) for kind in ("full", "none"))
    layer = layers_of(b.run)[0]
    assert stored_bytes(b, layer) == 64 * 128 * 2
    assert live_bytes(b, layer) == stored_bytes(plain, layer)


@pytest.mark.parametrize(
    ("pp", "vpp", "micro_batches", "schedule", "flight"),
    [
        (4, 1, 16, "1f1b", [4, 3, 2, 1]),
        (4, 1, 2, "1f1b", [2, 2, 2, 1]),
        (4, 1, 16, "gpipe", [16, 16, 16, 16]),
        (4, 2, 16, "1f1b", [11, 9, 7, 5]),  # 2 (p - s - 1) + (v - 1) p + 1 chunks
        (4, 2, 4, "1f1b", [8, 8, 8, 8]),
        (4, 1, 16, "zb-h1", [4, 3, 2, 1]),
    ],
)
def test_micro_batches_whose_activations_a_stage_holds(
    pp: int, vpp: int, micro_batches: int, schedule: str, flight: list[int]
) -> None:
    held = [fullest(schedule, s, pp, vpp, micro_batches) for s in range(pp)]
    assert [moment.in_flight for (moment,) in held] == flight


def test_deferred_weight_gradients_hold_the_operands_of_their_products() -> None:
    """32 b s h bytes of a layer with an FFN of 4 h (arXiv 2401.10241 section 2.3); the toy has one of 4 h."""
    b = prepare(toy.run(gpus=2, parallelism={"pp": 2}, training={"schedule": "zb-h1"}))
    assert deferred_bytes(b, layers_of(b.run)[0]) == 32 * 64 * 128


def test_zb_h1_evens_out_the_activations_of_1f1b() -> None:
    """Stage s of four has 4 - s micro-batches in flight and s that wait for their weight gradients."""
    split = {"gpus": 4, "parallelism": {"pp": 4}}
    plain = stages(**split, training={"global_batch": 16})
    cut = stages(**split, training={"global_batch": 16, "schedule": "zb-h1"})
    for s, (one, other) in enumerate(zip(plain, cut, strict=True)):
        assert other.activations - one.activations == s * 32 * 64 * 128
        assert other.parameters == one.parameters


def test_dualpipe_holds_every_parameter_twice_and_one_micro_batch_more() -> None:
    """Table 2 of arXiv 2412.19437. Both copies share one sharded optimizer."""
    split = {"gpus": 4, "parallelism": {"pp": 4}}
    training = {"global_batch": 16, "sharding": "zero1"}
    plain = stages(**split, training=training)
    dual = stages(**split, training={**training, "schedule": "dualpipe"})
    for s in range(4):
        assert dual[s].parameters == plain[s].parameters + plain[3 - s].parameters
        assert dual[s].gradients == plain[s].gradients + plain[3 - s].gradients
        assert dual[s].optimizer_states == (plain[s].optimizer_states + plain[3 - s].optimizer_states) / 2
        assert dual[s].activations == plain[0].activations * 5 / 4


def test_interleaving_holds_more_activations() -> None:
    """(1 + (p - 1)/(p v)) of them (arXiv 2205.05198, section 4.2.3)."""
    eight = {**toy.MODEL, "num_hidden_layers": 8}
    run = {"gpus": 4, "model": eight, "training": {"global_batch": 16}}
    plain = stages(**run, parallelism={"pp": 4})[0].activations
    woven = stages(**run, parallelism={"pp": 4, "vpp": 2})[0].activations
    assert woven / plain == pytest.approx(1 + 3 / 8)


def test_the_parts_of_a_peak_sum_to_it() -> None:
    result = simulate(toy.run(gpus=8, model=toy.MOE_MODEL, parallelism={"ep": 4, "pp": 2}))
    assert result.memory_gib is not None
    assert result.peak_memory_gib is not None
    parts = [getattr(result.memory_gib, name).value for name in type(result.memory_gib).model_fields]
    assert sum(parts) == pytest.approx(result.peak_memory_gib.value, rel=1e-12)
    assert result.peak_memory_gib.value == max(stage.total.value for stage in result.memory_by_stage)
    for stage in result.memory_by_stage:
        assert sum(stage.parts.values()) == pytest.approx(stage.total.value)


def test_all_parts_are_counted_in_the_total() -> None:
    sizes = [field.name for field in fields(StageBytes) if field.name != "moment"]
    stage = StageBytes(*[2.0**i for i in range(len(sizes))], moment="")
    assert stage.total == 2.0 ** len(sizes) - 1
    assert stage.allocated == stage.total - stage.framework
    assert sum(stage.parts().values()) * GIB == pytest.approx(stage.total)


@pytest.mark.parametrize(
    ("model", "split", "width"),
    [
        (toy.MODEL, {}, 4 * 2 * 128),
        (toy.MODEL, {"tp": 4}, 4 * 2 * 32),
        ({**toy.MODEL, "num_key_value_heads": 2}, {"tp": 4}, 4 * 2 * 16),  # a rank has a copy of one head of 16
        (toy.MODEL, {"pp": 2}, 2 * 2 * 128),
        ("deepseek-v3", {"tp": 8}, 61 * (512 + 64)),  # every rank holds the whole latent
        ("llama3.1-8b", {}, 32 * 2 * 8 * 128),
    ],
)
@pytest.mark.parametrize(("precision", "size"), [("bf16", 2), ("fp8", 1)])
def test_bytes_of_a_cached_token(
    model: dict[str, Any] | str, split: dict[str, int], width: float, precision: str, size: float
) -> None:
    run = toy.inference(gpus=8, model=model, parallelism=split, work={"kv_cache_precision": precision})
    b = prepare_inference(run, "decode", 1.0)
    assert cache_shape(b.run, b.layout).bytes(1) == width * size


def test_the_cache_of_a_batch_at_its_last_token() -> None:
    """Eight sequences of 64 + 32 tokens."""
    run = toy.inference()
    (stage,) = inference_memory(prepare_inference(run, "decode", 1.0))
    assert stage.kv_cache == 8 * 96 * 4 * 2 * 128 * 2
    assert stage.parameters == 2 * N


def test_the_largest_batch_fills_what_the_engine_may_take() -> None:
    """vLLM takes 0.9 of the device; a sequence caches 96 tokens of 2 KiB."""
    run = toy.inference()
    (stage,) = inference_memory(prepare_inference(run, "decode", 1.0))
    room = 0.9 * 2**40 - stage.parameters - stage.activations - stage.buffers
    assert inference_batch(run).served.fits == int(room / (96 * 4 * 2 * 128 * 2))


# Runs that do not fit, and why not.
TOO_BIG: dict[str, dict[str, Any]] = {
    "states": {"model": "llama3.1-70b", "hardware.gpus": 64, "training.sharding": "none"},
    "activations": {"model": "llama3.1-8b", "hardware.gpus": 8, "training.micro_batch": 32},
    "experts": {"model": "mixtral-8x22b", "hardware.gpus": 64},
    "pipeline": {"model": "gpt3-175b", "hardware.gpus": 256, "parallelism.pp": 2, "parallelism.tp": 8},
    "too large for any change": {"model": "deepseek-v3", "hardware.gpus": 8},
    "cache": {"model": "llama3.1-8b", "hardware.gpus": 1, "inference.concurrency": 4096},
    "weights": {"model": "llama3.1-70b", "hardware.gpus": 1, "inference.concurrency": 1},
}


def built(changes: dict[str, Any], *more: tuple[str, Any]) -> Run:
    kind = "inference" if "inference.concurrency" in changes else "training"
    work = {"isl": 4096, "osl": 512} if kind == "inference" else {"global_batch": 256, "seq_len": 4096}
    data: dict[str, Any] = {"name": "big", "kind": kind, "hardware": {"device": "h100-sxm"}, kind: work}
    if kind == "inference":
        data["framework"] = "vllm"
    for path, value in (*changes.items(), *more):
        set_path(data, path, value)
    return run_from_mapping(data)


def refusal(run: Run) -> InfeasibleError:
    with pytest.raises(InfeasibleError) as caught:
        training_step(run) if run.kind == "training" else inference_batch(run)
    return caught.value


@pytest.mark.parametrize("name", TOO_BIG)
def test_what_does_not_fit_is_refused_with_its_parts_and_a_change_that_fits(name: str) -> None:
    error = refusal(built(TOO_BIG[name]))
    assert error.path == "hardware.device"
    assert error.needed is not None
    serves = name in ("cache", "weights")  # vLLM takes 0.9 of a GPU
    assert error.available == pytest.approx((0.9 if serves else 1.0) * 81559 / 1024)
    assert error.needed > error.available
    assert sum(error.breakdown.values()) == pytest.approx(error.needed)
    there = "of the 71.7 GiB that vllm uses" if serves else "of 79.6 GiB"
    assert error.message == f"it doesn't fit: the fullest GPU needs {error.needed:.1f} {there}"
    if error.suggestion is None:
        assert name == "too large for any change"
        return
    changes = [change.split(": ") for change in error.suggestion.split(" and ")]
    better = built(TOO_BIG[name], *((path, int(value) if value.isdigit() else value) for path, value in changes))
    simulate(better)  # raises where it still doesn't fit


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("activations", "training.micro_batch: 1"),
        ("pipeline", "training.sharding: zero3"),
        ("experts", "training.sharding: zero3 and training.recompute: full"),
        ("cache", "inference.concurrency: 64"),
        ("weights", "parallelism.tp: 2 and hardware.gpus: 2"),
    ],
)
def test_the_mildest_change_comes_first_and_two_where_one_is_not_enough(name: str, suggestion: str) -> None:
    assert refusal(built(TOO_BIG[name])).suggestion == suggestion


@pytest.mark.parametrize(("source", "rows", "bound"), [("SMXB", 22, 0.03), ("TITAN", 14, 0.46)])
def test_published_peaks(source: str, rows: int, bound: float) -> None:
    """What the allocator reported at its peak: Megatron on B200 (SimuMax) and FSDP2 on H100 (torchtitan)."""
    table = read_table(data_root() / "workloads/validation/training.csv")
    measured = [row for row in table if row["id"].startswith(source) and row["measured.peak_memory_gib"]]
    errors = [abs(replay(row).metrics["peak_memory_gib"].error) for row in measured]
    assert len(errors) == rows
    assert max(errors) < bound


def test_activations_kept_in_8_bits() -> None:
    """Of a toy layer: residual inputs and queries, keys and values stay in bf16; norm outputs and the FFN's inner rows
    take a byte, what attention yields one and a half (arXiv 2412.19437 section 3.3.3)."""
    b, small = (prepare(toy.run(training={"activation_precision": kind})) for kind in ("bf16", "fp8"))
    layer = layers_of(b.run)[0]
    norms, attention, inside = 2 * 128, 128, 512 * 2
    assert stored_bytes(b, layer) - stored_bytes(small, layer) == 64 * (norms + attention * 0.5 + inside)
