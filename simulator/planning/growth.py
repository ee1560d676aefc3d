"""Demand that grows over months against a serving run: when today's cluster is too small, and what each month needs.

A fleet has whole replicas, enough for the busiest time of its month; money follows from its GPUs, energy from the mean
load. Rent is paid by the month; what is bought stays until the end of its life.
"""

from __future__ import annotations

from math import ceil, hypot

from simulator import __version__
from simulator.assembly import uncertainty as u
from simulator.assembly.metrics import batch_figures
from simulator.cost.price import carbon_grams_per_joule
from simulator.errors import InfeasibleError
from simulator.fleet import Capacity, FleetAnswer, FleetMonth
from simulator.planning.bearing import Service, capacity_of
from simulator.planning.fleet_money import Machines, idle_power, ownership, repaid_in, running_usd
from simulator.result import Number
from simulator.simulation import inference_batch
from simulator.spec.growth import Question, price_in
from simulator.units import DAY, MONTH

SLACK = 1e-9
"""Of a replica, so that a demand it just bears does not take a second one."""


def grow(question: Question) -> FleetAnswer:
    """The answer to a growth question. Raises InfeasibleError where an objective fails at any load."""
    growth, run = question.growth, question.run
    work, demand = run.inference, growth.demand
    assert work is not None
    service = Service(run)
    capacity = capacity_of(service, tpot=growth.objectives.tpot, ttft=growth.objectives.ttft)
    bears = {"value": capacity.rate.value, "pessimistic": capacity.rate.low, "optimistic": capacity.rate.high}
    if not bears[growth.decide_on]:
        raise InfeasibleError(
            "at the pessimistic end of the interval no number of GPUs keeps the objectives",
            path="decide_on",
            suggestion="decide_on: value, or a slower objective",
        )
    per_unit = 1.0 if demand.unit == "requests/s" else 1 / work.osl / DAY
    means = {month: amount * per_unit for month, amount in demand.by_month.items()}

    def stops(rate: float) -> str | None:
        return next((month for month, mean in means.items() if mean * demand.peak > rate * service.replicas), None)

    machines = Machines(0.0 if growth.buy is None else growth.buy.life / MONTH)
    months = _months(question, service, capacity, bears[growth.decide_on], means, machines)
    return FleetAnswer(
        name=growth.name,
        title=growth.title or growth.name,
        model=run.model.name,
        device=run.hardware.device.name,
        unit=demand.unit,
        tokens_per_request=(float(work.isl), float(work.osl)),
        peak=demand.peak,
        today_gpus=run.hardware.gpus,
        today_replicas=service.replicas,
        capacity=capacity,
        stops=stops(bears[growth.decide_on]),
        stops_range=(stops(capacity.rate.low), stops(capacity.rate.high)),
        decide_on=growth.decide_on,
        months=tuple(months),
        ownership=ownership(question, months[0].energy_j.value / MONTH / months[0].gpus),
        repaid=repaid_in(months),
        worth_usd=machines.worth(len(months), growth.buy.residual) if growth.buy is not None else 0.0,
        sources=question.sources,
        version=__version__,
    )


def _months(
    question: Question,
    service: Service,
    capacity: Capacity,
    bears: float,
    means: dict[str, float],
    machines: Machines,
) -> list[FleetMonth]:
    """The fleet of each month; what is bought joins `machines`."""
    buy, run = question.growth.buy, question.run
    grams, _ = carbon_grams_per_joule(run.economics)
    idle = idle_power(run.hardware.device, run.economics.pue)
    out = []
    for at, (month, mean) in enumerate(means.items()):
        busiest = mean * question.growth.demand.peak
        needed = replicas_for(busiest, bears)
        gpus = needed * capacity.gpus
        energy = _energy(service, mean / needed * service.replicas, gpus, idle)
        price = price_in(question.purchases, month) if question.purchases is not None else 0.0
        bought = machines.fill(at, gpus, price, run.hardware.device.node.gpus) if buy is not None else 0
        owned = machines.owned(at)
        drawn = energy.value + idle * (owned - gpus) * MONTH
        out.append(
            FleetMonth(
                month=month,
                demand=mean,
                busiest=busiest,
                replicas=needed,
                replicas_range=_range(busiest, capacity),
                gpus=gpus,
                use=mean / (needed * bears),
                energy_j=energy,
                carbon_kg=_carbon(energy, grams),
                rent_usd=None if question.rents is None else price_in(question.rents, month) * gpus * MONTH,
                bought=bought,
                owned=owned,
                purchase_usd=bought * price,
                running_usd=running_usd(question, machines, at, drawn) if buy is not None else 0.0,
            )
        )
    return out


def replicas_for(rate: float, bears: float) -> int:
    """Replicas that bear `rate` requests per second, at least one."""
    return max(1, ceil(rate / bears - SLACK))


def _range(rate: float, capacity: Capacity) -> tuple[int, int | None]:
    low, high = capacity.rate.low, capacity.rate.high
    return replicas_for(rate, high), replicas_for(rate, low) if low else None


def _energy(service: Service, rate: float, gpus: int, idle: float) -> Number:
    """Joules of a month at the meter: `rate` requests per second come to all replicas of the run.

    With fewer than one request in flight a replica waits for the rest of the time.
    """
    if not rate:
        return u.number(idle * gpus * MONTH, u.SERVING_POWER_ERROR, "datasheet")
    figures = batch_figures(inference_batch(service.at_rate(rate), closed_form=True))
    busy = min(1.0, figures.requests / service.replicas)
    watts = figures.joules.total / figures.seconds / service.run.hardware.gpus
    return u.number((busy * watts + (1 - busy) * idle) * gpus * MONTH, u.SERVING_POWER_ERROR, "datasheet")


def _carbon(energy: Number, grams: float) -> Number:
    return u.number(energy.value * grams / 1e3, hypot(u.SERVING_POWER_ERROR, u.CARBON_ERROR), "datasheet")
