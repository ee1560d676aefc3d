"""Seconds and bytes of collectives by hand on links of 1 GB/s and a latency of 1 us."""

from __future__ import annotations

from math import log2
from typing import Any

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from simulator.cost.algorithms import TREE_BANDWIDTH, double_tree, hierarchical, ring, tree, tree_load
from simulator.cost.collective import bus_bandwidth, collective_seconds, sent_bytes, timing
from simulator.cost.machine import Machine, build_machine
from simulator.errors import SpecError
from simulator.graph.dispatch import Sending, token_exchange
from simulator.graph.operator import Collective, CollectiveKind, Group
from simulator.simulation import training_step
from simulator.spec.curves import ExchangeCurves
from simulator.spec.hardware import resolve_hardware
from simulator.spec.workload import AllReduce

MB = 1e6
US = 1e-6
NODE, NODES, LEADERS = Group(8, 8), Group(16, 8), Group(2, 1)
RINGS: list[tuple[CollectiveKind, int]] = [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)]


def seconds(work: Collective, machine: Machine | None = None) -> float:
    return float(collective_seconds([(machine or toy.machine(64), work)])[0])


@pytest.mark.parametrize(("kind", "passes"), RINGS)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_ring_passes_all_but_one_share_of_the_buffer_through_each_link(
    kind: CollectiveKind, passes: int, ranks: int
) -> None:
    """2 (p-1)/p for an all-reduce, (p-1)/p for a gather or scatter."""
    expected = US + passes * (ranks - 1) / ranks * 1e-3
    assert seconds(Collective(kind, MB, Group(ranks, ranks))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("kind", "passes"), RINGS)
def test_part_of_a_ranks_own_chunk_is_not_hidden(kind: CollectiveKind, passes: int) -> None:
    machine = toy.machine(collective={"ring_own": 0.5})
    moved = (7 * passes + 0.5) / 8 * 1e-3
    assert seconds(Collective(kind, MB, NODE), machine) == pytest.approx(US + moved, rel=1e-12)


def test_a_ring_over_nodes_is_as_fast_as_its_slowest_link() -> None:
    """Rings through a node of eight have seven links in it; each NIC carries one of eight rings."""
    wide, narrow = toy.machine(64), toy.machine(64, network={"bandwidth": "0.1 GB/s"})
    gather = Collective("all_gather", MB, NODES)
    assert timing(wide, gather).transfer == pytest.approx(15 / 16 * 7 / 8 * 1e-3)
    assert bus_bandwidth(wide, gather) == pytest.approx(8 / 7 * 1e9)
    assert bus_bandwidth(narrow, gather) == pytest.approx(0.8e9)
    assert bus_bandwidth(narrow, gather._replace(nics=1)) == pytest.approx(0.1e9)
    assert bus_bandwidth(narrow, Collective("all_gather", MB, LEADERS)) == pytest.approx(0.1e9)


def test_a_ring_has_a_step_for_every_rank_but_one() -> None:
    machine = toy.machine(64, collective={"hop_us": 0.25}, network={})
    assert ring(machine, Collective("all_gather", 0.0, NODE)).latency == pytest.approx((1 + 7 * 0.25) * US)
    # 7 steps between 8 nodes, 56 inside them; an all-reduce goes around twice
    assert ring(machine, Collective("all_gather", 0.0, Group(64, 8))).latency == pytest.approx((1 + 7 + 14) * US)
    assert ring(machine, Collective("all_reduce", 0.0, Group(64, 8))).latency == pytest.approx((1 + 42) * US)


def test_a_tree_has_a_step_for_every_doubling_of_nodes() -> None:
    """Up and down: 3 doublings of 8 nodes, 7 links of the chain in each."""
    machine = toy.machine(64, collective={"hop_us": 0.25})
    found = tree(machine, Collective("all_reduce", MB, Group(64, 8)))
    assert found.latency == pytest.approx((1 + 2 * 3 + 2 * 7 * 0.25) * US)
    assert found.transfer == pytest.approx(2 * 7 / 8 * 1e-3 / TREE_BANDWIDTH)


def test_between_two_nodes_a_tree_sends_half_of_what_a_ring_does() -> None:
    machine = toy.machine(64, network={"bandwidth": "0.1 GB/s"})
    work = Collective("all_reduce", MB, NODES)
    assert ring(machine, work).transfer == pytest.approx(15 / 8 * MB / 0.8e9)
    assert tree(machine, work).transfer == pytest.approx(max(MB / 0.8e9, 1.75e-3) / TREE_BANDWIDTH)


