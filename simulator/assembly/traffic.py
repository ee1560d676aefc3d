"""Who sends to whom: traffic matrices inside a scale-up domain and between nodes, and how full the links are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simulator.assembly.totals import StageTotals, Sums, sent_bytes
from simulator.cost.annotation import CostedGraph
from simulator.graph.builder import Build
from simulator.graph.operator import Collective
from simulator.result import Link, Matrix, Traffic

MAX_ROWS = 16
"""Rows of a matrix; larger machines fold neighbouring ranks or nodes into one row."""


def traffic_record(
    b: Build, costed: CostedGraph, stages: Sequence[StageTotals], mean: Sums, seconds: float
) -> Traffic:
    """Matrices and link use of one step."""
    hardware = b.run.hardware
    links = [_link("Scale-up link, per GPU", costed.machine.link, mean.link_bytes, seconds)]
    if hardware.gpus > hardware.scale_up_domain:
        links.append(_link("Network, per GPU", costed.machine.nic, mean.network_bytes, seconds))
    note = "Bytes one GPU sends in one direction in one step, mean over the GPUs; hidden traffic counts."
    in_node, between = _matrices(b, stages)
    return Traffic(in_node=in_node, between_nodes=between, links=links, note=note)


def _link(name: str, bandwidth: float, moved: float, seconds: float) -> Link:
    busy = moved / bandwidth if bandwidth else 0.0
    return Link(
        name=name, bandwidth_bytes_per_s=bandwidth, bytes=moved, busy_s=busy, utilisation=busy / seconds if seconds else 0.0
    )


def _matrices(b: Build, stages: Sequence[StageTotals]) -> tuple[Matrix, Matrix]:
    """(first domain's ranks, domains of the machine): every collective's bytes laid on the pairs its pattern uses."""
    hardware, layout = b.run.hardware, b.layout
    domain = min(hardware.scale_up_domain, hardware.gpus)
    inner = [[0.0] * domain for _ in range(domain)]
    for work, times, stride in _collectives(b, stages[0]):
        inside, _ = sent_bytes(work)
        _lay(inner, inside * times, work, stride)
    nodes = max(1, hardware.gpus // domain)
    outer = [[0.0] * nodes for _ in range(nodes)]
    per_stage = max(1, nodes // layout.pp)
    for stage in range(layout.pp):
        for work, times, stride in _collectives(b, stages[stage]):
            _, outside = sent_bytes(work)
            if outside:
                _lay_nodes(outer, outside * times * domain, work, stage, per_stage, max(1, stride // domain))
    fold = -(-nodes // MAX_ROWS)
    return (
        _folded(inner, -(-domain // MAX_ROWS), "GPU"),
        _folded(outer, fold, "node" if domain == hardware.gpus_per_node else "domain"),
    )


def _collectives(b: Build, totals: StageTotals) -> Iterator[tuple[Collective, float, int]]:
    """(collective, how often in a step, distance between neighbours of its group) of one rank of a stage."""
    layout = b.layout
    strides = {
        "all_to_all": layout.etp,
        "tensor_parallel": 1,
        "expert_tensor_parallel": 1,
        "context_parallel": layout.tp,
        "gradient_sync": layout.tp,
        "parameter_gather": layout.tp,
        "send_recv": layout.gpus // layout.pp,
    }
    for total in totals.operators.values():
        work = total.operator.work
        if isinstance(work, Collective) and total.calls:
            yield work, total.calls, strides[total.operator.item]


def _lay(matrix: list[list[float]], sent: float, work: Collective, stride: int) -> None:
    """All-to-all spreads a rank's bytes over its group's ranks of the domain; a ring sends them to the next."""
    size = len(matrix)
    reach = min(work.group.per_domain, size // max(1, stride) or 1)
    if reach < 2:
        return
    for source in range(size):
        position = source // stride % reach
        base = source - position * stride
        if work.kind == "all_to_all":
            for other in range(reach):
                if other != position:
                    _add(matrix, source, base + other * stride, sent / (reach - 1))
        else:
            _add(matrix, source, base + (position + 1) % reach * stride, sent)


def _lay_nodes(
    matrix: list[list[float]], sent: float, work: Collective, stage: int, per_stage: int, stride: int
) -> None:
    nodes = len(matrix)
    first = stage * per_stage
    if work.kind == "send_recv":
        for offset in range(per_stage):
            _add(matrix, first + offset, (first + offset + per_stage) % nodes, sent / 2)
            _add(matrix, first + offset, (first + offset - per_stage) % nodes, sent / 2)
        return
    reach = min(work.group.domains, per_stage)
    if reach < 2:
        return
    for offset in range(per_stage):
        position = offset // stride % reach
        base = first + offset - position * stride
        if work.kind == "all_to_all":
            for other in range(reach):
                if other != position:
                    _add(matrix, first + offset, base + other * stride, sent / (reach - 1))
        else:
            _add(matrix, first + offset, base + (position + 1) % reach * stride, sent)


def _add(matrix: list[list[float]], row: int, column: int, moved: float) -> None:
    if row < len(matrix) and 0 <= column < len(matrix) and row != column:
        matrix[row][column] += moved


def _folded(matrix: list[list[float]], fold: int, noun: str) -> Matrix:
    """Neighbouring rows and columns summed in groups of `fold`."""
    size = len(matrix)
    groups = [range(i, min(i + fold, size)) for i in range(0, size, fold)]
    labels = [f"{noun} {g[0]}" if len(g) == 1 else f"{noun}s {g[0]}-{g[-1]}" for g in groups]
    cells = [[sum(matrix[r][c] for r in rows for c in columns) for columns in groups] for rows in groups]
    return Matrix(labels=labels, bytes=cells)
