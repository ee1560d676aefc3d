"""What simulated requests saw, as records of a Result."""

from __future__ import annotations

from simulator.assembly import uncertainty as u
from simulator.assembly.evaluated import Batch
from simulator.assembly.metrics import BatchFigures
from simulator.result import Latency, LoadSample, Number, Requests, RequestSpan
from simulator.serving.simulation import Outcome
from simulator.serving.statistics import Distribution
from simulator.spec.serving import Serving

SHARES = (*(i / 40 for i in range(1, 40)), 0.98, 0.99, 0.995, 0.999)
"""Of the requests, for which a latency's quantiles are kept."""


def requests_record(batch: Batch, figures: BatchFigures) -> Requests | None:
    """Latencies with percentiles, goodput, load over time and the first requests; None where nothing was simulated."""
    served, asked = batch.served, batch.run.serving or Serving()
    outcome, timed = served.outcome, figures.evidence.timed
    if outcome is None:
        return None

    def latency(values: Distribution, extra: float = 0.0) -> Latency:
        mean, p50, p90, p99 = (
            timed(value, extra) for value in (values.mean, *(values.percentile(share) for share in (0.5, 0.9, 0.99)))
        )
        return Latency(mean=mean, p50=p50, p90=p90, p99=p99, quantiles=[(s, values.percentile(s)) for s in SHARES])

    stated = asked.ttft_slo is not None or asked.tpot_slo is not None
    return Requests(
        served=outcome.requests,
        duration_s=outcome.duration,
        instances=served.budget.instances,
        requests_per_s=_rate(batch, figures),
        sustainable_requests_per_s=None if served.sustainable is None else timed(served.sustainable),
        goodput_requests_per_s=_goodput(outcome, asked, figures) if stated else None,
        ttft_s=latency(outcome.ttft, u.QUEUE_ERROR),
        tpot_s=latency(outcome.tpot),
        itl_s=latency(outcome.itl),
        e2e_s=latency(outcome.e2e),
        queue_s=latency(outcome.queue, u.QUEUE_ERROR),
        ttft_slo_s=asked.ttft_slo,
        tpot_slo_s=asked.tpot_slo,
        good_share=outcome.good / outcome.requests if stated else None,
        preemptions=outcome.preemptions,
        busy_share=min(1.0, outcome.busy),
        reading_share=None if served.handover is None else min(1.0, outcome.reading),
        **_crossing(batch, outcome),
        prompt_tokens=outcome.prompt_tokens,
        cached_tokens=outcome.cached_tokens,
        output_tokens=outcome.output_tokens,
        **_prices(batch, figures),
        load=[
            LoadSample(at_s=s.at, running=s.running, waiting=s.waiting, cache_share=s.cache) for s in outcome.samples
        ],
        requests=_spans(outcome),
    )


def _rate(batch: Batch, figures: BatchFigures) -> Number:
    """Requests served in a second: as they arrive, where the engine can surely keep up."""
    served, work, timed = batch.served, batch.run.inference, figures.evidence.timed
    assert work is not None
    assert served.outcome is not None
    rate = served.outcome.requests / served.outcome.duration
    arriving = work.request_rate is not None or (batch.run.serving is not None and batch.run.serving.trace is not None)
    if arriving and served.sustainable is not None and rate < timed(served.sustainable).low:
        return Number.exact(rate)
    return timed(rate)


def _goodput(outcome: Outcome, asked: Serving, figures: BatchFigures) -> Number:
    """Requests a second within the objectives; its interval is where all latencies are at the ends of theirs."""
    timed = figures.evidence.timed
    first, each = timed(1.0, u.QUEUE_ERROR), timed(1.0)

    def share(first_by: float, each_by: float) -> float:
        kept = [1.0]
        if asked.ttft_slo is not None:
            kept.append(outcome.ttft.within(asked.ttft_slo / first_by))
        if asked.tpot_slo is not None:
            kept.append(outcome.tpot.within(asked.tpot_slo / each_by))
        return min(kept)

    good, rate = outcome.good / outcome.requests, outcome.requests / outcome.duration
    low, high = min(good, share(first.high, each.high)), max(good, share(first.low, each.low))
    return Number(value=good * rate, low=low * rate, high=high * rate, basis=first.basis)


def _crossing(batch: Batch, outcome: Outcome) -> dict[str, Number | None]:
    """The cache of a mean prompt on its way between pools, alone."""
    over = batch.served.handover
    if over is None:
        return {}
    tokens, error = outcome.prompt_tokens / outcome.requests, u.item_errors(batch.decode[1].machine, "bf16")
    seconds = u.number(over.seconds(tokens), error["send_recv"], "datasheet")
    return {"handover_bytes": Number.exact(over.cache.bytes(tokens)), "handover_s": seconds}


def _prices(batch: Batch, figures: BatchFigures) -> dict[str, Number | None]:
    """Rent and joules by token, of the requests in flight."""
    work, timed = batch.run.inference, figures.evidence.timed
    assert work is not None
    prompts, answers = figures.requests * work.isl, figures.requests * work.osl
    joules = timed(figures.joules.device / (prompts + answers), u.SERVING_POWER_ERROR, "datasheet")
    prices: dict[str, Number | None] = {"joules_per_token": joules}
    if figures.rent is not None:
        reading, million = _reading_share(batch), 1e6 * figures.rent
        prices["usd_per_million_tokens"] = timed(million / (prompts + answers))
        prices["usd_per_million_prompt_tokens"] = timed(million * reading / prompts)
        prices["usd_per_million_answer_tokens"] = timed(million * (1 - reading) / answers)
    return prices


def _reading_share(batch: Batch) -> float:
    """Of the GPUs' time, what goes to prompts: a pool of their own, or what a token waits for them."""
    pools = batch.run.serving.disaggregated if batch.run.serving is not None else None
    if pools is not None:
        return pools.prefill.gpus / (pools.prefill.gpus + pools.decode.gpus)
    return batch.served.steady.prompt_share


def _spans(outcome: Outcome) -> list[RequestSpan]:
    return [
        RequestSpan(
            arrival_s=life.arrival,
            start_s=life.start,
            first_token_s=life.first_token,
            end_s=life.end,
            prompt_tokens=life.prompt,
            output_tokens=life.output,
        )
        for life in outcome.lives
    ]
