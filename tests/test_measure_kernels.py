"""The measured points on a CPU: each runs the one operator it is named after, on operands that lie as it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from simulator.calibration.calls import looped
from simulator.calibration.kernels import CPU_PLAN, CUDA_PLAN, PLANS, cases
from simulator.calibration.kernels_device import CpuDevice, processor_name
from simulator.calibration.kernels_gemm import gemm, grouped_gemm, halton, spread, uneven
from simulator.calibration.kernels_memory import transfer
from simulator.calibration.kernels_routing import expert_layer, product_keys, top_k_of_sums
from simulator.calibration.prices import family_of, terms_of
from simulator.calibration.protocol import Case, Skip
from simulator.calibration.torch_calls import IGNORED, VIEWS, describe

HOST = ("host", "sequence_member", "sequence_following", "sequence_before", "sequence_stretch")
WHOLE = ("retrieval", "moe", "transfer")
COMPOSED = (*HOST, *WHOLE, "grouped_gemm", "optimizer")


@pytest.fixture(scope="module")
def device() -> CpuDevice:
    return CpuDevice()


class Recorder(TorchDispatchMode):
    """Descriptions of everything dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operator(*args, **(kwargs or {}))
        if str(operator) not in VIEWS | IGNORED:
            self.found += describe(str(operator), args, kwargs or {}, out) or [str(operator)]
        return out


def smallest() -> dict[tuple[str, str], Case]:
    """Of every operator and kernel the first point and the one with the longest reuse distance."""
    chosen: dict[Any, Case] = {}
    for case in cases(CPU_PLAN, "fp32"):
        key = (
            case.op,
            case.kernel,
            bool(case.shape.get("reuse")),
            case.shape.get("rows", 1) > 1,
            case.shape.get("m") == 1,
        )
        chosen.setdefault(key, case)
    return {key: case for key, case in chosen.items() if not case.kernel.startswith("rms_norm")}


POINTS = smallest()


@pytest.mark.parametrize("case", [c for c in POINTS.values() if c.op not in COMPOSED], ids=lambda c: c.key)
def test_a_point_is_the_operator_it_says(device: CpuDevice, case: Case) -> None:
    run = case.build(device)
    with Recorder() as recorder:
        run()
    shape = {name: float(value) for name, value in case.shape.items() if name != "reuse"}
    # Whether scores come in order is the trace's to know.
    kernel = "topk" if case.op == "top_k" else case.kernel
    assert recorder.found == [(case.op, kernel, shape)]


@pytest.mark.parametrize("case", [c for c in POINTS.values() if c.op not in HOST], ids=lambda c: c.key)
def test_every_point_can_be_fitted(case: Case) -> None:
    call = looped(case.op, case.kernel, case.shape, case.dtype)
    if case.op not in WHOLE:
        assert all(value >= 0 for value in terms_of(call).values())
        assert family_of(call)
    assert all(touch.bytes >= 0 and touch.reuse >= 0 for touch in call.touches)


def test_no_two_points_share_a_name() -> None:
    for plan in (CPU_PLAN, CUDA_PLAN):
        keys = [case.key for case in cases(plan, "fp32")]
        assert len(keys) == len(set(keys))
    assert {"cpu": CPU_PLAN, "cuda": CUDA_PLAN} == PLANS


def test_cold_operands_take_turns_and_hot_ones_do_not_overlap(device: CpuDevice) -> None:
    operands = device.operands()
    a, b = operands.hot(100), operands.hot(100)
    assert a.data_ptr() + 400 <= b.data_ptr()
    turn = device.operands().cold(10, 4, reuse=800, transposed=True)
    views = [next(turn) for _ in range(6)]
    assert [view.data_ptr() for view in views[:1]] == [views[5].data_ptr()]  # five of 160 bytes are 800
    assert len({view.data_ptr() for view in views[:5]}) == 5
    assert views[0].shape == (4, 10)


def test_an_operand_larger_than_the_arena_is_skipped_with_its_size(device: CpuDevice) -> None:
    with pytest.raises(Skip, match=r"^operands of 1024 MiB: more than the arena$"):
        device.operands().hot(2**28)
    with pytest.raises(Skip, match=r"^a cold operand of 1024 MiB: more than half the pool$"):
        device.operands().cold(2**28, reuse=1)


def test_failures_of_one_point_are_told_from_bugs(device: CpuDevice) -> None:
    no_memory = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    assert str(device.failure(no_memory)).startswith("out of memory: [enforce fail]")
    absent = NotImplementedError("\"x\" not implemented for 'Half'")
    assert device.failure(absent) == "no such kernel on a CPU: \"x\" not implemented for 'Half'"
    assert device.failure(RuntimeError("shapes do not match")) is None


def test_the_thread_clock_times_work_and_not_waiting(device: CpuDevice) -> None:
    x = torch.ones(256, 256)
    busy = device.seconds(lambda: [torch.mm(x, x) for _ in range(20)], 3)
    idle = device.seconds(lambda: None, 3)
    assert busy > 10 * idle
    assert device.seconds_after(lambda: torch.mm(x, x), lambda: torch.mm(x, x)) > 0


