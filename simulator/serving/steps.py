"""Seconds of one engine step as a function of what is in it, tabulated from the operator graph.

Everything but attention depends on the tokens of a step alone; a decode core on how many sequences decode and how many
keys they read; a prompt core on the prompt's length. So a step costs
    linear(tokens) + head(rows) + decode(sequences) + key_s x keys + prompts,
each a piecewise linear table whose nodes are costed together and once. A piece of a chunked prompt costs what the
prompt so far costs with it, less what it costs without. Where a draft proposes tokens, a decoding sequence brings them
along to be checked, its cache is read once for all of them, and the draft's own passes come on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import hypot, log2

from simulator.cost.annotation import work_seconds
from simulator.cost.machine import Machine, build_machine
from simulator.graph.builder import pipeline_send
from simulator.graph.drafting import draft_of, joined_input
from simulator.graph.inference import Pass, feed_forward, prepare_pass, serving_split
from simulator.graph.inference_layers import attention_projections, cache_reads, decode_core, prompt_core, widths_of
from simulator.graph.layers import Layer, layers_of
from simulator.graph.operator import Operator
from simulator.graph.parallel import Layout, build_layout
from simulator.graph.transformer import embedding, head
from simulator.spec.inference_constants import read_inference_constants
from simulator.spec.run import Run
from simulator.units import US

NODES_PER_OCTAVE = 4
"""Of a table beyond its first octaves, where every whole number is a node."""
REFERENCE_KEYS, REFERENCE_ROWS = 2.0**20, 64.0
"""Keys, and sequences that share them, at which the time of a decode core per key is taken. Curves are linear in both;
measured kernels are asked where they were measured."""


class Table:
    """A function of a count, evaluated at nodes in batches and interpolated linearly between them."""

    def __init__(self, evaluate: Callable[[Sequence[float]], Sequence[float]]) -> None:
        self._evaluate = evaluate
        self._known: dict[int, tuple[float, float, float, float]] = {}

    def at(self, count: float) -> float:
        """The value at `count`; 0 at 0."""
        if count <= 0:
            return 0.0
        index = _segment(count)
        if index not in self._known:
            low, high = _node(index), _node(index + 1)
            at_low, at_high = self._evaluate((low, high))
            self._known[index] = (low, at_low, (at_high - at_low) / (high - low), high)
        low, at_low, slope, _ = self._known[index]
        return at_low + slope * (count - low)


FIRST = 8
"""Counts up to this one are nodes."""


def _segment(count: float) -> int:
    """Index of the segment between nodes that `count` lies in."""
    if count < FIRST:
        return max(1, int(count))
    return FIRST + int((log2(count) - log2(FIRST)) * NODES_PER_OCTAVE)


def _node(index: int) -> float:
    return float(index) if index <= FIRST else FIRST * 2.0 ** ((index - FIRST) / NODES_PER_OCTAVE)


class StepCost:
    """Seconds of the steps of one instance of a run's engine. Counts are those of one attention rank."""

    def __init__(self, run: Run, *, offline: bool = False, joins: bool = False) -> None:
        """`run` as the user wrote it; `offline` where no client is sent the tokens; `joins` where it is a prediction
        module. Raises InfeasibleError where its split does not divide, SpecError for a precision."""
        self.run = serving_split(run)
        self._joins = joins
        self.layout: Layout = build_layout(self.run)
        self.machine: Machine = build_machine(
            run.hardware,
            serves=True,
            profile=run.profile,
            engine=run.software,
            all_reduce=run.execution.all_reduce,
        )
        layers = layers_of(self.run)
        self._counts: dict[Layer, int] = {layer: layers.count(layer) for layer in dict.fromkeys(layers)}
        assert run.inference is not None
        engine = self.run.defaults
        cheaper = engine.offline_sequence_us if offline else None
        self._sequence_s = (engine.sequence_us if cheaper is None else cheaper) * US
        self._step_s = engine.engine_step_us * US
        self._widths = widths_of(run.model, run.inference.precision, run.hardware.device)
        self.speculative = run.inference.speculative
        self.queries = 1.0 if self.speculative is None else 1.0 + self.speculative.tokens
        self._draft = draft_of(self.run)
        self._drafting = None if self._draft is None else StepCost(self._draft.run, joins=self._draft.modules > 0)
        self.linear = Table(self._linear)
        self.head = Table(self._head)
        self.decode = Table(self._decode)
        self.prompt = Table(self._prompt)

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that a decoding sequence gains in a step."""
        return 1.0 if self.speculative is None else self.speculative.tokens_per_step

    @cached_property
    def key_s(self) -> float:
        """Seconds a step takes longer per key of a decoding sequence beyond windows, in all layers and passes."""
        drafting = 0.0 if self._draft is None or self._drafting is None else self._drafting.key_s * self._draft.passes
        return self._own_key_s + drafting

    @cached_property
    def _own_key_s(self) -> float:
        open_layers = {layer: n for layer, n in self._counts.items() if layer.window is None}
        return self._core(open_layers, REFERENCE_ROWS, REFERENCE_KEYS / REFERENCE_ROWS) / REFERENCE_KEYS

    def window_keys_s(self, context: float) -> float:
        """Seconds of one sequence's attention in layers with a sliding window, at that context."""
        return sum(
            self._core({layer: n}, REFERENCE_ROWS, REFERENCE_KEYS / REFERENCE_ROWS, window=False)
            / REFERENCE_KEYS
            * min(context, layer.window)
            for layer, n in self._counts.items()
            if layer.window is not None
        )

    def gpu(self, decodes: float, keys: float, prompts: Sequence[tuple[float, float]] = ()) -> float:
        """GPU seconds of a step: `decodes` sequences reading `keys` cached tokens in all, and pieces of prompts (new,
        done)."""
        stages = self.layout.pp
        new = sum(piece for piece, _ in prompts)
        finished = len(prompts)
        checked = decodes * self.queries / stages
        seconds = self.linear.at(checked + new) + self.head.at(checked + finished) + self.drafts(decodes, keys, prompts)
        if decodes:
            seconds += self.decode.at(checked) + self._own_key_s * keys / stages
            if self._windowed:
                seconds += decodes / stages * self.window_keys_s(keys / decodes)
        if prompts:  # one kernel a layer reads all of them: its start-up counts once
            whole = sum(done == 0 for _, done in prompts)
            seconds += (1 - whole) * self.prompt.at(1.0)
            seconds += sum(self.prompt.at(done + piece) - self.prompt.at(done) for piece, done in prompts)
        return seconds

    def drafts(self, decodes: float, keys: float, prompts: Sequence[tuple[float, float]] = ()) -> float:
        """GPU seconds of the draft in a step: a token a sequence and pass; each of its caches reads the prompts."""
        if self._draft is None or self._drafting is None:
            return 0.0
        reading = min(self._draft.passes, self._draft.readers)
        seconds = reading * self._drafting.gpu(decodes, keys, prompts)
        return seconds + ((self._draft.passes - reading) * self._drafting.gpu(decodes, keys) if decodes else 0.0)

    def seconds(self, decodes: float, keys: float, prompts: Sequence[tuple[float, float]] = ()) -> float:
        """Seconds of a step with the engine's own work: scheduling, per-sequence host time, eager launches of
        prompts."""
        gpu = self.gpu(decodes, keys, prompts)
        if prompts:
            gpu = hypot(gpu, self.launch_s)
        return gpu + self._step_s + self._sequence_s * (decodes + len(prompts))

    @cached_property
    def launch_s(self) -> float:
        """Seconds the host takes to launch all layers of a step with prompts, in parallel with the GPU."""
        weight = read_inference_constants().moe_prompt_layers
        layers = sum(n * (1.0 if layer.kind == "dense" else weight) for layer, n in self._counts.items())
        return layers * self.run.defaults.prompt_layer_us * US

    @cached_property
    def _windowed(self) -> bool:
        return any(layer.window is not None for layer in self._counts)

    def _linear(self, counts: Sequence[float]) -> list[float]:
        """Projections, feed-forward networks and sums over ranks of all layers, embedding and pipeline sends."""
        jobs = []
        for tokens in counts:
            b = prepare_pass(self.run, self.layout, Pass(prompts=1.0, length=tokens))
            joined = joined_input(self.run, b.shapes) if self._joins else []
            parts: list[tuple[Operator, float]] = [(operator, 1.0) for operator in (*embedding(b.shapes), *joined)]
            for layer, n in self._counts.items():
                before, after = attention_projections(b.shapes, self._widths)
                parts += [(operator, n) for operator in (*before, *after, *feed_forward(b, layer, self._widths))]
            send = pipeline_send(b)
            if send is not None:
                parts.append((send, self.layout.pp - 1))
            jobs.append(parts)
        return self._sums(jobs)

    def _head(self, counts: Sequence[float]) -> list[float]:
        jobs = []
        for rows in counts:
            b = prepare_pass(self.run, self.layout, Pass(decodes=rows))
            jobs.append([(operator, 1.0) for operator in head(b.shapes, tokens=rows)])
        return self._sums(jobs)

    def _decode(self, counts: Sequence[float]) -> list[float]:
        """What decode attention costs before it reads a key."""
        jobs = []
        for rows in counts:
            b = prepare_pass(self.run, self.layout, Pass(decodes=rows))
            jobs.append(
                [(op, n) for layer, n in self._counts.items() for op in decode_core(b.shapes, layer.window, rows, 0.0)]
            )
        return self._sums(jobs)

    def _prompt(self, counts: Sequence[float]) -> list[float]:
        jobs = []
        for length in counts:
            b = prepare_pass(self.run, self.layout, Pass(prompts=1.0, length=length))
            jobs.append(
                [
                    (op, n)
                    for layer, n in self._counts.items()
                    for op in prompt_core(b.shapes, layer.window, self._widths, 1.0, length)
                ]
            )
        return self._sums(jobs)

    def _core(self, layers: dict[Layer, int], rows: float, keys: float, *, window: bool = True) -> float:
        """Seconds of decode attention of these layers at `keys` a sequence, less those at none."""
        if not layers:
            return 0.0
        b = prepare_pass(self.run, self.layout, Pass(decodes=rows, context=keys))
        reads = cache_reads(self.run.model, self.run.defaults.shared_query_groups)
        jobs = [
            [
                (op, n)
                for layer, n in layers.items()
                for op in decode_core(
                    b.shapes, layer.window if window else None, rows, at, reads=reads, queries=self.queries
                )
            ]
            for at in (keys, 0.0)
        ]
        full, none = self._sums(jobs)
        return full - none

    def _sums(self, jobs: Sequence[Sequence[tuple[Operator, float]]]) -> list[float]:
        """Seconds of each job, all costed together."""
        flat = [(self.machine, operator.work) for job in jobs for operator, _ in job]
        seconds = iter(work_seconds(flat))
        return [sum(next(seconds) * operator.calls * times for operator, times in job) for job in jobs]
