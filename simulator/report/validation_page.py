"""The page of a validated table: how far predictions are from measurements, by group and row by row."""

from __future__ import annotations

from typing import Any

from simulator.report import numbers
from simulator.report.metrics import Metric
from simulator.report.rendering import render
from simulator.report.validation_data import ALL, BEST, Errors, ReplayedRow, Score, ValidationRecord
from simulator.report.validation_scatter import NEAR, scatter, shape_of
from simulator.report.validation_tables import (
    ROWS,
    count,
    group_table,
    listing,
    metric_of,
    percent,
    refusals_table,
    scores_table,
    signed_percent,
)

LISTED = 12
"""Worst rows."""
TELLING = 3
"""Groups of fewer rows are not named in a finding."""
_FAR = 0.2
_FIGURES = 4


def render_validation(record: ValidationRecord) -> str:
    """One self-contained HTML page; the same record gives the same bytes."""
    rows = [(index, row) for index, row in enumerate(record.rows) if not row.reason]
    refused = [row for row in record.rows if row.reason]
    qualities = sorted({row.quality for _, row in rows})
    return render(
        "validation.html.jinja",
        title=f"Validation of {record.table}",
        version=record.version,
        verdict=_verdict(record),
        others=_others(record),
        scores=scores_table(record) if rows else None,
        scores_finding=_scores_finding(record),
        metrics=[_metric_block(record, key, rows, qualities) for key in record.metrics()],
        sets=[(key, numbers.sentence(ROWS[key])) for key in (ALL, BEST) if any(e.rows == key for e in record.errors)],
        shapes=[(shape_of(quality, qualities), quality or "not stated") for quality in qualities],
        refused=refusals_table(refused) if refused else None,
        refused_finding=_refused_finding(refused, len(record.rows)),
        fitted=record.fitted,
        payload=_payload(record, rows) if rows else None,
    )


def _metric_block(
    record: ValidationRecord, key: str, rows: list[tuple[int, ReplayedRow]], qualities: list[str]
) -> dict[str, Any]:
    """What the sections show of one metric."""
    metric, mine = metric_of(key), [pair for pair in rows if key in pair[1].metrics]
    finding = _scatter_finding([row for _, row in mine], key)
    drawn = [pair for pair in mine if pair[1].metrics[key].predicted > 0]
    return {
        "key": key,
        "label": metric.label,
        "inside": numbers.inside(metric.label),
        "scatter": scatter(drawn, metric, qualities, finding) if drawn else None,
        "scatter_finding": finding,
        "errors": [_error_block(errors, mine, metric) for errors in record.of(key)],
        "rows": listing(mine, metric, f"all rows measured in {numbers.inside(metric.label)}"),
    }


def _error_block(errors: Errors, rows: list[tuple[int, ReplayedRow]], metric: Metric) -> dict[str, Any]:
    """The tables of one metric over all rows, or over those of the best quality."""
    about, kind = numbers.inside(metric.label), ROWS[errors.rows]
    chosen = [pair for pair in rows if errors.rows in (ALL, pair[1].quality)]
    worst = sorted(chosen, key=lambda pair: -abs(pair[1].metrics[metric.key].error))[:LISTED]
    return {
        "rows": errors.rows,
        "kind": kind,
        "groups_finding": _groups_finding(errors),
        "groups": [
            (f"By {heading}", group_table(heading, groups, f"{about} over {kind}"))
            for heading, groups in errors.groups.items()
        ],
        "worst_finding": _worst_finding([row for _, row in worst], len(chosen), metric.key),
        "worst": listing(worst, metric, f"worst rows in {about} of {kind}"),
    }


def _verdict(record: ValidationRecord) -> str:
    """How far off the first metric is, over the rows of the best quality where there are any."""
    metrics = record.metrics()
    if not metrics:
        return "No row of the table could be replayed." if record.rows else "The table has no rows."
    return _sentence(record.of(metrics[0])[-1], record)


def _others(record: ValidationRecord) -> list[str]:
    """The same of all rows, and of the other metrics."""
    metrics = record.metrics()
    found = []
    for metric in metrics:
        every, *best = record.of(metric)
        if metric != metrics[0]:
            found.append(_sentence([every, *best][-1], record))
        elif best:
            rest = f"{every.total.n - best[0].total.n:,} of them of lower quality"
            found.append(f"All {_runs(every.total.n)}, {rest}: {_figures(every.total)}.")
    return found


def _sentence(errors: Errors, record: ValidationRecord) -> str:
    rows = record.measured(errors.metric, errors.rows)
    stated = "fully stated " if all(row.quality == BEST for row in rows) else ""
    runs = f"{errors.total.n:,} {stated}run{'' if errors.total.n == 1 else 's'}"
    return f"{_name(errors.metric)} of {runs} is predicted to within {_figures(errors.total)}."


def _figures(score: Score) -> str:
    if score.n == 1:
        covered = f"the measurement lies {'inside' if score.coverage else 'outside'}"
    else:
        covered = f"{numbers.round_share(score.coverage / 100)} of the measurements lie inside"
    return (
        f"{percent(score.mape)} on average (median {percent(score.median)}), bias {signed_percent(score.bias)}; "
        f"{covered} the 90{numbers.NBSP}% interval"
    )


