"""The records of a result that say what crosses links: who sends to whom, how full links are, who meets on them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from simulator.records import Record


class Link(Record):
    """Traffic one GPU sends over one kind of link in one step, one direction."""

    name: str
    bandwidth_bytes_per_s: float
    bytes: float
    busy_s: float
    utilisation: float


class Matrix(Record):
    """Bytes sent per step from row to column."""

    labels: list[str]
    bytes: list[list[float]]


class LinkLoad(Record):
    """One link of the machine in one direction, as the pipeline stages `stages` load it in one step.

    `load` is the share of its bandwidth that it carries in equal columns of the step, and `full_s` how long it was
    asked for more; both where events were played.
    """

    name: str
    kind: Literal["scale-up", "ports", "uplinks", "pod"]
    way: Literal["out", "in"]
    stages: list[int]
    bandwidth_bytes_per_s: float
    bytes: float
    utilisation: float
    full_s: float | None = None
    load: list[float] = Field(default_factory=list)


class Meeting(Record):
    """Transfers that asked a link for more than it carries, how long, and how much later they got done, summed."""

    link: str
    transfers: list[str]
    seconds: float
    delay_s: float


class Place(Record):
    """Where a pipeline stage begins: its first node, leaf and pod."""

    stage: int
    node: int
    leaf: int
    pod: int


class Fabric(Record):
    """The machine's links, nodes, leaves and pods, and what a step makes of them.

    Links and places are those of the drawn stages.
    """

    topology: str
    gpus: int
    gpus_per_node: int
    scale_up_domain: int
    nodes: int
    ports_per_node: int
    planes: int
    leaves: int
    # Nodes under one leaf, and in one pod; another job's nodes may lie between them.
    leaf_nodes: float
    pods: int
    pod_nodes: int
    oversubscription: float
    torus: list[int]
    upper: str
    places: list[Place]
    links: list[LinkLoad]
    meetings: list[Meeting]
    # What sharing adds to the step; None where no events were played.
    sharing_s: float | None
    faults: list[str]
    faulty_nodes: list[int]


class CollectiveUse(Record):
    """One kind of collective of the first stage: what for, among how many, by which algorithm."""

    item: str
    kind: str
    algorithm: str
    ranks: int
    # Scale-up domains the group spans.
    domains: int
    bytes: float
    calls: float
    # Of one call, alone on its links.
    seconds: float


class Traffic(Record):
    in_node: Matrix
    between_nodes: Matrix
    links: list[Link]
    note: str
    fabric: Fabric | None = None
    # Of the first stage, what takes longest in all first.
    collectives: list[CollectiveUse] = Field(default_factory=list)


class Beside(Record):
    """What two jobs on one fabric do to each other: the step of each alone on its nodes, and beside the other."""

    other: str
    alone_s: float
    beside_s: float
    other_alone_s: float
    other_beside_s: float
