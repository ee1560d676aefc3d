"""Fabrics link by link: routes, bandwidths, and exchanges that have closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import toy
from numpy.typing import NDArray

from simulator.cost.collective import transfer_seconds
from simulator.engine.exchange import exchange_seconds
from simulator.engine.fabric import Fabric, build_fabric
from simulator.graph.operator import Collective, Group

GB = 1e9


def fabric(gpus: int, *, network: dict[str, Any] | None = None, **device: Any) -> Fabric:
    return build_fabric(toy.Machine(toy.hardware(gpus, network=network, **device), toy.curves()))


def named(fabric: Fabric, source: int, target: int) -> list[str]:
    return [fabric.names[link] for link in fabric.route(source, target)]


def torus(gpus: int, dimensions: int = 3) -> Fabric:
    return fabric(
        gpus,
        network={
            "kind": "torus",
            "topology": f"torus-{dimensions}d",
            "nics_per_node": None,
            "links_per_gpu": 2 * dimensions,
        },
    )


def even(gpus: int, size: float = GB) -> NDArray[np.float64]:
    return np.full((gpus, gpus), size)


def test_in_a_node_data_goes_from_port_to_port() -> None:
    assert named(fabric(8), 1, 6) == ["GPU 1 out", "GPU 6 in"]
    assert named(fabric(8), 3, 3) == []


def test_a_plain_tree_uses_the_port_of_each_end() -> None:
    tree = fabric(16)
    assert named(tree, 1, 14) == ["node 0 network port 1 out", "node 1 network port 6 in"]


def test_on_rails_data_changes_rail_inside_the_node() -> None:
    rails = fabric(16, network={"topology": "rail-optimised-fat-tree"})
    assert named(rails, 1, 9) == ["node 0 network port 1 out", "node 1 network port 1 in"]
    assert named(rails, 1, 14) == ["GPU 1 out", "GPU 6 in", "node 0 network port 6 out", "node 1 network port 6 in"]


def test_few_network_ports_are_shared_by_neighbours() -> None:
    tree = fabric(16, network={"nics_per_node": 2})
    assert named(tree, 3, 12) == ["node 0 network port 0 out", "node 1 network port 1 in"]


def test_a_pcie_box_sends_to_the_network_through_the_same_bus() -> None:
    box = fabric(16, scale_up={"kind": "pcie", "bandwidth": "1 GB/s", "domain": 8})
    assert named(box, 0, 9) == ["GPU 0 out", "node 0 network port 0 out", "node 1 network port 1 in", "GPU 9 in"]


def test_another_leaf_is_reached_through_the_spine() -> None:
    tree = fabric(8 * 64, network={"oversubscription": 4})
    assert named(tree, 0, 8 * 31) == ["node 0 network port 0 out", "node 31 network port 0 in"]
    assert named(tree, 0, 8 * 32) == [
        "node 0 network port 0 out", "leaf uplinks 0 out", "leaf uplinks 1 in", "node 32 network port 0 in",
    ]  # fmt: skip
    # 32 nodes of 8 ports of 1 GB/s below a leaf, a quarter of that above it
    assert tree.capacity[tree.names.index("leaf uplinks 0 out")] == pytest.approx(64 * GB)


def test_a_dragonfly_has_global_links_between_groups() -> None:
    dragonfly = fabric(8 * 64, network={"topology": "dragonfly"})
    assert named(dragonfly, 0, 8 * 40 + 1) == [
        "node 0 network port 0 out", "global links 0 out", "global links 1 in", "node 40 network port 1 in",
    ]  # fmt: skip


def test_a_rack_is_one_domain_across_its_nodes() -> None:
    rack = build_fabric(toy.Machine(toy.resolve_hardware({"device": "gb200", "gpus": 144}), toy.curves()))
    assert named(rack, 0, 71) == ["GPU 0 out", "GPU 71 in"]
    assert named(rack, 0, 72) == ["node 0 network port 0 out", "node 18 network port 0 in"]


def test_a_torus_goes_the_shorter_way_round_axis_by_axis() -> None:
    cube = torus(64)  # 4 x 4 x 4
    assert named(cube, 0, 1) == ["chip 0 +x"]
    assert named(cube, 0, 3) == ["chip 0 -x"]
    assert named(cube, 0, 21) == ["chip 0 +x", "chip 1 +y", "chip 5 +z"]
    assert named(cube, 0, 2) == ["chip 0 +x", "chip 1 +x"]
    assert named(cube, 1, 3) == ["chip 1 -x", "chip 0 -x"]


def test_one_transfer_takes_its_bytes_over_the_narrowest_link() -> None:
    traffic = np.zeros((16, 16))
    traffic[0, 8] = 3 * GB
    assert exchange_seconds(fabric(16), traffic) == pytest.approx(3.0)


def test_two_transfers_into_one_gpu_take_turns_and_the_rest_is_faster() -> None:
    traffic = np.zeros((8, 8))
    traffic[0, 7], traffic[1, 7], traffic[1, 6] = 2 * GB, 1 * GB, 1 * GB
    # GPU 7 receives 3 GB at 1 GB/s; GPU 1 sends its 2 GB in that time
    assert exchange_seconds(fabric(8), traffic) == pytest.approx(3.0)


def test_nothing_to_send_takes_no_time() -> None:
    assert exchange_seconds(fabric(8), np.eye(8)) == 0.0


def test_an_even_exchange_in_a_node_fills_every_port() -> None:
    assert exchange_seconds(fabric(8), even(8)) == pytest.approx(7.0)


def test_an_even_exchange_between_nodes_takes_what_an_all_to_all_costs() -> None:
    # 24 of 32 GPUs lie in other nodes: 24 GB leave through a port of 1 GB/s
    assert exchange_seconds(fabric(32), even(32)) == pytest.approx(24.0)
    work = Collective("all_to_all", 7 * GB, Group(32, 8), network_bytes=24 * GB)
    assert transfer_seconds(toy.machine(32), work) == pytest.approx(24.0)


def test_an_oversubscribed_spine_holds_up_what_leaves_the_leaf() -> None:
    wide, tapered = fabric(8 * 64), fabric(8 * 64, network={"oversubscription": 4})
    assert exchange_seconds(wide, even(512, 1e6)) == pytest.approx(504e-3)
    # 256 GPUs send 1 MB to each of 256 beyond the leaf, through 64 GB/s
    assert exchange_seconds(tapered, even(512, 1e6)) == pytest.approx(256 * 256 * 1e6 / (64 * GB))


def test_an_even_exchange_on_a_torus_is_bound_by_its_middle() -> None:
    # 8 b / L per chip (see Hardware.all_to_all_bandwidth_per_gpu): 2 GB/s of 64 GB for L = 4
    assert exchange_seconds(torus(64), even(64)) == pytest.approx(32.0)
    # 4 x 4 in two dimensions: half of a row's traffic crosses its middle
    assert exchange_seconds(torus(16, 2), even(16)) == pytest.approx(8.0)


def test_a_hot_receiver_sets_the_time() -> None:
    traffic = even(8)
    traffic[:, 0] *= 3
    assert exchange_seconds(fabric(8), traffic) == pytest.approx(21.0)


def test_bytes_are_conserved_by_every_route() -> None:
    tree = fabric(16, network={"topology": "rail-optimised-fat-tree"})
    for source in range(16):
        for target in range(16):
            route = tree.route(source, target)
            assert len(set(route)) == len(route)
            assert sum(tree.names[link].endswith("out") for link in route) == sum(
                tree.names[link].endswith("in") for link in route
            )
