"""The links of the machine and what a step makes of them: how full, who met where, and where the stages lie."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from simulator.assembly.timeline import drawn_stages
from simulator.assembly.totals import StageTotals
from simulator.cost.annotation import CostedGraph
from simulator.engine.fast import StepTimeline
from simulator.engine.folding import FoldedLinks, collective_transfer, fold_links, upper_name
from simulator.engine.loads import Clash
from simulator.graph.operator import Operator
from simulator.result import Fabric, LinkLoad, Meeting, Place
from simulator.spec.hardware import LEAF_NODES, Hardware, torus_shape

MAX_MEETINGS = 24
DIGITS = 4
"""Of a share in a column: a page draws no more."""


def fabric_record(costed: CostedGraph, stages: Sequence[StageTotals], timeline: StepTimeline) -> Fabric | None:
    """The fabric of a training step; None where one GPU has no links."""
    hardware, links, tenancy = costed.machine.hardware, fold_links(costed, timeline.tenancy), timeline.tenancy
    if hardware.gpus == 1:
        return None
    drawn, network = drawn_stages(len(stages)), hardware.network
    pods = ceil(hardware.nodes / network.pods.nodes) if network.pods else 1
    dimensions = 3 if network.topology == "torus-3d" else 2
    return Fabric(
        topology=network.topology,
        gpus=hardware.gpus,
        gpus_per_node=min(hardware.gpus, hardware.gpus_per_node),
        scale_up_domain=hardware.scale_up_domain,
        nodes=hardware.nodes,
        ports_per_node=network.nics_per_node or 0,
        planes=hardware.planes,
        leaves=-(-tenancy.nodes // LEAF_NODES) * hardware.planes if tenancy else hardware.leaves,
        leaf_nodes=links.leaf_nodes,
        pods=pods,
        pod_nodes=network.pods.nodes if network.pods else hardware.nodes,
        oversubscription=tenancy.oversubscription if tenancy else network.oversubscription,
        torus=list(torus_shape(hardware.gpus, dimensions)) if network.kind == "torus" else [],
        upper=upper_name(hardware),
        places=[Place(stage=s, node=p.node, leaf=p.leaf, pod=p.pod) for s in drawn for p in [links.places[s]]],
        links=_loads(links, carried_bytes(links, stages), timeline, drawn),
        meetings=_meetings(timeline.clashes),
        sharing_s=None if timeline.undisturbed is None else max(0.0, timeline.duration - timeline.undisturbed),
        faults=_faults(hardware),
        faulty_nodes=_faulty_nodes(hardware),
    )


def carried_bytes(links: FoldedLinks, stages: Sequence[StageTotals]) -> list[float]:
    """Bytes that each link carries in one step, from the operators of the stages."""
    moved = [0.0] * len(links.links)
    for stage, totals in enumerate(stages):
        for (item, work), calls in totals.sent.items():
            target = (stage + 1) % len(stages) if work.kind == "send_recv" else None
            once = collective_transfer(links, Operator(item, item, work), float("inf"), stage, target)
            for link, load in once.loads:
                moved[link] += once.bytes * load * calls
    return moved


def _loads(
    links: FoldedLinks, moved: Sequence[float], timeline: StepTimeline, drawn: tuple[int, ...]
) -> list[LinkLoad]:
    played = {use.link.name: use for use in timeline.links}
    # A transfer counts evenly over its time: where it was faster and slower, a column can exceed what its link carries.
    rows = []
    for link, carried in zip(links.links, moved, strict=True):
        use = played.get(link.name)
        amount = carried if use is None else use.bytes
        if set(link.stages) & set(drawn):
            rows.append(
                LinkLoad(
                    name=link.name,
                    kind=link.kind,
                    way=link.way,
                    stages=list(link.stages),
                    bandwidth_bytes_per_s=link.bandwidth,
                    bytes=amount,
                    utilisation=amount / link.bandwidth / timeline.duration,
                    full_s=None if use is None else use.full_seconds,
                    load=[] if use is None else [round(min(1.0, share), DIGITS) for share in use.load],
                )
            )
    return rows


def _meetings(clashes: Sequence[Clash]) -> list[Meeting]:
    """Who met on which link; what a link's two directions saw alike is said once, for the direction that cost more."""
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    rows: list[Meeting] = []
    for clash in clashes:
        place = clash.link.name.rpartition(", ")[0]
        if (place, clash.transfers) not in seen and len(rows) < MAX_MEETINGS:
            seen.add((place, clash.transfers))
            names = [f"{name}, {stream}" for name, stream in clash.transfers]
            rows.append(Meeting(link=clash.link.name, transfers=names, seconds=clash.seconds, delay_s=clash.delay))
    return rows


def _faulty_nodes(hardware: Hardware) -> list[int]:
    """Nodes with a fault of their own."""
    gpus = {fault.gpu // hardware.gpus_per_node for fault in hardware.faults if fault.gpu is not None}
    return sorted(gpus | {fault.node for fault in hardware.faults if fault.node is not None})


def _faults(hardware: Hardware) -> list[str]:
    found = [fault.words for fault in hardware.faults]
    return [*found, hardware.stragglers.words] if hardware.stragglers else found
