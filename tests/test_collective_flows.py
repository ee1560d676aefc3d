"""Collectives as transfers on the links: what is played is what the closed forms say, and what can't be is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import toy

from simulator.cost.algorithms import TREE_BANDWIDTH, Algorithm, Timing, hierarchical, nvls, ring, tree
from simulator.cost.collective import loaded_bytes, timing
from simulator.cost.machine import build_machine
from simulator.engine.collectives import (
    exchange_round,
    place_group,
    played_seconds,
    ring_rounds,
    rounds_of,
    staged_rounds,
)
from simulator.engine.exchange import exchange_seconds, hottest_seconds, transfers_seconds
from simulator.engine.fabric import Fabric, build_fabric
from simulator.errors import InfeasibleError, SpecError
from simulator.graph.dispatch import token_exchange
from simulator.graph.operator import Collective, CollectiveKind, Group
from simulator.spec.hardware import resolve_hardware

GB = 1e9
FORMS = {"ring": ring, "tree": tree, "nvls": nvls, "hierarchical": hierarchical}
# By the ports alone an all-reduce in the switch takes (1 + 1/8) of the buffer; as bus bandwidth of eight ranks:
PORTS_ALONE = 2 * 7 / 9
GROUPS = [(Group(8, 8), 1), (Group(16, 8), 1), (Group(64, 8), 1), (Group(4, 1), 8), (Group(5, 1), 8), (Group(8, 2), 4)]


def cluster(gpus: int = 64, *, nic: str = "1 GB/s", topology: str = "rail-optimised-fat-tree", **network: Any) -> Any:
    return toy.machine(gpus, network={"bandwidth": nic, "topology": topology, **network})


def played(fabric: Fabric, work: Collective, algorithm: Algorithm, stride: int = 1) -> float:
    return played_seconds(fabric, rounds_of(work, algorithm, place_group(fabric, work.group, stride=stride)))


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize(("kind", "passes"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)])
def test_a_ring_takes_as_many_chunks_as_it_has_steps(kind: CollectiveKind, passes: int, ranks: int) -> None:
    fabric = build_fabric(cluster(8))
    assert played(fabric, Collective(kind, GB, Group(ranks, ranks)), "ring") == pytest.approx(
        passes * (ranks - 1) / ranks
    )


@pytest.mark.parametrize("topology", ["rail-optimised-fat-tree", "fat-tree"])
@pytest.mark.parametrize("nic", ["1 GB/s", "0.1 GB/s"])
@pytest.mark.parametrize(("group", "stride"), GROUPS)
@pytest.mark.parametrize("algorithm", ["ring", "tree", "hierarchical"])
def test_played_all_reduces_take_what_their_closed_forms_say(
    algorithm: Algorithm, group: Group, stride: int, nic: str, topology: str
) -> None:
    machine = cluster(nic=nic, topology=topology)
    work = Collective("all_reduce", GB, group)
    expected = FORMS[algorithm](machine, work).transfer * (TREE_BANDWIDTH if algorithm == "tree" else 1)
    assert played(build_fabric(machine), work, algorithm, stride) == pytest.approx(expected)


@pytest.mark.parametrize(("nodes", "nic"), [(1, "1 GB/s"), (4, "1 GB/s"), (4, "0.1 GB/s")])
def test_switches_that_add_carry_the_buffer_once_each_way(nodes: int, nic: str) -> None:
    machine = toy.machine(64, network={"bandwidth": nic}, collective={"in_network": PORTS_ALONE})
    work = Collective("all_reduce", GB, Group(8 * nodes, 8))
    ports, nics = 9 / 8, 0.0 if nodes == 1 else 2 / 8 / float(nic.split()[0])
    assert played(build_fabric(machine), work, "nvls") == pytest.approx(max(ports, nics))
    if nodes == 1 or nics > ports:
        assert nvls(machine, work).transfer == pytest.approx(max(ports, nics))


@pytest.mark.parametrize(("group", "stride"), GROUPS)
@pytest.mark.parametrize("algorithm", ["ring", "tree", "hierarchical"])
def test_the_load_of_a_port_is_what_is_played_over_it(algorithm: Any, group: Group, stride: int) -> None:
    """The busiest rank of the rounds sends inside its node, and out of it, what the event engine loads links with."""
    machine = replace(cluster(), all_reduce=algorithm)
    work = Collective("all_reduce", GB, group)
    ranks = place_group(build_fabric(machine), group, stride=stride)
    sent = np.zeros((2, 64))
    for r in rounds_of(work, algorithm, ranks):
        np.add.at(sent, ((r.sources // 8 != r.targets // 8).astype(int), r.sources), r.size * r.times)
    assert loaded_bytes(machine, work) == (pytest.approx(sent[0].max()), pytest.approx(sent[1].max()))


def test_with_an_odd_number_of_nodes_one_ring_step_changes_rail() -> None:
    """Three nodes: rings close from place c - 1 of the last to place c of the first, over one more port."""
    machine = cluster(24)
    work = Collective("all_reduce", GB, Group(24, 8))
    assert ring(machine, work).transfer == pytest.approx(2 * 23 / 24 * 7 / 8)
    assert played(build_fabric(machine), work, "ring") == pytest.approx(2 * 23 / 24)


def test_every_ring_passes_every_rank_once_and_leaves_nodes_by_its_own_rail() -> None:
    ranks = np.arange(32).reshape(4, 8)
    (found,) = ring_rounds(ranks, 32.0)
    assert found.times == 31
    for c in range(8):
        steps = dict(zip(found.sources[32 * c : 32 * c + 32], found.targets[32 * c : 32 * c + 32], strict=True))
        at, seen = ranks[0, c], []
        for _ in range(32):
            seen.append(at)
            at = steps[at]
        assert at == ranks[0, c]
        assert sorted(seen) == list(range(32))
        assert all(a % 8 == b % 8 for a, b in steps.items() if a // 8 != b // 8)
    np.testing.assert_allclose(np.bincount(found.sources, weights=found.size), 1.0)


@pytest.mark.parametrize("nic", ["1 GB/s", "0.1 GB/s"])
def test_a_played_exchange_of_tokens_takes_what_it_costs(nic: str) -> None:
    """DeepEP's copies to distinct nodes and their forwarding go on together, so the slower path sets the time."""
    machine = cluster(32, nic=nic)
    work = token_exchange(Group(32, 8), GB, sending="distinct", top_k=8)
    slower = max(work.bytes / GB, work.network_bytes / float(nic.split()[0]) / GB)
    assert timing(machine, work).transfer == pytest.approx(slower)
    assert played(build_fabric(machine), work, "deepep") == pytest.approx(slower)


