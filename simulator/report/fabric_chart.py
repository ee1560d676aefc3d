"""A picture of the machine: spine, leaves, network ports, nodes and GPUs, each link with a bar as long as it is full.

A handful of nodes stand for all: those where pipeline stages begin, evenly chosen, and one with a fault. Links of one
kind in one place are one bar, of the fuller direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from simulator.report import numbers, svg
from simulator.result import Fabric, LinkLoad

WIDE, NARROW = 860.0, 330.0
MOST_COLUMNS = {True: 4, False: 2}
MOST_GPUS = 8
"""Squares drawn in a node; a rack's GPUs are said in words."""
_GAP, _BAR, _LINE = 16.0, 10.0, 20.0


@dataclass(frozen=True)
class _Column:
    """A node or rack that is drawn, from `left` to `right`, with the stages whose links are its own."""

    number: int
    faulty: bool
    stages: tuple[int, ...]
    leaf: int
    pod: int
    left: float
    right: float

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2


def fabric_chart(fabric: Fabric, *, wide: bool) -> str:
    """The picture as SVG."""
    width = WIDE if wide else NARROW
    if fabric.torus:
        return _torus(fabric, width)
    columns = _columns(fabric, width, MOST_COLUMNS[wide])
    parts, y = [], 0.0
    if fabric.leaves:
        above, y = _above_leaves(fabric, columns, width, y)
        parts.append(above)
        for leaf, mine in _groups(columns):
            left, right = mine[0].left, mine[-1].right
            parts.append(_box(left, y, right, y + 26, _leaf_name(fabric, leaf, right - left)))
        y += 26
        for column in columns:
            parts.append(svg.line(column.middle, y, column.middle, y + _GAP, stroke="muted"))
        y += _GAP
        for column in columns:
            words = f"{_unit_ports(fabric)} ports"
            parts.append(_meter(_link(fabric, "ports", column.stages), column.left, column.right, y, words))
        y += _BAR + 2 * _LINE + 4
    bottom = 0.0
    for column in columns:
        drawing, bottom = _node(fabric, column, y)
        parts.append(drawing)
    label = f"{fabric_finding(fabric)} Drawn: {_drawn(fabric, columns)}."
    return svg.image(width, bottom + 2, label, "".join(parts))


