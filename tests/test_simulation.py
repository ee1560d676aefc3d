"""Whole results: the parts add up to what they are parts of, and the document survives being written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy

from simulator.errors import InfeasibleError, SpecError
from simulator.result import Result
from simulator.simulation import simulate, training_step
from simulator.spec import parameters as counts
from simulator.spec.base import data_root
from simulator.spec.run import read_run

SHIPPED = sorted((data_root() / "workloads/runs").glob("*.yaml"))
# A split of every kind, on the toy cluster.
TRAINING: dict[str, dict[str, Any]] = {
    "one GPU": {},
    "data": {"gpus": 8},
    "fully sharded": {"gpus": 16, "training": {"global_batch": 16, "sharding": "zero3"}, "framework": "torchtitan"},
    "tensor": {"gpus": 2, "parallelism": {"tp": 2, "sequence_parallel": True}, "execution": {"tp_overlap": True}},
    "context": {"gpus": 2, "parallelism": {"cp": 2}},
    "pipeline": {"gpus": 16, "parallelism": {"pp": 4}},
    "interleaved": {"gpus": 2, "parallelism": {"pp": 2, "vpp": 2}},
    "uneven": {"gpus": 2, "model": {**toy.MODEL, "num_hidden_layers": 5}, "parallelism": {"pp": 2}},
    "gpipe": {"gpus": 4, "parallelism": {"pp": 4}, "training": {"schedule": "gpipe"}},
    "experts": {"gpus": 16, "model": toy.MOE_MODEL, "parallelism": {"ep": 8}, "training": {"global_batch": 16}},
    "recompute": {"training": {"recompute": "full", "optimizer": "sgd"}},
    "fp8": {"training": {"precision": "fp8"}},
    "offload": {"training": {"offload": "optimizer"}},
}


def items(result: Result) -> dict[str, float]:
    return {item.key: item.seconds.value for item in result.breakdown}


@pytest.fixture(params=TRAINING, scope="module")
def trained(request: pytest.FixtureRequest) -> Result:
    return simulate(toy.run(**TRAINING[request.param]))


def test_the_parts_of_a_step_sum_to_it(trained: Result) -> None:
    assert trained.step_time_s is not None
    assert sum(items(trained).values()) == pytest.approx(trained.step_time_s.value, rel=1e-12)
    assert min(items(trained).values()) >= 0


def test_communication_is_exposed_no_longer_than_it_lasts(trained: Result) -> None:
    assert trained.communication_s is not None
    for kind in type(trained.communication_s).model_fields:
        exposure = getattr(trained.communication_s, kind)
        assert 0 <= exposure.exposed.value <= exposure.total.value


def test_a_value_lies_in_its_interval(trained: Result) -> None:
    for key, number in trained.numbers().items():
        assert number.low <= number.value <= number.high, key
    step = trained.step_time_s
    assert step is not None
    assert step.high / step.value == pytest.approx(step.value / step.low)  # symmetric in the logarithm


def test_stages_are_drawn_from_start_to_end(trained: Result) -> None:
    timeline = trained.timeline
    assert timeline is not None
    assert trained.step_time_s is not None
    assert timeline.duration_s == max(chunk.end_s for chunk in timeline.chunks)
    noise = items(trained).get("noise", 0.0)  # is lost between the ranks of a stage, so no stage shows it
    assert timeline.duration_s == pytest.approx(trained.step_time_s.value - noise, rel=1e-9)
    assert {chunk.stage for chunk in timeline.chunks} == set(range(timeline.stages))
    for shares in timeline.shares.values():
        assert sum(shares.values()) == pytest.approx(1)


def test_a_result_survives_being_written_and_read(trained: Result, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    trained.write(path)
    assert Result.read(path) == trained
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 7'))
    with pytest.raises(SpecError, match="result of schema version 7, expected 1"):
        Result.read(path)


def test_metrics_follow_from_the_step() -> None:
    """Eight sequences of 64 tokens a step on two GPUs."""
    result = simulate(toy.run(gpus=2, training={"tokens": 5120}))
    step, model = result.step_time_s, toy.run().model
    assert step is not None
    values = {key: number.value for key, number in result.numbers().items()}
    assert values["tokens_per_s"] == pytest.approx(512 / step.value)
    assert values["tokens_per_s_per_gpu"] == pytest.approx(256 / step.value)
    assert values["days"] == pytest.approx(10 * step.value / 86400)
    flops = 3 * 512 * counts.sequence_flops_per_token(model, 64) / 2
    assert values["model_flops_per_gpu"] == pytest.approx(flops)
    assert values["mfu"] == pytest.approx(flops / (step.value * 1e12))
    assert values["flops_per_token"] == pytest.approx(3 * counts.sequence_flops_per_token(model, 64))


def test_hardware_flops_count_what_is_recomputed() -> None:
    plain, again = (simulate(toy.run(training={"recompute": kind})) for kind in ("none", "full"))
    assert plain.model_flops_per_gpu == again.model_flops_per_gpu
    assert plain.hardware_flops_per_gpu is not None
    assert again.hardware_flops_per_gpu is not None
    layers = 8 * 4 * 64 * (2 * (4 * 128 * 128 + 2 * 128 * 512) + 4 * 128 * 32)
    assert again.hardware_flops_per_gpu.value - plain.hardware_flops_per_gpu.value == pytest.approx(layers)


def test_all_to_all_bytes_of_a_step() -> None:
    """Out and back, forward and backward, of four layers: two rows of 256 B for each of 64 tokens, 7 of 8 elsewhere."""
    result = simulate(toy.run(gpus=8, model=toy.MOE_MODEL, parallelism={"ep": 8}))
    assert result.all_to_all_bytes_per_gpu is not None
    assert result.all_to_all_bytes_per_gpu.value == pytest.approx(4 * 4 * 64 * 2 * 256 * 7 / 8)


def test_links_carry_what_the_operators_send() -> None:
    result = simulate(toy.run(gpus=16, model=toy.MOE_MODEL, parallelism={"ep": 8}, training={"global_batch": 16}))
    assert result.traffic is not None
    scale_up, network = result.traffic.links
    sent = [row.bytes for row in result.operators if row.bound == "network"]
    assert scale_up.bytes + network.bytes == pytest.approx(sum(sent))
    assert scale_up.busy_s == pytest.approx(scale_up.bytes / 1e9)
    assert result.step_time_s is not None
    assert network.utilisation == pytest.approx(network.bytes / 1e9 / result.step_time_s.value)


def test_a_mean_over_the_gpus_weighs_the_stages_alike() -> None:
    """A stage that waits for a slower one has its own work and the rest as unevenness."""
    result = simulate(toy.run(gpus=2, model={**toy.MODEL, "num_hidden_layers": 5}, parallelism={"pp": 2}))
    assert items(result)["uneven"] > 0
    even = simulate(toy.run(gpus=2, model={**toy.MODEL, "vocab_size": 1}, parallelism={"pp": 2}))
    assert items(even).get("uneven", 0.0) < 0.2 * items(result)["uneven"]


def test_numbers_load_into_a_frame() -> None:
    result = simulate(toy.run(gpus=8))
    frame = result.to_frame()
    assert list(frame.columns) == ["value", "low", "high", "basis"]
    assert frame.loc["step_time_s", "value"] == result.step_time_s.value  # type: ignore[union-attr]
    assert "communication_s.all_reduce.exposed" in frame.index


def test_the_same_run_gives_the_same_result() -> None:
    one, other = (simulate(toy.run(gpus=8, model=toy.MOE_MODEL, parallelism={"ep": 4, "pp": 2})) for _ in range(2))
    assert one.numbers() == other.numbers()
    assert one.operators == other.operators


def test_what_does_not_fit_is_refused_unless_it_was_measured() -> None:
    run = toy.run(device={"memory": {"capacity": "1 GiB", "bandwidth": "1 TB/s"}}, training={"micro_batch": 8})
    with pytest.raises(InfeasibleError, match=r"the fullest GPU needs 1\.\d of 1\.0 GiB"):
        simulate(run)
    assert training_step(run, check=False).timeline.duration > 0


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_runs_add_up(file: Path) -> None:
    result = simulate(read_run(file))
    assert result.step_time_s is not None
    assert result.peak_memory_gib is not None
    assert sum(items(result).values()) == pytest.approx(result.step_time_s.value, rel=1e-9)
    assert result.peak_memory_gib.value < result.summary.capacity_gib
    assert Result.model_validate_json(result.model_dump_json()) == result


def test_published_gpu_hours_of_deepseek_v3() -> None:
    """2.664 million H800 hours for 14.8 trillion tokens (arXiv 2412.19437, table 1)."""
    result = simulate(read_run(data_root() / "workloads/runs/deepseek-v3-2048xh800.yaml"))
    assert result.days is not None
    hours = result.days.value * 24 * 2048
    assert 0.75 < hours / 2.664e6 < 1.33


@pytest.mark.parametrize("name", ["data", "fully sharded", "tensor", "context", "experts"])
def test_what_a_gpu_sends_is_laid_on_the_pairs_that_talk(name: str) -> None:
    """Rows of the matrices: one GPU's bytes inside its node, and those of a node's GPUs between the nodes."""
    run = toy.run(**TRAINING[name])
    traffic = simulate(run).traffic
    assert traffic is not None
    inside = traffic.links[0].bytes
    outside = traffic.links[1].bytes if len(traffic.links) > 1 else 0.0
    for matrix, sent in ((traffic.in_node, inside), (traffic.between_nodes, 8 * outside)):
        for row in matrix.bytes:
            assert sum(row) == pytest.approx(sent)
        for column in zip(*matrix.bytes, strict=True):
            assert sum(column) == pytest.approx(sent)
    assert outside > 0 or run.hardware.nodes == 1
