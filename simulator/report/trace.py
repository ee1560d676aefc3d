"""The timeline as a trace that Perfetto and chrome://tracing open: a process per stage, a thread per stream.

Where events were played there is also a thread for each kind of transfer, from its first to its last byte, and a
process of counters: how full every link is, in percent.

Trace Event Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMCH-b0f7r8q4JmJm4k (complete and
counter events, times in microseconds).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from simulator.errors import SpecError
from simulator.report.timeline_data import key
from simulator.result import Chunk, Result, Timeline

MOST_EVENTS = 200_000
_MICRO = 1e6


def write_trace(result: Result, path: Path) -> None:
    """Write the trace, gzip-compressed JSON. Raises SpecError where the result holds no timeline."""
    if result.timeline is None:
        raise SpecError("this result holds no timeline, so there is no trace to write", file=str(path))
    text = json.dumps(trace(result, result.timeline), separators=(",", ":"))
    # Neither a name nor a date goes into the file, so that the same result gives the same bytes.
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as stream:
        stream.write(text.encode("utf-8"))


def trace(result: Result, timeline: Timeline) -> dict[str, Any]:
    """The trace as data: all chunks first, then the operators inside them as far as the limit allows."""
    streams = sorted({span.stream for block in timeline.blocks.values() for span in block})
    moving = [f"{name}, as played" for name in sorted({flow.stream for flow in timeline.flows})]
    total = len(timeline.chunks) + sum(len(timeline.blocks.get(key(c), ())) for c in timeline.chunks)
    ordered = sorted(timeline.chunks, key=lambda c: (c.start_s, c.stage))
    chunks = [_chunk(chunk) for chunk in ordered[:MOST_EVENTS]]
    operators = list(islice(_operators(timeline, ordered, streams), MOST_EVENTS - len(chunks)))
    other: dict[str, Any] = {
        "run": result.name,
        "model": result.summary.model,
        "simulator": f"moesim {result.provenance.version}",
        "step_time_s": timeline.duration_s,
    }
    if len(chunks) + len(operators) < total:
        other["cut"] = f"{len(chunks) + len(operators)} of {total} events; operators of later chunks are left out"
    names = [event for stage in range(timeline.stages) for event in _names(stage, [*streams, *moving])]
    played = [*_flows(timeline, {name: len(streams) + i for i, name in enumerate(moving, 1)}), *_counters(result)]
    return {"traceEvents": names + chunks + operators + played, "displayTimeUnit": "ms", "otherData": other}


def _chunk(chunk: Chunk) -> dict[str, Any]:
    return _event(
        f"{chunk.phase.replace('_', ' ')} {chunk.micro_batch}",
        chunk.phase,
        (chunk.stage, 0),
        (chunk.start_s, chunk.end_s),
        {"micro_batch": chunk.micro_batch, "chunk": chunk.chunk},
    )


def _operators(timeline: Timeline, chunks: list[Chunk], streams: list[str]) -> Iterator[dict[str, Any]]:
    """The operators of each chunk in order of time, on the thread of their stream."""
    threads = {stream: i + 1 for i, stream in enumerate(streams)}
    for chunk in chunks:
        for span in timeline.blocks.get(key(chunk), ()):
            ends = (chunk.start_s + span.start_s, chunk.start_s + span.end_s)
            yield _event(span.name, span.color, (chunk.stage, threads[span.stream]), ends, {})


def _flows(timeline: Timeline, threads: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The transfers that events played, on threads of their own beside the streams of their stage."""
    for flow in timeline.flows:
        where = flow.stage, threads[f"{flow.stream}, as played"]
        yield _event(flow.name, flow.color, where, (flow.start_s, flow.end_s), {})


def _counters(result: Result) -> Iterator[dict[str, Any]]:
    """How full each link is over the step, a counter for each, in a process below the stages."""
    fabric = result.traffic.fabric if result.traffic else None
    links = [link for link in fabric.links if any(link.load)] if fabric else []
    if not links or result.timeline is None or result.step_time_s is None:
        return
    process = result.timeline.stages
    yield {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": "Links, percent full"}}
    yield {"ph": "M", "name": "process_sort_index", "pid": process, "tid": 0, "args": {"sort_index": process}}
    for link in links:
        width = result.step_time_s.value / len(link.load)
        before = -1.0
        for i, share in enumerate(link.load):
            if share != before:
                at = round(_MICRO * i * width, 3)
                yield {"ph": "C", "name": link.name, "pid": process, "ts": at, "args": {"%": round(100 * share, 2)}}
            before = share


def _event(
    name: str, category: str, where: tuple[int, int], ends: tuple[float, float], args: dict[str, Any]
) -> dict[str, Any]:
    """A complete event; `where` is (process, thread), `ends` in seconds."""
    start, end = (round(_MICRO * end, 3) for end in ends)
    event = {"ph": "X", "name": name, "cat": category, "pid": where[0], "tid": where[1], "ts": start}
    event["dur"] = round(max(0.0, end - start), 3)
    return event | ({"args": args} if args else {})


def _names(stage: int, streams: list[str]) -> Iterator[dict[str, Any]]:
    """What viewers call the process of a stage and its threads, in the order they stand."""
    yield {"ph": "M", "name": "process_name", "pid": stage, "tid": 0, "args": {"name": f"Stage {stage}"}}
    yield {"ph": "M", "name": "process_sort_index", "pid": stage, "tid": 0, "args": {"sort_index": stage}}
    for thread, name in enumerate(["Chunks", *streams]):
        yield {"ph": "M", "name": "thread_name", "pid": stage, "tid": thread, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": stage, "tid": thread, "args": {"sort_index": thread}}