def fabric_finding(fabric: Fabric) -> str:
    """What the machine is, and its fullest link."""
    fullest = max(fabric.links, key=lambda link: (link.utilisation, link.name), default=None)
    racks = fabric.scale_up_domain > fabric.gpus_per_node
    count = -(-fabric.gpus // fabric.scale_up_domain) if racks else fabric.nodes
    unit = "rack" if racks else "node"
    size = fabric.scale_up_domain if racks else fabric.gpus_per_node
    what = f"{count:,} {unit}{'s' if count > 1 else ''} of {size} GPUs"
    if fabric.torus:
        what = f"A torus of {' × '.join(map(str, fabric.torus))} chips"
    if fullest is None or not fullest.bytes:
        return f"{what}; no link carries traffic."
    return f"{what}; the fullest link is {numbers.round_share(fullest.utilisation)} full on average ({fullest.name})."


def _drawn(fabric: Fabric, columns: list[_Column]) -> str:
    unit = "rack" if fabric.scale_up_domain > fabric.gpus_per_node else "node"
    return numbers.listing(f"{unit} {column.number}" for column in columns)


def _columns(fabric: Fabric, width: float, most: int) -> list[_Column]:
    """The nodes (racks, where a domain spans nodes) that are drawn, side by side."""
    size = max(1, fabric.scale_up_domain // fabric.gpus_per_node)
    begins: dict[int, list[int]] = {}
    for place in fabric.places:
        begins.setdefault(place.node // size, []).append(place.stage)
    faulty = sorted({node // size for node in fabric.faulty_nodes})
    count = -(-fabric.nodes // size)
    drawn = _spread(sorted(begins), most - len(set(faulty[:1]) - set(begins)))
    for extra in (*faulty[:1], *((1, count - 1) if len(begins) == 1 else ())):
        if 0 < extra < count and extra not in drawn and len(drawn) < most:
            drawn.append(extra)
    drawn.sort()
    each = (width - _GAP * (len(drawn) - 1)) / len(drawn)
    columns = []
    for i, number in enumerate(drawn):
        stages = begins[max(start for start in begins if start <= number)]  # where it begins, or the last before it
        leaf, pod = int(number * size / fabric.leaf_nodes), number * size // fabric.pod_nodes
        left = i * (each + _GAP)
        columns.append(_Column(number, number in faulty, tuple(stages), leaf, pod, left, left + each))
    return columns


def _spread(values: list[int], count: int) -> list[int]:
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / max(1, count - 1))] for i in range(count)]


def _groups(columns: list[_Column], *, by_pod: bool = False) -> list[tuple[int, list[_Column]]]:
    """Neighbouring columns under one leaf, or in one pod."""
    groups: list[tuple[int, list[_Column]]] = []
    for column in columns:
        part = column.pod if by_pod else column.leaf
        if not groups or groups[-1][0] != part:
            groups.append((part, []))
        groups[-1][1].append(column)
    return groups


def _above_leaves(fabric: Fabric, columns: list[_Column], width: float, y: float) -> tuple[str, float]:
    """What joins the leaves, and their uplinks; the height at which the leaves begin."""
    parts: list[str] = []
    if fabric.leaves <= fabric.planes:
        return "", y
    if fabric.pods > 1:
        parts.append(_box(0, y, width, y + 26, f"Core between {fabric.pods} pods"))
        y = _uplinks(fabric, columns, "pod", y + 26, parts)
    spine = fabric.upper if fabric.topology == "dragonfly" else "spines of the pods" if fabric.pods > 1 else "spine"
    parts.append(_box(0, y, width, y + 26, numbers.sentence(spine)))
    y = _uplinks(fabric, columns, "uplinks", y + 26, parts)
    return "".join(parts), y


def _uplinks(fabric: Fabric, columns: list[_Column], kind: str, y: float, parts: list[str]) -> float:
    """Lines with a bar down to each leaf or pod; the height where they end."""
    for _, mine in _groups(columns, by_pod=kind == "pod"):
        left, right = mine[0].left, mine[-1].right
        middle = (left + right) / 2
        link = _link(fabric, kind, tuple(stage for column in mine for stage in column.stages))
        parts.append(svg.line(middle, y, middle, y + _GAP, stroke="muted"))
        end = min(right, left + max(150.0, (right - left) / 2))
        if link is not None:
            parts.append(_meter(link, left, end, y + _GAP, "Pod uplinks" if kind == "pod" else "Leaf uplinks"))
        else:
            parts.append(svg.text(left, y + _GAP + 14, "Uplinks: no limit", muted=True))
    return y + _GAP + _BAR + 2 * _LINE + 4


def _leaf_name(fabric: Fabric, leaf: int, room: float) -> str:
    """`Leaves 0–7, one a rail` or `Leaf 0`; a dragonfly has groups."""
    first, planes = leaf * fabric.planes, fabric.planes
    if fabric.topology == "dragonfly":
        return f"Group {leaf}"
    if planes == 1:
        return f"Leaf {leaf}"
    name = f"Leaves {first}{numbers.DASH}{first + planes - 1}"
    longer = f"{name}, one for each {'rail' if fabric.topology.startswith('rail') else 'plane'}"
    return longer if len(longer) * svg.CHARACTER < room else name


def _unit_ports(fabric: Fabric) -> int:
    nodes = max(1, fabric.scale_up_domain // fabric.gpus_per_node)
    return fabric.ports_per_node * nodes


def _link(fabric: Fabric, kind: str, stages: tuple[int, ...]) -> LinkLoad | None:
    """The fullest link of a kind that some stages load."""
    mine = [link for link in fabric.links if link.kind == kind and set(link.stages) & set(stages)]
    return max(mine, key=lambda link: link.utilisation, default=None)


def _box(left: float, top: float, right: float, bottom: float, words: str) -> str:
    frame = svg.element(
        "rect", x=left, y=top, width=right - left, height=bottom - top, fill="var(--panel)", stroke="var(--muted)"
    )
    return frame + svg.text((left + right) / 2, (top + bottom) / 2 + 5, words, anchor="middle")


def _meter(link: LinkLoad | None, left: float, right: float, top: float, words: str) -> str:
    """A bar from empty to full with what it says below; a tick where the fullest moment was."""
    full, width = (link.utilisation if link else 0.0), right - left
    rect = partial(svg.element, "rect", y=top, height=_BAR)
    parts = [rect(x=left, width=width, fill="var(--panel)", stroke="var(--muted)")]
    if full > 0:
        parts.append(rect(x=left, width=max(1.0, min(1.0, full) * width), fill="var(--comm)"))
    peak = max(link.load) if link is not None and link.load else None
    if peak is not None:
        at = left + min(1.0, peak) * width
        parts.append(svg.line(at, top - 3, at, top + _BAR + 3, stroke="ink", width=2))
    shown = f"{numbers.share(full)} full"
    parts.append(svg.text(left, top + _BAR + _LINE - 4, words))
    below = shown if peak is None else f"{numbers.round_share(full)}, peak {numbers.round_share(peak)}"
    parts.append(svg.text(left, top + _BAR + 2 * _LINE - 4, below, muted=True))
    return "".join(parts)


def _node(fabric: Fabric, column: _Column, top: float) -> tuple[str, float]:
    """A node with its switch, its GPUs and the stages that begin there; the height where it ends."""
    racks = fabric.scale_up_domain > fabric.gpus_per_node
    gpus = fabric.scale_up_domain if racks else fabric.gpus_per_node
    left, right, inner = column.left, column.right, 8.0
    name = f"{'Rack' if racks else 'Node'} {column.number}"
    last = column.stages[-1]
    stage = f"stage {column.stages[0]}" + (f"{numbers.DASH}{last}" if len(column.stages) > 1 else "")
    height = 148.0
    frame = {"fill": "none", "stroke": "var(--ink)" if column.faulty else "var(--muted)"}
    dashes = {"stroke_dasharray": "5 4", "stroke_width": "2"} if column.faulty else {}
    parts = [
        svg.element("rect", x=left, y=top, width=right - left, height=height, rx=3, **frame, **dashes),
        svg.text(left + inner, top + 19, f"{name}, {'fault' if column.faulty else stage}"),
    ]
    count = min(MOST_GPUS, gpus)
    pitch = (right - left - 2 * inner) / count
    side = min(18.0, pitch - 4)
    switch = top + 28
    parts.append(_box(left + inner, switch, right - inner, switch + 24, _switch_name(gpus)))
    y = switch + 24 + _GAP / 2
    for i in range(count):
        x = left + inner + pitch * (i + 0.5)
        parts.append(svg.line(x, switch + 24, x, y, stroke="muted"))
        parts.append(
            svg.element("rect", x=x - side / 2, y=y, width=side, height=side, fill="none", stroke="var(--ink)")
        )
    words = f"{gpus} scale-up ports"
    link = _link(fabric, "scale-up", column.stages)
    parts.append(_meter(link, left + inner, right - inner, y + side + 12, words))
    return "".join(parts), top + height


def _switch_name(gpus: int) -> str:
    return f"Scale-up, {gpus} GPUs" if gpus <= MOST_GPUS else f"{gpus} GPUs, {MOST_GPUS} drawn"


def _torus(fabric: Fabric, width: float) -> str:
    """The first chips of two axes with their links, and how full the links are and the middle is."""
    across, down = min(fabric.torus[-1], 8 if width > NARROW else 4), min(fabric.torus[-2], 4)
    pitch, left, top = 44.0, 24.0, 24.0
    parts = []
    for row in range(down):
        y = top + row * pitch
        parts.append(svg.line(left - 18, y, left + (across - 1) * pitch + 18, y, stroke="comm", width=3))
    for column in range(across):
        x = left + column * pitch
        parts.append(svg.line(x, top - 18, x, top + (down - 1) * pitch + 18, stroke="comm", width=3))
        for row in range(down):
            y = top + row * pitch
            square = partial(svg.element, "rect", x=x - 9, y=y - 9, width=18.0, height=18.0)
            parts.append(square(fill="var(--bg)", stroke="var(--ink)"))
    side = left + (across - 1) * pitch + 44
    beside = width - side >= 200
    x, y = (side, top) if beside else (0.0, top + down * pitch)
    stages = tuple(place.stage for place in fabric.places)
    meters = [("ports", "Links of a chip"), ("uplinks", "Middle of the torus")]
    for kind, words in meters:
        link = _link(fabric, kind, stages)
        if link is not None:
            parts.append(_meter(link, x, min(width, x + 220), y, words))
            y += _BAR + 2 * _LINE + 14
    bottom = max(top + down * pitch, y)
    return svg.image(width, bottom, fabric_finding(fabric), "".join(parts))
