"""Fitting prices to measured tables, and pricing steps: on synthetic machines whose laws are known."""

from __future__ import annotations

from math import exp, log
from pathlib import Path

import numpy as np
import pytest

from simulator.calibration.calls import FAR, Call, Touch, Trace, looped
from simulator.calibration.prices import (
    Family,
    HostCosts,
    MemoryLevels,
    Prices,
    along,
    call_seconds,
    family_of,
    features_of,
    read_prices,
    residual,
    write_prices,
)
from simulator.calibration.prices_fit import fit_family, fit_memory, fit_saturating
from simulator.calibration.prices_host import fit_host, fit_in_a_row, fit_sequence, fit_stretch, fit_traffic
from simulator.calibration.step_prices import (
    collective_seconds,
    disturbed,
    outside_of,
    price_step,
    sequence_seconds,
    since_last,
)
from simulator.errors import CalibrationError

KIB, MIB = 2.0**10, 2.0**20
LEVELS = MemoryLevels(seconds_per_byte=(1e-11, 2e-11, 5e-11), knees=(MIB, 16 * MIB))
STILL = HostCosts(
    view=1e-6, module=2e-6, forward_on_tape=3e-6, backward=4e-6, sequence=((1e-7, 0.0),), stretch=((1e-7, 1.0),)
)


def call(elements: float, *touches: Touch, kernel: str = "add") -> Call:
    return Call("elementwise", kernel, {"elements": elements, "rows": 1.0}, touches or (Touch(0.0, 0.0),))


def family(per_element: float, error: float = 0.1) -> Family:
    parameters = {"t0": 1e-6, "p": 1.0, "e_0": 1.0, "e_1": 1.0, "e_2": 1.0, "c_elements": per_element, "c_runs": 0.0}
    return Family(
        parameters=parameters,
        low={"elements": 100.0, "rows": 1.0},
        high={"elements": 1e6, "rows": 1.0},
        relative_error=error,
        points=9,
    )


def prices(host: HostCosts = STILL) -> Prices:
    return Prices(
        device="toy",
        dtype="fp32",
        library="torch",
        version="2.13",
        date="2026-01-01",
        statistic="minimum",
        memory=LEVELS,
        families={"elementwise add": family(1e-9), "elementwise mul": family(2e-9)},
        host=host,
    )


def test_each_level_of_memory_serves_what_lies_within_its_reach() -> None:
    reuse = np.array([KIB, 4 * MIB, 1e10])
    assert LEVELS.seconds(np.full(3, 1e6), reuse) == pytest.approx([1e-5, 2e-5, 5e-5], rel=0.02)
    assert LEVELS.seconds(np.array([1e6]), np.array([MIB])) == pytest.approx([1.5e-5], rel=0.02)  # at the knee


def test_points_in_a_loop_touch_their_operands_every_time() -> None:
    product = looped("gemm", "nt", {"m": 2.0, "n": 3.0, "k": 5.0, "reuse": 0.0}, "fp32")
    assert product.touches == (Touch(4 * (2 * 5 + 2 * 3 + 3 * 5), 124.0),)
    assert product.shape == {"m": 2.0, "n": 3.0, "k": 5.0}
    far = looped("gemm", "nt", {"m": 2.0, "n": 3.0, "k": 5.0, "reuse": 1e6}, "fp32")
    assert far.touches == (Touch(64.0, 124.0), Touch(60.0, 1e6))
    rows = looped("gather", "embedding", {"rows": 2.0, "columns": 8.0, "table": 100.0}, "fp32")
    assert rows.touches[1] == Touch(64.0, 3200.0 + rows.touches[0].bytes)


@pytest.mark.parametrize(("op", "shape", "flops"), [
    ("gemm", {"m": 2, "n": 3, "k": 5}, 60),
    ("batched_gemm", {"groups": 7, "m": 2, "n": 3, "k": 5}, 420),
    ("attention", {"batch": 1, "heads": 2, "queries": 4, "keys": 4, "head_dim": 8, "causal": 1}, 512),
    ("attention", {"batch": 1, "heads": 2, "queries": 1, "keys": 4, "head_dim": 8, "causal": 0}, 256),
    ("attention_backward", {"batch": 1, "heads": 2, "queries": 4, "keys": 4, "head_dim": 8, "causal": 1}, 1280),
    ("fill", {"elements": 9}, 0),
])  # fmt: skip
def test_flops_of_a_call(op: str, shape: dict[str, float], flops: float) -> None:
    assert Call(op, "x", shape, ()).flops == flops


