"""The load that an engine carries within the objectives of its requests: the largest rate of random arrivals.

Bisection between nothing and what can be sustained. If everything takes f times as long, an engine at rate r does what
it did at r f with objectives shortened by f: so the ends of the interval are two more searches, not a guess.
"""

from __future__ import annotations

from simulator.result import Number, Result
from simulator.serving.served import Served, serve_requests
from simulator.spec.run import Run

REQUESTS = 1000
"""Simulated at each rate that is tried."""
HALVINGS = 7
"""To within a hundredth of what can be sustained."""


def with_objectives(run: Run, result: Result) -> Result:
    """The result with the rate at which the objectives are still kept; as it was where a run states none."""
    served, asked = result.serving, run.serving
    if served is None or served.good_share is None or asked is None or asked.trace is not None:
        return result
    mean = served.tpot_s.mean
    value, low, high = (largest_rate(run, slower=by) for by in (1.0, mean.high / mean.value, mean.low / mean.value))
    number = Number(value=value, low=min(low, value), high=max(high, value), basis=mean.basis)
    update = {"objective_requests_per_s": number, "objective_share": asked.slo_share}
    return result.model_copy(update={"serving": served.model_copy(update=update)})


def largest_rate(run: Run, *, slower: float = 1.0) -> float:
    """Requests per second at which `slo_share` of them keep the objectives, on an engine that many times slower."""
    limit = _at(run, 1e-6, slower, closed_form=True).sustainable
    assert limit is not None
    low, high = 0.0, limit
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        low, high = (rate, high) if _keeps(run, rate, slower) else (low, rate)
    return low / slower


def _keeps(run: Run, rate: float, slower: float) -> bool:
    outcome = _at(run, rate, slower).outcome
    assert outcome is not None
    assert run.serving is not None
    return outcome.good >= run.serving.slo_share * outcome.requests


def _at(run: Run, rate: float, slower: float, *, closed_form: bool = False) -> Served:
    """The run at that rate, with objectives as much shorter."""
    work, asked = run.inference, run.serving
    assert work is not None
    assert asked is not None
    limits = {name: getattr(asked, name) for name in ("ttft_slo", "tpot_slo")}
    shorter = {name: None if limit is None else limit / slower for name, limit in limits.items()}
    serving = asked.model_copy(update={**shorter, "requests": REQUESTS})
    update = {"inference": work.model_copy(update={"request_rate": rate}), "serving": serving}
    return serve_requests(run.model_copy(update=update), closed_form=closed_form)