def _name(metric: str) -> str:
    """A metric as it opens a sentence."""
    return metric_of(metric).label.partition(",")[0]


def _runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"


def _scores_finding(record: ValidationRecord) -> str:
    """The largest and smallest mean error among the metrics."""
    scored = [(numbers.inside(_name(metric)), record.of(metric)[-1].total.mape) for metric in record.metrics()]
    if not scored:
        return "Nothing was predicted."
    best, worst = (pick(scored, key=lambda pair: pair[1]) for pick in (min, max))
    if len(scored) == 1:
        return f"The mean error of {best[0]} is {percent(best[1])}."
    return f"Mean errors go from {percent(best[1])} ({best[0]}) to {percent(worst[1])} ({worst[0]})."


def _scatter_finding(rows: list[ReplayedRow], metric: str) -> str:
    errors = [abs(row.metrics[metric].error) for row in rows]
    near, far = (sum(error <= limit for error in errors) for limit in (NEAR, _FAR))
    return (
        f"Of {_runs(len(rows))}, {near:,} {'is' if near == 1 else 'are'} predicted to within "
        f"{numbers.round_share(NEAR)} of the measurement and {far:,} to within {numbers.round_share(_FAR)}."
    )


def _groups_finding(errors: Errors) -> str:
    """The sources predicted best and worst, of those with rows enough to tell."""
    heading, groups = next(iter(errors.groups.items()))
    telling = [(name, score) for name, score in groups if score.n >= TELLING]
    if len(telling) < 2:
        return f"No two groups by {heading} have {TELLING} rows each, too few to compare."
    best, worst = (pick(telling, key=lambda pair: pair[1].mape) for pick in (min, max))
    low, high = (f"{percent(score.mape)} ({name or 'not stated'}, {_runs(score.n)})" for name, score in (best, worst))
    return f"By {heading} the mean error goes from {low} to {high}."


def _worst_finding(worst: list[ReplayedRow], total: int, metric: str) -> str:
    first = worst[0]
    error = numbers.signed_share(first.metrics[metric].error)
    if len(worst) == 1:
        return f"The only run is off by {error}: {first.id}."
    least = numbers.share(abs(worst[-1].metrics[metric].error))
    return f"The worst of {total:,} runs is {first.id}, off by {error}; these {len(worst)} are off by {least} or more."


def _refused_finding(refused: list[ReplayedRow], total: int) -> str:
    if not refused:
        return "No row was refused."
    verb = "was" if len(refused) == 1 else "were"
    rows = "row" if total == 1 else "rows"
    return f"{len(refused):,} of {total:,} {rows} {verb} refused: no run can be made of them, or not one that fits."


def _payload(record: ValidationRecord, rows: list[tuple[int, ReplayedRow]]) -> dict[str, Any]:
    """What the script shows of a row that a reader opens; figures are written as in the tables."""
    columns = list(dict.fromkeys(path for _, row in rows for path in row.settings))
    values = {path: list(dict.fromkeys(row.settings.get(path, "") for _, row in rows)) for path in columns}
    places = {path: {value: place for place, value in enumerate(known)} for path, known in values.items()}
    parts = list(dict.fromkeys((part.label, part.color) for _, row in rows for part in row.parts))
    scales = {key: metric_of(key).scale for key in record.metrics()}
    shared = {
        key: scale([row.metrics[key].measured for _, row in rows if key in row.metrics])
        for key, scale in scales.items()
    }
    entries = {}
    for index, row in rows:
        time = numbers.seconds([sum(part.seconds for part in row.parts)])
        entries[index] = {
            "id": row.id,
            "about": _about(row),
            "source": row.source,
            "notes": row.notes,
            "unit": row.unit,
            "time": [time.divisor, time.after],
            "figures": {key: _figure(row, key, shared[key]) for key in row.metrics},
            "parts": [
                [parts.index((part.label, part.color)), float(f"{part.seconds:.{_FIGURES}g}")] for part in row.parts
            ],
            "settings": [places[path][row.settings.get(path, "")] for path in columns],
        }
    return {
        "table": record.table,
        "metrics": {key: metric_of(key).label for key in record.metrics()},
        "parts": parts,
        "columns": columns,
        "values": [values[path] for path in columns],
        "rows": entries,
    }


def _figure(row: ReplayedRow, metric: str, scale: numbers.Scale) -> list[object]:
    """Predicted, interval, measured, error, whether inside; then the interval's ends over the measured."""
    compared = row.metrics[metric]
    return [
        scale.text(compared.predicted),
        scale.range(compared.low, compared.high),
        scale.text(compared.measured),
        numbers.signed_share(compared.error),
        compared.covered,
        float(f"{compared.low / compared.measured:.{_FIGURES}g}"),
        float(f"{compared.high / compared.measured:.{_FIGURES}g}"),
    ]


def _about(row: ReplayedRow) -> str:
    """A row in a line: mixtral-8x7b on 64 h100-sxm, megatron-core, bf16, MoE, quality A."""
    machine = " ".join(part for part in (count(row.gpus), row.device) if part)
    quality = f"quality {row.quality}" if row.quality else ""
    return ", ".join(
        part for part in (f"{row.name} on {machine}", row.framework, row.precision, row.arch, quality) if part
    )