@pytest.mark.parametrize(("op", "kernel", "shape", "name"), [
    ("gemm", "nt", {"m": 1, "n": 9, "k": 9}, "gemm row"),
    ("gemm", "nt", {"m": 32, "n": 9, "k": 9}, "gemm few rows"),
    ("gemm", "nn", {"m": 32, "n": 9, "k": 9}, "gemm"),
    ("batched_gemm", "nn", {"groups": 2, "m": 4, "n": 1, "k": 4}, "batched column nn"),
    ("attention", "sdpa", {"queries": 1}, "decode attention"),
    ("top_k", "topk", {"columns": 256, "k": 4}, "top k of many"),
    ("top_k", "topk", {"columns": 255, "k": 4}, "top k"),
    ("rowwise", "softmax", {}, "rowwise softmax"),
])  # fmt: skip
def test_families_split_where_the_code_changes(op: str, kernel: str, shape: dict[str, float], name: str) -> None:
    assert family_of(Call(op, kernel, shape, ())) == name


def test_an_operator_nobody_knows_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"^prices know no operator 'gem'\. Did you mean 'gemm'"):
        looped("gem", "nt", {"m": 2.0}, "fp32")


def test_the_fit_finds_the_memory_of_a_machine() -> None:
    rows = []
    for kernel in ("copy_", "add", "mul"):
        for elements in (2.0**e for e in range(8, 24)):
            for reuse in (0.0, 8 * MIB, 1e9):
                point = looped("elementwise", kernel, {"elements": elements, "rows": 1.0, "reuse": reuse}, "fp32")
                sizes, far = (np.array(each) for each in zip(*point.touches, strict=True))
                rows.append((point, 1e-6 + float(LEVELS.seconds(sizes, far).sum())))
    found = fit_memory(rows)
    assert found.seconds_per_byte == pytest.approx(LEVELS.seconds_per_byte, rel=0.06)
    assert found.knees == pytest.approx(LEVELS.knees, rel=0.25)


def test_too_few_streaming_points_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"^0 streaming points measured; memory levels need 12$"):
        fit_memory([])


def test_the_fit_finds_the_law_of_a_family() -> None:
    calls = [looped("gemm", "nn", {"m": m, "n": n, "k": k}, "fp32")
             for m in (40.0, 96.0, 333.0) for n in (64.0, 300.0) for k in (50.0, 256.0, 1000.0)]  # fmt: skip
    shapes = np.array([list(c.shape.values()) for c in calls])
    seconds = 2e-6 + 2e-11 * shapes.prod(axis=1)
    fitted = fit_family(calls, seconds, LEVELS)
    one = prices().model_copy(update={"families": {"gemm": fitted}})
    asked = [looped("gemm", "nn", {"m": 200.0, "n": 200.0, "k": 200.0}, "fp32")]
    assert call_seconds(one, asked) == pytest.approx([2e-6 + 2e-11 * 200**3], rel=0.06)
    assert fitted.points == 18
    assert fitted.relative_error < 0.1
    assert (fitted.low["m"], fitted.high["k"]) == (40.0, 1000.0)


def test_a_residual_holds_at_its_points_and_fades_away_from_them() -> None:
    points, values = np.array([[0.0, 0.0], [4.0, 0.0]]), np.array([0.3, -0.1])
    at = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 30.0]])
    near, between, far = residual(points, values, 0.0, at)
    assert near == pytest.approx(0.3, abs=0.001)
    assert between == pytest.approx(0.3, abs=0.01)
    assert abs(far) < 1e-11


def host(kernel: str, calls: float, seconds: float) -> tuple[Call, float]:
    return Call("host", kernel, {"calls": calls}, ()), seconds