@pytest.mark.parametrize("nodes", [2, 3, 4, 7, 8, 14, 32, 100])
def test_the_two_trees_of_nodes_share_the_work(nodes: int) -> None:
    """Each reaches every node from one root; no node passes on in both, but for one where their number is odd."""
    passing = []
    for parents in double_tree(nodes):
        assert parents.count(None) == 1
        for node in range(nodes):
            seen = [node]
            while (above := parents[seen[-1]]) is not None:
                seen.append(above)
            assert len(seen) <= log2(nodes) + 2
        children = [sum(parent == node for parent in parents) for node in range(nodes)]
        assert max(children) <= 2
        passing.append({node for node in range(nodes) if children[node]})
    assert len(passing[0] & passing[1]) <= nodes % 2
    assert tree_load(nodes) == (1.0 if nodes == 2 else 1.5 if nodes == 3 else 2.0)


def test_three_stages_one_after_the_other() -> None:
    machine = toy.machine(64, network={"bandwidth": "0.5 GB/s"})
    found = hierarchical(machine, Collective("all_reduce", MB, Group(32, 8)))
    # scatter and gather 7/8 of 1 MB at 1 GB/s; all-reduce an eighth of it over 4 nodes at 0.5 GB/s
    assert found.transfer == pytest.approx(2 * 7 / 8 * 1e-3 + 2 * 3 / 4 * MB / 8 / 0.5e9)
    assert found.latency == pytest.approx((1 + 1 + (1 + 2 * 3)) * US)
    in_node = Collective("all_reduce", MB, NODE)
    assert hierarchical(machine, in_node) == ring(machine, in_node)


def test_one_rank_a_node_gathers_over_trees() -> None:
    """8 nodes: 3 doublings in place of 7 steps."""
    machine = toy.machine(64)
    found = timing(machine, Collective("all_gather", MB, Group(8, 1)))
    assert (found.algorithm, found.latency) == ("pat", pytest.approx(4 * US))
    assert found.transfer == pytest.approx(7 / 8 * 1e-3)


def test_latency_and_transfer_join_as_fitted() -> None:
    """(a^q + t^q)^(1/q): with q = 1/2, 1 us and 4 us make 9."""
    machine = toy.machine(collective={"q": 0.5})
    assert seconds(Collective("all_gather", 8e3, Group(2, 2)), machine) == pytest.approx(9 * US)


def switched(gpus: int = 8, all_reduce: AllReduce = "auto", **collective: float) -> Machine:
    """Nodes of eight whose switches add."""
    link = {"kind": "nvlink4", "bandwidth": "1 GB/s", "domain": 8, "in_network_reduction": True}
    return Machine(toy.hardware(gpus, scale_up=link), toy.curves(collective=collective), all_reduce=all_reduce)


def test_in_switch_reduction_serves_an_all_reduce_that_fills_a_node() -> None:
    machine = switched(64, in_network=2.0)
    assert timing(machine, Collective("all_reduce", MB, NODE)) == ("nvls", US, pytest.approx(1.75e-3 / 2), 1.0)
    assert bus_bandwidth(machine, Collective("all_reduce", MB, NODE)) == pytest.approx(2e9)
    assert timing(machine, Collective("all_reduce", MB, Group(4, 4))).algorithm == "ring"
    assert timing(machine, Collective("all_gather", MB, NODE)).algorithm == "ring"
    # between 8 nodes over their trees: 2 MB through 8 NICs of 1 GB/s is faster than the switches
    over = timing(machine, Collective("all_reduce", MB, Group(64, 8)))
    assert over == ("nvls", pytest.approx(7 * US), pytest.approx(2 * 63 / 64 * 1e-3 / 2), 1.0)


@pytest.mark.parametrize(("size", "algorithm"), [(1e3, "tree"), (1e9, "ring")])
def test_small_all_reduces_go_over_trees_and_large_ones_in_rings(size: float, algorithm: str) -> None:
    assert timing(toy.machine(64), Collective("all_reduce", size, Group(64, 8))).algorithm == algorithm


@pytest.mark.parametrize("chosen", ["ring", "tree", "nvls", "hierarchical"])
def test_a_run_may_say_how_all_reduces_are_done(chosen: AllReduce) -> None:
    machine = switched(64, chosen)
    assert timing(machine, Collective("all_reduce", MB, Group(64, 8))).algorithm == chosen
    assert timing(machine, Collective("all_gather", MB, Group(64, 8))).algorithm == "ring"


def test_the_algorithm_of_a_run_reaches_its_machine() -> None:
    run = toy.run(gpus=16, execution={"all_reduce": "tree"}, parallelism={"tp": 2})
    step = training_step(run)
    assert step.costed.machine.all_reduce == "tree"
    assert training_step(toy.run(gpus=16, parallelism={"tp": 2})).costed.machine.all_reduce == "auto"


