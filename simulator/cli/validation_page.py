"""What `validate --html` hands to the report: replayed rows, and their errors by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from simulator import __version__
from simulator.assembly.items import ITEM_ORDER, style
from simulator.cli.validation import group_scores, groupings
from simulator.report.validation_data import ALL, BEST, Compared, Errors, Part, ReplayedRow, ValidationRecord
from simulator.spec.base import data_root
from simulator.validation.replay import Row, Validation

_WORDS = {"id", "source", "quality", "kind", "notes", "doubt"}
# What remains of an item that takes no time, once sums are taken, is less of a step than this.
_LEAST = 1e-9
_CONSTANTS = (
    "The model's constants (efficiencies, overlap, host time, noise) are the same for every row; none is keyed by "
    "a model or a row."
)
_FITTED = {
    "training.csv": "They were fitted on this table, so its errors are those of a fit.",
    "inference.csv": "Those of inference were fitted on this table, so its errors are those of a fit; the others were "
    "fitted on the shipped table of training runs.",
    "collectives.csv": "Those of collectives were fitted on the measurements that the rows NCCL, DEEPEP and NVL72 are "
    "part of; the rows README and PUBLIC were not seen.",
}
_UNSEEN = "They were fitted on the shipped tables: of this one, only rows that stand there too were seen by the fit."


def validation_record(validation: Validation, name: str) -> ValidationRecord:
    """The record of the page; `name` is what the user called the table."""
    return ValidationRecord(
        table=name,
        version=__version__,
        rows=[_row(row) for row in validation.rows],
        errors=[errors for metric in validation.metrics() for errors in _errors(validation, metric)],
        fitted=f"{_CONSTANTS} {_fitted(Path(validation.table))}",
    )


def _fitted(table: Path) -> str:
    """What of the table the constants were fitted on."""
    shipped = data_root() / "workloads/validation"
    return _FITTED.get(table.name, _UNSEEN) if table.resolve().parent == shipped.resolve() else _UNSEEN


def _row(row: Row) -> ReplayedRow:
    facts = row.facts
    least = _LEAST * sum(row.breakdown.values())
    known = sorted(row.breakdown.items(), key=lambda item: ITEM_ORDER.index(item[0]))
    return ReplayedRow(
        id=row.id,
        name=facts.get("name", ""),
        source=row.source,
        quality=row.quality,
        arch=row.arch,
        device=facts.get("hardware.device", ""),
        gpus=facts.get("hardware.gpus", ""),
        precision=_precision(row),
        framework=_framework(row),
        notes=". ".join(facts[key] for key in ("notes", "doubt") if key in facts),
        reason=row.reason,
        unit="step" if facts.get("kind") == "training" else "decode step",
        metrics={
            key: Compared(c.predicted.value, c.predicted.low, c.predicted.high, c.measured)
            for key, c in row.metrics.items()
        },
        parts=[Part(style(item).label, style(item).color, seconds) for item, seconds in known if seconds > least],
        settings={path: value for path, value in facts.items() if path not in _WORDS},
    )


def _errors(validation: Validation, metric: str) -> list[Errors]:
    """The errors of a metric over all rows, and over those of the best quality where that is not all or none."""
    measured = [row for row in validation.rows if metric in row.metrics]
    best = [row for row in measured if row.quality == BEST]
    found = []
    for kind, rows in ((ALL, measured), (BEST, best)):
        total = validation.score(metric, rows)
        if total is None or (kind == BEST and len(best) == len(measured)):
            continue
        keys = _groupings(validation)
        groups = {heading: group_scores(validation, metric, rows, key) for heading, key in keys.items()}
        found.append(Errors(metric, kind, total, groups))
    return found


def _groupings(validation: Validation) -> Mapping[str, Callable[[Row], str]]:
    more: dict[str, Callable[[Row], str]] = {
        "precision": _precision,
        "kind of model": lambda row: row.arch,
        "framework": _framework,
        "quality": lambda row: row.quality,
    }
    return {**groupings(validation), **more}


def _precision(row: Row) -> str:
    return row.facts.get("training.precision") or row.facts.get("inference.precision", "")


def _framework(row: Row) -> str:
    return row.facts.get("framework") or row.facts.get("inference.framework", "")
