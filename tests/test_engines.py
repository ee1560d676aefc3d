"""One suite over both engines: closed forms, and random runs on which they must agree or events must be later."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest
import toy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simulator import simulate
from simulator.assembly.totals import mean_sums
from simulator.cost.annotation import CostedGraph, CostedProgram
from simulator.engine import runner
from simulator.engine.certificate import overloaded
from simulator.engine.contention import play
from simulator.engine.expansion import Expansion, expand
from simulator.engine.fast import FAST, StepTimeline, execute
from simulator.engine.flows import Transfer
from simulator.engine.runner import EVENTS, Engine, retime
from simulator.engine.streams import Do, Instruction, Launch, Signal, Wait, play_alone
from simulator.errors import InfeasibleError, SpecError
from simulator.graph.graph import Chunk, Chunks, OperatorGraph, Pipeline, Program, StageEnd
from simulator.graph.operator import Collective, Group, Operator, Traffic
from simulator.graph.order import CUTTING, PAIRING
from simulator.simulation import training_step
from simulator.spec.constants import read_constants
from simulator.spec.run import Run

HOST = read_constants()
RATE = HOST.overlap_rate
STEP_S = HOST.host_step_us * 1e-6
BOTH = pytest.mark.parametrize("engine", ["fast", "events"])

COMPUTE = Operator("compute", "elementwise", Traffic(0.0))
EXCHANGE = Operator("exchange", "all_to_all", Collective("all_to_all", 1e9, Group(8, 8)))
"""1 GB through a port of 1 GB/s: one second for each call."""
SEND = Operator("send", "send_recv", Collective("send_recv", 1e9, Group(2, 1)))


def step(
    serial: list[tuple[Operator, float]],
    background: list[tuple[Operator, float]] = (),  # type: ignore[assignment]
    *,
    stages: int = 1,
    chunks: int = 1,
    micro_batches: int = 1,
    send: float = 0.0,
    overlap_send: bool = True,
    sync: float = 0.0,
    backward: float = 2.0,
    schedule: str = "1f1b",
) -> CostedGraph:
    """A step whose forward programs run the given operators for the given seconds, and backward ones compute."""

    def calls(operators: list[tuple[Operator, float]]) -> tuple[Operator, ...]:
        return tuple(operator._replace(calls=seconds) for operator, seconds in operators)

    there = Program("forward", "forward", calls(serial), calls(background))
    back, half = Program("backward", "backward", (COMPUTE,)), Program("half", "backward", (COMPUTE,))
    gradients = replace_group(EXCHANGE, sync)

    def table(program: Program) -> Chunks:
        return tuple(tuple(Chunk(s, c, program.phase, ((program, 1),)) for c in range(chunks)) for s in range(stages))

    others = {
        "input_gradient": table(half) if schedule in CUTTING else (),
        "weight_gradient": table(half) if schedule in CUTTING else (),
        "paired_forward": table(there) if schedule in PAIRING else (),
        "paired_backward": table(back) if schedule in PAIRING else (),
    }
    graph = OperatorGraph(
        pipeline=Pipeline(
            stages, chunks, micro_batches, schedule, SEND._replace(calls=send) if send else None, overlap_send
        ),
        forward=table(there),
        backward=table(back),
        ends=(StageEnd(gradient_sync=(gradients,)),) * stages,
        replicas=8,
        programs=(there, back, half),
        **others,
    )
    costs = {
        there: CostedProgram(there, tuple(t for _, t in serial), tuple(t for _, t in background), 0.0),
        back: CostedProgram(back, (backward,), (), 0.0),
        half: CostedProgram(half, (backward / 2,), (), 0.0),
    }
    ends = ({"gradient_sync": sync, "update": 0.0, "parameter_gather": 0.0},) * stages
    return CostedGraph(graph, toy.machine(8 * stages), costs, ends, send)


def replace_group(operator: Operator, calls: float) -> Operator:
    return operator._replace(name="gradient synchronisation", item="gradient_sync", calls=calls)


def timed(costed: CostedGraph, engine: Engine) -> StepTimeline:
    return retime(costed, execute(costed, 8), engine=engine)


def seconds(costed: CostedGraph, engine: Engine) -> float:
    """The step without what the host takes for each task and each step."""
    pipeline = costed.graph.pipeline
    tasks = 2 * (pipeline.micro_batches * pipeline.chunks + pipeline.stages - 1)
    host = tasks * HOST.host_micro_batch_us * 1e-6 / (2 * pipeline.chunks)
    return timed(costed, engine).duration - host - STEP_S


@BOTH
@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 5), (4, 4), (4, 16), (8, 9)])
def test_one_forward_one_backward_has_its_bubble(engine: Engine, stages: int, micro_batches: int) -> None:
    costed = step([(COMPUTE, 1.0)], stages=stages, micro_batches=micro_batches)
    # (p-1)/(m+p-1) of the step is bubble: arXiv 2104.04473 section 2.2.1
    assert seconds(costed, engine) == pytest.approx((micro_batches + stages - 1) * 3.0, rel=1e-9)


@BOTH
@pytest.mark.parametrize(("stages", "chunks", "micro_batches"), [(4, 2, 8), (4, 3, 16), (2, 4, 6)])
def test_interleaving_divides_the_bubble_by_the_chunks(
    engine: Engine, stages: int, chunks: int, micro_batches: int
) -> None:
    costed = step([(COMPUTE, 1.0)], stages=stages, chunks=chunks, micro_batches=micro_batches)
    assert seconds(costed, engine) == pytest.approx((micro_batches * chunks + stages - 1) * 3.0, rel=1e-9)


@BOTH
@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 4), (4, 4), (8, 20)])
def test_zb_h1_fills_its_bubble_with_weight_gradients(engine: Engine, stages: int, micro_batches: int) -> None:
    """(p - 1)(F + B - W) with F = B = W = 1 (arXiv 2401.10241 table 2)."""
    costed = step([(COMPUTE, 1.0)], stages=stages, micro_batches=micro_batches, schedule="zb-h1")
    ideal = micro_batches * 3.0 + (stages - 1)
    assert timed(costed, engine).duration == pytest.approx(ideal, rel=1e-2)
    assert timed(costed, engine).duration == pytest.approx(timed(costed, "fast").duration, rel=1e-9)


@BOTH
@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 2), (4, 4), (8, 10)])
def test_dualpipe_leaves_the_bubble_of_its_middle(engine: Engine, stages: int, micro_batches: int) -> None:
    """(p/2 - 1)(F&B + B - 3W) with W = 1, F = 1, B = 2, F&B = 3 (arXiv 2412.19437 table 2)."""
    costed = step([(COMPUTE, 1.0)], stages=stages, chunks=2, micro_batches=micro_batches, schedule="dualpipe")
    ideal = 2 * micro_batches * 3.0 + (stages / 2 - 1) * 2
    assert timed(costed, engine).duration == pytest.approx(ideal, rel=1e-2)
    assert timed(costed, engine).duration == pytest.approx(timed(costed, "fast").duration, rel=1e-9)


@BOTH
def test_the_last_weight_gradient_hides_the_sum_of_gradients(engine: Engine) -> None:
    """The input gradient before it does not: a second of compute hides RATE seconds."""
    base = {"stages": 2, "micro_batches": 4, "schedule": "zb-h1"}
    none, long = step([(COMPUTE, 1.0)], **base), step([(COMPUTE, 1.0)], sync=5.0, **base)  # type: ignore[arg-type]
    window = RATE * (1.0 + HOST.host_micro_batch_us * 1e-6 / 4)
    assert timed(long, engine).duration - timed(none, engine).duration == pytest.approx(5.0 - window)


@BOTH
def test_blocking_communication_takes_its_turn(engine: Engine) -> None:
    assert seconds(step([(COMPUTE, 1.0), (EXCHANGE, 0.5), (COMPUTE, 1.0)]), engine) == pytest.approx(2.5 + 2.0)


@BOTH
def test_compute_hides_what_it_can(engine: Engine) -> None:
    """One second of compute hides RATE seconds of communication; half a second more is left over."""
    assert seconds(step([(COMPUTE, 1.0)], [(EXCHANGE, RATE)]), engine) == pytest.approx(1.0 + 2.0)
    assert seconds(step([(COMPUTE, 1.0)], [(EXCHANGE, RATE + 0.5)]), engine) == pytest.approx(1.5 + 2.0)


@BOTH
def test_gradients_hide_behind_the_last_backward_pass(engine: Engine) -> None:
    window = RATE * (2.0 + HOST.host_micro_batch_us * 1e-6 / 2)
    hidden = step([(COMPUTE, 1.0)], sync=window, micro_batches=3)
    assert seconds(hidden, engine) == pytest.approx(9.0)
    longer = step([(COMPUTE, 1.0)], sync=window + 0.25, micro_batches=3)
    assert seconds(longer, engine) == pytest.approx(9.25)


def test_two_transfers_on_one_port_share_it() -> None:
    """The background exchange hides in compute, but here it meets the blocking one first.

    Both get half of the port until the background's RATE GB are moved; the blocking one ends after 1 + RATE seconds.
    """
    costed = step([(EXCHANGE, 1.0), (COMPUTE, 1.0)], [(EXCHANGE, RATE)])
    assert seconds(costed, "fast") == pytest.approx(2.0 + 2.0)
    assert seconds(costed, "events") == pytest.approx(1.0 + RATE + 1.0 + 2.0)
    assert timed(costed, "events").certificate.startswith("sharing adds")
    assert timed(costed, "auto").engine == EVENTS


def test_in_the_other_order_they_do_not_meet() -> None:
    costed = step([(COMPUTE, 1.0), (EXCHANGE, 1.0)], [(EXCHANGE, RATE)])
    assert seconds(costed, "events") == pytest.approx(seconds(costed, "fast"), rel=1e-9)
    assert timed(costed, "auto").engine == FAST
    assert timed(costed, "auto").certificate == ""


def test_what_sharing_adds_is_an_item_of_the_breakdown() -> None:
    stage = timed(step([(EXCHANGE, 1.0), (COMPUTE, 1.0)], [(EXCHANGE, RATE)]), "events").stages[0]
    assert stage.busy.exposed["sharing"] == pytest.approx(RATE)
    assert stage.tail.exposed["sharing"] == 0.0


def test_a_send_enters_while_the_next_stage_exchanges() -> None:
    """Stage 1 of 2 sends its gradient while stage 0 is in the exchange of its second micro-batch, over other links."""
    costed = step([(COMPUTE, 1.0), (EXCHANGE, 1.0)], stages=2, micro_batches=2, send=0.5)
    assert timed(costed, "fast").certificate == "not certified: send recv may share links or SMs with other work"
    assert timed(costed, "auto").engine == FAST  # the exchange stays inside the node, sends use the network ports


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_random_runs(data: st.DataObject) -> None:
    """Undisturbed streams take the fast engine's time; certified, the events' time is the same; it is never
    shorter."""
    costed = random_step(data)
    fast = execute(costed, 8)
    expansion = expand(costed, fast)
    alone = play_alone(expansion.streams)
    end = max(alone.played.marks[f"end {stage}"] for stage in range(len(fast.stages)))
    assert end == pytest.approx(fast.duration, rel=1e-9)
    events = retime(costed, fast, engine="events")
    if overloaded(alone, expansion.links.capacity) is None:
        assert events.duration == pytest.approx(fast.duration, rel=1e-9)
    else:
        assert not fast.exact
        assert events.duration >= fast.duration * (1 - 1e-12)
    assert retime(costed, fast, engine="auto").duration == pytest.approx(events.duration, rel=1e-9)


@given(st.data())
@settings(max_examples=6, deadline=None)
def test_folded_ranks_take_the_time_of_all_of_them(data: st.DataObject) -> None:
    costed = random_step(data)
    fast = execute(costed, 8)
    folded = expand(costed, fast)
    streams, capacity = unfolded(folded)
    every = play(streams, capacity)
    again = expand(costed, fast)
    assert every.duration == pytest.approx(play(again.streams, again.links.capacity).duration, rel=1e-9)


def random_step(data: st.DataObject) -> CostedGraph:
    """A small costed step with a random split that divides, and random overlaps, dense or with experts."""

    def one_of(*values: Any) -> Any:
        return data.draw(st.sampled_from(values))

    tp, cp, dp = one_of(1, 2, 4), one_of(1, 2), one_of(1, 2, 4, 8)
    pp, vpp = one_of((1, 1), (2, 1), (2, 2), (3, 2), (4, 1))
    legal = ["1f1b", "gpipe"] if vpp > 1 or pp == 1 else ["1f1b", "gpipe", "zb-h1", "dualpipe"]
    schedule = one_of(*legal)
    model = one_of(toy.MODEL, toy.MOE_MODEL)
    ep = one_of(*[n for n in (1, 2, 4, 8) if tp * cp * dp % n == 0]) if model is toy.MOE_MODEL else 1
    overlaps: dict[str, Any] = {
        name: one_of(True, False) for name in ("a2a_overlap", "tp_overlap", "dp_overlap", "p2p_overlap")
    }
    overlaps["gradient_bucket"] = one_of(None, 1, 100_000)
    run = toy.run(
        gpus=tp * cp * dp * pp if tp * cp * dp * pp <= 8 else 8 * -(-tp * cp * dp * pp // 8),
        model=model,
        parallelism={"tp": tp, "pp": pp, "vpp": vpp, "cp": cp, "ep": ep, "etp": 1},
        training={
            "global_batch": dp * pp * one_of(2, 4, 6) * 2,
            "sharding": one_of("none", "zero1") if schedule == "dualpipe" else one_of("none", "zero1", "zero3"),
            "schedule": schedule,
        },
        execution=overlaps,
        routing=one_of({}, {"balance": "zipf", "skew": 0.8, "capacity_factor": 1.5}),
    )
    try:
        return toy.costed(run)[1]
    except InfeasibleError:
        assume(False)
        raise


def unfolded(expansion: Expansion) -> tuple[dict[str, list[Instruction]], list[float]]:
    """The streams of every rank of each stage's node, with ports of their own and one share each of the node's
    links."""
    links = expansion.links
    ranks, capacity = links.ranks_in_node, list(links.capacity)
    ports = {direction.port for side in (links.out, links.into) for direction in side}
    own = {port: [port] for port in ports}
    for port in ports:
        for _ in range(ranks - 1):
            own[port].append(len(capacity))
            capacity.append(links.capacity[port])

    def moved(transfer: Transfer, rank: int) -> Transfer:
        loads = [(own[link][rank], load) if link in ports else (link, load / ranks) for link, load in transfer.loads]
        return transfer._replace(loads=tuple(loads))

    def one(instruction: Instruction, rank: int) -> Instruction:
        def mine(key: Hashable) -> Hashable:
            return None if key is None else (key, rank)

        match instruction:
            case Do(compute, transfer):
                return Do(compute, transfer and moved(transfer, rank))
            case Launch(transfer, lane, key):
                return Launch(moved(transfer, rank), lane, mine(key))
            case Wait(key):
                return Wait(mine(key))
            case Signal(key):
                return Signal(mine(key))
            case _:
                return instruction

    streams = {name: list(stream) for name, stream in expansion.streams.items()}
    return {
        f"{name}, rank {rank}": [one(instruction, rank) for instruction in stream]
        for name, stream in streams.items()
        for rank in range(ranks)
    }, capacity


def moe_run(**blocks: Any) -> Run:
    parallelism = {"pp": 2, "ep": 8}
    return toy.run(gpus=32, model=toy.MOE_MODEL, parallelism=parallelism, training={"global_batch": 64}, **blocks)


def test_a_result_says_who_timed_it() -> None:
    fast, events = simulate(moe_run()), simulate(moe_run(), engine="events")
    assert fast.provenance.engine == "fast (longest path over folded ranks)"
    assert events.provenance.engine == "events (streams and shared links, ranks folded)"
    assert events.provenance.certificate.startswith("sharing adds ")
    assert fast.step_time_s is not None
    assert events.step_time_s is not None
    assert events.step_time_s.value >= fast.step_time_s.value
    assert sum(item.seconds.value for item in events.breakdown) == pytest.approx(events.step_time_s.value, rel=1e-9)


def test_links_carry_the_bytes_that_the_operators_send() -> None:
    _, costed = toy.costed(moe_run())
    sums, timeline = mean_sums(costed.graph), timed(costed, "events")

    def carried(link: str, way: str) -> float:
        return sum(
            use.bytes for use in timeline.links if use.link.name.startswith(link) and use.link.name.endswith(way)
        )

    for way in ("out", "in"):  # of two stages; eight ranks of a stage in a node
        assert carried("scale-up port", way) / 2 == pytest.approx(sums.link_bytes)
        assert carried("network ports", way) / 2 / 8 == pytest.approx(sums.network_bytes)


def test_the_links_that_were_full_the_longest_are_shown() -> None:
    traffic = simulate(moe_run(), engine="events").traffic
    assert traffic is not None
    full = [use for use in training_step(moe_run(), engine="events").timeline.links if use.full_seconds]
    longest = sorted(full, key=lambda use: -use.full_seconds)[:4]
    shown = ["scale-up link, per GPU", "network, per GPU", *(use.link.name for use in longest)]
    assert len(longest) == 4
    assert [link.name.lower() for link in traffic.links] == [name.lower() for name in shown]
    assert [link.bytes for link in traffic.links[2:]] == [use.bytes for use in longest]


def test_events_give_the_same_every_time() -> None:
    _, costed = toy.costed(moe_run())
    one, other = timed(costed, "events"), timed(costed, "events")
    assert (one.duration, one.times, one.certificate) == (other.duration, other.times, other.certificate)


def test_what_is_exact_by_structure_is_not_played() -> None:
    _, costed = toy.costed(toy.run(gpus=8, execution={"dp_overlap": False}))
    timeline = timed(costed, "auto")
    assert (timeline.engine, timeline.certificate) == (FAST, "")
    assert timed(costed, "events").duration == pytest.approx(timeline.duration, rel=1e-9)


def test_auto_leaves_a_step_alone_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_AUTO_OPERATORS", 3)
    costed = step([(EXCHANGE, 1.0), (COMPUTE, 1.0)], [(EXCHANGE, RATE)])
    timeline = timed(costed, "auto")
    assert timeline.engine == FAST
    assert timeline.certificate == (
        "not certified: all to all may share links or SMs with other work; "
        "4 operators are too many to play unasked: --engine events does"
    )


def test_stated_sms_slow_the_compute_beside_communication() -> None:
    """A background exchange that fits its window takes a second; a quarter of the SMs makes the compute take 4/3 of
    one."""
    costed = step([(COMPUTE, 1.0)], [(EXCHANGE, RATE)])
    device = costed.machine.hardware.device.model_copy(update={"sms": 100})
    machine = toy.Machine(costed.machine.hardware.model_copy(update={"device": device}), costed.machine.curves)
    costed = replace(costed, machine=machine)
    timeline = retime(costed, execute(costed, 8), communication_sms=25)
    assert timeline.engine == EVENTS
    # the exchange ends after a second, when 3/4 of the compute is done
    assert timeline.duration - timed(costed, "fast").duration == pytest.approx(0.25, rel=1e-3)
    assert timeline.certificate.startswith(
        "sharing, and 25% of the SMs while communication runs beside compute, adds 8.32% to the fast engine's step"
    )


@pytest.mark.parametrize(
    ("device", "sms", "message"),
    [
        ({}, 20, "execution.communication_sms: 20 SMs for communication, but toy states no number of SMs"),
        ({"sms": 16}, 16, "execution.communication_sms: 16 SMs for communication, but toy has 16 SMs"),
    ],
)
def test_sms_that_are_not_there_are_refused(device: dict[str, Any], sms: int, message: str) -> None:
    with pytest.raises(SpecError) as error:
        simulate(moe_run(device=device, execution={"communication_sms": sms}))
    assert str(error.value) == message