def test_switches_that_do_not_add_are_refused() -> None:
    with pytest.raises(SpecError) as error:
        build_machine(resolve_hardware({"device": "a100-sxm-80gb", "gpus": 8}), all_reduce="nvls")
    assert str(error.value) == (
        "execution.all_reduce: nvls needs switches that add, and those of a100-sxm-80gb don't: "
        "take auto, ring, tree or hierarchical"
    )


def test_a_torus_has_a_ring_along_every_axis() -> None:
    """64 chips of 4 x 4 x 4: three steps along each axis, not 63."""
    torus = {"kind": "torus", "topology": "torus-3d", "nics_per_node": None, "links_per_gpu": 6}
    chips = toy.Machine(
        toy.hardware(64, network=torus, scale_up={"kind": "ici", "bandwidth": "1 GB/s", "domain": 1}), toy.curves()
    )
    assert timing(chips, Collective("all_gather", MB, Group(64, 1))).latency == pytest.approx((1 + 9) * US)


def test_a_transfer_between_stages_crosses_one_link() -> None:
    machine = toy.machine(64, network={"bandwidth": "0.25 GB/s"})
    assert seconds(Collective("send_recv", MB, Group(2, 2)), machine) == pytest.approx(1e-3 + US)
    assert seconds(Collective("send_recv", MB, LEADERS), machine) == pytest.approx(4e-3 + US)


def test_an_all_to_all_is_as_slow_as_the_slower_of_its_paths() -> None:
    machine = toy.machine(64, network={"bandwidth": "0.5 GB/s"})
    assert seconds(Collective("all_to_all", MB, NODE), machine) == pytest.approx(1e-3 + US)
    assert seconds(Collective("all_to_all", MB, NODES, 0.25 * MB), machine) == pytest.approx(1e-3 + US)
    assert seconds(Collective("all_to_all", MB, NODES, MB), machine) == pytest.approx(2e-3 + US)


def test_a_rank_copies_what_it_keeps() -> None:
    """Each of eight parts of 1 MB takes 1 ms; a quarter of the own part's copy is not hidden."""
    machine = toy.machine(64, collective={"all_to_all_own": 0.25})
    assert seconds(Collective("all_to_all", 7 * MB, NODE), machine) == pytest.approx(7.25e-3 + US)


def test_a_tapered_tree_slows_what_crosses_it() -> None:
    """Under one leaf of 32 nodes nothing does; of 64 nodes 32/63 of what leaves a node."""
    tapered = toy.machine(512, network={"oversubscription": 4.0})
    assert seconds(Collective("all_to_all", 0.0, Group(256, 8), MB), tapered) == pytest.approx(1e-3 + US)
    assert seconds(Collective("all_to_all", 0.0, Group(512, 8), MB), tapered) == pytest.approx(32 / 63 * 4e-3 + US)
    assert bus_bandwidth(tapered, Collective("all_gather", MB, Group(64, 1))) == pytest.approx(1e9)


def test_pods_slow_what_leaves_them() -> None:
    """16 nodes in two pods: 8/15 of the traffic, at a seventh."""
    pods = toy.machine(128, network={"pods": {"nodes": 8, "oversubscription": 7.0}})
    assert seconds(Collective("all_to_all", 0.0, Group(128, 8), MB), pods) == pytest.approx(8 / 15 * 7e-3 + US)


EXCHANGE = {"us": 10.0, "node_us": 5.0, "link": 0.5, "nic": 0.5, "sm_gb": 0.1, "sm_network_gb": 0.05, "p": 1.0}


@pytest.mark.parametrize(
    ("sending", "reached", "inside", "outside"),
    [
        # Two of 16 ranks, drawn evenly: 16 (1 - (15/16)^2) = 31/16 distinct ones, 2 (1 - 1/4) = 3/2 distinct nodes.
        ("distinct", None, 31 / 16 * 7 / 8, 3 / 2 / 2),
        ("distinct", 1, 15 / 8 * 7 / 8, 1 / 2),  # all in one node: 8 (1 - (7/8)^2) = 15/8 of its ranks
        ("copies", None, 2 * 7 / 16, 2 * 8 / 16),
        ("all", None, 7.0, 8.0),
    ],
)
def test_what_a_token_is_copied_to(sending: Sending, reached: int | None, inside: float, outside: float) -> None:
    work = token_exchange(NODES, MB, sending=sending, top_k=2, reached_domains=reached)
    assert (work.bytes, work.network_bytes) == (pytest.approx(inside * MB), pytest.approx(outside * MB))


