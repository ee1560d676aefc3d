"""The page of a sweep: the answer, the Pareto front of two metrics a reader can choose, the ranked points, and why
the others cannot be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.report import numbers
from simulator.report.compare_tables import difference
from simulator.report.metrics import METRICS, Metric
from simulator.report.rendering import render
from simulator.report.sweep_data import Point, SweepData, front, ranked, read
from simulator.report.tables import Cell, Table, table
from simulator.result import Number

if TYPE_CHECKING:
    import pandas

LISTED = 20
MOST_SHAPES = 5
# The two metrics a reader sees first, the first pair the table has; points are ranked by the second.
_PAIRS = (
    ("ttft_s", "tokens_per_s_per_gpu"),
    ("days", "cost_usd"),
    ("step_time_s", "cost_usd"),
    ("tpot_s", "usd_per_million_output_tokens"),
    ("tokens_per_s", "cost_usd"),
    ("peak_memory_gib", "step_time_s"),
)


def render_sweep(frame: pandas.DataFrame, *, title: str = "Sweep") -> str:
    """One self-contained HTML page of a sweep's table. Raises ValueError where the table has no metric to rank by."""
    data = read(frame)
    first, second = _pair(data)
    best = ranked(data.points, second) if second else []
    edge = front(data.points, first, second) if first and second else []
    return render(
        "sweep.html.jinja",
        title=title,
        answer=_answer(data, second, best),
        tied=_tied_sentence(second, best),
        fixed=", ".join(f"{path}: {value}" for path, value in data.fixed),
        front_finding=_front_finding(data, first, second, edge),
        metrics=data.metrics,
        axes=data.axes,
        chosen=(first.key if first else "", second.key if second else ""),
        listing=_listing(data, first, second, best[:LISTED]),
        listing_finding=_listing_finding(best),
        settings=_settings_table(data, second),
        settings_finding=_settings_finding(data, second),
        refusals=_refusals_table(data) if data.refusals else None,
        refusals_finding=_refusals_finding(data),
        payload=_payload(data, first, second),
    )


def _pair(data: SweepData) -> tuple[Metric | None, Metric | None]:
    present = {metric.key for metric in data.metrics}
    for pair in _PAIRS:
        if set(pair) <= present:
            return METRICS[pair[0]], METRICS[pair[1]]
    if not data.metrics:
        return None, None
    return data.metrics[min(1, len(data.metrics) - 1)], data.metrics[0]


def _name(data: SweepData, point: Point) -> str:
    """A point by its settings: tp 1, pp 4."""
    parts = [f"{path.rpartition('.')[2]} {value}" for path, value in zip(data.axes, point.settings, strict=True)]
    return ", ".join(parts) or "the only point"


def _answer(data: SweepData, metric: Metric | None, best: list[Point]) -> str:
    """The best point of all in a sentence, with its first other figure."""
    if not best or metric is None:
        return f"None of the {data.total:,} points is feasible."
    first = best[0]
    number = first.figures[metric.key]
    words = {"low": "lowest", "high": "highest"}[metric.better or "low"]
    others = [
        f"{m.scale([n.value]).text(n.value)} {numbers.inside(m.label)}"
        for m in data.metrics
        if m is not metric and m.key in ("step_time_s", "ttft_s", "tokens_per_s_per_gpu", "mfu")
        for n in [first.figures.get(m.key)]
        if n is not None
    ][:2]
    lead = f"{numbers.sentence(_name(data, first))} has the {words} {numbers.inside(metric.label)}"
    tail = f", at {numbers.listing(others)}" if others else ""
    return f"{lead} of {len(best):,} feasible points: {metric.scale([number.value]).text(number.value)}{tail}."


def _tied(metric: Metric, best: list[Point]) -> int:
    """How many points after the first can't be told from it."""
    return sum(not _apart(best[0].figures[metric.key], point.figures[metric.key]) for point in best[1:])


def _apart(a: Number, b: Number) -> bool:
    gap = difference(a, b)
    return gap.low > 0 or gap.high < 0


def _tied_sentence(metric: Metric | None, best: list[Point]) -> str:
    if not best or metric is None:
        return ""
    number = best[0].figures[metric.key]
    scale = metric.scale([number.value])
    if number.low == number.high:
        return "The table gives no intervals, so nothing is said of how sure the order is."
    sure = f"Its 90{numbers.NBSP}% interval is {scale.interval(number)}."
    tied = _tied(metric, best)
    if not tied:
        return f"{sure} It is ahead of all others by more than the error of the difference."
    points = "1 other point" if tied == 1 else f"{tied:,} other points"
    return f"{sure} With independent errors {points} can't be told apart from it; errors they share would tell more."


def _front_finding(data: SweepData, first: Metric | None, second: Metric | None, edge: list[Point]) -> str:
    if first is None or second is None:
        return "There is nothing to draw."
    if first is second:
        return f"One metric was kept: {numbers.inside(first.label)}."
    on = "1 point is" if len(edge) == 1 else f"{len(edge):,} points are"
    return f"{on} not beaten by any other in both {numbers.inside(first.label)} and {numbers.inside(second.label)}."


