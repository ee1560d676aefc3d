"""moesim: cost and performance of dense and Mixture-of-Experts transformers, with error bars.

    from simulator import read_run, simulate
    result = simulate(read_run("run.yaml", ["parallelism.tp=4"]))
    result.step_time_s.value, result.to_frame()

The names below load on first use, so `import simulator` itself costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.errors import InfeasibleError, SimulatorError, SpecError
    from simulator.report.page import render_run
    from simulator.result import Result
    from simulator.simulation import simulate
    from simulator.spec.run import Run, read_run
    from simulator.sweeps import evaluate, read_sweep
    from simulator.validation.replay import validate_table

__version__ = "0.1.0"

__all__ = [
    "InfeasibleError",
    "Result",
    "Run",
    "SimulatorError",
    "SpecError",
    "__version__",
    "evaluate",
    "read_run",
    "read_sweep",
    "render_run",
    "simulate",
    "validate_table",
]

_HOMES = {
    "InfeasibleError": "errors",
    "Result": "result",
    "Run": "spec.run",
    "SimulatorError": "errors",
    "SpecError": "errors",
    "evaluate": "sweeps",
    "read_run": "spec.run",
    "read_sweep": "sweeps",
    "render_run": "report.page",
    "simulate": "simulation",
    "validate_table": "validation.replay",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'simulator' has no attribute '{name}'")
    return getattr(import_module(f"simulator.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
