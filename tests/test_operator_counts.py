"""FLOPs and bytes of operators by hand, and the graph's total held to the count made from parameters alone."""

from __future__ import annotations

import pytest
import toy

from simulator.assembly.totals import mean_sums
from simulator.graph.backward import backward_of
from simulator.graph.builder import Build, build_graph, prepare
from simulator.graph.operator import Attention, Collective, Gemm, Operator, Traffic, WeightGrad
from simulator.graph.precision import element_bytes, quantise_bytes, wide
from simulator.spec import parameters as counts
from simulator.spec.model import ModelSpec, resolve_model
from simulator.spec.run import Run


def test_a_gemm_counts_two_flops_a_product_and_each_operand_once() -> None:
    work = Gemm(8, 32, 128, "bf16")
    assert work.flops == 2 * 8 * 32 * 128
    assert work.bytes == 2 * (128 * 32 + 8 * 128 + 8 * 32)


def test_groups_share_rows_and_have_weights_of_their_own() -> None:
    work = Gemm(8, 32, 128, "fp8", groups=4, weight_bytes=1, row_bytes=1, out_bytes=2)
    assert work.flops == 2 * 8 * 32 * 128
    assert work.bytes == 4 * 128 * 32 + 8 * 128 + 2 * 8 * 32


def test_a_weight_gradient_reads_both_row_operands_and_accumulates() -> None:
    work = WeightGrad(8, 32, 128, "bf16", 4, row_bytes=2, accumulate_bytes=8)
    assert work.flops == 2 * 8 * 32 * 128
    assert work.bytes == 2 * 8 * (32 + 128) + 8 * 4 * 32 * 128


def forward_and_backward(run: Run) -> tuple[Build, list[Operator], list[Operator]]:
    """The serial operators of one layer in both passes."""
    b = prepare(run)
    graph = build_graph(b)
    forward, backward = (
        next(list(p.serial) for p, _ in chunks[0][0].programs if "layer" in p.name)
        for chunks in (graph.forward, graph.backward)
    )
    return b, forward, backward


def flops(operators: list[Operator]) -> float:
    return sum(o.work.flops * o.calls for o in operators if not isinstance(o.work, Collective))


def test_the_gemms_of_a_dense_layer() -> None:
    _, forward, _ = forward_and_backward(toy.run())
    found = {o.name: (o.work.m, o.work.n, o.work.k) for o in forward if isinstance(o.work, Gemm)}
    assert found == {
        "attention qkv": (64, 384, 128),
        "attention output": (64, 128, 128),
        "ffn up": (64, 512, 128),
        "ffn down": (64, 128, 512),
    }
    attention = next(o.work for o in forward if isinstance(o.work, Attention))
    assert attention.flops == 2 * 64 * 128 * 32 * 2  # 32 keys on average, products with keys and with values
    assert attention.bytes == 64 * 4 * 128 * 2  # queries, keys, values and the result once


def test_the_backward_pass_costs_two_forward_ones_and_half_of_attention_more() -> None:
    _, forward, backward = forward_and_backward(toy.run())
    core = flops([o for o in forward if isinstance(o.work, Attention)])
    assert flops(backward) == 2 * flops(forward) + 0.5 * core  # the fused kernel recomputes the scores: 2.5


def test_every_gemm_yields_the_gradients_of_its_input_and_its_weight() -> None:
    b, _, _ = forward_and_backward(toy.run())
    forward = Operator("x", "ffn_gemm", Gemm(64, 512, 128, "bf16"))
    data, weight = backward_of(b.shapes, [forward], 8.0)
    assert isinstance(data.work, Gemm)
    assert isinstance(weight.work, WeightGrad)
    assert (data.work.m, data.work.n, data.work.k) == (64, 128, 512)
    assert (weight.work.m, weight.work.n, weight.work.k) == (64, 512, 128)
    assert (data.name, weight.name) == ("x dgrad", "x wgrad")


def test_the_products_of_unfused_attention_have_two_activation_gradients_and_no_weight() -> None:
    _, forward, backward = forward_and_backward(toy.run(execution={"attention": "unfused"}))
    core = [o for o in forward if o.item == "attention_core"]
    grads = [o for o in backward if o.item == "attention_core"]
    assert flops(core) == 2 * (2 * 64 * 64 * 128)  # the whole square of 64 x 64, twice
    assert flops(grads) == 2 * flops(core)
    assert not [o for o in grads if isinstance(o.work, WeightGrad)]


