"""What simulated requests saw, as records of a Result."""

from __future__ import annotations

from simulator.assembly import uncertainty as u
from simulator.assembly.metrics import Evidence
from simulator.result import Latency, LoadSample, Number, Requests, RequestSpan
from simulator.serving.served import Served
from simulator.serving.statistics import Distribution
from simulator.spec.serving import Serving


def requests_record(served: Served, evidence: Evidence, asked: Serving | None) -> Requests | None:
    """Latencies with percentiles, goodput, load over time and the first requests; None where nothing was simulated."""
    outcome = served.outcome
    if outcome is None:
        return None

    def latency(values: Distribution, extra: float = 0.0) -> Latency:
        def number(value: float) -> Number:
            return evidence.timed(value, extra)

        return Latency(
            mean=number(values.mean),
            p50=number(values.percentile(0.5)),
            p90=number(values.percentile(0.9)),
            p99=number(values.percentile(0.99)),
        )

    rate = outcome.requests / outcome.duration
    stated = asked is not None and (asked.ttft_slo is not None or asked.tpot_slo is not None)
    return Requests(
        served=outcome.requests,
        duration_s=outcome.duration,
        instances=served.budget.instances,
        requests_per_s=evidence.timed(rate),
        sustainable_requests_per_s=None if served.sustainable is None else evidence.timed(served.sustainable),
        goodput_requests_per_s=evidence.timed(outcome.good / outcome.duration, u.QUEUE_ERROR) if stated else None,
        ttft_s=latency(outcome.ttft, u.QUEUE_ERROR),
        tpot_s=latency(outcome.tpot),
        itl_s=latency(outcome.itl),
        e2e_s=latency(outcome.e2e),
        preemptions=outcome.preemptions,
        busy_share=min(1.0, outcome.busy),
        load=[
            LoadSample(at_s=s.at, running=s.running, waiting=s.waiting, cache_share=s.cache) for s in outcome.samples
        ],
        requests=[
            RequestSpan(
                arrival_s=life.arrival,
                start_s=life.start,
                first_token_s=life.first_token,
                end_s=life.end,
                prompt_tokens=life.prompt,
                output_tokens=life.output,
            )
            for life in outcome.lives
        ],
    )
