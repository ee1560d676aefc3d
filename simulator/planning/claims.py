"""Claims judged by simulation: each figure computed now, its published value held against the 90 % interval.

A claim holds if a value that reads as the published figure lies in the interval; in part if none does but the whole
interval lies on the claimed side of `neutral`; else it doesn't. A one-sided claim (`< 1`) holds if the whole interval
keeps it, and in part if the value does.

The interval of a ratio is that of what two runs don't share. Of one model on one device: the spread of published pairs
(docs/planning.md). In training, another device: that of pairs on two devices; another model: the models' own errors as
independent. Serving engines differ more, so that the errors of two unlike serving runs count as independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp, hypot, inf, sqrt
from pathlib import Path

from simulator import __version__
from simulator.assembly import uncertainty as u
from simulator.assembly.inference import assemble_inference
from simulator.errors import InfeasibleError, SimulatorError
from simulator.planning.figures import figure, relative_error
from simulator.planning.pair_errors import pair_errors
from simulator.result import Number, Result
from simulator.simulation import inference_batch, simulate
from simulator.spec.claims import DERIVED, UNITS, Claim, Claims, Hold, Side, run_of
from simulator.spec.model import resolve_model
from simulator.spec.run import Run
from simulator.verdicts import Judged, Judgement, Verdict

MOST_IN_FLIGHT = 2**17
POWER_FIGURES = ("energy", "joules", "watts", "average_power", "carbon")


class Simulations:
    """Results of the sides of claims, each simulated once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Result] = {}

    def result(self, side: Side) -> Result:
        """The result of a side's run. Raises SimulatorError where it can't be."""
        key = side.model_dump_json()
        if key not in self._known:
            self._known[key] = self._held(side) if side.at is not None else result_of(run_of(side, self._folder))
        return self._known[key]

    def _held(self, side: Side) -> Result:
        """With as many requests in flight as keep a latency within its limit, at the best of the settings given."""
        assert side.at is not None
        reasons: list[str] = []
        best: Result | None = None
        for settings in side.at.among or ({},):
            chosen = side.model_copy(update={"set": {**side.set, **settings}})
            try:
                found = self._most(chosen, side.at)
            except SimulatorError as error:
                reasons.append(str(error))
                continue
            if best is None or _per_gpu(found) > _per_gpu(best):
                best = found
        if best is None:
            raise InfeasibleError(f"no requests keep {side.at.figure} within {side.at.seconds:g} s: {reasons[0]}")
        return best

    def _most(self, side: Side, at: Hold) -> Result:
        """The most requests in flight, to within a sixty-fourth."""

        def result(requests: int) -> Result:
            return result_of(run_of(side, self._folder, [("inference.concurrency", requests)]))

        def keeps(found: Result, requests: int) -> bool:
            fits = found.max_concurrency is None or requests <= found.max_concurrency.value
            return fits and found.numbers()[at.figure].value <= at.seconds

        kept = result(1)
        if not keeps(kept, 1):
            raise InfeasibleError(f"even one request takes {kept.numbers()[at.figure].value:.3g} s", path=at.figure)
        low, high = 1, 2
        while high <= MOST_IN_FLIGHT and keeps(found := result(high), high):
            low, high, kept = high, 2 * high, found
        while high - low > max(1, low // 64):
            middle = (low + high) // 2
            if keeps(found := result(middle), middle):
                low, kept = middle, found
            else:
                high = middle
        return kept


def _per_gpu(result: Result) -> float:
    return result.tokens_per_s_per_gpu.value if result.tokens_per_s_per_gpu else 0.0


def result_of(run: Run) -> Result:
    """The result of a run; of inference in closed form."""
    if run.kind == "training":
        return simulate(run)
    return assemble_inference(inference_batch(run, closed_form=True))


def judge(claims: Claims, folder: Path, progress: Callable[[int, int], None] | None = None) -> Judged:
    """All claims of a file in `folder`, judged. One whose run can't be is `not simulated`, with the reason."""
    simulations = Simulations(folder)
    verdicts = []
    for done, claim in enumerate(claims.claims, start=1):
        verdicts.append(_verdict(claim, simulations))
        if progress is not None:
            progress(done, len(claims.claims))
    untested = tuple((entry.claim, entry.source, entry.why) for entry in claims.untested)
    return Judged(claims.title, tuple(verdicts), untested, __version__)


def _verdict(claim: Claim, simulations: Simulations) -> Verdict:
    unit = UNITS[claim.unit]
    found: Number | None = None
    sides: list[tuple[str, Number]] = []
    judgement: Judgement = "not simulated"
    reason = ""
    try:
        found, sides = _compute(claim, simulations)
        judgement = judged(found, claim.range, claim.neutral)
    except SimulatorError as error:
        reason = str(error)
    low, high = claim.range
    return Verdict(
        id=claim.id,
        topic=claim.topic,
        claim=claim.claim,
        source=claim.source,
        published=claim.published,
        range=(low / unit, high / unit),
        unit=claim.unit,
        found=None if found is None else _divided(found, unit),
        judgement=judgement,
        figure=DERIVED.get(claim.figure, claim.figure),
        per=DERIVED.get(claim.per, claim.per) if claim.per else "",
        ratio=claim.over is not None,
        sides=tuple(sides),
        note=claim.note,
        reason=reason,
    )


def judged(found: Number, published: tuple[float, float], neutral: float | None) -> Judgement:
    """Whether a published range holds against a computed figure."""
    low, high = published
    if low == -inf or high == inf:
        keeps = [low <= end <= high for end in (found.low, found.value, found.high)]
        return "holds" if all(keeps) else "in part" if keeps[1] else "doesn't"
    if found.low <= high and found.high >= low:
        return "holds"
    if neutral is None:
        return "doesn't"
    above = (low + high) / 2 > neutral
    return "in part" if (found.low > neutral if above else found.high < neutral) else "doesn't"


def _compute(claim: Claim, simulations: Simulations) -> tuple[Number, list[tuple[str, Number]]]:
    one = _figure(claim, claim.of, simulations)
    if claim.over is None:
        return one, [(_name(claim.of, simulations), one)]
    two = _figure(claim, claim.over, simulations)
    error = 0.0
    if claim.of.model is None and claim.over.model is None and (one.low < one.high or two.low < two.high):
        results = simulations.result(claim.of), simulations.result(claim.over)
        error = ratio_error(results[0], results[1], claim.figure, (one, two))
    value, half = one.value / two.value, exp(u.Z90 * error)
    ratio = Number(value=value, low=value / half, high=value * half, basis=u.weakest({one.basis: 1.0, two.basis: 1.0}))
    return ratio, [(_name(side, simulations), number) for side, number in ((claim.of, one), (claim.over, two))]


def _figure(claim: Claim, side: Side, simulations: Simulations) -> Number:
    """The figure of one side, over another figure of it where the claim is about a share."""
    if side.model is not None:
        model = resolve_model(side.model)
        return Number.exact(float(model.parameters if claim.figure == "parameters" else model.active_parameters))
    result = simulations.result(side)
    try:
        found = figure(result, claim.figure)
        if claim.per is None:
            return found
        whole = figure(result, claim.per)
    except KeyError as error:
        raise InfeasibleError(f"a run of kind {result.kind} has no {error.args[0]}", path=claim.id) from None
    value, half = found.value / whole.value, exp(u.Z90 * relative_error(found))
    return Number(value=value, low=value / half, high=value * half, basis=found.basis)


def ratio_error(one: Result, two: Result, name: str, figures: tuple[Number, Number]) -> float:
    """Standard deviation of the logarithm of a ratio of two runs' figures."""
    a, b = one.summary, two.summary
    if name == "peak_memory_gib":
        return u.MEMORY_ERROR * sqrt(2) if a.model != b.model else u.MEMORY_ERROR
    if "flops" in name:
        return hypot(*(relative_error(number) for number in figures))
    pairs = pair_errors()
    same_device, same_model = a.device == b.device, a.model == b.model
    if same_device and same_model:
        return pairs.same_device
    if one.kind != "training":
        return hypot(*(relative_error(number) for number in figures))
    error = pairs.same_device if same_device else pairs.other_device
    if not same_model:
        error = hypot(error, _model_error(one), _model_error(two))
    if not same_device and name.startswith(POWER_FIGURES):
        error = hypot(error, u.POWER_ERROR, u.POWER_ERROR)
    return error


def _model_error(result: Result) -> float:
    sparse = result.summary.active_parameters < result.summary.parameters
    return u.MODEL_ERROR["moe" if sparse else "dense"]


def _divided(number: Number, by: float) -> Number:
    ends: Mapping[str, float] = {end: getattr(number, end) / by for end in ("value", "low", "high")}
    return number.model_copy(update=ends)


def _name(side: Side, simulations: Simulations) -> str:
    """What a side is called: its run or model, and what is set; of one held at a latency what was found."""
    base = side.model or (side.run if isinstance(side.run, str) else str((side.run or {}).get("name", "run")))
    changes = [f"{path}: {value}" for path, value in side.set.items()]
    if side.at is not None:
        found = simulations.result(side)
        summary, split = found.summary, {"dp_attention": found.run["parallelism"].get("dp_attention")}
        split |= {name: summary.parallelism[name] for name in ("tp", "pp", "ep")}
        parts = ", ".join(f"{name} {size}" for name, size in split.items() if size and size != 1)
        changes.append(
            f"{summary.gpus} {summary.device}, {parts}, {found.run['inference']['concurrency']} requests: "
            f"{side.at.figure} within {side.at.seconds:g} s"
        )
    return f"{base} ({', '.join(changes)})" if changes else base
