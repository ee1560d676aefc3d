"""Groups, stages and what each rank holds: what does not divide is refused, and nothing is lost or held twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import toy
from hypothesis import given
from strategies import splits

from simulator.errors import InfeasibleError
from simulator.graph.builder import build_graph, prepare
from simulator.graph.layers import layers_of
from simulator.graph.operator import Collective, Group
from simulator.graph.parallel import build_layout, split_layers
from simulator.graph.parameters_held import embedding_held, head_held, stage_held
from simulator.spec import parameters as counts
from simulator.spec.constants import read_constants
from simulator.spec.run import Run, with_field

MOE = {"model": toy.MOE_MODEL}


@pytest.mark.parametrize(
    ("gpus", "run", "path", "message", "suggestion"),
    [
        (
            8,
            {"parallelism": {"tp": 3}},
            "parallelism.tp",
            "tp 3 must divide num_attention_heads 8",
            "parallelism.tp: 2",
        ),
        (
            4,
            {"parallelism": {"tp": 8}},
            "parallelism.tp",
            "tp 8 needs more than the 4 GPUs there are",
            "parallelism.tp: 4",
        ),
        (
            8,
            {"parallelism": {"tp": 2, "pp": 3}},
            "parallelism",
            "tp x pp x cp = 2 x 3 x 1 = 6 must divide hardware.gpus = 8",
            None,
        ),
        (
            8,
            {"parallelism": {"pp": 8}, "training": {"global_batch": 8}},
            "parallelism.pp",
            "pp x vpp = 8 x 1 chunks need as many layers; the model has 4",
            "parallelism.pp: 4",
        ),
        *[
            (8, {"parallelism": split, "training": training}, "training.schedule", message, "training.schedule: 1f1b")
            for split, training, message in [
                (
                    {},
                    {"schedule": "zb-h1"},
                    "schedule zb-h1 needs pp above 1: one stage has no bubble to fill",
                ),
                (
                    {"pp": 2, "vpp": 2},
                    {"schedule": "zb-h1", "global_batch": 16},
                    "schedule zb-h1 has one chunk a stage, so vpp must be 1; it is 2",
                ),
                (
                    {"pp": 2, "vpp": 2},
                    {"schedule": "dualpipe", "global_batch": 16},
                    "schedule dualpipe has its own two chunks a rank, so vpp must be 1; it is 2",
                ),
                (
                    {"pp": 4},
                    {"schedule": "dualpipe"},
                    "schedule dualpipe feeds micro-batches from both ends, so their number must be even and at least"
                    " 2 x pp = 8; there are 4",
                ),
                (
                    {"pp": 2},
                    {"schedule": "dualpipe", "global_batch": 64, "sharding": "zero3"},
                    "schedule dualpipe keeps parameters and gradients of both directions whole, so sharding must be"
                    " none or zero1; it is zero3",
                ),
            ]
        ],
        (
            3,
            {"parallelism": {"pp": 3}, "training": {"schedule": "dualpipe"}},
            "training.schedule",
            "schedule dualpipe mirrors its stages, so pp must be even; it is 3",
            "training.schedule: 1f1b",
        ),
        (
            2,
            {"parallelism": {"pp": 2, "vpp": 4}},
            "parallelism.vpp",
            "pp x vpp = 2 x 4 chunks need as many layers; the model has 4",
            "parallelism.vpp: 3",  # six: embedding and loss stand for a layer each
        ),
        (
            8,
            {"parallelism": {"ep": 8}},
            "parallelism.ep",
            "ep 8 needs experts; toy-model has none",
            "parallelism.ep: 1",
        ),
        (8, {**MOE, "parallelism": {"ep": 3}}, "parallelism.ep", "ep 3 must divide the 8 experts", "parallelism.ep: 2"),
        (
            4,
            {**MOE, "parallelism": {"ep": 8}},
            "parallelism.ep",
            "ep x etp = 8 x 1 must divide the 4 GPUs of a pipeline stage",
            "parallelism.ep: 4",
        ),
        (
            8,
            {**MOE, "parallelism": {"etp": 5}},
            "parallelism.etp",
            "etp 5 must divide moe_intermediate_size 256",
            "parallelism.etp: 4",
        ),
        (
            8,
            {"training": {"global_batch": 12}},
            "training.global_batch",
            "global_batch 12 must be a multiple of dp x micro_batch = 8 x 1",
            "training.global_batch: 8",
        ),
        (
            1,
            {"training": {"global_batch": 6, "micro_batch": 4}},
            "training.global_batch",
            "global_batch 6 must be a multiple of dp x micro_batch = 1 x 4",
            "training.global_batch: 4",
        ),
        (
            8,
            {"parallelism": {"cp": 8}, "training": {"seq_len": 60}},
            "parallelism.cp",
            "cp 8 must divide seq_len 60",
            "parallelism.cp: 4",
        ),
        (
            2,
            {"parallelism": {"pp": 2, "vpp": 2}, "training": {"global_batch": 7}},
            "parallelism.vpp",
            "interleaving (vpp 2) needs micro-batches that pp 2 divides; there are 7",
            "parallelism.vpp: 1",
        ),
    ],
)
def test_what_does_not_divide_is_refused(
    gpus: int, run: dict[str, Any], path: str, message: str, suggestion: str | None
) -> None:
    with pytest.raises(InfeasibleError) as caught:
        build_layout(toy.run(gpus=gpus, **run))
    error = caught.value
    assert (error.path, error.message, error.suggestion) == (path, message, suggestion)
    tail = f". Nearest change that fits: {suggestion}." if suggestion else ""
    assert str(error) == f"{path}: {message}{tail}"


@given(splits())
def test_a_suggested_split_divides(split: dict[str, Any]) -> None:
    """Whatever was wrong, the one change that is suggested is enough."""
    given_run = toy.run(gpus=split.pop("gpus"), model=toy.MOE_MODEL, **split)
    try:
        build_layout(given_run)
    except InfeasibleError as error:
        if error.suggestion is not None:
            path, value = error.suggestion.split(": ")
            build_layout(with_field(given_run, path, int(value)))


def test_data_parallelism_follows_from_the_gpus() -> None:
    layout = build_layout(toy.run(gpus=64, parallelism={"tp": 2, "pp": 4, "cp": 2}, training={"global_batch": 32}))
    assert (layout.dp, layout.micro_batches) == (4, 8)
    assert layout.tokens == 64 / 2


def test_experts_follow_tensor_parallelism_only_without_expert_parallelism() -> None:
    assert build_layout(toy.run(gpus=8, parallelism={"tp": 2}, **MOE)).etp == 2
    assert build_layout(toy.run(gpus=8, parallelism={"tp": 2, "ep": 2}, **MOE)).etp == 1
    assert build_layout(toy.run(gpus=8, parallelism={"tp": 2, "ep": 2, "etp": 4}, **MOE)).edp == 1


@pytest.mark.parametrize(
    ("size", "stride", "group"),
    [
        (8, 1, Group(8, 8)),
        (16, 1, Group(16, 8)),
        (16, 2, Group(16, 4)),  # neighbours lie two apart: four of them to a node of eight
        (16, 8, Group(16, 1)),
        (16, 64, Group(16, 1)),
        (6, 2, Group(6, 3)),
        (12, 1, Group(12, 6)),  # every domain holds the same share
        (1, 1, Group(1, 1)),
    ],
)
def test_groups_lie_in_domains_of_eight(size: int, stride: int, group: Group) -> None:
    layout = build_layout(toy.run(gpus=64, training={"global_batch": 64}))
    assert layout.domain == 8
    assert layout.group(size, stride) == group
    assert group.domains * group.per_domain == size


def test_ranks_of_a_tensor_group_are_neighbours_and_stages_lie_farthest_apart() -> None:
    run = toy.run(gpus=64, parallelism={"tp": 4, "cp": 2, "pp": 2}, training={"global_batch": 8})
    layout = build_layout(run)
    assert layout.tensor_group == Group(4, 4)
    assert layout.context_group == Group(2, 2)
    assert layout.data_group == Group(8, 2)
    send = build_graph(prepare(run)).pipeline.send
    assert send is not None
    assert send.work.group == Group(2, 1)  # type: ignore[union-attr]  # across nodes


@pytest.mark.parametrize(
    ("layers", "pp", "vpp", "pads", "sizes"),
    [
        (8, 2, 1, True, [[4], [4]]),
        (8, 2, 2, True, [[2, 2], [2, 2]]),
        (10, 4, 1, True, [[2], [3], [3], [2]]),  # embedding and loss stand for a layer each
        (10, 4, 1, False, [[3], [3], [2], [2]]),
        (9, 4, 1, True, [[3], [2], [2], [2]]),
        (14, 2, 4, True, [[1, 2, 2, 2], [2, 2, 2, 1]]),
    ],
)
def test_layers_of_the_stages(layers: int, pp: int, vpp: int, pads: bool, sizes: list[list[int]]) -> None:
    chunks = split_layers(layers, pp, vpp, pads)
    assert [[len(chunk) for chunk in stage] for stage in chunks] == sizes
    assert sorted(i for stage in chunks for chunk in stage for i in chunk) == list(range(layers))
    assert [chunks[k % pp][k // pp][0] for k in range(pp * vpp)] == sorted(c[0] for stage in chunks for c in stage)


def held_by_all(run: Run) -> float:
    """Parameters of all ranks together, each replicated one counted once."""
    layout = build_layout(run)
    layers: Sequence[Any] = layers_of(run)
    chunks = split_layers(len(layers), layout.pp, layout.vpp, True)
    total = 0.0
    for stage in range(layout.pp):
        dense, expert = stage_held(run.model, layout, [layers[i] for c in chunks[stage] for i in c], stage)
        total += dense * layout.tp + expert * layout.ep * layout.etp
    return total


PLAIN = ["llama3.1-8b", "qwen2.5-0.5b", "bloom-176b"]
SPARSE = ["mixtral-8x7b", "deepseek-v3", "switch-base", "mowe-base-32k", "peer-224m"]


@pytest.mark.parametrize("name", PLAIN + SPARSE)
def test_one_gpu_holds_every_parameter(name: str) -> None:
    run = toy.run(model=name)
    assert held_by_all(run) == pytest.approx(run.model.parameters, rel=1e-12)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen2.5-0.5b", "switch-base"])
@pytest.mark.parametrize("split", [{"pp": 4}, {"pp": 2, "vpp": 3}, {"ep": 8}, {"ep": 4, "etp": 2, "pp": 4}])
def test_the_ranks_of_a_machine_hold_every_parameter_once(name: str, split: dict[str, int]) -> None:
    """A tied head is a second copy of the embedding where a pipeline parts them."""
    if name == "qwen2.5-0.5b":
        split = {**split, "ep": 1}
    run = toy.run(model=name, gpus=32, parallelism=split, training={"global_batch": 32})
    model = run.model
    copy = model.vocab_size * model.hidden_size if model.tie_word_embeddings and split.get("pp", 1) > 1 else 0
    assert held_by_all(run) == pytest.approx(model.parameters + copy, rel=1e-12)


def test_tensor_parallel_ranks_each_hold_norms_and_routers() -> None:
    run = toy.run(gpus=8, model=toy.MOE_MODEL, parallelism={"tp": 4, "ep": 2})
    model = run.model
    shared = sum(counts.router_parameters(model) + counts.norm_parameters_per_layer(model) for _ in range(4))
    replicated = shared + counts.final_norm_parameters(model)
    assert held_by_all(run) == model.parameters + 3 * replicated


@pytest.mark.parametrize("name", ["llama3.1-8b", "mixtral-8x7b", "qwen2.5-0.5b", "peer-224m"])
@pytest.mark.parametrize("split", [{}, {"tp": 2, "sequence_parallel": True}])
def test_fully_sharded_ranks_gather_and_scatter_every_parameter(name: str, split: dict[str, Any]) -> None:
    """Weights in bf16 for each pass of the layers, embedding and head once; gradients in fp32 (arXiv 2304.11277)."""
    run = toy.run(gpus=8, model=name, parallelism=split, training={"sharding": "zero3"}, framework="torchtitan")
    b = prepare(run)
    graph = build_graph(b)
    moved = {"parameter_gather": 0.0, "gradient_sync": 0.0}
    for chunk in (graph.forward[0][0], graph.backward[0][0]):
        for program, count in chunk.programs:
            for operator in (*program.serial, *program.background):
                if operator.item in moved:
                    assert isinstance(operator.work, Collective)
                    moved[operator.item] += operator.work.bytes * operator.calls * count
    dense, expert = stage_held(run.model, b.layout, layers_of(run), 0)
    outside = embedding_held(run.model, b.layout) + head_held(run.model, b.layout)
    assert moved["gradient_sync"] == pytest.approx(4 * (dense + expert), rel=1e-12)
    assert moved["parameter_gather"] == pytest.approx(2 * (2 * (dense + expert) - outside), rel=1e-12)


def test_dualpipe_sums_gradients_over_both_copies() -> None:
    """Four ranks of a stage and four of its mirror, in other nodes; in one node they all lie in its domain."""
    split, work = {"pp": 4, "tp": 2}, {"global_batch": 64, "schedule": "dualpipe"}
    far = build_layout(toy.run(gpus=32, parallelism=split, training=work))
    assert (far.data_group, far.parts_held) == (Group(8, 4), 2)
    near = build_layout(toy.run(gpus=8, parallelism={"pp": 4}, training=work))
    assert near.data_group == Group(4, 4)
    plain = build_layout(toy.run(gpus=32, parallelism=split, training={"global_batch": 64}))
    assert (plain.data_group, plain.parts_held) == (Group(4, 4), 1)


def test_dualpipe_holds_a_part_of_the_model_and_its_mirror() -> None:
    graph = build_graph(prepare(toy.run(gpus=4, parallelism={"pp": 4}, training={"schedule": "dualpipe"})))
    names = [[[program.name for program, _ in chunk.programs] for chunk in row] for row in graph.forward]
    first, middle, last = ["embedding", "dense layer"], ["dense layer"], ["dense layer", "logits and loss"]
    assert names == [[first, last], [middle, middle], [middle, middle], [last, first]]
    assert (graph.pipeline.chunks, graph.pipeline.micro_batches, graph.pipeline.visits) == (2, 4, 1)


def test_a_cut_backward_pass_is_the_whole_of_it() -> None:
    graph = build_graph(prepare(toy.run(gpus=4, parallelism={"pp": 4}, training={"schedule": "zb-h1"})))

    def operators(row: Sequence[Any]) -> list[str]:
        return sorted(operator.name for program, _ in row[0].programs for operator in program.serial)

    inputs, weights = operators(graph.input_gradient[1]), operators(graph.weight_gradient[1])
    assert sorted(inputs + weights) == operators(graph.backward[1])
    assert all(name.endswith("wgrad") for name in weights)
    assert not any(name.endswith("wgrad") for name in inputs)


def test_a_pair_hides_what_it_exchanges_forward_behind_both_passes() -> None:
    """A third behind the forward pass and two behind the backward one, which multiplies twice as much; lone passes
    hide what one micro-batch can."""
    work = {"schedule": "dualpipe", "global_batch": 256}
    b = prepare(toy.run(gpus=16, **MOE, parallelism={"pp": 2, "ep": 8}, training=work))
    graph, c = build_graph(b), read_constants()

    def calls(row: Sequence[Any], side: str) -> dict[str, float]:
        (program,) = [program for program, _ in row[0].programs if program.name == "moe layer"]
        return {o.name: o.calls for o in getattr(program, side) if o.item == "all_to_all"}

    def hidden(shares: dict[str, float]) -> Any:
        return pytest.approx(shares, rel=1e-12)

    batched, lone = c.a2a_hidden_batched, c.a2a_hidden
    there, back = ["dispatch", "combine"], ["dispatch grad", "combine grad"]
    assert calls(graph.forward[0], "background") == hidden(dict.fromkeys(there, lone))
    assert calls(graph.paired_forward[0], "background") == hidden(dict.fromkeys(there, batched / 3))
    assert calls(graph.paired_forward[0], "serial") == hidden(dict.fromkeys(there, 1 - batched))
    assert calls(graph.paired_backward[0], "background") == hidden(
        {**dict.fromkeys(there, batched * 2 / 3), **dict.fromkeys(back, batched)}
    )
    assert calls(graph.weight_gradient[0], "background") == {}
