"""The machine and its links in the report and the trace: what is drawn, what the tables say, and where nothing is."""

from __future__ import annotations

import re

import pytest
import report_samples as samples

from simulator.report.fabric_chart import fabric_chart, fabric_finding
from simulator.report.links_chart import beside_sentence, links_over_time, meetings_finding, meetings_tables
from simulator.report.page import render_run
from simulator.report.trace import trace
from simulator.result import Beside, Fabric, LinkLoad, Meeting, Place, Result


def link(
    kind: str = "ports", stage: int = 0, share: float = 0.5, name: str = "", load: tuple[float, ...] = ()
) -> LinkLoad:
    name = name or f"{kind} of stage {stage}, out"
    return LinkLoad.model_validate(
        {
            "name": name,
            "kind": kind,
            "way": "out",
            "stages": [stage],
            "bandwidth_bytes_per_s": 1e9,
            "bytes": share * 1e10,
            "utilisation": share,
            "full_s": 0.5 if load else None,
            "load": list(load),
        }
    )


def fabric(**changes: object) -> Fabric:
    """Eight nodes in two stages behind one leaf a rail; ten seconds."""
    data = {
        "topology": "rail-optimised-fat-tree",
        "gpus": 64,
        "gpus_per_node": 8,
        "scale_up_domain": 8,
        "nodes": 8,
        "ports_per_node": 8,
        "planes": 8,
        "leaves": 8,
        "leaf_nodes": 32.0,
        "pods": 1,
        "pod_nodes": 64,
        "oversubscription": 1.0,
        "torus": [],
        "upper": "leaf uplinks",
        "places": [Place(stage=s, node=4 * s, leaf=0, pod=0) for s in (0, 1)],
        "links": [link(), link(stage=1, share=0.25), link("scale-up", share=0.1)],
        "meetings": [],
        "sharing_s": None,
        "faults": [],
        "faulty_nodes": [],
        **changes,
    }
    return Fabric.model_validate(data)


def words(drawing: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing)


def test_the_nodes_where_stages_begin_are_drawn_with_their_links() -> None:
    drawn = words(fabric_chart(fabric(), wide=True))
    assert [text for text in drawn if text.startswith("Node")] == ["Node 0, stage 0", "Node 4, stage 1"]
    assert drawn[0] == "Leaves 0–7, one for each rail"
    assert drawn[drawn.index("8 ports") + 1] == "50.0\u00a0% full"
    assert "Spine" not in drawn
    assert "Uplinks: no limit" not in drawn


def test_a_machine_that_one_stage_fills_shows_that_there_are_more_nodes() -> None:
    one = fabric(places=[Place(stage=0, node=0, leaf=0, pod=0)])
    drawn = words(fabric_chart(one, wide=True))
    assert [text for text in drawn if text.startswith("Node")] == [
        "Node 0, stage 0",
        "Node 1, stage 0",
        "Node 7, stage 0",
    ]
    narrow = words(fabric_chart(one, wide=False))
    assert [text for text in narrow if text.startswith("Node")] == ["Node 0, stage 0", "Node 1, stage 0"]


def test_leaves_have_a_spine_and_pods_a_core_above_them() -> None:
    places = [Place(stage=s, node=32 * s, leaf=s, pod=s) for s in (0, 1)]
    links = [link("uplinks", 0, 0.3, load=(0.1, 0.9)), link("uplinks", 1, 0.4), link("pod", 0), link("pod", 1)]
    wide = fabric(nodes=64, gpus=512, leaves=16, pods=2, pod_nodes=32, places=places, links=links)
    drawn = words(fabric_chart(wide, wide=True))
    assert drawn[0] == "Core between 2 pods"
    assert drawn.count("Pod uplinks") == drawn.count("Leaf uplinks") == 2
    assert "30\u00a0%, peak 90\u00a0%" in drawn
    assert "Spines of the pods" in drawn
    assert words(fabric_chart(wide.model_copy(update={"links": []}), wide=True)).count("Uplinks: no limit") == 4


def test_a_node_with_a_fault_is_drawn() -> None:
    drawing = fabric_chart(fabric(faulty_nodes=[6]), wide=True)
    assert [text for text in words(drawing) if text.startswith("Node")] == [
        "Node 0, stage 0", "Node 4, stage 1", "Node 6, fault",
    ]  # fmt: skip
    assert drawing.count("stroke-dasharray") == 1
    narrow = words(fabric_chart(fabric(faulty_nodes=[6]), wide=False))
    assert [text for text in narrow if text.startswith("Node")] == ["Node 0, stage 0", "Node 6, fault"]


def test_nodes_of_one_stage_stand_under_their_own_leaves() -> None:
    one = fabric(nodes=64, gpus=512, leaves=16, places=[Place(stage=0, node=0, leaf=0, pod=0)])
    drawn = words(fabric_chart(one, wide=True))
    leaves = [text.removesuffix(", one for each rail") for text in drawn if text.startswith("Leaves")]
    assert leaves == ["Leaves 0–7", "Leaves 8–15"]


