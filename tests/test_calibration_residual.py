"""Residual tables: interpolation, what they hold at their ends, and fits that find what was put in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.calibration.residual_fit import fit_residual
from simulator.spec.residual import Axis, Table, distance, fade, residual

X, Y = Axis("x", 0.0, 1.0, 3), Axis("y", 10.0, 2.0, 2)
PLANE = Table((X, Y), np.array([[0, 1], [2, 3], [4, 5]], dtype=np.float32))


def at(x: float, y: float) -> dict[str, np.ndarray]:
    return {"x": np.array([x]), "y": np.array([y])}


@pytest.mark.parametrize(
    ("x", "y", "value"),
    [(0, 10, 0), (2, 12, 5), (0.5, 10, 1), (0.5, 11, 1.5), (-7, 10, 0), (9, 99, 5), (1.25, 11.5, 3.25)],
)
def test_table_is_multilinear_and_holds_its_edges(x: float, y: float, value: float) -> None:
    assert PLANE.evaluate(at(x, y))[0] == pytest.approx(value)


def test_an_axis_of_one_knot_is_constant() -> None:
    table = Table((X, Axis("y", 0.0, 1.0, 1)), np.array([[1.0], [2.0], [4.0]], dtype=np.float32))
    assert table.evaluate(at(1.5, 7.0))[0] == pytest.approx(3.0)
    turned = Table((Axis("y", 0.0, 1.0, 1), X), np.array([[1.0, 2.0, 4.0]], dtype=np.float32))
    assert turned.evaluate(at(1.5, 7.0))[0] == pytest.approx(3.0)


def test_a_gate_is_a_factor() -> None:
    gated = Table(PLANE.axes, PLANE.values, gate="odd")
    assert gated.evaluate({**at(2, 12), "odd": np.array([0.0])})[0] == 0
    assert gated.evaluate({**at(2, 12), "odd": np.array([1.0])})[0] == 5


def test_a_model_table_acts_on_that_model_alone() -> None:
    own = Table(PLANE.axes, PLANE.values, only={"model": 7.0})
    points = {"x": np.array([2.0, 2.0]), "y": np.array([12.0, 12.0]), "model": np.array([7.0, 8.0])}
    total, known = residual((PLANE, own), points)
    assert total == pytest.approx([10.0, 5.0])
    assert known.tolist() == [True, False]


def test_distance_is_zero_inside_and_euclidean_outside() -> None:
    bounds = {"x": (0.0, 2.0), "y": (10.0, 12.0)}
    points = {"x": np.array([1.0, 5.0, -1.0]), "y": np.array([11.0, 16.0, 11.0])}
    assert distance(bounds, points) == pytest.approx([0.0, 5.0, 1.0])
    assert fade(np.array([0.0, 1.0])) == pytest.approx([1.0, np.exp(-1)])


@given(st.floats(0, 4), st.floats(0, 4))
@settings(max_examples=50, deadline=None)
def test_interpolation_stays_between_its_knots(x: float, y: float) -> None:
    values = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    table = Table((Axis("x", 0.0, 1.0, 5), Axis("y", 0.0, 1.0, 5)), values)
    assert values.min() - 1e-6 <= table.evaluate(at(x, y))[0] <= values.max() + 1e-6


def test_fit_finds_a_surface_it_can_hold() -> None:
    sizes = 2.0 ** np.arange(10, 30)
    logs = 0.3 * np.sin(np.arange(20))
    found = fit_residual("all_gather", {"bytes": np.log2(sizes), "group_size": np.full(20, 3.0)}, logs)
    total, _ = residual(found, {"bytes": np.log2(sizes), "group_size": np.full(20, 3.0)})
    assert np.abs(total - logs).max() < 0.05
    again = fit_residual("all_gather", {"bytes": np.log2(sizes), "group_size": np.full(20, 3.0)}, logs)
    assert (again[0].values == found[0].values).all()


def test_a_handful_of_points_has_no_residual() -> None:
    sizes = {"bytes": np.arange(7.0), "group_size": np.full(7, 3.0)}
    assert fit_residual("all_gather", sizes, np.ones(7)) == ()


def test_what_no_point_sees_stays_small() -> None:
    features = {"bytes": np.array([0.0] * 8 + [20.0] * 8), "group_size": np.full(16, 3.0)}
    (table,) = fit_residual("all_gather", features, np.full(16, 0.1))
    assert np.abs(table.values).max() < 0.11
