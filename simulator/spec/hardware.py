"""Devices, networks, and the cluster a run stands on.

Data-sheet values only: dense peaks, one-direction bandwidths, each group of fields with its source. How much of a
peak a kernel reaches is the business of the fitted profiles, never of these records.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema, model_validator

from simulator.errors import SpecError, nearest
from simulator.spec.base import Document, Spec, first_error
from simulator.spec.faults import Fault, Stragglers
from simulator.spec.inheritance import Kind, expand, load
from simulator.units import Bandwidth, EnergyPerBit, Frequency, Power, Rate, Size, Time

MAX_GPUS = 2**22

Architecture = Literal[
    "volta", "ampere", "ada", "hopper", "blackwell", "blackwell-ultra", "blackwell-rtx", "cdna3",
    "tpu-v3", "tpu-v4", "tpu-v5p", "other",
]  # fmt: skip
PeakPrecision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4"]

# Precision of a run -> the peaks that serve it, first choice first. int4 is a format of weights: they are
# expanded to 16 bits on the way into the tensor cores.
_SERVED_BY: dict[str, tuple[PeakPrecision, ...]] = {
    "fp32": ("fp32",),
    "tf32": ("tf32",),
    "fp16": ("fp16",),
    "bf16": ("bf16",),
    "fp8": ("fp8",),
    "fp8_block": ("fp8",),
    "mxfp8": ("fp8",),
    "int8": ("int8",),
    "int4": ("bf16", "fp16"),
    "fp4": ("fp4",),
    "nvfp4": ("fp4",),
    "mxfp4": ("fp4",),
}

# Field -> the key of `source` that cites it.
_DEVICE_SOURCES = {
    "peak": "peak", "memory": "memory", "sms": "chip", "l2": "chip", "clock": "chip", "tdp": "power",
    "idle_power": "power", "scale_up": "link", "pcie": "link", "host": "host", "node": "node",
}  # fmt: skip
_NETWORK_SOURCES = {
    "bandwidth": "link", "nics_per_node": "link", "links_per_gpu": "link", "topology": "link",
    "oversubscription": "link", "planes": "link", "pods": "link", "routing": "link", "latency": "latency",
    "link_energy": "energy",
}  # fmt: skip


class DeviceMemory(Spec):
    """HBM or GDDR of one GPU. Capacity is what the driver reports as total, where that is known."""

    capacity: Size
    bandwidth: Bandwidth


class ScaleUp(Spec):
    """The fast links between the GPUs of one domain; bandwidth per GPU and direction."""

    kind: Literal["nvlink2", "nvlink3", "nvlink4", "nvlink5", "pcie", "ici", "xgmi"]
    bandwidth: Bandwidth
    domain: Annotated[int, Field(ge=1)]
    in_network_reduction: bool = False


class Host(Spec):
    """The CPU side of one GPU: its share of host memory and the link to it, per direction."""

    memory: Size
    bandwidth: Bandwidth


class Node(Spec):
    """The usual machine this device comes in. Overhead is what a busy node draws besides its GPUs."""

    gpus: Annotated[int, Field(ge=1)]
    network: str
    overhead_power: Power


class Device(Spec):
    """One accelerator: dense peaks (FLOP/s), memory, power, links, the node it usually sits in."""

    name: str = "custom"  # a catalog entry is named by its file
    extends: str | None = None
    vendor: str = "unknown"
    architecture: Architecture
    peak: Annotated[dict[PeakPrecision, Rate], Field(min_length=1)]
    memory: DeviceMemory
    sms: Annotated[int, Field(ge=1)] | None = None
    l2: Size | None = None
    clock: Frequency | None = None
    tdp: Power
    idle_power: Power
    scale_up: ScaleUp
    pcie: Bandwidth | None = None
    host: Host | None = None
    node: Node
    notes: str = ""
    source: dict[Literal["peak", "memory", "chip", "power", "link", "host", "node"], str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _idle_below_tdp(self) -> Self:
        if self.idle_power >= self.tdp:
            raise ValueError(f"idle_power ({self.idle_power:g} W) must be below tdp ({self.tdp:g} W)")
        return self

    def __hash__(self) -> int:  # records with dicts have no hash of their own; equality stays field by field
        return hash((self.name, self.tdp, self.memory, self.scale_up))

    def supports(self, precision: str) -> bool:
        """Whether the chip has arithmetic for that run precision. Raises SpecError for a name that is none."""
        if precision not in _SERVED_BY:
            raise SpecError(f"unknown precision '{precision[:200]}'.{nearest(precision, _SERVED_BY)}")
        return any(served in self.peak for served in _SERVED_BY[precision])

    def compute_precision(self, precision: str) -> PeakPrecision:
        """The peak that serves a run precision, such as fp8 for mxfp8. Raises SpecError where the chip has none."""
        if not self.supports(precision):
            has = ", ".join(self.peak)
            raise SpecError(f"precision '{precision}' is not supported by {self.name} (it has: {has})")
        return next(served for served in _SERVED_BY[precision] if served in self.peak)

    def peak_for(self, precision: str) -> float:
        """Dense peak, FLOP/s (OP/s for int8), of a run precision. Raises SpecError where the chip has none."""
        return self.peak[self.compute_precision(precision)]

    def source_of(self, field: str) -> str:
        """The citation of a top-level field, such as `memory`."""
        return self.source.get(_DEVICE_SOURCES[field], "not stated")  # type: ignore[call-overload, no-any-return]


LEAF_NODES = 32
"""Nodes under one leaf of a tree, or in one group of a dragonfly: a scalable unit of NVIDIA's DGX H100 SuperPOD."""