def graph_flops(run: Run) -> float:
    """FLOPs of all GPUs in a step."""
    return mean_sums(build_graph(prepare(run))).flops * run.hardware.gpus


def core_flops(model: ModelSpec, tokens: int, seq: int) -> float:
    """Forward FLOPs of the attention core."""
    keys = sum(counts.mean_keys(seq, window) for window in model.attention_windows)
    keys += seq * (model.num_encoder_layers + (model.num_hidden_layers if model.num_encoder_layers else 0))
    return 2.0 * tokens * model.num_attention_heads * (model.qk_dim + model.v_dim) * keys


def no_matrix(model: ModelSpec) -> int:
    """Parameters that are no matrices, so that the count of 2 FLOPs per weight counts and the graph does not."""
    attention = counts.attention_parameters(model) - counts.attention_matrices(model)
    norms = counts.final_norm_parameters(model) + (counts.norm_size(model) if model.embedding_norm else 0)
    blocks = model.num_encoder_layers + model.num_hidden_layers * (2 if model.num_encoder_layers else 1)
    decoder = model.num_hidden_layers * counts.norm_parameters_per_layer(model)
    encoder = model.num_encoder_layers * counts.norm_parameters_per_layer(model, encoder=True)
    return norms + decoder + encoder + blocks * attention


@pytest.mark.parametrize(
    "name",
    [
        "llama3.1-8b",
        "mixtral-8x7b",
        "qwen3-30b-a3b",
        "deepseek-v2-lite",
        "glam-8b-64e",
        "falcon-40b",
        "palm-8b",
        "gemma-7b",
    ],
)
def test_a_step_without_recompute_does_three_times_the_forward_flops_of_the_parameters(name: str) -> None:
    """The graph knows shapes, the count parameters: equal but for vectors and the scores fused attention repeats."""
    model, seq, batch = resolve_model(name), 2048, 8
    run = toy.run(model=name, training={"global_batch": batch, "seq_len": seq}, device={"memory": BIG})
    tokens = batch * seq
    expected = 3 * tokens * (counts.sequence_flops_per_token(model, seq) - 2 * no_matrix(model))
    assert graph_flops(run) == pytest.approx(expected + 0.5 * core_flops(model, tokens, seq), rel=1e-12)


BIG = {"capacity": "100 TiB", "bandwidth": "1 TB/s"}


@pytest.mark.parametrize(
    ("gpus", "split"),
    [
        (2, {"tp": 2, "sequence_parallel": True}),
        (2, {"tp": 2}),
        (4, {"pp": 4}),
        (2, {"pp": 2, "vpp": 2}),
        (2, {"cp": 2}),
        (8, {"ep": 8}),
        (8, {"ep": 4, "etp": 2, "tp": 2, "sequence_parallel": True}),
    ],
)
def test_splitting_a_step_over_gpus_neither_adds_nor_loses_flops(gpus: int, split: dict[str, int]) -> None:
    whole = graph_flops(toy.run(model=toy.MOE_MODEL))
    assert graph_flops(toy.run(gpus=gpus, model=toy.MOE_MODEL, parallelism=split)) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("model", [toy.MODEL, toy.MOE_MODEL])
def test_full_recompute_adds_exactly_one_forward_pass_of_the_layers(model: dict[str, object]) -> None:
    _, forward, plain = forward_and_backward(toy.run(model=model))
    _, _, again = forward_and_backward(toy.run(model=model, training={"recompute": "full"}))
    assert again == forward + plain
    added = graph_flops(toy.run(model=model, training={"recompute": "full"})) - graph_flops(toy.run(model=model))
    assert added == pytest.approx(4 * 8 * flops(forward), rel=1e-12)  # 4 layers, 8 micro-batches


def names(run: Run) -> set[str]:
    _, forward, backward = forward_and_backward(run)
    return {o.name for o in backward} & {o.name for o in forward}


