"""Closed forms against mental arithmetic: 1 TFLOP/s, 1 TB/s, 100 GB/s links."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.spec.forms import Sheet, gemm_seconds, limited, moe_seconds, norm
from simulator.spec.forms_attention import decode_seconds, prefill_seconds
from simulator.spec.forms_communication import collective_seconds, exchange_bytes, exchange_seconds, wire_bytes
from simulator.spec.forms_index import features, physics

TOY = Sheet(peak=1e12, bandwidth=1e12, sms=100, link=100e9, nic=10e9)
GEMM = {"ec": 1.0, "em": 1.0, "t0_us": 1.0, "p": 1.0, "tk_us": 0.0, "w": 0.0}


def columns(**values: float | list[float]) -> dict[str, np.ndarray]:
    return {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in values.items()}


def test_gemm_is_compute_plus_memory_where_nothing_overlaps() -> None:
    x = columns(m=1000, n=1000, k=1000)  # 2 GFLOP, 3 matrices of 2 MB
    assert gemm_seconds(GEMM, x, TOY)[0] == pytest.approx(2e-3 + 6e-6 + 1e-6)


def test_gemm_takes_the_longer_of_both_where_all_overlaps() -> None:
    x = columns(m=1000, n=1000, k=1000)
    assert gemm_seconds({**GEMM, "p": 50.0, "t0_us": 0.0}, x, TOY)[0] == pytest.approx(2e-3)


def test_term_in_k_is_held_beyond_8192() -> None:
    x = columns(m=1, n=1, k=[4096, 8192, 65536])
    bare = gemm_seconds(GEMM, x, TOY)
    assert gemm_seconds({**GEMM, "tk_us": 3.0}, x, TOY) - bare == pytest.approx([3e-6, 6e-6, 6e-6])


def test_quantising_rows_reads_two_bytes_and_writes_one() -> None:
    x = columns(m=1000, n=1000, k=1000)
    extra = gemm_seconds({**GEMM, "tq_us": 2.0, "eq": 0.5}, x, TOY) - gemm_seconds(GEMM, x, TOY)
    assert extra[0] == pytest.approx(2e-6 + 3e6 / 0.5e12)


def test_a_kernel_without_split_k_pays_for_whole_waves() -> None:
    x = columns(m=128, n=128, k=1000)  # one tile, where a wave of 100 SMs does 100
    filled = gemm_seconds({**GEMM, "p": 50.0, "t0_us": 0.0}, columns(m=1280, n=1280, k=1000), TOY)
    assert gemm_seconds({**GEMM, "p": 50.0, "t0_us": 0.0, "w": 1.0}, x, TOY) == pytest.approx(filled)


def test_power_limit_bends_the_rate() -> None:
    assert limited(1e12, None) == 1e12
    assert limited(1e12, 1e12) == pytest.approx(1e12 / 2**0.25)
    assert limited(1e12, 1e15) == pytest.approx(1e12)
    x = columns(m=4096, n=4096, k=4096)
    slower = gemm_seconds({**GEMM, "p": 50.0, "t0_us": 0.0}, x, TOY, rate_limit=1e12)
    assert slower[0] == pytest.approx(2 * 4096**3 / 1e12 * 2**0.25)


def test_norm_lies_between_the_longer_and_the_sum() -> None:
    assert norm(np.array([3.0]), np.array([4.0]), 2.0)[0] == pytest.approx(5.0)
    assert norm(np.array([0.0]), np.array([4.0]), 0.5)[0] == pytest.approx(4.0)


def test_experts_of_a_balanced_layer() -> None:
    # 1000 tokens to 1 of 10 experts of 3 matrices 1000 x 1000: 6 GFLOP; every expert is used: 60 MB of weights,
    # 1000 rows in and out of both products: 8 MB.
    p = {"ec": 1.0, "em": 1.0, "t0_us": 0.0, "p": 1.0, "ti": 0.0, "tg": 0.0, "tm_us": 0.0, "u": 1.0, "us": 0.0}
    p |= {"m0": 1e-9, "b": 0.0, "c": 0.0}
    x = columns(tokens=1000, hidden=1000, inter=1000, topk=1, experts=10, tp=1, ep=1, skew=0, gated=1)
    assert moe_seconds(p, x, TOY)[0] == pytest.approx(6e-3 + 60e-6 + 8e-6)
    halves = {**x, "ep": np.array([2.0])}  # half the rows and half the experts on this rank
    assert moe_seconds(p, halves, TOY)[0] == pytest.approx((6e-3 + 60e-6 + 8e-6) / 2)
    remote = moe_seconds({**p, "tg": 1.0}, halves, TOY) - moe_seconds(p, halves, TOY)
    assert remote[0] == pytest.approx(4 * 1000 * 0.5 * 3000 / 1e12)


def test_skewed_routing_loads_the_busiest_rank() -> None:
    p = {"ec": 1.0, "em": 1.0, "t0_us": 0.0, "p": 50.0, "ti": 0.0, "tg": 0.0, "tm_us": 0.0, "u": 1.0, "us": 0.0}
    p |= {"m0": 1e-9, "b": 0.5, "c": 0.0}
    even = columns(tokens=10**6, hidden=1000, inter=1000, topk=1, experts=16, tp=1, ep=4, skew=0, gated=1)
    ratio = moe_seconds(p, {**even, "skew": np.array([1.0])}, TOY) / moe_seconds(p, even, TOY)
    assert ratio[0] == pytest.approx(2.0)  # 4 ranks ** 0.5


PREFILL = {"ec": 1.0, "em": 1.0, "t0_us": 0.0, "tb_us": 0.0, "p": 50.0, "s0": 0.0, "h0": 0.0, "w": 0.0}


@pytest.mark.parametrize(("window", "pairs"), [(0, 10), (2, 7), (4, 10), (9, 10)])
def test_prefill_counts_every_pair_under_the_mask_once(window: int, pairs: int) -> None:
    x = columns(batch=1, seq=4, heads=1, kv_heads=1, head_dim=10**9, window=window)
    no_memory = Sheet(peak=1e12, bandwidth=1e18)
    assert prefill_seconds(PREFILL, x, no_memory)[0] == pytest.approx(4 * 1e9 * pairs / 1e12)


def test_decode_reads_the_cache_once() -> None:
    p = {"ec": 1.0, "em": 1.0, "t0_us": 0.0, "tb_us": 0.0, "ts_us": 0.0, "p": 50.0}
    x = columns(batch=1, seq=10**6, heads=8, kv_heads=8, head_dim=100, window=0)
    # keys and values: 2 x 1e6 x 8 x 100 x 2 bytes; 4 x 8 x 100 x 1e6 FLOP take the same 3.2 ms
    assert decode_seconds({**p, "ec": 100.0}, x, TOY)[0] == pytest.approx(3.2e-3, rel=1e-5)
    grouped = {**x, "kv_heads": np.array([1.0])}
    assert decode_seconds({**p, "ec": 100.0}, grouped, TOY)[0] == pytest.approx(0.4e-3, rel=1e-4)


LATENT = columns(batch=4, seq=1000, heads=16)


def test_latent_decode_reads_one_cache_for_all_heads_and_computes_64_of_them_at_least() -> None:
    free = {"t0_us": 0.0, "tb_us": 0.0, "ts_us": 0.0, "p": 1.0}
    memory = physics("mla_decode", {**free, "em": 1.0, "ec": 1e9}, LATENT, TOY)
    queries = 4 * 4 * 16 * 288  # queries and results, a few bytes each
    assert memory[0] == pytest.approx((4 * 1000 * 576 * TOY.row_bytes + queries) / TOY.bandwidth)
    compute = [
        physics("mla_decode", {**free, "em": 1e9, "ec": 1.0}, {**LATENT, "heads": np.array([heads])}, TOY)[0]
        for heads in (16.0, 64.0, 128.0)
    ]
    assert compute[1] == pytest.approx(compute[0])
    assert compute[2] == pytest.approx(2 * compute[0])


def test_latent_prefill_multiplies_keys_of_192_and_values_of_128() -> None:
    free = {"t0_us": 0.0, "tb_us": 0.0, "p": 8.0, "s0": 0.0, "h0": 0.0, "w": 0.0}
    seconds = physics("mla_prefill", {**free, "em": 1e9, "ec": 1.0}, LATENT, TOY)
    pairs = 1000 * 1001 / 2
    assert seconds[0] == pytest.approx(2 * 4 * 16 * pairs * (192 + 128) / TOY.peak)


def test_a_window_and_the_waves_of_caches_are_features_of_decode() -> None:
    shape = {"batch": 3.0, "seq": 100.0, "heads": 8.0, "kv_heads": 4.0, "head_dim": 128.0, "window": 0.0}
    x = columns(**shape)
    plain = features("decode", x, TOY)
    assert plain["windowed"] == [0]
    assert plain["cache_full"] == pytest.approx(12 / TOY.sms / np.ceil(12 / TOY.sms))
    assert features("decode", {**x, "window": np.array([64.0])}, TOY)["windowed"] == [1]


def test_bytes_on_the_wire() -> None:
    x = columns(bytes=400, group_size=4)
    assert wire_bytes("all_reduce", x)[0] == 600
    assert wire_bytes("all_gather", x)[0] == 300
    assert wire_bytes("send_recv", x)[0] == 400


def test_collective_saturates() -> None:
    p = {"a_us": 10.0, "b": 0.5, "q": 1.0}
    x = columns(bytes=1e6, group_size=2)  # 0.5 MB at 50 GB/s
    assert collective_seconds("all_gather", p, x, TOY)[0] == pytest.approx(20e-6)


def test_a_throughput_dispatcher_sends_each_token_once_to_each_rank() -> None:
    one_byte = Sheet(peak=1.0, bandwidth=1.0, link=1.0, row_bytes=1.0)
    x = columns(tokens=1, hidden=1, topk=1, experts=8, group_size=2, nodes=1, sms=0)
    inside, outside = exchange_bytes(x, one_byte, copies=False)
    assert (inside[0], outside[0]) == (pytest.approx(0.5), 0)  # one of two ranks, half the time itself
    many = {**x, "topk": np.array([1000.0])}
    assert exchange_bytes(many, one_byte, copies=False)[0][0] == pytest.approx(1.0)  # never more than the other rank
    assert exchange_bytes(many, one_byte, copies=True)[0][0] == pytest.approx(500.0)  # a copy an expert


def test_across_nodes_a_token_crosses_once_a_node() -> None:
    one_byte = Sheet(peak=1.0, bandwidth=1.0, link=1.0, row_bytes=1.0)
    x = columns(tokens=1, hidden=1, topk=8, experts=64, group_size=16, nodes=2, sms=0)
    assert exchange_bytes(x, one_byte, copies=False)[1][0] == pytest.approx(1.0)  # 2 nodes reached, one of them home
    assert exchange_bytes(x, one_byte, copies=True)[1][0] == pytest.approx(4.0)


def test_exchange_is_limited_by_its_sms() -> None:
    p = {"a_us": 0.0, "e": 1.0, "r_gb": 1.0}
    x = columns(tokens=1000, hidden=1000, topk=1000, experts=1000, group_size=2, nodes=1, sms=[0, 10])
    # 2 MB to the other rank at 100 GB/s, and at 10 SMs of 1 GB/s besides
    assert exchange_seconds(p, x, TOY) == pytest.approx([20e-6, 220e-6])


def test_features_know_alignment_and_waves() -> None:
    found = features("gemm", columns(m=[128, 129], n=128, k=4096), TOY)
    assert found["ragged"].tolist() == [0.0, 1.0]
    assert found["full_128x128"] == pytest.approx([0.01, 0.02])
    assert found["k"].tolist() == [12.0]
