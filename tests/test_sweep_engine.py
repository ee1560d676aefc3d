"""Sweeps that name an engine: every point is timed by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator import simulate
from simulator.errors import SpecError
from simulator.spec.base import data_root, read_document
from simulator.spec.run import read_run
from simulator.spec.sweep import Sweep
from simulator.sweeps import evaluate, read_sweep

RUN = "mixtral-8x7b-64xh100"
AXES = {"hardware.network.oversubscription": [1, 8], "hardware.gpus": [1024], "training.global_batch": [4096]}


def test_points_are_played_with_events() -> None:
    run = read_document(data_root() / f"workloads/runs/{RUN}.yaml").data
    sweep = Sweep(name="links", run=run, axes=AXES, engine="events")
    frame = evaluate(sweep)
    for engine, times in (("events", frame), ("fast", evaluate(sweep.model_copy(update={"engine": "fast"})))):
        for row in times.itertuples():
            overrides = [f"{path}={value}" for path, value in zip(AXES, row[1:4], strict=True)]
            alone = simulate(read_run(data_root() / f"workloads/runs/{RUN}.yaml", overrides), engine=engine)  # type: ignore[arg-type]
            assert alone.step_time_s is not None
            assert row.step_time_s == pytest.approx(alone.step_time_s.value)
    assert frame.step_time_s[1] > frame.step_time_s[0]


def test_a_file_names_its_engine(tmp_path: Path) -> None:
    shipped = data_root() / "workloads/sweeps/oversubscription.yaml"
    assert read_sweep(shipped).engine == "events"
    file = tmp_path / "slow.yaml"
    file.write_text(f"name: a\nrun: {RUN}\nengine: slow\naxes: {{parallelism.tp: [1]}}\n", encoding="utf-8")
    with pytest.raises(SpecError) as error:
        read_sweep(file)
    assert str(error.value) == f"{file}:3: engine: Input should be 'fast', 'events' or 'auto', got 'slow'"
