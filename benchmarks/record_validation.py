"""Write the record of predicted published runs that reports quote (workloads/validation/training_record.csv).

python benchmarks/record_validation.py
"""

from __future__ import annotations

from simulator.explanation.precedents import record_path, write_record
from simulator.spec.base import data_root
from simulator.validation.replay import validate_table


def main() -> None:
    """Replay the training table and write the record."""
    validation = validate_table(data_root() / "workloads/validation/training.csv")
    write_record(validation, record_path())
    score = validation.score("step_time_s", [row for row in validation.rows if row.quality == "A"])
    print(f"{record_path()}: macro {score.macro:.2f} % of {score.n} rows" if score else "no rows")


if __name__ == "__main__":
    main()