@pytest.mark.parametrize(
    ("modules", "repeated"),
    [
        (["core_attn"], set()),  # a fused kernel recomputes inside its backward pass
        (["mlp"], {"ffn up", "ffn activation", "ffn down"}),
        (["layernorm"], {"input norm", "ffn norm"}),
        ([], set()),
    ],
)
def test_selective_recompute_repeats_the_modules_it_names(modules: list[str], repeated: set[str]) -> None:
    assert names(toy.run(training={"recompute": "selective", "recompute_modules": modules})) == repeated


def test_recomputing_a_moe_layer_repeats_all_of_it_but_its_norm() -> None:
    """Router, exchange, experts and shared experts (Megatron Core, recompute_modules)."""
    model = {**toy.MOE_MODEL, "n_shared_experts": 1}
    run = {"gpus": 8, "model": model, "parallelism": {"ep": 8}}
    chosen = {"recompute": "selective", "recompute_modules": ["moe"]}
    _, forward, _ = forward_and_backward(toy.run(**run))
    first = [o.name for o in forward].index("ffn norm")
    assert names(toy.run(**run, training=chosen)) >= {o.name for o in forward[first + 1 : -1]}
    activation = {"recompute": "selective", "recompute_modules": ["moe_act"]}
    assert names(toy.run(**run, training=activation)) == {"expert activation"}


@pytest.mark.parametrize(("optimizer", "moved"), [("adam", 34), ("sgd", 26), ("adafactor", 22)])
def test_an_update_moves_its_states(optimizer: str, moved: float) -> None:
    run = toy.run(training={"optimizer": optimizer})
    (end,) = build_graph(prepare(run)).ends
    (update,) = end.update
    assert update.work.bytes == (moved + 6) * run.model.parameters  # and 6 for norm and scaling of the gradients


def test_selective_recompute_of_unfused_attention_repeats_its_core() -> None:
    run = toy.run(training={"recompute": "selective"}, execution={"attention": "unfused"}, framework="megatron-2022")
    assert names(run) == {"attention scores", "attention softmax", "attention values"}


def test_a_policy_by_operator_repeats_its_share_of_the_compute() -> None:
    _, forward, plain = forward_and_backward(toy.run(framework="fms-fsdp"))
    _, _, again = forward_and_backward(toy.run(framework="fms-fsdp", training={"recompute": "selective"}))
    assert flops(again) - flops(plain) == pytest.approx(0.5 * flops(forward), rel=1e-12)


@pytest.mark.parametrize(
    ("context", "window", "keys"), [(100, None, 50), (100, 100, 50), (100, 200, 50), (100, 50, 37.5), (100, 10, 9.5)]
)
def test_mean_keys_under_a_causal_mask(context: float, window: int | None, keys: float) -> None:
    assert counts.mean_keys(context, window) == keys


def collectives(operators: list[Operator]) -> dict[str, float]:
    """Bytes by name of the collectives among them."""
    return {o.name: o.work.bytes for o in operators if isinstance(o.work, Collective)}


def test_tensor_parallel_ranks_talk_twice_a_layer_and_pass() -> None:
    """Gather and scatter with sequence parallelism, an all-reduce each without (arXiv 2205.05198, figures 4 and 5)."""
    size = 64 * 128 * 2
    _, sharded, _ = forward_and_backward(toy.run(gpus=2, parallelism={"tp": 2, "sequence_parallel": True}))
    assert collectives(sharded) == {
        "attention all-gather": size,
        "attention reduce-scatter": size,
        "ffn all-gather": size,
        "ffn reduce-scatter": size,
    }
    _, whole, back = forward_and_backward(
        toy.run(gpus=2, parallelism={"tp": 2, "sequence_parallel": False}, framework="deepspeed")
    )
    for operators in (whole, back):
        kinds = [o.work.kind for o in operators if isinstance(o.work, Collective)]
        assert kinds == ["all_reduce", "all_reduce"]


def test_one_tensor_rank_talks_to_nobody() -> None:
    for operators in forward_and_backward(toy.run(gpus=8, framework="megatron-2021"))[1:]:
        assert collectives(operators) == {}


