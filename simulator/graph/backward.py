"""Backward passes derived from forward ones, and what is recomputed before them.

A GEMM turns into the gradient of its input and that of its weights, a fused attention kernel into 2.5 times its FLOPs
(it recomputes the scores: arXiv 2307.08691 section 3.1.2), an HBM-bound operator into twice its bytes, a gather into a
scatter and each collective into its adjoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simulator.graph.operator import Attention, Collective, Gemm, Operator, Traffic, WeightGrad
from simulator.graph.precision import quantise_bytes
from simulator.graph.transformer import SCORE_BYTES_BACKWARD, SCORE_BYTES_FORWARD, Shapes

ATTENTION_BACKWARD = 2.5
MEMORY_BACKWARD = 2.0
_ADJOINT = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather"}
# Products of two activations: both operands get a gradient of the same kind, and no weight is accumulated.
_ACTIVATION_PRODUCTS = frozenset({"attention scores", "attention values"})


def backward_of(s: Shapes, operators: Sequence[Operator], accumulate_bytes: float) -> list[Operator]:
    """The backward operators of a forward pass, in reverse order.

    `accumulate_bytes` is what accumulating an element of a weight gradient moves: 8 into fp32, 2 where a fresh bf16
    gradient is written.
    """
    backward: list[Operator] = []
    for operator in reversed(operators):
        backward += _adjoint(s, operator, accumulate_bytes)
    return backward


def _adjoint(s: Shapes, operator: Operator, accumulate_bytes: float) -> list[Operator]:
    name, work = operator.name, operator.work
    match work:
        case Gemm() if name in _ACTIVATION_PRODUCTS:
            flipped = work._replace(n=work.k, k=work.n)
            return [operator._replace(name=f"{name} grad", work=flipped, calls=2.0, module="")]
        case Gemm():
            return _gemm_adjoint(s, operator, work, accumulate_bytes)
        case Attention():
            moved = work.bytes * MEMORY_BACKWARD
            grad = work._replace(flops=work.flops * ATTENTION_BACKWARD, bytes=moved, phase="backward")
            return [operator._replace(name=f"{name} grad", work=grad, module="")]
        case Traffic() if name.endswith("quantise"):
            return []  # the operand is kept; the gradient's own quantisation comes with its GEMM
        case Traffic():
            ratio = SCORE_BYTES_BACKWARD / SCORE_BYTES_FORWARD if name == "attention softmax" else MEMORY_BACKWARD
            if name == "cross-entropy":
                ratio = 1.0  # a loss's bytes are split evenly between the passes
            grad_traffic = Traffic(work.bytes * ratio, work.flops * 2, work.gather)
            return [operator._replace(name=f"{name} grad", work=grad_traffic, module="")]
        case Collective():
            kind = _ADJOINT.get(work.kind, work.kind)
            adjoint = work._replace(kind=kind)  # type: ignore[arg-type]
            if operator.item == "context_parallel":  # keys and values travel again, and their gradients with them
                return [operator._replace(name=f"{name} grad", work=work, calls=2.0)]
            return [operator._replace(name=f"{name} grad", work=adjoint)]
        case _:
            raise AssertionError(f"{name} has no backward")


def _gemm_adjoint(s: Shapes, operator: Operator, work: Gemm, accumulate_bytes: float) -> list[Operator]:
    name = operator.name
    parts = []
    quantise = quantise_bytes(work.precision, transposed_operands=s.transposed_operands)
    again = operator._replace(module="")
    if quantise:
        moved = Traffic(work.m * work.n * quantise)
        parts.append(again._replace(name=f"{name} grad quantise", item="elementwise", work=moved))
    grad_input = work._replace(n=work.k, k=work.n)
    grad_weight = WeightGrad(
        work.m, work.n, work.k, work.precision, work.groups, work.row_bytes, accumulate_bytes, work.grouped
    )
    parts.append(again._replace(name=f"{name} dgrad", work=grad_input))
    parts.append(again._replace(name=f"{name} wgrad", work=grad_weight))
    return parts


def halves(operators: Sequence[Operator]) -> tuple[list[Operator], list[Operator]]:
    """A backward pass cut in two (arXiv 2401.10241): what the stage before waits for, and the weight gradients.

    Gradients of what no GEMM multiplies (norms, embeddings, gathered experts) stay with the first.
    """
    weights = [operator for operator in operators if isinstance(operator.work, WeightGrad)]
    return [operator for operator in operators if not isinstance(operator.work, WeightGrad)], weights


def recomputed(operators: Iterable[Operator], modules: frozenset[str], fraction: float) -> list[Operator]:
    """What selective recompute repeats before a backward pass.

    Operators of the named modules as a whole (`moe` is all of a MoE layer but its norm; with unfused attention,
    `core_attn` is its products and softmax; a fused kernel recomputes inside its backward and repeats nothing), and
    `fraction` of the other compute where a policy chooses by operator.
    """
    parts = []
    if "moe" in modules:
        modules |= {"moe_act"}
    for operator in operators:
        if operator.module in modules and not isinstance(operator.work, Attention):
            parts.append(operator)
        elif fraction and not operator.is_communication:
            parts.append(operator._replace(calls=operator.calls * fraction))
    return parts
