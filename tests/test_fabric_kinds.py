"""Planes, pods and hashed paths: routes, closed forms, and flows on links against the costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import toy
from numpy.typing import NDArray

from simulator.cost.collective import transfer_seconds
from simulator.cost.paths import crossing_share, crowding, fullest_path, uplinks
from simulator.engine.exchange import exchange_seconds
from simulator.engine.fabric import Fabric, build_fabric
from simulator.errors import SpecError
from simulator.graph.operator import Collective, Group

GB = 1e9


def fabric(gpus: int, **network: Any) -> Fabric:
    return build_fabric(toy.machine(gpus, network=network))


def named(fabric: Fabric, source: int, target: int) -> list[str]:
    return [fabric.names[link] for link in fabric.route(source, target)]


def between_halves(gpus: int, size: float = GB) -> NDArray[np.float64]:
    """Every GPU sends to the one of its place in the other half."""
    return np.roll(np.eye(gpus), gpus // 2, axis=1) * size


def test_planes_are_trees_of_their_own() -> None:
    two = fabric(16, planes=2)  # ports 0, 2, 4 and 6 in one, the others in the other
    assert named(two, 0, 8 + 4) == ["node 0 network port 0 out", "node 1 network port 4 in"]
    assert named(two, 0, 8 + 5) == ["GPU 0 out", "GPU 1 in", "node 0 network port 1 out", "node 1 network port 5 in"]
    far = fabric(512, planes=2)
    assert named(far, 1, 256 + 3)[1:3] == ["leaf uplinks 1 out", "leaf uplinks 3 in"]


def test_a_plane_a_port_is_a_rail_optimised_tree() -> None:
    rails, planes = fabric(512, topology="rail-optimised-fat-tree"), fabric(512, planes=8)
    assert rails.names == planes.names
    assert all(named(rails, 3, target) == named(planes, 3, target) for target in (3, 5, 11, 13, 256, 300))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"planes": 3}, "planes (3) must divide nics_per_node (8)"),
        (
            {"planes": 2, "topology": "rail-optimised-fat-tree"},
            "a rail-optimised tree has one plane for each of its 8 ports; planes is 2",
        ),
        ({"pods": {"nodes": 0, "oversubscription": 2}}, "Input should be greater than or equal to 1, got 0"),
        ({"pods": {"nodes": 4, "oversubscription": 0.5}}, "Input should be greater than or equal to 1, got 0.5"),
        ({"routing": "lucky"}, "Input should be 'adaptive' or 'ecmp', got 'lucky'"),
        ({"bandwidth": "0 GB/s"}, "'0 GB/s' must be above 0"),
        ({"bandwidth": "-1 GB/s"}, "'-1 GB/s' must be above 0"),
    ],
)
def test_networks_that_cannot_be_are_refused(network: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        toy.hardware(16, network=network)
    assert error.value.message == message


def test_pods_are_joined_by_slower_links() -> None:
    pods = fabric(512, pods={"nodes": 32, "oversubscription": 8.0})
    assert named(pods, 0, 300) == [
        "node 0 network port 0 out", "leaf uplinks 0 out", "pod uplinks 0 out", "pod uplinks 1 in", "leaf uplinks 1 in",
        "node 37 network port 4 in",
    ]  # fmt: skip
    # 32 nodes of 8 ports of 1 GB/s, an eighth of it between pods
    assert pods.capacity[pods.names.index("pod uplinks 0 out")] == pytest.approx(32 * GB)
    assert exchange_seconds(pods, between_halves(512)) == pytest.approx(8.0)
    assert exchange_seconds(pods, np.roll(np.eye(512), 8, axis=1) * GB) == pytest.approx(
        1.0
    )  # one node from pod to pod


def test_an_all_to_all_across_pods_costs_what_it_takes_on_the_links() -> None:
    network = {"pods": {"nodes": 32, "oversubscription": 8.0}}
    work = Collective("all_to_all", 7 * 1e6, Group(512, 8), network_bytes=504 * 1e6)
    # half of the GPUs lie in the other pod: 256 of 504 MB at an eighth of the speed
    assert crossing_share(toy.hardware(512, network=network), work, 32) == pytest.approx(256 / 504)
    flows = exchange_seconds(fabric(512, **network), np.full((512, 512), 1e6))
    assert flows == pytest.approx(256e-3 * 8)
    assert transfer_seconds(toy.machine(512, network=network), work) == pytest.approx(flows)


def test_a_group_under_one_leaf_does_not_pass_the_spine() -> None:
    tapered = toy.machine(512, network={"oversubscription": 4.0})
    near = Collective("all_to_all", 7e6, Group(256, 8), network_bytes=248e6)
    assert transfer_seconds(tapered, near) == pytest.approx(248e-3)
    far = Collective("all_to_all", 7e6, Group(512, 8), network_bytes=504e6)
    assert transfer_seconds(tapered, far) == pytest.approx(256e-3 * 4)


@pytest.mark.parametrize(
    ("flows", "paths"), [(1, 32), (8, 32), (32, 32), (32, 8), (256, 32), (31 * 32, 32), (20_000, 16)]
)
def test_the_fullest_path_is_the_mean_of_drawn_ones(flows: int, paths: int) -> None:
    draws = np.random.default_rng(0).multinomial(flows, [1 / paths] * paths, size=2000).max(axis=1)
    assert fullest_path(flows, paths) == pytest.approx(draws.mean() * paths / flows, rel=0.03)


def test_flows_that_are_spread_by_load_do_not_crowd() -> None:
    work = Collective("all_to_all", 7e6, Group(512, 8), network_bytes=504e6)
    assert crowding(toy.hardware(512), work) == 1.0
    assert (
        crowding(toy.hardware(256, network={"routing": "ecmp"}), work) == 1.0
    )  # one leaf has no uplinks to choose from
    assert uplinks(toy.hardware(512, network={"oversubscription": 4.0})) == 64
    # 256 ports send 63 flows each over 256 uplinks
    assert crowding(toy.hardware(512, network={"routing": "ecmp"}), work) == fullest_path(63 * 256, 256)


def test_hashed_flows_collide_as_balls_in_bins() -> None:
    """256 flows over the 256 uplinks of either leaf: the fullest carries what the closed form expects, give or take."""
    hashed = fabric(512, routing="ecmp")
    times = [exchange_seconds(hashed, np.roll(between_halves(512), 8 * shift, axis=1)) for shift in range(8)]
    assert exchange_seconds(fabric(512), between_halves(512)) == pytest.approx(1.0)
    assert np.mean(times) == pytest.approx(fullest_path(256, 256), rel=0.2)
    assert hashed.names[hashed.first["upper out"]] == "leaf uplinks 0 path 0 out"


def test_a_pair_of_gpus_always_takes_the_same_path() -> None:
    hashed = fabric(512, routing="ecmp")
    assert named(hashed, 3, 400) == named(hashed, 3, 400)
    up, down = named(hashed, 3, 400)[1:3]
    assert up.split()[-2] == down.split()[-2]  # one spine has one link to each leaf
