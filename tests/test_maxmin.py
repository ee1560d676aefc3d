"""Max-min fair sharing against a linear-programming reference on random fabrics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from simulator.engine.exchange import max_min_rates
from simulator.engine.fabric import Routes
from simulator.engine.flows import Flow, Transfer, fair_rates

Loads = list[dict[int, float]]
"""For each flow: the links it uses and how much each of its bytes loads them."""
UNCAPPED = 1e6


def reference(loads: Loads, caps: list[float], capacity: list[float]) -> list[float]:
    """Max-min rates by their definition: raise the smallest rate as far as it goes, fix whom that binds, go on."""
    flows = range(len(loads))
    table = np.array([[loads[i].get(link, 0.0) for i in flows] for link in range(len(capacity))])
    fixed: dict[int, float] = {}

    def largest(objective: list[float], floor: float | None) -> float:
        """Maximum of the objective over the rates and the common level (the last variable)."""
        bounds = [(fixed[i], fixed[i]) if i in fixed else (floor or 0.0, caps[i]) for i in flows]
        above = [[*(-1.0 if j == i else 0.0 for j in flows), 1.0] for i in flows if i not in fixed and floor is None]
        rows = np.vstack([np.hstack([table, np.zeros((len(capacity), 1))]), *above])
        limits = [*capacity, *[0.0] * len(above)]
        solved = linprog([-x for x in objective], A_ub=rows, b_ub=limits, bounds=[*bounds, (0, None)])
        assert solved.status == 0, solved.message
        return float(-solved.fun)

    while len(fixed) < len(loads):
        level = largest([*[0.0] * len(loads), 1.0], None)
        floor = level * (1 - 1e-9)
        free = [i for i in flows if i not in fixed]
        bound = [i for i in free if largest([*(float(j == i) for j in flows), 0.0], floor) <= level * (1 + 1e-6)]
        assert bound
        fixed.update(dict.fromkeys(bound, level))
    return [fixed[i] for i in flows]


@st.composite
def fabrics(draw: st.DrawFn, weights: tuple[float, ...], capped: bool) -> tuple[Loads, list[float], list[float]]:
    links = draw(st.integers(1, 4))
    capacity = draw(st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0, 8.0]), min_size=links, max_size=links))
    used = st.dictionaries(st.integers(0, links - 1), st.sampled_from(weights), min_size=1, max_size=links)
    loads = draw(st.lists(used, min_size=1, max_size=6))
    caps = [draw(st.sampled_from([0.25, 1.0, 4.0, UNCAPPED])) if capped else UNCAPPED for _ in loads]
    return loads, caps, capacity


@settings(max_examples=30)
@given(fabrics((0.25, 1.0, 2.0), True))
def test_shared_rates_are_max_min_fair(fabric: tuple[Loads, list[float], list[float]]) -> None:
    loads, caps, capacity = fabric
    flows = [Flow(Transfer("", "", 0.0, 1.0, cap, tuple(load.items()))) for load, cap in zip(loads, caps, strict=True)]
    rates, full = fair_rates(flows, capacity)
    assert rates == pytest.approx(reference(loads, caps, capacity), rel=1e-5)
    carried = [
        sum(load.get(link, 0.0) * rate for load, rate in zip(loads, rates, strict=True))
        for link in range(len(capacity))
    ]
    assert all(sent <= limit * (1 + 1e-9) for sent, limit in zip(carried, capacity, strict=True))
    assert full <= {link for link, sent in enumerate(carried) if sent >= capacity[link] * (1 - 1e-9)}


@settings(max_examples=20)
@given(fabrics((1.0,), False))
def test_rates_of_an_exchange_are_max_min_fair(fabric: tuple[Loads, list[float], list[float]]) -> None:
    loads, caps, capacity = fabric
    pairs = [(flow, link) for flow, load in enumerate(loads) for link in load]
    routes = Routes(np.array([flow for flow, _ in pairs]), np.array([link for _, link in pairs]))
    rates = max_min_rates(routes, np.array(capacity), len(loads))
    assert rates.tolist() == pytest.approx(reference(loads, caps, capacity), rel=1e-5)