def test_a_rack_is_drawn_as_one() -> None:
    rack = fabric(gpus=144, gpus_per_node=4, scale_up_domain=72, nodes=36, ports_per_node=4, planes=4, leaves=8)
    rack = rack.model_copy(update={"places": [Place(stage=s, node=18 * s, leaf=0, pod=0) for s in (0, 1)]})
    drawn = words(fabric_chart(rack, wide=True))
    assert [text for text in drawn if text.startswith("Rack")] == ["Rack 0, stage 0", "Rack 1, stage 1"]
    assert "72 GPUs, 8 drawn" in drawn
    assert fabric_finding(rack).startswith("2 racks of 72 GPUs; the fullest link is 50\u00a0% full")


def test_a_torus_is_a_grid() -> None:
    torus = fabric(torus=[4, 8, 8], leaves=0, links=[link(share=0.4)])
    assert words(fabric_chart(torus, wide=True)) == ["Links of a chip", "40.0\u00a0% full"]
    assert fabric_finding(torus).startswith("A torus of 4 × 8 × 8 chips")


def test_the_fullest_direction_of_each_link_is_shown_over_time() -> None:
    links = [
        link(name="ports, a, out", share=0.2, load=(0.1, 0.3)),
        link(name="ports, a, in", share=0.3, load=(0.2, 0.4)),
        link(name="ports, b, out", share=0.9, load=(0.8, 1.0)),
        link(name="ports, c, out", share=0.0, load=(0.0, 0.0)),
    ]
    result = samples.training()
    shown = links_over_time(result, fabric(links=links))
    assert shown is not None
    assert words(shown.wide)[:2] == ["Ports, b, out", "Ports, a, in"]
    assert [row[0].text for row in shown.table.rows] == ["Ports, b, out", "Ports, a, in"]
    assert [cell.text.replace("\u00a0", " ") for cell in shown.table.rows[0][1:4]] == ["1.00 GB/s", "90.0 %", "100.0 %"]
    assert links_over_time(result, fabric()) is None  # the fast engine knows no moments


def test_who_met_is_a_table_the_worst_first_and_the_rest_folded() -> None:
    meetings = [
        Meeting(
            link="ports, a, out",
            transfers=["send, stage 0", "send, stage 0", "gather, stage 1"],
            seconds=0.2,
            delay_s=0.1,
        ),
        *[Meeting(link="ports, b, out", transfers=["send, stage 1"], seconds=0.1, delay_s=0.01)] * 9,
    ]
    result = samples.training()
    first, rest = meetings_tables(result, fabric(meetings=meetings))
    assert [cell.text for cell in first.rows[0][:2]] == ["Ports, a, out", "2 × send, stage 0 with gather, stage 1"]
    assert first.rows[1][1].text == "send, stage 1, alone"
    assert (len(first.rows), len(rest.rows)) == (8, 2)
    assert meetings_tables(result, fabric()) == []
    assert meetings_finding(result, fabric()) == "No two transfers asked a link for more than it carries."
    said = meetings_finding(result, fabric(meetings=meetings, sharing_s=0.1)).replace("\u00a0", " ")
    assert said.startswith("Sharing adds 100 ms to the step, ")
    assert said.endswith("most met on ports, a, out.")


def test_two_jobs_are_compared_in_a_sentence() -> None:
    beside = Beside(other="theirs", alone_s=2.0, beside_s=2.5, other_alone_s=1.0, other_beside_s=0.999)
    assert beside_sentence(beside).replace("\u00a0", " ") == (
        "Beside theirs a step takes 2.50 s, alone on its nodes 2.00 s (+25.0 %); theirs changes by −0.1 %."
    )


@pytest.fixture(scope="module")
def played() -> Result:
    return samples.played("mixtral-8x7b-64xh100", *samples.PODS)


def test_the_page_holds_the_machine_its_links_and_its_faults(played: Result) -> None:
    page = render_run(played)
    assert "The machine and its links" in page
    assert "Transfers that met" in page
    assert "port 0 of node 2 has failed; GPU 13 computes at 0.9 of its speed" in page
    assert len(page) < 600_000
    quiet = render_run(samples.one_gpu())
    assert "The machine and its links" not in quiet


def test_the_trace_has_transfers_as_played_and_a_counter_for_each_link(played: Result) -> None:
    assert played.timeline is not None
    events = trace(played, played.timeline)["traceEvents"]
    counters = {event["name"] for event in events if event["ph"] == "C"}
    assert {"pod uplinks, pod 0, out", "scale-up port, stage 0, out"} <= counters
    percents = [event["args"]["%"] for event in events if event["ph"] == "C"]
    assert 0 <= min(percents) < max(percents) <= 100
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert "pipeline, as played" in threads.values()
    flows = [e for e in events if e["ph"] == "X" and threads[e["pid"], e["tid"]].endswith("as played")]
    assert len(flows) == len(played.timeline.flows)
    assert {e["name"] for e in flows} >= {"pipeline send", "gradient synchronisation"} or len(flows) == 1500
