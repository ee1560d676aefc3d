"""How wrong a comparison of two runs is: errors they share cancel, and what is left was seen on published runs.

For pairs of recorded runs of one model on one framework, s^2 = mean (log r_a - log r_b)^2, r = predicted / measured.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from itertools import combinations
from math import log, sqrt

from simulator.answer import PairErrors
from simulator.spec.base import data_root

RECORD = "workloads/validation/training_record.csv"
_ALIKE = ("name", "framework", "precision")


@lru_cache(maxsize=1)
def pair_errors() -> PairErrors:
    """From the shipped record of predicted runs: pairs on one device, and pairs on two."""
    with (data_root() / RECORD).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    same: list[float] = []
    other: list[float] = []
    for a, b in combinations(rows, 2):
        if all(a[field] == b[field] for field in _ALIKE):
            gap = log(float(a["ratio"]) / float(b["ratio"]))
            (same if a["device"] == b["device"] else other).append(gap)
    return PairErrors(_spread(same), _spread(other), len(same), len(other))


def _spread(gaps: list[float]) -> float:
    return sqrt(sum(gap**2 for gap in gaps) / len(gaps))
