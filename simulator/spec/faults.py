"""What is not as it should be in a cluster: links that are slow or gone, GPUs that are slow, and how GPUs differ."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from simulator.spec.base import Spec

Index = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Fault(Spec):
    """One GPU, network port or leaf switch that does less than it should, numbered from 0 as the machine is.

    `{gpu: 13, left: 0.5}` is a scale-up link (of a torus: the links of a chip) at half its bandwidth,
    `{gpu: 13, speed: 0.9}` a GPU that computes at 90 % of its speed, `{node: 3, port: 0, left: 0}` a network port that
    has failed, `{node: 3, left: 0.5}` all ports of a node at half, `{leaf: 1, left: 0.75}` a leaf with three quarters
    of its uplinks.
    """

    gpu: Index | None = None
    node: Index | None = None
    port: Index | None = None
    """Network port of the node; all of them where absent."""
    leaf: Index | None = None
    left: Share | None = None
    """Share of the link's bandwidth that is left; 0 where it has failed."""
    speed: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Share of a GPU's speed of computing that is left."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if [self.gpu, self.node, self.leaf].count(None) != 2:
            raise ValueError("a fault names one of gpu, node and leaf, as in {node: 3, port: 0, left: 0}")
        if self.port is not None and self.node is None:
            raise ValueError("port needs the node it belongs to")
        if (self.left is None) == (self.speed is None):
            raise ValueError("a fault says what is left of a link (left: 0.5) or how fast a GPU computes (speed: 0.9)")
        if self.speed is not None and self.gpu is None:
            raise ValueError("only a gpu has a speed; of links say what is left")
        return self

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.gpu is not None:
            return f"GPU {self.gpu}"
        if self.leaf is not None:
            return f"leaf {self.leaf}"
        return f"node {self.node}" if self.port is None else f"port {self.port} of node {self.node}"

    @property
    def words(self) -> str:
        """The fault in words."""
        if self.speed is not None:
            return f"{self.place} computes at {self.speed:.3g} of its speed"
        return f"{self.place} has failed" if self.left == 0 else f"{self.place} has {self.left:.3g} of its bandwidth"


class Stragglers(Spec):
    """How much slower than the fastest the GPUs of a cluster compute, each drawn on its own.

    Either a `fraction` of them by `slowdown`, or all by a factor whose logarithm has the standard deviation `sigma`
    (median 1). It comes on top of the ordinary noise of many ranks, which every step holds.
    """

    fraction: Share | None = None
    slowdown: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = None
    """Time of a slow GPU over that of the others, less one: 0.1 is 10 % slower."""
    sigma: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one_distribution(self) -> Self:
        if (self.fraction is None) != (self.slowdown is None):
            raise ValueError("fraction and slowdown go together, as in {fraction: 0.01, slowdown: 0.1}")
        if (self.fraction is None) == (self.sigma is None):
            raise ValueError("stragglers are {fraction: 0.01, slowdown: 0.1} or {sigma: 0.02}")
        return self

    @property
    def words(self) -> str:
        """The distribution in words."""
        if self.fraction is not None and self.slowdown is not None:
            return f"{100 * self.fraction:.3g} % of the GPUs {100 * self.slowdown:.3g} % slower, at random"
        return f"log-normal with sigma {self.sigma:.3g}"
