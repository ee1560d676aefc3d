"""Who sends to whom: traffic matrices inside a scale-up domain and between nodes, and how full the links are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.assembly.exchange import Pattern, Rows, neighbours, ring, spread
from simulator.assembly.items import style
from simulator.assembly.totals import StageTotals, Sums
from simulator.cost.annotation import CostedGraph, work_seconds
from simulator.cost.collective import sent_bytes, timing
from simulator.engine.loads import LinkUse
from simulator.graph.builder import Build
from simulator.graph.operator import Collective, Item
from simulator.graph.parallel import Layout
from simulator.result import CollectiveUse, Link, Matrix, Traffic

MAX_FULL_LINKS = 4
"""Links shown that were asked for more than they carry."""
MOST_COLLECTIVES = 12
"""Collectives listed with their algorithms."""
MAX_ROWS = 16
"""Rows of a matrix; larger machines fold neighbouring ranks or nodes into one row."""


def traffic_record(
    b: Build,
    costed: CostedGraph,
    stages: Sequence[StageTotals],
    mean: Sums,
    seconds: float,
    uses: Sequence[LinkUse] = (),
) -> Traffic:
    """Matrices and link use of one step; of the links that events were played on, those that were full the longest."""
    hardware = b.run.hardware
    links = [_link("Scale-up link, per GPU", costed.machine.link, mean.link_bytes, seconds)]
    if hardware.gpus > hardware.scale_up_domain:
        links.append(_link("Network, per GPU", costed.machine.nic, mean.network_bytes, seconds))
    full = sorted((use for use in uses if use.full_seconds), key=lambda use: -use.full_seconds)[:MAX_FULL_LINKS]
    links += [_link(_title(use.link.name), use.link.bandwidth, use.bytes, seconds) for use in full]
    note = "Bytes one GPU sends in one direction in one step, mean over the GPUs; hidden traffic counts."
    in_node, between = _matrices(b, stages)
    uses_of_first = _collective_uses(costed, stages[0])
    return Traffic(in_node=in_node, between_nodes=between, links=links, note=note, collectives=uses_of_first)


def _collective_uses(costed: CostedGraph, totals: StageTotals) -> list[CollectiveUse]:
    """The collectives of one rank of a stage, those that take longest in all first; alike ones are one."""
    calls = {key: times for key, times in totals.sent.items() if times and key[1].group.size > 1}
    machine = costed.machine
    seconds = work_seconds([(machine, work) for _, work in calls])
    uses: dict[CollectiveUse, float] = {}
    for ((item, work), times), alone in zip(calls.items(), seconds, strict=True):
        use = CollectiveUse(
            item=style(item).label,
            kind=work.kind,
            algorithm=timing(machine, work).algorithm,
            ranks=work.group.size,
            domains=work.group.domains,
            bytes=work.bytes + work.network_bytes,
            calls=0.0,
            seconds=alone,
        )
        uses[use] = uses.get(use, 0.0) + times
    found = [use.model_copy(update={"calls": times}) for use, times in uses.items()]
    return sorted(found, key=lambda use: -use.calls * use.seconds)[:MOST_COLLECTIVES]


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def _link(name: str, bandwidth: float, moved: float, seconds: float) -> Link:
    busy = moved / bandwidth if bandwidth else 0.0
    share = busy / seconds if seconds else 0.0
    return Link(name=name, bandwidth_bytes_per_s=bandwidth, bytes=moved, busy_s=busy, utilisation=share)


def _matrices(b: Build, stages: Sequence[StageTotals]) -> tuple[Matrix, Matrix]:
    """(first domain's ranks, domains of the machine): every collective's bytes laid on the pairs its pattern uses."""
    hardware, layout = b.run.hardware, b.layout
    domain = min(hardware.scale_up_domain, hardware.gpus)
    nodes = max(1, hardware.gpus // domain)
    per_stage = max(1, nodes // layout.pp)
    inner: Amounts = {}
    outer: Amounts = {}
    collectives = {key: _collectives(b, totals) for key, totals in {id(totals): totals for totals in stages}.items()}
    for work, times, stride in collectives[id(stages[0])]:
        inside, _ = sent_bytes(work)
        reach = min(work.group.per_domain, domain // max(1, stride) or 1)
        _add(inner, _pattern(work.kind, reach, stride), 0, inside * times)
    for stage, totals in enumerate(stages):
        for work, times, stride in collectives[id(totals)]:
            _, outside = sent_bytes(work)
            reach = min(work.group.domains, per_stage)
            between = work.kind == "send_recv"
            pattern = neighbours(per_stage, nodes) if between else _pattern(work.kind, reach, max(1, stride // domain))
            _add(outer, pattern, stage, outside * times * domain)
    noun = "node" if domain == hardware.gpus_per_node else "domain"
    return _matrix(inner, domain, domain, "GPU"), _matrix(outer, nodes, per_stage, noun)


Amounts = dict[Pattern, dict[int, float]]
"""Bytes that one rank of a stage sends in each pattern."""


def _pattern(kind: str, reach: int, stride: int) -> Pattern | None:
    """How the ranks of a collective send; None where a group has one rank here."""
    if reach < 2:
        return None
    return spread(reach, stride) if kind == "all_to_all" else ring(reach, stride)


def _add(amounts: Amounts, pattern: Pattern | None, stage: int, sent: float) -> None:
    if pattern is not None and sent:
        by_stage = amounts.setdefault(pattern, {})
        by_stage[stage] = by_stage.get(stage, 0.0) + sent


def _matrix(amounts: Amounts, ranks: int, per_stage: int, noun: str) -> Matrix:
    rows = Rows.of(ranks, MAX_ROWS)
    cells = sum(
        (
            rows.sent(pattern, [stage * per_stage for stage in by_stage], per_stage, list(by_stage.values()))
            for pattern, by_stage in amounts.items()
        ),
        np.zeros((rows.edges.size - 1, rows.edges.size - 1)),
    )
    return Matrix(labels=rows.labels(noun), bytes=cells.tolist())


def _collectives(b: Build, totals: StageTotals) -> list[tuple[Collective, float, int]]:
    """(collective, how often in a step, distance between neighbours of its group) of one rank of a stage."""
    return [(work, calls, _stride(b.layout, item, work)) for (item, work), calls in totals.sent.items() if calls]


def _stride(layout: Layout, item: Item, work: Collective) -> int:
    """Ranks between neighbours of a collective's group."""
    match item:
        case "all_to_all":
            return layout.etp if work.kind == "all_to_all" else layout.tp
        case "tensor_parallel" | "expert_tensor_parallel":
            return 1
        case "gradient_sync" | "parameter_gather" if work.group.size < layout.data_group.size:
            return layout.etp * layout.ep  # replicas of an expert
        case "send_recv":
            return layout.gpus // layout.pp
        case _:
            return layout.tp
