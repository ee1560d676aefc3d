"""What a rank's time goes to while it runs a program: serial work, what hides behind it, and the host beside it."""

from __future__ import annotations

from typing import Any

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from simulator.cost.annotation import CostedProgram
from simulator.engine.fast import execute
from simulator.engine.program import Spent, spend
from simulator.graph.builder import build_graph, prepare
from simulator.graph.graph import Program
from simulator.graph.operator import Collective, Group, Item, Operator, Traffic
from simulator.spec.constants import read_constants

PARAMETERS = toy.run().model.parameters
CONSTANTS = read_constants().model_copy(
    update={"overlap_rate": 0.5, "host_overlap_exponent": 2.0, "host_synchronous_exponent": 1.0}
)
ALL_TO_ALL = Collective("all_to_all", 1.0, Group(2, 2))


def costed(
    serial: list[tuple[Item, float]], background: list[tuple[Item, float]], host: float = 0.0, **program: Any
) -> CostedProgram:
    """A program of operators by item and seconds; communication items are collectives."""

    def operators(pairs: list[tuple[Item, float]]) -> tuple[Operator, ...]:
        return tuple(
            Operator(item, item, Traffic(1.0) if item.endswith(("gemm", "core")) else ALL_TO_ALL) for item, _ in pairs
        )

    record = Program("p", "forward", operators(serial), operators(background), **program)
    return CostedProgram(record, tuple(s for _, s in serial), tuple(s for _, s in background), host)


def test_serial_operators_run_one_after_the_other() -> None:
    spent = spend(costed([("ffn_gemm", 3), ("all_to_all", 2), ("ffn_gemm", 1)], []), CONSTANTS)
    assert (spent.exposed, spent.hidden, spent.duration) == ({"ffn_gemm": 4, "all_to_all": 2}, {}, 6)


def test_background_runs_at_half_speed_beside_compute_and_hides() -> None:
    spent = spend(costed([("ffn_gemm", 4)], [("all_to_all", 2)]), CONSTANTS)
    assert (spent.exposed, spent.hidden) == ({"ffn_gemm": 4}, {"all_to_all": 2})


def test_what_does_not_fit_beside_compute_stays_exposed() -> None:
    """Four seconds of compute hide two of three; they are not hidden by other communication."""
    spent = spend(costed([("ffn_gemm", 4), ("send_recv", 5)], [("all_to_all", 3)]), CONSTANTS)
    assert spent.exposed == {"ffn_gemm": 4, "send_recv": 5, "all_to_all": 1}
    assert spent.hidden == {"all_to_all": 2}


def test_streams_share_the_window_by_their_length() -> None:
    spent = spend(costed([("ffn_gemm", 4)], [("all_to_all", 3), ("gradient_sync", 1)]), CONSTANTS)
    assert spent.exposed == {"ffn_gemm": 4, "all_to_all": 1.5, "gradient_sync": 0.5}
    assert spent.hidden == {"all_to_all": 1.5, "gradient_sync": 0.5}


def test_host_and_gpu_work_in_parallel_and_the_slower_sets_the_pace() -> None:
    spent = spend(costed([("ffn_gemm", 3)], [], host=4), CONSTANTS)
    assert spent.duration == pytest.approx(5)  # 3 and 4 at exponent 2
    assert spent.exposed["host"] == pytest.approx(2)


def test_a_host_that_waits_for_the_gpu_works_after_it() -> None:
    spent = spend(costed([("ffn_gemm", 3)], [], host=4, host_synchronous=True), CONSTANTS)
    assert spent.exposed == {"ffn_gemm": 3, "host": 4}


SECONDS = st.floats(0, 100)
ITEMS: list[Item] = ["ffn_gemm", "attention_core", "all_to_all", "tensor_parallel"]
STREAMS: list[Item] = ["all_to_all", "gradient_sync", "parameter_gather"]