def test_host_costs_are_differences_per_call() -> None:
    rows = [host("view", 10, 20e-6), host("module", 10, 10e-6), host("chain_inference", 10, 10e-6),
            host("chain_forward", 10, 15e-6), host("chain_leaves", 10, 95e-6),
            host("chain_training", 10, 55e-6)]  # fmt: skip
    found = fit_host(rows, LEVELS)
    assert (found.view, found.module) == pytest.approx((2e-6, 1e-6))
    assert (found.forward_on_tape, found.backward, found.leaf) == pytest.approx((0.5e-6, 3e-6, 3e-6))
    with pytest.raises(CalibrationError, match=r"^no stable point of the host's 'chain_training'$"):
        fit_host(rows[:-1], LEVELS)


def test_the_cost_of_sequence_grows_with_the_time_since_a_kernel_ran() -> None:
    def point(op: str, kernel: str, seconds: float, **shape: float) -> tuple[Call, float]:
        return Call(op, kernel, shape, ()), seconds

    rows = [point("sequence_before", "product", 1e-4, before=4), point("sequence_before", "product", 1e-2, before=8)]
    for kernel, alone in (("add", 1e-6), ("mean", 3e-6)):
        rows.append(point("sequence_member", kernel, alone))
        rows.append(point("sequence_following", kernel, alone + 2e-6, before=4))
        rows.append(point("sequence_following", kernel, alone + 8e-6, before=8))
    curve = fit_sequence(rows)
    assert [cost for _, cost in curve] == pytest.approx([0.0, 2e-6, 8e-6])
    assert along(curve, np.array([1e-3, 1.0])) == pytest.approx([5e-6, 8e-6])
    # Ten rounds of both in a row: 5 us a round, of which they take 4 alone.
    assert fit_in_a_row([*rows, point("sequence_stretch", "small", 50e-6, rounds=10)]) == pytest.approx(0.5e-6)
    assert fit_in_a_row(rows) == 0.0


def test_sequence_costs_little_while_the_nearest_cache_holds_everything() -> None:
    curve = ((1e-7, 0.0), (1e-4, 2e-6))
    costly = prices(STILL.model_copy(update={"sequence": curve, "in_a_row": 0.25e-6}))
    seconds = np.array([1e-4, 1e-4])
    for size, each in ((KIB, 0.25e-6), (MIB, 1.125e-6), (1e9, 2e-6)):  # far within, at, and beyond the first knee
        calls = [call(8.0, Touch(size, 0.0)), call(8.0, Touch(size, 0.0), kernel="mul")]
        assert sequence_seconds(costly, calls, seconds) == pytest.approx(2 * each, rel=1e-3)


def test_traffic_of_others_is_read_off_a_large_operand() -> None:
    def point(op: str, kernel: str, seconds: float, **shape: float) -> tuple[Call, float]:
        return Call(op, kernel, shape, ()), seconds

    size = np.array([8 * MIB])
    rows = [point("sequence_member", "large", 1e-4)]
    for before, length in ((4, 1e-4), (8, 2e-3)):
        more = float((LEVELS.seconds(size, size + 1e10 * length) - LEVELS.seconds(size, size))[0])
        rows.append(point("sequence_before", "product", length, before=before))
        rows.append(point("sequence_following", "large", 1e-4 + more, before=before))
    assert fit_traffic(rows, LEVELS) == pytest.approx(1e10, rel=0.1)
    assert fit_traffic(rows[:1], LEVELS) == 0.0


def test_traffic_of_others_lengthens_reuse_by_the_time_that_passes() -> None:
    calls = [call(8.0, Touch(1e6, 2e6)), call(8.0, Touch(3e6, 4e6))]
    # 4 MB are touched in 1 ms; others move 8 MB meanwhile: distances are three times as long.
    assert [c.touches[0].reuse for c in disturbed(calls, 1e-3, 8e9)] == pytest.approx([6e6, 12e6])


def test_a_step_is_stretched_as_equal_products_are() -> None:
    rows = [(Call("sequence_stretch", "product", {"rounds": rounds}, ()), rounds * 1e-3 * factor)
            for rounds, factor in ((1.0, 1.0), (10.0, 1.1), (100.0, 1.05))]  # fmt: skip
    assert fit_stretch(rows, "product") == ((1e-3, 1.0), (1e-2, pytest.approx(1.1)), (1e-1, pytest.approx(1.1)))


