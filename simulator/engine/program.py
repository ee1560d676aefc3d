"""How long one program takes on a rank, and what its time is spent on.

The serial operators run one after the other. Background communication runs beside the compute among them, at
`overlap_rate` of its speed, since both want memory bandwidth and SMs; what is left when compute ends stays exposed. The
host launches in parallel with the GPU and the slower of the two sets the pace; where it must wait for the GPU (dropless
routing without device-side grouping reads the token counts back), they work less in parallel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator.cost.annotation import CostedProgram
from simulator.spec.constants import Constants


@dataclass(slots=True, eq=False)
class Spent:
    """Seconds by breakdown item: exposed on the GPU, and hidden behind compute."""

    exposed: dict[str, float] = field(default_factory=dict)
    hidden: dict[str, float] = field(default_factory=dict)

    @property
    def duration(self) -> float:
        """All exposed seconds."""
        return sum(self.exposed.values())

    def add(self, other: Spent, times: float = 1.0) -> None:
        """Add another's seconds, `times` over."""
        for item, seconds in other.exposed.items():
            self.exposed[item] = self.exposed.get(item, 0.0) + seconds * times
        for item, seconds in other.hidden.items():
            self.hidden[item] = self.hidden.get(item, 0.0) + seconds * times


def spend(costed: CostedProgram, constants: Constants) -> Spent:
    """What a rank's time goes to while it runs the program once."""
    exposed: dict[str, float] = {}
    hidden: dict[str, float] = {}
    compute = 0.0
    for operator, seconds in zip(costed.program.serial, costed.serial, strict=True):
        exposed[operator.item] = exposed.get(operator.item, 0.0) + seconds
        if not operator.is_communication:
            compute += seconds
    streams: dict[str, float] = {}
    for operator, seconds in zip(costed.program.background, costed.background, strict=True):
        streams[operator.item] = streams.get(operator.item, 0.0) + seconds
    window = constants.overlap_rate * compute
    total = sum(streams.values())
    left = max(0.0, total - window)
    for item, seconds in streams.items():
        hidden[item] = seconds * (1 - left / total) if total else 0.0
        if left:
            exposed[item] = exposed.get(item, 0.0) + left * seconds / total
    gpu = sum(exposed.values())
    if costed.host > 0.0:
        synchronous = costed.program.host_synchronous
        n = constants.host_synchronous_exponent if synchronous else constants.host_overlap_exponent
        exposed["host"] = (gpu**n + costed.host**n) ** (1 / n) - gpu
    return Spent(exposed, hidden)