@given(
    st.lists(st.tuples(st.sampled_from(ITEMS), SECONDS)),
    st.lists(st.tuples(st.sampled_from(STREAMS), SECONDS)),
    SECONDS,
)
def test_nothing_is_lost_and_overlap_never_hurts(
    serial: list[tuple[Item, float]], background: list[tuple[Item, float]], host: float
) -> None:
    spent = spend(costed(serial, background, host), CONSTANTS)
    work, beside = sum(s for _, s in serial), sum(s for _, s in background)
    gpu = spent.duration - spent.exposed.get("host", 0.0)
    assert gpu + sum(spent.hidden.values()) == pytest.approx(work + beside)
    assert work - 1e-9 <= gpu <= work + beside + 1e-9
    assert max(gpu, host) - 1e-6 <= spent.duration <= gpu + host + 1e-6
    assert min([0.0, *spent.exposed.values(), *spent.hidden.values()]) > -1e-6


def test_spent_times_add_up() -> None:
    total = Spent()
    total.add(Spent({"a": 1.0}, {"b": 2.0}), 3)
    total.add(Spent({"a": 1.0, "c": 1.0}))
    assert (total.exposed, total.hidden, total.duration) == ({"a": 4.0, "c": 1.0}, {"b": 6.0}, 5.0)


def test_overlapped_gradients_hide_under_the_last_backward_pass() -> None:
    """Reduced beside it at the overlap rate; the rest, the update and the host's step come after."""
    given_run = toy.run(gpus=8, execution={"dp_overlap": True, "gradient_bucket": 1}, framework="megatron-core")
    _, graph = toy.costed(given_run)
    stage = execute(graph, 8).stages[0]
    hidden = read_constants().overlap_rate * sum(spent.duration for spent in stage.backward)
    sync = graph.ends[0]["gradient_sync"]
    assert hidden < sync
    assert stage.tail.hidden == {"gradient_sync": pytest.approx(hidden)}
    assert stage.tail.exposed["gradient_sync"] == pytest.approx(sync - hidden)
    _, serial = toy.costed(toy.run(gpus=8, execution={"dp_overlap": False}))
    assert execute(serial, 8).stages[0].tail.exposed["gradient_sync"] == sync


@pytest.mark.parametrize(("bucket", "exposed"), [(None, 1.0), (PARAMETERS // 4, 0.25), (2 * PARAMETERS, 1.0)])
def test_the_last_bucket_has_nothing_to_hide_behind(bucket: int | None, exposed: float) -> None:
    """The toy has less than the 40 million parameters of Megatron's bucket; with a long step, all but the last one of
    four hide."""
    execution = {"dp_overlap": True, "gradient_bucket": bucket}
    _, graph = toy.costed(toy.run(gpus=8, execution=execution, training={"seq_len": 2**19}, framework="megatron-core"))
    tail, sync = execute(graph, 8).stages[0].tail, graph.ends[0]["gradient_sync"]
    assert tail.exposed["gradient_sync"] == pytest.approx(exposed * sync, rel=1e-5)


def test_buckets_grow_with_the_ranks_as_megatron_has_them() -> None:
    """max(40000000, 1000000 * dp_size) parameters."""

    def share(gpus: int) -> float:
        run = toy.run(gpus=gpus, model="llama3-8b", training={"global_batch": gpus}, framework="megatron-core")
        b = prepare(run)
        return build_graph(b).ends[0].bucket_share * run.model.parameters

    assert share(8) == pytest.approx(40e6)
    assert share(64) == pytest.approx(64e6)


def test_noise_grows_with_the_doublings_of_the_ranks() -> None:
    _, graph = toy.costed(toy.run())
    few, many = execute(graph, 8), execute(graph, 64)
    assert few.noise == 0
    assert many.noise == pytest.approx(3 * read_constants().jitter_per_doubling * few.duration)
    assert many.duration == few.duration + many.noise