def kernels(**changed: Any) -> Machine:
    """A toy machine with an exchange kernel that was measured."""
    both = {"dispatch": {**EXCHANGE, **changed}, "combine": {**EXCHANGE, "us": 20.0}, "sms": 20, "source": "toy"}
    curves = toy.curves().model_copy(update={"exchange": {"deepep": ExchangeCurves.model_validate(both)}})
    return Machine(toy.hardware(64), curves)


def test_an_exchange_kernel_is_held_up_by_link_nic_and_sms() -> None:
    """1 MB inside and 1 MB between two nodes; the SMs carry what stays in the own node's lane too: 2 MB."""
    work = Collective("all_to_all", MB, NODES, MB, kernel="deepep")
    link, nic, sms = 2e-3, 2e-3, (1 / 0.1 + 2 / 0.05) * 1e-3 / 20
    assert seconds(work, kernels()) == pytest.approx(15 * US + link + nic + sms)
    assert seconds(work._replace(sms=10), kernels()) == pytest.approx(15 * US + link + nic + 2 * sms)
    assert seconds(work._replace(combines=True), kernels()) == pytest.approx(25 * US + link + nic + sms)
    assert seconds(work, kernels(p=40.0)) == pytest.approx(15 * US + sms, rel=1e-4)  # the slowest alone
    assert timing(kernels(), work).algorithm == "deepep"


def test_inside_a_node_an_exchange_kernel_knows_no_network() -> None:
    work = Collective("all_to_all", 7 * MB, NODE, kernel="deepep")
    assert seconds(work, kernels(sm_gb=None)) == pytest.approx(10 * US + 14e-3)
    assert seconds(work, kernels(sm_gb=None, own=2.0)) == pytest.approx(10 * US + 18e-3)


def test_a_kernel_that_nobody_measured_is_timed_as_nccl() -> None:
    work = Collective("all_to_all", MB, NODES, MB, kernel="deepep_ll")
    assert timing(kernels(), work) == timing(kernels(), work._replace(kernel="nccl"))


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"])
def test_one_rank_talks_to_nobody(kind: CollectiveKind) -> None:
    alone = Collective(kind, MB, Group(1, 1), MB)
    assert seconds(alone) == 0.0
    assert sent_bytes(alone) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("work", "inside", "outside"),
    [
        (Collective("all_reduce", MB, NODE), 1.75 * MB, 0),
        (Collective("all_gather", MB, NODE), 0.875 * MB, 0),
        (Collective("all_gather", MB, NODES), 0.9375 * MB * 7 / 8, 0.9375 * MB / 8),  # a ring leaves each node once
        (Collective("reduce_scatter", MB, LEADERS), 0, 0.5 * MB),
        (Collective("send_recv", MB, Group(2, 2)), MB, 0),
        (Collective("send_recv", MB, LEADERS), 0, MB),
        (Collective("all_to_all", MB, NODES, 3 * MB), MB, 3 * MB),
    ],
)
def test_bytes_a_rank_sends(work: Collective, inside: float, outside: float) -> None:
    assert sent_bytes(work) == (inside, outside)


@given(
    st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]),
    st.floats(0, 1e10),
    st.floats(1.0, 100.0),
    st.sampled_from([NODE, NODES, LEADERS, Group(4, 4), Group(64, 8), Group(8, 1)]),
    st.sampled_from(["h100-sxm", "a100-sxm-80gb", "b200-sxm", "gb200", "tpu-v4"]),
)
def test_more_bytes_never_take_less_time(
    kind: CollectiveKind, size: float, factor: float, group: Group, device: str
) -> None:
    machine = build_machine(resolve_hardware({"device": device, "gpus": 64}))
    outside = size if group.domains > 1 else 0.0
    few = Collective(kind, size, group, outside)
    many = Collective(kind, size * factor, group, outside * factor)
    assert 0 <= seconds(few, machine) <= seconds(many, machine) * (1 + 1e-12)
    assert sum(sent_bytes(few)) <= sum(sent_bytes(many))


def test_gpus_on_pcie_share_a_bus_whatever_they_are() -> None:
    """RTX PRO 6000 reach about half of their link in pairs; NVLink's share would be eight tenths."""
    plugged = build_machine(resolve_hardware({"device": "h100-pcie", "gpus": 8}))
    linked = build_machine(resolve_hardware({"device": "h100-sxm", "gpus": 8}))
    assert plugged.curves.collective.ring == 0.51
    assert plugged.curves.gemm == linked.curves.gemm
    pair = Collective("all_gather", 2.0**29, Group(2, 2))
    assert 27e9 < 2.0**28 / seconds(pair, plugged) < 33e9  # 30 to 34 of 64 GB/s measured