def test_the_fit_finds_a_collective() -> None:
    sizes = np.array([512.0 * 4**i for i in range(9)])
    seconds = (1e-4**0.8 + (sizes / 2e9) ** 0.8) ** (1 / 0.8)
    found = fit_saturating(sizes, seconds)
    assert (found.a, found.b, found.q) == pytest.approx((1e-4, 2e9, 0.8), rel=0.02)
    assert found.relative_error == 0.02


def test_what_lies_between_counts_from_the_last_of_the_same_name_in_equal_steps() -> None:
    amounts = np.array([1.0, 2.0, 4.0, 8.0])
    assert since_last(["a", "b", "a", "b"], amounts) == pytest.approx([8.0, 1.0, 2.0, 4.0])
    assert since_last(["a", "b", "c", "b"], amounts) == pytest.approx([14.0, 1.0, 11.0, 4.0])


def test_a_step_costs_its_calls_and_what_the_host_does_around_them() -> None:
    trace = Trace([call(1000.0), call(500.0, kernel="mul")], views=3, modules=2, forward_on_tape=1, backward=1)
    found = price_step(prices(), trace, kind="cpu")
    assert found.host == pytest.approx(3e-6 + 4e-6 + 3e-6 + 4e-6)
    assert found.by_family == {"elementwise add": pytest.approx(2e-6), "elementwise mul": pytest.approx(2e-6)}
    assert found.seconds == pytest.approx(18e-6)
    assert found.side == "inside"
    # 10 % of each family, 30 % of the host's work, 5 % of the whole
    width = 1.645 * (2 * 0.2**2 + 4.2**2 + 0.9**2) ** 0.5 / 18
    assert (found.low, found.high) == (pytest.approx(18e-6 * exp(-width)), pytest.approx(18e-6 * exp(width)))
    assert price_step(prices(), trace, kind="cuda").seconds == pytest.approx(14e-6)
    assert price_step(prices(), trace, kind="cuda", communication=1e-6).seconds == pytest.approx(15e-6)


def test_calls_outside_the_measured_shapes_are_marked() -> None:
    assert [outside_of(prices(), call(e)) for e in (50.0, 99.0, 1e6, 2e6)] == [-1, 0, 0, 1]
    assert price_step(prices(), Trace([call(1e7)]), kind="cpu").side == "above"
    assert price_step(prices(), Trace([call(10.0)]), kind="cpu").side == "below"


def test_a_family_nobody_measured_is_named() -> None:
    with pytest.raises(CalibrationError, match=r"^the profile of toy has no measured 'elementwise neg'$"):
        call_seconds(prices(), [call(1.0, kernel="neg")])
    with pytest.raises(CalibrationError, match=r"^the profile of toy has no measured 'all_to_all gloo 2'$"):
        collective_seconds(prices(), "all_to_all", "gloo", 2, [1.0])


def test_memory_of_a_call_is_what_its_touches_cost() -> None:
    features = features_of([call(8.0, Touch(1e6, 1.0), Touch(1e6, FAR))], LEVELS)
    assert features.memory.sum() == pytest.approx(1e-5 + 5e-5)
    assert features.terms["elements"] == [8.0]


def test_prices_survive_their_file(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    write_prices(prices(), file)
    assert read_prices(file) == prices()
    assert list(tmp_path.iterdir()) == [file]


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    write_prices(prices(), file)
    text = file.read_text()
    file.write_text(text[: text.index("host:")])
    with pytest.raises(CalibrationError, match=r"^not a whole prices file: .*prices\.yaml.* host: missing"):
        read_prices(file)
    file.write_text(text[: text.index("parameters") + 20])
    with pytest.raises(CalibrationError, match=r"^not a whole prices file: .*not valid YAML"):
        read_prices(file)


def test_the_interval_widens_outside() -> None:
    inside = price_step(prices(), Trace([call(1e5)]), kind="cpu")
    outside = price_step(prices(), Trace([call(1e8)]), kind="cpu")
    assert log(outside.high / outside.low) > 1.5 * log(inside.high / inside.low)