def test_copies_for_every_expert_are_an_even_exchange() -> None:
    """Eight experts of 32 ranks: a quarter of the tokens from each rank to each, 24 of 32 parts over the network."""
    machine = cluster(32, nic="0.1 GB/s")
    work = token_exchange(Group(32, 8), GB, sending="copies", top_k=8)
    assert timing(machine, work).transfer == pytest.approx(24 / 4 / 0.1)
    assert exchange_seconds(build_fabric(machine), np.full((32, 32), GB / 4)) == pytest.approx(24 / 4 / 0.1)


def test_an_exchange_in_two_stages_stays_on_rails() -> None:
    """An even buffer of 32 parts: 7/8 of it inside the node first, then 3/4 of it by the own rail."""
    fabric = build_fabric(cluster(32, nic="0.5 GB/s"))
    ranks = place_group(fabric, Group(32, 8))
    first, second = staged_rounds(ranks, GB)
    assert played_seconds(fabric, [first]) == pytest.approx(7 / 8)
    assert played_seconds(fabric, [second]) == pytest.approx(3 / 4 / 0.5)
    routes = fabric.routes(second.sources, second.targets)
    assert not any("GPU" in fabric.names[link] for link in routes.link)


def test_a_send_crosses_one_link() -> None:
    fabric = build_fabric(cluster(16, nic="0.25 GB/s"))
    assert played(fabric, Collective("send_recv", GB, Group(2, 1)), "send", stride=8) == pytest.approx(4.0)
    assert played(fabric, Collective("send_recv", GB, Group(2, 2)), "send") == pytest.approx(1.0)


def test_one_rank_sends_nothing() -> None:
    fabric = build_fabric(cluster(8))
    assert played(fabric, Collective("all_reduce", GB, Group(1, 1)), "ring") == 0.0
    assert rounds_of(Collective("all_reduce", GB, Group(8, 8)), "none", place_group(fabric, Group(8, 8))) == []


@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm-80gb", "b200-sxm"])
def test_calibrated_rings_keep_their_bandwidth_on_the_links(device: str) -> None:
    """The closed form adds the part of the own chunk that nothing hides; links know nothing of it."""
    machine = build_machine(resolve_hardware({"device": device, "gpus": 8}))
    work = Collective("all_gather", GB, Group(8, 8))
    own = machine.curves.collective.ring_own
    fabric = build_fabric(machine)
    assert timing(machine, work).transfer == pytest.approx((7 + own) / 7 * played(fabric, work, "ring"))


