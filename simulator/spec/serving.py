"""How requests come to a serving engine, and what is asked of it: the `serving` block of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulator.spec.base import Spec
from simulator.spec.workload import Parallelism, Positive
from simulator.units import Time

Router = Literal["least_loaded", "round_robin"]


class Pool(Parallelism):
    """GPUs that do one phase of the work, with a split of their own."""

    gpus: Positive


class Disaggregated(Spec):
    """Prompts are read on some GPUs and answers written on others; the KV cache of a prompt crosses between them."""

    prefill: Pool
    decode: Pool


class Serving(Spec):
    """Arrivals beyond what the `inference` block says: it names lengths, and a rate or a number of requests in
    flight."""

    requests: Annotated[int, Field(gt=0, lt=2**40)] | None = None
    """How many are simulated; all of a trace, else 1,000."""
    burstiness: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Coefficient of variation of the gaps between arrivals: 1 is Poisson, 0 even, above 1 bursts (gamma
    distributed)."""
    trace: str | None = None
    """CSV of arrivals and lengths (arrival_s, input_tokens, output_tokens, and cached_tokens where known; or an Azure
    LLM trace), in place of both: a path, or the name of a file in workloads/traces."""
    prefix_hit: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of each prompt that is in the KV cache already, from a prompt that began alike."""
    router: Router = "least_loaded"
    """Which replica a request goes to."""
    disaggregated: Disaggregated | None = None
    """Pools of GPUs for prompts and for answers; all do both where absent."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    ttft_slo: Time | None = None
    """A request counts towards goodput if its first token comes within this time ..."""
    tpot_slo: Time | None = None
    """... and its others take no longer each, on average."""
    slo_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the requests that must keep them, for the load that an engine carries within them."""

    @model_validator(mode="after")
    def _one_source(self) -> Serving:
        for field in ("burstiness", "prefix_hit"):
            if self.trace is not None and field in self.model_fields_set:
                has = "arrivals" if field == "burstiness" else "cached_tokens"
                raise ValueError(f"a trace has its own {has}; leave {field} out")
        return self