def test_the_device_says_what_it_is(device: CpuDevice) -> None:
    info = device.info
    assert (info.library, info.version, info.threads, info.dtype) == ("torch", str(torch.__version__), 1, "fp32")
    assert info.device == processor_name()
    assert info.device.startswith("cpu-")


def test_shapes_fill_the_space() -> None:
    assert [halton(i, 2) for i in (1, 2, 3, 4)] == [0.5, 0.25, 0.75, 0.125]
    shapes = list(spread(50, (16, 16, 16), (4096, 4096, 4096)))
    for axis in range(3):
        sizes = [shape[axis] for shape in shapes]
        assert min(sizes) < 32
        assert max(sizes) > 2048
        below = sum(size < 256 for size in sizes)  # the middle of the logarithms
        assert 20 <= below <= 30
    assert any(shape[0] % 8 for shape in shapes)


def test_groups_share_rows_unevenly() -> None:
    assert uneven(10, 4) == [2, 3, 2, 3]
    assert sum(uneven(1000, 7)) == 1000
    assert all(count % 16 == 0 for count in uneven(1024, 4)[:-1])


def test_grouped_products_are_products(device: CpuDevice) -> None:
    case = grouped_gemm("loop", 3, 12, 8, 16, dtype="fp32")
    found = case.build(device)()
    operands = device.operands()
    rows, weights = operands.hot(12, 16), operands.hot(3, 8, 16)
    expected = [part @ weight.t() for part, weight in zip(rows.split(uneven(12, 3)), weights, strict=True)]
    torch.testing.assert_close(found, torch.cat(expected))


def test_a_layer_of_experts_is_the_weighted_sum_of_its_experts(device: CpuDevice) -> None:
    case = expert_layer("loop", 5, 8, 4, 2, 3, dtype="fp32")
    torch.manual_seed(3)
    found = case.build(device)()
    operands = device.operands()
    x, weights = operands.hot(5, 8), operands.hot(10, 1)
    up, down = operands.hot(3, 8, 8), operands.hot(3, 8, 4)
    torch.manual_seed(3)
    order, expected = torch.randperm(10) // 2, torch.zeros(5, 8)
    for row, token in enumerate(order.tolist()):  # ten rows: experts take 4, 3 and 3
        expert = (0, 0, 0, 0, 1, 1, 1, 2, 2, 2)[row]
        gate, value = (up[expert] @ x[token]).chunk(2)
        expected[token] += weights[row] * (down[expert] @ (torch.nn.functional.silu(gate) * value))
    torch.testing.assert_close(found, expected)


def test_the_gradient_of_weights_is_written_where_it_was_long_ago(device: CpuDevice) -> None:
    run = gemm("tn", 16, 8, 4, dtype="fp32", reuse=4096).build(device)
    places = {run().data_ptr() for _ in range(20)}  # type: ignore[attr-defined]
    assert len(places) == 4096 // (16 * 8 * 4)


def test_sums_of_sorted_scores_come_in_order(device: CpuDevice) -> None:
    best, _ = top_k_of_sums(2, 3, dtype="fp32").build(device)()  # type: ignore[misc]
    operands = device.operands()
    halves = operands.hot(32, 2, 12).topk(3).values
    torch.testing.assert_close(best[:, 0], halves[0, :, 0] + halves[16, :, 0])


def test_copies_between_host_and_device_need_two_memories(device: CpuDevice) -> None:
    with pytest.raises(Skip, match=r"^a CPU's memory is the host's$"):
        transfer("host_to_device", 64, dtype="fp32").build(device)
    assert transfer("within_device", 64, dtype="fp32").build(device)().tolist() == [0] * 64  # type: ignore[attr-defined]


def test_product_keys_retrieve_the_best_sums(device: CpuDevice) -> None:
    case = product_keys(2, 1, 64, 3, 8, dtype="fp32")
    best, experts = case.build(device)()  # type: ignore[misc]
    operands = device.operands()
    queries, keys = operands.hot(16, 2, 2, 4)[0], operands.hot(2, 8, 4)
    for token in range(2):
        scores = (keys[0] @ queries[0, token])[:, None] + (keys[1] @ queries[1, token])[None, :]
        wanted = scores.flatten().topk(3)
        torch.testing.assert_close(best[token], wanted.values)
        assert experts[token].tolist() == wanted.indices.tolist()


def test_a_fused_norm_is_skipped_where_it_is_not_one_operator(device: CpuDevice) -> None:
    case = next(c for c in cases(CPU_PLAN, "fp32") if c.kernel == "rms_norm")
    with pytest.raises(Skip, match="torch runs it as separate operators on a CPU"):
        case.build(device)


def test_a_plan_can_be_made_smaller() -> None:
    small = replace(CPU_PLAN, gemm=replace(CPU_PLAN.gemm, points=1, weights=()))
    assert sum(case.op == "gemm" for case in cases(small, "fp32")) == 4