def test_uneven_traffic_of_many_is_timed_by_its_hottest_link() -> None:
    """As long as it is played to the end it takes that long as well."""
    fabric = build_fabric(cluster(16))
    traffic = np.random.default_rng(7).random((16, 16)) * GB
    sources, targets = np.nonzero(~np.eye(16, dtype=bool))
    size = traffic[sources, targets]
    routes = fabric.routes(sources, targets)
    assert exchange_seconds(fabric, traffic) == pytest.approx(hottest_seconds(fabric, routes, size))


@pytest.mark.parametrize(
    ("group", "first", "stride", "message"),
    [
        (Group(16, 8), 0, 1, "a group of 16 ranks, 1 apart from GPU 0 on, ends at GPU 15; this machine has 8 GPUs"),
        (Group(4, 4), 6, 1, "a group of 4 ranks, 1 apart from GPU 6 on, ends at GPU 9; this machine has 8 GPUs"),
    ],
)
def test_groups_larger_than_the_machine_are_refused(group: Group, first: int, stride: int, message: str) -> None:
    with pytest.raises(SpecError) as error:
        place_group(build_fabric(cluster(8)), group, first, stride)
    assert str(error.value) == message


def test_groups_that_lie_across_domains_are_refused() -> None:
    with pytest.raises(SpecError) as error:
        place_group(build_fabric(cluster(16)), Group(8, 8), first=4)
    assert str(error.value) == "8 ranks, 1 apart from GPU 4 on, don't fit in domains of 8"


def send(fabric: Fabric, source: int, target: int, size: float = GB) -> float:
    return transfers_seconds(fabric, np.array([source]), np.array([target]), np.array([size]))


@pytest.mark.parametrize(
    ("source", "target", "size", "message"),
    [
        (0, 8, 1.0, "GPU 8 is not in this fabric, whose 8 GPUs are numbered from 0"),
        (-1, 2, 1.0, "GPU -1 is not in this fabric, whose 8 GPUs are numbered from 0"),
        (0, 2, -1.0, "GPU 0 can't send -1 bytes to GPU 2"),
        (0, 2, float("nan"), "GPU 0 can't send nan bytes to GPU 2"),
    ],
)
def test_transfers_that_make_no_sense_are_refused(source: int, target: int, size: float, message: str) -> None:
    with pytest.raises(SpecError) as error:
        send(build_fabric(cluster(8)), source, target, size)
    assert str(error.value) == message


def test_traffic_of_another_shape_is_refused() -> None:
    with pytest.raises(SpecError) as error:
        exchange_seconds(build_fabric(cluster(8)), np.ones((4, 4)))
    assert str(error.value) == "traffic is a matrix of 4 x 4; this fabric has 8 GPUs and needs 8 x 8"


def test_a_fabric_that_is_cut_names_the_pair_and_the_link() -> None:
    fabric = build_fabric(cluster(16))
    cut = fabric.capacity.copy()
    cut[fabric.names.index("node 1 network port 3 in")] = 0.0
    broken = Fabric(fabric.hardware, fabric.names, cut, fabric.first)
    assert send(broken, 2, 10) == pytest.approx(1.0)
    with pytest.raises(InfeasibleError) as error:
        send(broken, 3, 11)
    assert str(error.value) == "nothing gets from GPU 3 to GPU 11: node 1 network port 3 in carries 0 B/s"


@pytest.mark.parametrize("bandwidth", ["0 GB/s", "-1 GB/s"])
def test_links_without_bandwidth_are_refused(bandwidth: str) -> None:
    with pytest.raises(SpecError) as error:
        toy.hardware(16, network={"bandwidth": bandwidth})
    assert str(error.value) == f"network.bandwidth: '{bandwidth}' must be above 0"
    with pytest.raises(SpecError) as error:
        toy.hardware(8, scale_up={"kind": "nvlink4", "bandwidth": bandwidth, "domain": 8})
    assert str(error.value) == f"device.scale_up.bandwidth: '{bandwidth}' must be above 0"


def test_a_timing_joins_latency_and_transfer() -> None:
    assert Timing("ring", 1.0, 4.0, 0.5).seconds == pytest.approx(9.0)
    assert exchange_round(np.arange(8).reshape(1, 8), 7.0, 0.0).size.sum() == pytest.approx(56.0)