class Pods(Spec):
    """Parts of a cluster with a network of their own, and less bandwidth between them."""

    nodes: Annotated[int, Field(ge=1)]
    """Nodes of one pod."""
    oversubscription: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    """Bandwidth that enters the top of a pod's tree over what leaves it for other pods: 7 in Llama 3's cluster."""


class Network(Spec):
    """What joins the nodes.

    Bandwidth is that of one NIC (or one link of a torus) and one direction; latency is one way, GPU to GPU, for a small
    message; link_energy is spent on every link a bit crosses, both ends together.
    """

    name: str = "custom"  # a catalog entry is named by its file
    extends: str | None = None
    kind: Literal["infiniband", "roce", "omnipath", "nvlink-switch", "torus", "ethernet", "none"]
    topology: Literal["rail-optimised-fat-tree", "fat-tree", "dragonfly", "torus-3d", "torus-2d", "single-node"]
    bandwidth: Bandwidth = 0.0
    nics_per_node: Annotated[int, Field(ge=1)] | None = None
    links_per_gpu: Annotated[int, Field(ge=1)] | None = None
    latency: Time = 0.0
    oversubscription: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    planes: Annotated[int, Field(ge=1)] | None = None
    """Trees of their own that a node's ports are dealt to. Absent: one for each port of a rail-optimised tree, else
    1."""
    pods: Pods | None = None
    routing: Literal["adaptive", "ecmp"] = "adaptive"
    """How a tree's paths are chosen: by load, packet by packet, or by a hash of each flow, so that some collide."""
    link_energy: EnergyPerBit | None = None
    notes: str = ""
    source: dict[Literal["link", "latency", "energy"], str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _links_are_stated(self) -> Self:
        if self.kind == "none":
            if self.bandwidth or self.nics_per_node or self.links_per_gpu:
                raise ValueError("a network of kind 'none' has no bandwidth, nics_per_node or links_per_gpu")
        elif not self.bandwidth:
            raise ValueError(f"a network of kind '{self.kind}' needs bandwidth")
        elif self.kind == "torus" and not (self.links_per_gpu and not self.nics_per_node):
            raise ValueError("a torus needs links_per_gpu, and no nics_per_node")
        elif self.kind != "torus" and not (self.nics_per_node and not self.links_per_gpu):
            raise ValueError(f"a network of kind '{self.kind}' needs nics_per_node, and no links_per_gpu")
        return self

    @model_validator(mode="after")
    def _planes_share_the_ports(self) -> Self:
        ports, planes = self.nics_per_node or 1, self.planes or 1
        if self.planes is not None and self.topology == "rail-optimised-fat-tree" and planes != ports:
            raise ValueError(f"a rail-optimised tree has one plane for each of its {ports} ports; planes is {planes}")
        if ports % planes:
            raise ValueError(f"planes ({planes}) must divide nics_per_node ({ports})")
        return self

    def __hash__(self) -> int:
        return hash((self.name, self.bandwidth, self.nics_per_node, self.links_per_gpu, self.latency))

    def source_of(self, field: str) -> str:
        """The citation of a top-level field, such as `latency`."""
        return self.source.get(_NETWORK_SOURCES[field], "not stated")  # type: ignore[call-overload, no-any-return]


DEVICES = Kind("device", Device, _DEVICE_SOURCES)
NETWORKS = Kind("network", Network, _NETWORK_SOURCES)


def load_device(reference: str) -> Device:
    """The device of a catalog name, or of a path ending in .yaml. Raises SpecError."""
    return load(DEVICES, reference)


def load_network(reference: str) -> Network:
    """The network of a catalog name, or of a path ending in .yaml. Raises SpecError."""
    return load(NETWORKS, reference)


def _reader(kind: Kind[Any]) -> tuple[BeforeValidator, WithJsonSchema]:
    """Turns a catalog name, a path or an inline mapping into what pydantic validates as a record of `kind`."""

    def read(value: object) -> object:
        try:
            return expand(kind, value)
        except SpecError as error:  # as a ValueError pydantic adds the place in the run file
            raise ValueError(str(error)) from None

    text = {"type": "string", "description": f"name of a {kind.name}, or a path ending in .yaml"}
    inline = {"type": "object", "description": f"a {kind.name} in full, or `extends` and what differs"}
    return BeforeValidator(read), WithJsonSchema({"anyOf": [text, inline]})


def _usual_node(fields: dict[str, Any]) -> int:
    return int(fields["device"].node.gpus)


def _usual_network(fields: dict[str, Any]) -> Network:
    return load_network(fields["device"].node.network)


class Hardware(Spec):
    """The cluster of a run. Node size and network default to those the device usually comes with."""

    device: Annotated[Device, *_reader(DEVICES)]
    gpus: Annotated[int, Field(ge=1, le=MAX_GPUS)]
    gpus_per_node: Annotated[int, Field(ge=1)] = Field(default_factory=_usual_node)
    network: Annotated[Network, *_reader(NETWORKS)] = Field(default_factory=_usual_network)
    faults: tuple[Fault, ...] = ()
    """Links and GPUs that do less than they should."""
    stragglers: Stragglers | None = None
    """How unevenly the GPUs compute."""

    @model_validator(mode="before")
    @classmethod
    def _null_means_usual(cls, value: object) -> object:
        if isinstance(value, Hardware):
            return value
        if not isinstance(value, Mapping) or value.get("device") is None:
            raise ValueError("needs a device, as in {device: h100-sxm, gpus: 8}")
        return {key: item for key, item in value.items() if item is not None}

    @model_validator(mode="after")
    def _nodes_are_whole_and_joined(self) -> Self:
        if self.gpus > self.gpus_per_node and self.gpus % self.gpus_per_node:
            raise ValueError(
                f"gpus ({self.gpus}) must be a multiple of gpus_per_node ({self.gpus_per_node}) beyond one node"
            )
        if self.gpus > self.scale_up_domain and self.network.kind == "none":
            raise ValueError(
                f"gpus ({self.gpus}) spans {self.nodes} nodes, but network '{self.network.name}' joins none"
            )
        return self

    @model_validator(mode="after")
    def _faults_are_of_this_machine(self) -> Self:
        ports = self.network.nics_per_node or 0
        there = {"gpu": self.gpus, "node": self.nodes if ports else 0, "port": ports, "leaf": self.leaves}
        for number, fault in enumerate(self.faults):
            for name, count in there.items():
                index = getattr(fault, name)
                if index is not None and index >= count:
                    has = f"{count} of them, numbered from 0" if count else "none"
                    raise ValueError(f"fault {number} is at {name} {index}, but this machine has {has}")
        return self

    @property
    def nodes(self) -> int:
        """Machines; the last may be partly used where the run fits into one."""
        return ceil(self.gpus / self.gpus_per_node)

    @property
    def scale_up_domain(self) -> int:
        """GPUs of the run joined by scale-up links: a rack where they span nodes, else a node."""
        device = self.device
        spans_nodes = device.scale_up.domain > device.node.gpus
        return min(self.gpus, device.scale_up.domain if spans_nodes else self.gpus_per_node)

    @property
    def planes(self) -> int:
        """Trees of their own that the network ports of a node are dealt to, port k to plane k mod planes."""
        network = self.network
        return network.nics_per_node or 1 if network.topology == "rail-optimised-fat-tree" else network.planes or 1

    @property
    def leaves(self) -> int:
        """Leaf switches of a tree (groups of a dragonfly): one for each plane and each LEAF_NODES nodes."""
        if not self.network.nics_per_node or self.gpus <= self.scale_up_domain:
            return 0
        return ceil(self.nodes / LEAF_NODES) * self.planes

    @property
    def node_bandwidth_per_gpu(self) -> float:
        """Bytes/s, one direction, one GPU sends out of its node when all do: its share of the node's NICs."""
        if self.network.links_per_gpu:
            return self.network.bandwidth * self.network.links_per_gpu
        return self.network.bandwidth * (self.network.nics_per_node or 0) / self.gpus_per_node

    @property
    def all_to_all_bandwidth_per_gpu(self) -> float:
        """Bytes/s, one direction, per GPU, when every GPU sends to every other across the network.

        A tapered tree passes 1/oversubscription of the injected traffic. In a torus half of the traffic of N chips
        crosses the middle, which has 2 N / L links of bandwidth b (L the longest side, wrapped around): 8 b / L each.
        """
        injected = self.node_bandwidth_per_gpu / self.network.oversubscription
        if self.network.kind != "torus":
            return injected
        longest = torus_shape(self.gpus, 3 if self.network.topology == "torus-3d" else 2)[-1]
        return min(injected, 8 * self.network.bandwidth / longest)


@lru_cache(maxsize=1024)
def torus_shape(gpus: int, dimensions: int) -> tuple[int, ...]:
    """The sides, shortest first, of the most cubic torus of `gpus` chips; their product is `gpus`."""
    if dimensions == 1:
        return (gpus,)
    shapes = (
        tuple(sorted((side, *torus_shape(gpus // side, dimensions - 1))))
        for side in range(1, round(gpus ** (1 / dimensions)) + 1)
        if gpus % side == 0
    )
    return min(shapes, key=lambda shape: shape[::-1])


def resolve_hardware(value: Mapping[str, Any]) -> Hardware:
    """The `hardware:` mapping of a run with full records. Raises SpecError for the first wrong field."""
    try:
        return Hardware.model_validate(value)
    except ValidationError as error:
        found = first_error(error, Hardware, Document({}, {}, "", ""))
        raise SpecError(found.message, path=found.path or None) from None