def _listing(data: SweepData, first: Metric | None, second: Metric | None, shown: list[Point]) -> Table | None:
    """The best points as a table; the script replaces it when a reader chooses other metrics."""
    if first is None or second is None or not shown:
        return None
    rows: list[list[str | Cell]] = []
    one, two = (m.scale([p.figures[m.key].value for p in shown if m.key in p.figures]) for m in (first, second))
    for rank, point in enumerate(shown, 1):
        other = point.figures.get(first.key)
        near = rank > 1 and not _apart(shown[0].figures[second.key], point.figures[second.key])
        rows.append(
            [
                f"{rank}{' ≈' if near else ''}",
                *(Cell(value, code=True) for value in point.settings),
                two.text(point.figures[second.key].value),
                two.interval(point.figures[second.key]),
                one.text(other.value) if other is not None else numbers.DASH,
            ]
        )
    axes = "".join(f"{path.replace('|', '/')} | " for path in data.axes)
    columns = f"Rank | {axes}>{second.label} | >90 % interval | >{first.label}"
    return table("ranked points", columns, rows, min_width=300 + 110 * len(data.axes))


def _listing_finding(best: list[Point]) -> str:
    if not best:
        return "No point to list."
    return (
        f"The best {LISTED} of {len(best):,} points." if len(best) > LISTED else f"All {len(best):,} feasible points."
    )


def _settings_table(data: SweepData, metric: Metric | None) -> Table | None:
    """For each value of each axis: how many points can be, and the best of them."""
    if metric is None:
        return None
    rows: list[list[str | Cell]] = []
    for i, path in enumerate(data.axes):
        for value in data.values[i]:
            here = [point for point in data.points if point.settings[i] == value]
            best = ranked(here, metric)
            shown = [b.figures[metric.key].value for b in best[:1]]
            text = metric.scale(shown).text(shown[0]) if shown else numbers.DASH
            rows.append([Cell(path, code=True), Cell(value, code=True), f"{len(here):,}", text])
    return table(
        "best by setting", f"Axis | Value | >Points | >Best {numbers.inside(metric.label)}", rows, min_width=420
    )


def _settings_finding(data: SweepData, metric: Metric | None) -> str:
    """The axis whose values differ most in what is best with them."""
    spreads = {}
    for i, path in enumerate(data.axes):
        bests = []
        for value in data.values[i]:
            best = ranked([p for p in data.points if p.settings[i] == value], metric) if metric else []
            bests += [b.figures[metric.key].value for b in best[:1] if metric]
        if len(bests) > 1 and min(bests) > 0:
            spreads[path] = max(bests) / min(bests)
    if not spreads or metric is None:
        return "No setting makes a difference that can be seen here."
    most = max(spreads, key=lambda path: spreads[path])
    if spreads[most] < 1.005:
        return f"No setting changes the best {numbers.inside(metric.label)} by 1{numbers.NBSP}%."
    times = numbers.significant(spreads[most])
    one, other = ("best", "worst") if metric.better == "high" else ("worst", "best")
    return (
        f"{most} matters most: its {one} value gives {times} times the {numbers.inside(metric.label)} of its {other}."
    )


def _refusals_table(data: SweepData) -> Table:
    rows: list[list[str | Cell]] = [
        [f"{group.count:,}", group.reason, Cell(group.shared or "all values", code=True)] for group in data.refusals
    ]
    return table("infeasible points", ">Points | Reason, of the first of them | Only where", rows, min_width=520)


def _refusals_finding(data: SweepData) -> str:
    bad = sum(group.count for group in data.refusals)
    if not bad:
        return f"All {data.total:,} points are feasible."
    if len(data.refusals) == 1:
        return f"{bad:,} of {data.total:,} points are infeasible, all for one reason."
    return f"{bad:,} of {data.total:,} points are infeasible, for {len(data.refusals)} reasons."


def _payload(data: SweepData, first: Metric | None, second: Metric | None) -> dict[str, Any]:
    """What the script draws from: settings as indices, figures rounded to five digits, how each is written."""
    metrics = []
    for metric in data.metrics:
        found = [p.figures.get(metric.key) for p in data.points]
        scale = metric.scale([n.value for n in found if n is not None])
        columns = {
            end: [None if n is None else float(f"{getattr(n, end):.5g}") for n in found]
            for end in ("value", "low", "high")
        }
        exact = all(n is None or n.low == n.high for n in found)
        metrics.append(
            {
                "key": metric.key,
                "label": metric.label,
                "high": metric.better == "high",
                "divisor": scale.divisor,
                "before": scale.before,
                "after": scale.after,
                "value": columns["value"],
                "low": None if exact else columns["low"],
                "high_end": None if exact else columns["high"],
            }
        )
    device = "hardware.device"
    index = data.axes.index(device) if device in data.axes else -1
    return {
        "axes": list(data.axes),
        "values": [list(values) for values in data.values],
        "points": [[data.values[i].index(v) for i, v in enumerate(p.settings)] for p in data.points],
        "metrics": metrics,
        "x": first.key if first else "",
        "y": second.key if second else "",
        "shape": index if index >= 0 and len(data.values[index]) <= MOST_SHAPES else -1,
        "listed": LISTED,
    }
