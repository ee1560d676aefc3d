"""The torch models against plain references, and against the simulator's own operator graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from simulator.calibration.calls import Call
from simulator.calibration.torch_experts import MixtureOfExperts, Peer
from simulator.calibration.torch_models import Attention, Decoder, loss_of, norm_of, rotate, rotation_of
from simulator.calibration.torch_steps import counts_of, trace_of
from simulator.calibration.verify_cases import VerifyCase, dense, drawn_cases, fixed_cases, moe, parallel_cases, peer
from simulator.errors import CalibrationError
from simulator.graph.builder import Layer, forward_layer, prepare
from simulator.graph.operator import Attention as AttentionWork
from simulator.graph.operator import Gemm
from simulator.graph.transformer import head
from simulator.spec.model import ModelSpec
from simulator.spec.run import run_from_mapping

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("spec", [dense(64, 2), dense(64, 1, norm="layernorm"), dense(48, 1, gated_ffn=False),
                                  moe(64, 2, 4), peer(64, 16, 2, 4)], ids=lambda spec: spec.name)  # fmt: skip
def test_models_have_the_parameters_their_record_counts(spec: ModelSpec) -> None:
    model = Decoder(spec)
    assert sum(p.numel() for p in model.parameters()) == spec.parameters


def test_tied_embeddings_are_one_matrix() -> None:
    spec = dense(64, 1).model_copy(update={"tie_word_embeddings": True})
    assert sum(p.numel() for p in Decoder(spec).parameters()) == spec.parameters


def test_rotation_turns_pairs_by_position_times_frequency() -> None:
    cos, sin = rotation_of(torch.tensor([0, 3]), 4, torch.float32)
    x = torch.tensor([1.0, 2.0, 0.0, 0.0]).expand(1, 2, 1, 4)
    turned = rotate(x, (cos, sin))
    close(turned[0, 0, 0], torch.tensor([1.0, 2.0, 0.0, 0.0]))
    angles = torch.tensor([3.0, 3.0 / 100])  # base 10,000 and four dimensions: frequencies 1 and 1/100
    first, second = angles.cos() * torch.tensor([1.0, 2.0]), angles.sin() * torch.tensor([1.0, 2.0])
    close(turned[0, 1, 0], torch.cat((first, second)))


def test_attention_matches_loops_over_heads_and_queries() -> None:
    spec = dense(128, 1)
    layer = Attention(spec)
    x = torch.randn(2, 5, 128)
    rotation = rotation_of(torch.arange(5), spec.head_dim, x.dtype)
    heads, kv, width = spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim
    assert heads == 2 * kv  # grouped, so that sharing is tested
    qkv = layer.qkv(x).view(2, 5, heads + 2 * kv, width)
    turned = rotate(qkv[:, :, : heads + kv], rotation)
    out = torch.zeros(2, 5, heads, width)
    for b in range(2):
        for h in range(heads):
            keys, values = turned[b, :, heads + h // 2], qkv[b, :, heads + kv + h // 2]
            for i in range(5):
                scores = (keys[: i + 1] @ turned[b, i, h]) / width**0.5
                out[b, i, h] = torch.softmax(scores, 0) @ values[: i + 1]
    close(layer(x, rotation), layer.out(out.reshape(2, 5, -1)))


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    norm = norm_of(dense(64, 1))
    x = torch.randn(3, 64)
    close(norm(x), x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt())


def test_a_cache_gives_what_the_whole_sequence_gives() -> None:
    spec = moe(64, 2, 4)
    model = Decoder(spec)
    tokens = torch.randint(0, spec.vocab_size, (2, 7))
    with torch.no_grad():
        whole = model(tokens)
        caches = model.caches(2, 7)
        parts = []
        for start, end in ((0, 4), (4, 5), (5, 6), (6, 7)):
            parts.append(model(tokens[:, start:end], caches))
            for cache in caches:
                cache.length = end
    close(torch.cat(parts, 1), whole)


def test_experts_match_a_loop_over_tokens() -> None:
    spec = ModelSpec.model_validate({**moe(32, 1, 6).model_dump(exclude_unset=True), "n_shared_experts": 1})
    layer = MixtureOfExperts(spec)
    x = torch.randn(2, 9, 32)
    out = torch.zeros(18, 32)
    counts = [0] * 6
    for t, token in enumerate(x.view(-1, 32)):
        probability = torch.softmax(layer.router.weight @ token, 0)
        best = probability.argsort(descending=True)[:2]
        for e in best.tolist():
            counts[e] += 1
            up = layer.experts[e].up.weight @ token
            gate, value = up[:64], up[64:]
            inner = gate * torch.sigmoid(gate) * value
            out[t] += probability[e] / probability[best].sum() * (layer.experts[e].down.weight @ inner)
        assert layer.shared is not None
        out[t] += layer.shared(token)
    close(layer(x).view(-1, 32), out)
    assert layer.seen is not None
    assert (layer.seen.sent, layer.seen.arriving) == ([36], [counts])


def test_experts_without_a_token_are_left_out() -> None:
    layer = MixtureOfExperts(moe(32, 1, 8))
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[3], layer.router.weight[5] = 1.0, 0.5
    layer(torch.ones(1, 4, 32))
    assert layer.seen is not None
    assert layer.seen.arriving == [[0, 0, 0, 4, 0, 4, 0, 0]]


def test_product_keys_find_the_best_of_all_experts() -> None:
    spec = peer(32, 12, 3, 4)
    assert spec.peer is not None
    layer = Peer(32, spec.peer)
    queries = torch.randn(5, 3 * 64)
    gates, experts = layer.retrieve(queries)
    for token in range(5):
        for h in range(3):
            left, right = queries.view(5, 3, 2, 32)[token, h]
            scores = (layer.keys[0] @ left)[:, None] + (layer.keys[1] @ right)[None, :]
            best = scores.flatten().topk(4)
            mine = slice(4 * h, 4 * h + 4)
            assert sorted(experts[token, mine].tolist()) == sorted(best.indices.tolist())
            close(gates[token, mine], torch.softmax(best.values, 0))


def test_peer_sums_its_experts() -> None:
    spec = peer(32, 8, 2, 3)
    assert spec.peer is not None
    layer = Peer(32, spec.peer)
    x = torch.randn(1, 6, 32)
    out = layer(x)
    with torch.no_grad():
        gates, experts = layer.retrieve(torch.nn.functional.batch_norm(
            layer.query(x[0]), None, None, layer.norm.weight, layer.norm.bias, training=True))  # fmt: skip
        for t in range(6):
            expected = torch.zeros(32)
            for gate, e in zip(gates[t], experts[t], strict=True):
                expected += gate * torch.nn.functional.gelu(layer.down[e] @ x[0, t]) * layer.up[e]
            close(out[0, t], expected)


def test_training_lowers_the_loss() -> None:
    model = Decoder(moe(32, 1, 4))
    tokens = torch.randint(0, 1000, (2, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    losses = []
    for _ in range(5):
        loss = loss_of(model(tokens), tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)


def test_what_is_not_implemented_is_refused_by_name() -> None:
    spec = dense(64, 1).model_copy(update={"qk_norm": True})
    with pytest.raises(
        CalibrationError, match=r"^dense d64 L1: models to verify with don't implement norms on queries"
    ):
        Decoder(spec)


def gemm_flops(calls: list[Call]) -> float:
    return sum(call.flops for call in calls if call.op in ("gemm", "batched_gemm"))


RUN = {
    "name": "same",
    "kind": "training",
    "hardware": {"device": "h100-sxm", "gpus": 1},
    "training": {"global_batch": 2, "micro_batch": 2, "seq_len": 32, "precision": "bf16", "tokens": 1.0e6},
}


@pytest.mark.parametrize("spec", [dense(128, 2), moe(64, 2, 4)], ids=lambda spec: spec.name)
def test_the_simulator_counts_the_flops_torch_does(spec: ModelSpec) -> None:
    fields: dict[str, Any] = spec.model_dump(exclude_unset=True)
    build = prepare(run_from_mapping({**RUN, "model": fields}))
    operators = [op for kind in spec.layer_kinds for op in forward_layer(build, Layer(kind, None))]
    operators += head(build.shapes)
    simulated = sum(op.work.flops for op in operators if isinstance(op.work, Gemm))
    cores = sum(op.work.flops for op in operators if isinstance(op.work, AttentionWork))
    case = VerifyCase("x", spec, "forward", 2, 32)
    counts = [[64 * spec.num_experts_per_tok // spec.num_experts] * spec.num_experts] * 2 if spec.num_experts else []
    traced = trace_of(case, counts, torch.float32)
    assert gemm_flops(traced.calls) == simulated
    assert sum(call.flops for call in traced.calls if call.op == "attention") == cores


def test_a_trace_has_three_products_for_each_one_forward() -> None:
    case = VerifyCase("x", dense(64, 1), "train", 1, 16)
    forward = trace_of(VerifyCase("x", dense(64, 1), "forward", 1, 16), [], torch.float32)
    training = trace_of(case, [], torch.float32)
    assert gemm_flops(training.calls) == 3 * gemm_flops(forward.calls)
    assert [call.shape for call in training.calls if call.op == "optimizer"] == [
        {"tensors": len(list(Decoder(case.model).parameters())), "elements": case.model.parameters}
    ]
    assert (forward.forward_on_tape, forward.backward) == (0, 0)
    assert training.forward_on_tape == len(forward.calls) + 3  # the loss, and its gradient 1
    assert forward.modules == 1 + sum(1 for _ in Decoder(case.model).modules()) - 2  # the list of layers isn't called


def test_operands_of_a_decode_step_come_back_after_all_the_weights() -> None:
    case = VerifyCase("x", dense(128, 2), "decode", 1, 32)
    traced = trace_of(case, [], torch.float32)
    weights = 4 * case.model.parameters
    products = [call for call in traced.calls if call.op == "gemm"]
    for call in products:
        largest = max(call.touches, key=lambda touch: touch.bytes)
        assert largest.bytes == 4 * call.shape["n"] * call.shape["k"]
        assert 0.5 * weights < largest.reuse < 2 * weights


def test_routing_is_read_from_the_real_router() -> None:
    from simulator.calibration.kernels_device import CpuDevice

    case = VerifyCase("x", moe(32, 2, 4), "forward", 1, 16)
    counts = counts_of(case, CpuDevice())
    assert [sum(layer) for layer in counts] == [32, 32]


def test_drawn_cases_depend_on_the_seed_alone() -> None:
    names = [case.name for case in drawn_cases(3, 18)]
    assert names == [case.name for case in drawn_cases(3, 18)]
    assert names != [case.name for case in drawn_cases(4, 18)]
    assert {case.group for case in drawn_cases(3, 18)} == {case.group for case in fixed_cases()}
    assert all(case.ranks == 2 for case in parallel_cases())