def test_parallel_attention_shares_norm_sum_and_residual() -> None:
    model = {**toy.MODEL, "parallel_attention": True}
    _, both, _ = forward_and_backward(toy.run(gpus=2, model=model, parallelism={"tp": 2, "sequence_parallel": True}))
    assert list(collectives(both)) == ["layer all-gather", "layer reduce-scatter"]
    assert [o.name for o in both if o.module == "layernorm"] == ["input norm"]
    _, apart, _ = forward_and_backward(toy.run(gpus=2, parallelism={"tp": 2, "sequence_parallel": True}))
    assert flops(both) == flops(apart)


@pytest.mark.parametrize(
    ("model", "split", "width"),
    [
        (toy.MODEL, {"cp": 4}, 2 * 128),
        ({**toy.MODEL, "num_key_value_heads": 2}, {"cp": 4}, 2 * 32),
        ({**toy.MODEL, "num_key_value_heads": 2}, {"cp": 2, "tp": 4}, 2 * 16),  # a rank holds a copy of one head
        ("deepseek-v3", {"cp": 4}, 128 * (192 + 128)),  # keys and values expanded from the latent
    ],
)
def test_context_parallel_ranks_pass_on_keys_and_values(
    model: dict[str, object] | str, split: dict[str, int], width: int
) -> None:
    _, forward, _ = forward_and_backward(toy.run(gpus=8, model=model, parallelism=split))
    exchanged = sum(o.work.bytes * o.calls for o in forward if o.item == "context_parallel")
    graph = build_graph(prepare(toy.run(gpus=8, model=model, parallelism=split)))
    program = next(p for p, _ in graph.forward[0][0].programs if "layer" in p.name)
    hidden = sum(o.work.bytes * o.calls for o in program.background if o.item == "context_parallel")
    assert exchanged + hidden == pytest.approx(64 * width * 2)  # the sequence, whatever its split


def test_quantising_costs_passes_over_the_operands() -> None:
    _, forward, _ = forward_and_backward(toy.run(training={"precision": "fp8"}))
    up = next(o for o in forward if o.name == "ffn up")
    quantise = next(o for o in forward if o.name == "ffn up quantise")
    assert up.work.bytes == 128 * 512 + 64 * 128 + 2 * 64 * 512  # type: ignore[union-attr]
    assert quantise.work == Traffic(64 * 128 * 4)  # reads bf16, writes two fp8 copies


@pytest.mark.parametrize(
    ("precision", "size", "passes"),
    [("bf16", 2, 0), ("fp8", 1, 4), ("mxfp8", 1 + 1 / 32, 4), ("nvfp4", 0.5 + 1 / 16, 5.1), ("int4", 0.5 + 1 / 64, 0)],
)
def test_bytes_of_an_element_and_of_quantising_it(precision: str, size: float, passes: float) -> None:
    assert element_bytes(precision) == size
    assert quantise_bytes(precision, transposed_operands=False) == passes
    assert quantise_bytes("fp8", transposed_operands=True) == 3


@pytest.mark.parametrize("precision", ["fp16", "fp32", "fp8"])
def test_what_a_recipe_does_not_quantise_runs_in_its_wide_precision(precision: str) -> None:
    """A V100 has no bf16: nothing of an fp16 run may ask for it."""
    run = toy.run(model=toy.MOE_MODEL, training={"precision": precision})
    used = {
        o.work.precision
        for program in build_graph(prepare(run)).programs
        for o in program.serial
        if isinstance(o.work, Gemm | WeightGrad | Attention)
    }
    assert used == ({"fp8", "bf16"} if precision == "fp8" else {precision})
    assert wide(precision) in used


@pytest.mark.parametrize(
    ("name", "per_element"), [("input norm", 4.0), ("attention residual", 6.0), ("ffn activation", 4 * 4.0)]
)
def test_bytes_of_elementwise_operators(name: str, per_element: float) -> None:
    """Norms read and write, residuals read two and write one, an activation of 4 x 128 columns reads and writes."""
    _, forward, _ = forward_and_backward(toy.run())
    assert next(o.work.bytes for o in forward if o.name == name) == 64 * 128 * per_element


def test_eager_elementwise_operators_move_more_bytes() -> None:
    fused, eager = (forward_and_backward(toy.run(execution={"compile": fused}))[1] for fused in (True, False))
    for one, other in zip(fused, eager, strict=True):
        assert other.work.bytes == pytest.approx((1.4 if one.item == "elementwise" else 1.0) * one.work.bytes)
