"""Stragglers: the expected slowest of many, and the expected step of a pipeline, against drawn ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import toy
from numpy.typing import NDArray

from simulator import simulate
from simulator.cost.conditions import impair, stage_conditions
from simulator.cost.stragglers import expected_slowest, share_below, slow_time
from simulator.engine.fast import execute, execute_many
from simulator.engine.stragglers import place_slowest
from simulator.errors import SpecError
from simulator.spec.faults import Stragglers

FEW = Stragglers(fraction=0.01, slowdown=0.1)
SPREAD = Stragglers(sigma=0.02)


def drawn(stragglers: Stragglers, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Compute times of GPUs over that of an ordinary one."""
    if stragglers.sigma is not None:
        return np.exp(stragglers.sigma * generator.standard_normal(shape))
    assert stragglers.fraction is not None
    assert stragglers.slowdown is not None
    return 1 + stragglers.slowdown * (generator.random(shape) < stragglers.fraction)


def test_one_in_a_hundred_is_slow() -> None:
    assert expected_slowest(FEW, 1) == pytest.approx(1.001)
    assert expected_slowest(FEW, 100) == pytest.approx(1 + 0.1 * (1 - 0.99**100))
    assert expected_slowest(FEW, 10**6) == pytest.approx(1.1)
    assert [share_below(FEW, time) for time in (0.99, 1.0, 1.09, 1.1)] == [0.0, 0.99, 0.99, 1.0]


def test_the_mean_of_a_log_normal_and_of_its_largest_of_two() -> None:
    # the mean is e^(sigma^2/2), that of the larger of two twice Phi(sigma/sqrt 2) of it
    assert expected_slowest(SPREAD, 1) == pytest.approx(np.exp(2e-4), rel=1e-9)
    assert expected_slowest(SPREAD, 2) == pytest.approx(2 * np.exp(2e-4) * 0.505641850)
    assert share_below(SPREAD, 1.0) == 0.5
    assert share_below(SPREAD, np.exp(0.02)) == pytest.approx(0.841344746)


@pytest.mark.parametrize("stragglers", [FEW, SPREAD])
@pytest.mark.parametrize("ranks", [8, 64, 1024])
def test_the_expected_slowest_is_the_mean_of_drawn_ones(stragglers: Stragglers, ranks: int) -> None:
    slowest = drawn(stragglers, np.random.default_rng(ranks), (4000, ranks)).max(axis=1)
    assert expected_slowest(stragglers, ranks) == pytest.approx(
        slowest.mean(), abs=4 * slowest.std() / 4000**0.5 + 1e-5
    )


def pipeline(stages: int, replicas: int, micro_batches: int) -> Any:
    return toy.run(
        gpus=stages * replicas * 8,
        model={**toy.MODEL, "num_hidden_layers": 8},
        parallelism={"pp": stages, "tp": 8},
        training={"global_batch": replicas * micro_batches},
        execution={"dp_overlap": False},
    )


@pytest.mark.parametrize("stragglers", [FEW, SPREAD])
@pytest.mark.parametrize(("stages", "replicas", "micro_batches"), [(1, 4, 4), (2, 8, 8), (4, 4, 4), (4, 2, 16)])
def test_the_expected_step_is_the_mean_of_drawn_ones(
    stragglers: Stragglers, stages: int, replicas: int, micro_batches: int
) -> None:
    """Every rank of every replica is drawn; tensor-parallel ranks wait for each other, replicas at the end."""
    b, costed = toy.costed(pipeline(stages, replicas, micro_batches))
    ranks = b.run.hardware.gpus
    usual = stage_conditions(costed, b.layout)
    draws, generator = 60, np.random.default_rng(1)
    times = drawn(stragglers, generator, (draws, replicas, stages, 8)).max(axis=3).round(4)
    pipes = np.unique(times.reshape(-1, stages), axis=0)
    graphs = [impair(costed, [c._replace(slowdown=x) for c, x in zip(usual, row, strict=True)]) for row in pipes]
    ends = {tuple(row): t.duration for row, t in zip(pipes, execute_many([(g, ranks) for g in graphs]), strict=True)}
    steps = np.array([max(ends[tuple(pipe)] for pipe in draw) for draw in times])
    together = [c._replace(slowdown=expected_slowest(stragglers, 8)) for c in usual]
    placed = execute(impair(costed, place_slowest(costed, together, stragglers)), ranks).duration
    healthy = execute(costed, ranks).duration
    noise = steps.std() / draws**0.5
    assert placed - healthy == pytest.approx(steps.mean() - healthy, abs=3 * noise + 0.05 * (steps.mean() - healthy))


def test_where_all_are_slow_the_step_is_that_of_slow_gpus() -> None:
    b, costed = toy.costed(pipeline(2, 2, 4))
    everyone = Stragglers(fraction=1.0, slowdown=0.5)
    assert slow_time(everyone, 32) == 1.5
    hardware = b.run.hardware.model_copy(update={"stragglers": everyone})
    there = replace(costed, machine=toy.Machine(hardware, toy.curves()))
    conditions = stage_conditions(there, b.layout)
    assert [c.slowdown for c in conditions] == [1.5, 1.5]
    assert place_slowest(there, conditions, everyone) == conditions


def test_stragglers_are_an_item_of_the_step_and_an_assumption() -> None:
    spread = toy.run(gpus=16, parallelism={"tp": 8})
    run = spread.model_copy(update={"hardware": spread.hardware.model_copy(update={"stragglers": FEW})})
    result = simulate(run)
    assert {item.key for item in result.breakdown} >= {"impaired"}
    assert {row.name: row.value for row in result.assumptions}["Slow GPUs and links"] == (
        "1 % of the GPUs 10 % slower, at random"
    )
    assert "Ranks slower than their neighbours, beyond the noise term" not in result.not_modelled


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({}, "stragglers are {fraction: 0.01, slowdown: 0.1} or {sigma: 0.02}"),
        ({"fraction": 0.1}, "fraction and slowdown go together, as in {fraction: 0.01, slowdown: 0.1}"),
        (
            {"fraction": 0.1, "slowdown": 0.1, "sigma": 0.1},
            "stragglers are {fraction: 0.01, slowdown: 0.1} or {sigma: 0.02}",
        ),
        ({"sigma": 0}, "Input should be greater than 0, got 0"),
        ({"fraction": 2, "slowdown": 0.1}, "Input should be less than or equal to 1, got 2"),
    ],
)
def test_distributions_that_are_none_are_refused(stated: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        toy.resolve_hardware({"device": toy.DEVICE, "gpus": 8, "stragglers": stated})
    assert error.value.message == message
    assert (error.value.path or "").startswith("stragglers")
