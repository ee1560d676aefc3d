"""What the software does in this run: the run's own words, then the framework's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from simulator.spec.curves import generation
from simulator.spec.framework import Recipe
from simulator.spec.workload import AttentionKernel, CudaGraph, Dispatcher, Recompute, Sharding

if TYPE_CHECKING:
    from simulator.spec.run import Run

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """Every software choice that shapes the graph, resolved."""

    recompute: Recompute
    recompute_modules: tuple[str, ...]
    recompute_fraction: float
    sharding: Sharding
    sequence_parallel: bool
    attention: AttentionKernel
    dispatcher: Dispatcher
    a2a_overlap: bool
    tp_overlap: bool
    dp_overlap: bool
    p2p_overlap: bool
    cuda_graph: CudaGraph
    fused: bool
    python_norms: bool
    etp: int


def stated(value: T | None, default: T) -> T:
    """`value` where the run states it, else `default`."""
    return default if value is None else value


def resolve_settings(run: Run) -> Settings:
    """The settings of a run: stated values first, else those of its framework."""
    framework, execution, split = run.defaults, run.execution, run.parallelism
    training = run.training

    recompute: Recompute = "none"
    modules: tuple[str, ...] = ()
    fraction = 0.0
    if training is not None:
        recompute = stated(training.recompute, framework.recompute)
        if recompute == "selective":
            modules = stated(training.recompute_modules, framework.recompute_modules)
            fraction = framework.recompute_forward_fraction
    fused = stated(execution.compile, framework.fused)
    architecture = generation(run.hardware.device.architecture)
    kernel = framework.attention.get(architecture, framework.attention["default"])
    recipe = _recipe(run, architecture)
    dispatcher, cuda_graph, overlap = framework.moe_dispatcher, framework.cuda_graph, framework.a2a_overlap
    if recipe is not None:
        dispatcher, cuda_graph, overlap = recipe.moe_dispatcher, recipe.cuda_graph, recipe.a2a_overlap
    cuda_graph = stated(execution.cuda_graph, cuda_graph)
    overlap = overlap or (cuda_graph == "full_iteration" and framework.a2a_overlap_graphed)
    overlap = overlap or (training is not None and training.schedule == "dualpipe")  # what its pairs are for
    sequence_parallel = stated(split.sequence_parallel, framework.sequence_parallel)
    experts_follow = run.model.is_moe and (split.ep == 1 or framework.etp_follows_tp)
    return Settings(
        recompute=recompute,
        recompute_modules=modules,
        recompute_fraction=fraction,
        sharding="none" if training is None else stated(training.sharding, framework.sharding),
        sequence_parallel=sequence_parallel and split.tp > 1,
        attention=stated(execution.attention, kernel),
        dispatcher=stated(execution.moe_dispatcher, dispatcher),
        a2a_overlap=stated(execution.a2a_overlap, overlap),
        tp_overlap=stated(execution.tp_overlap, stated(execution.async_tp, framework.tp_overlap)),
        dp_overlap=stated(execution.dp_overlap, framework.dp_overlap),
        p2p_overlap=stated(execution.p2p_overlap, framework.p2p_overlap),
        cuda_graph=cuda_graph,
        fused=fused,
        python_norms=framework.python_norms and not fused,
        etp=stated(split.etp, split.tp if experts_follow else 1),
    )


def _recipe(run: Run, architecture: str) -> Recipe | None:
    """The framework's MoE recipe for this machine and precision, where the run leaves dispatcher and graph open."""
    execution = run.execution
    if run.training is None or not run.model.is_moe or execution.moe_dispatcher or execution.cuda_graph:
        return None
    for recipe in run.defaults.moe_recipes:
        if (recipe.architecture, recipe.precision) == (architecture, run.training.precision):
            return recipe
    return None
