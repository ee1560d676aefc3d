"""The load of a serving engine over time, and the lives of requests at its busiest time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulator.report import numbers, svg
from simulator.report.bars import Axis
from simulator.report.tables import Cell, Table, table
from simulator.result import LoadSample, Requests, RequestSpan

_PANEL, _HEAD, _FOOT = 64.0, 24.0, 28.0
# Requests drawn on a page and on a phone, and the height of one.
_DRAWN, _DRAWN_NARROW, _BAR = 40, 24, 9.0
_PHASES = (("Waiting", "wait"), ("Prompt", "dense"), ("Answer", "mem"))


def load_chart(served: Requests, *, label: str, wide: bool) -> str:
    """Requests in the batch and waiting, and the share of the KV cache that is taken; empty with too few samples."""
    samples = served.load
    if len(samples) < 2 or samples[-1].at_s <= 0:
        return ""
    width, left = (860.0, 6.0) if wide else (330.0, 6.0)
    panels: tuple[tuple[str, Callable[[LoadSample], float], Callable[[float], str], str], ...] = (
        ("Requests in the batch", lambda s: float(s.running), numbers.whole, "dense"),
        ("Requests waiting", lambda s: float(s.waiting), numbers.whole, "wait"),
        ("KV cache taken", lambda s: s.cache_share, numbers.share, "m2"),
    )
    end, parts = max(served.duration_s, samples[-1].at_s), []
    for i, (name, value, words, color) in enumerate(panels):
        top = i * (_PANEL + _HEAD) + _HEAD
        values = [value(sample) for sample in samples]
        peak = max(values)
        parts.append(svg.text(left, top - 8, name))
        parts.append(svg.text(width - 4, top - 8, f"most {words(peak)}", anchor="end", muted=True))
        parts += [svg.line(left, y, width - 4, y) for y in (top, top + _PANEL)]
        if peak > 0:
            parts.append(_area(samples, values, peak, end, left, width - 4, top, color))
    bottom = len(panels) * (_PANEL + _HEAD)
    parts += _time_axis(end, left, width - 4, bottom, wide=wide)
    return svg.image(width, bottom + _FOOT, label, "".join(parts))


def _area(
    samples: Sequence[LoadSample],
    values: Sequence[float],
    peak: float,
    end: float,
    left: float,
    right: float,
    top: float,
    color: str,
) -> str:
    """A stepped area: a sample holds until the next one."""
    base, across = top + _PANEL, (right - left) / end
    path = [f"M{svg.number(left)} {svg.number(base)}"]
    for sample, value in zip(samples, values, strict=True):
        x = left + sample.at_s * across
        path.append(f"H{svg.number(x)}V{svg.number(base - _PANEL * value / peak)}")
    path.append(f"H{svg.number(right)}V{svg.number(base)}z")
    fill = "url(#hw)" if color == "wait" else f"var(--{color})"
    return svg.element("path", d="".join(path), fill=fill, stroke=f"var(--{color})", stroke_width=1)


def lives_chart(served: Requests, *, label: str, wide: bool) -> str:
    """Requests as bars: waiting, prompt, answer; empty where none was kept."""
    shown = sorted(served.requests, key=lambda r: r.arrival_s)[: _DRAWN if wide else _DRAWN_NARROW]
    if not shown:
        return ""
    width, left, top = (860.0, 6.0, 26.0) if wide else (330.0, 6.0, 26.0)
    begin, end = min(r.arrival_s for r in shown), max(r.end_s for r in shown)
    across = (width - 4 - left) / max(end - begin, 1e-9)
    parts, at = [], left
    for name, color in _PHASES:
        parts.append(svg.element("rect", x=at, y=4, width=12, height=12, **_fill(color)))
        parts.append(svg.text(at + 18, 15, name))
        at += 18 + len(name) * svg.CHARACTER + 16
    for row, request in enumerate(shown):
        y = top + row * _BAR
        parts.append(svg.line(left, y + _BAR / 2, width - 4, y + _BAR / 2))
        times = (request.arrival_s, request.start_s, request.first_token_s, request.end_s)
        for (_, color), start, stop in zip(_PHASES, times[:-1], times[1:], strict=True):
            if stop > start:
                x, wide_px = left + (start - begin) * across, max(0.5, (stop - start) * across)
                parts.append(svg.element("rect", x=x, y=y + 1, width=wide_px, height=_BAR - 2, **_fill(color)))
    bottom = top + len(shown) * _BAR + 4
    parts += _time_axis(end - begin, left, width - 4, bottom, wide=wide)
    return svg.image(width, bottom + _FOOT, label, "".join(parts))


def _fill(color: str) -> dict[str, str]:
    if color == "wait":
        return {"fill": "url(#hw)", "stroke": "var(--wait)", "stroke_width": "0.5"}
    return {"fill": f"var(--{color})"}


def _time_axis(end: float, left: float, right: float, bottom: float, *, wide: bool) -> list[str]:
    scale = numbers.seconds([end])
    axis = Axis.covering([end], scale, intervals=6 if wide else 3)
    parts = []
    for i in range(axis.intervals + 1):
        value = axis.high * i / axis.intervals
        if value <= end:
            x, words = left + (right - left) * value / end, scale.tick(value)
            anchor = "start" if i == 0 else "end" if x + len(words) * svg.CHARACTER / 2 > right else "middle"
            parts.append(svg.line(x, bottom, x, bottom + 5, stroke="muted"))
            parts.append(svg.text(x, bottom + 19, words, anchor=anchor, muted=True))
    return parts


def lives_table(served: Requests) -> Table:
    """The requests drawn, in their order."""
    shown: Sequence[RequestSpan] = sorted(served.requests, key=lambda r: r.arrival_s)[:_DRAWN]
    scale = numbers.seconds([r.end_s - r.arrival_s for r in shown])
    rows: list[list[str | Cell]] = []
    for request in shown:
        waits = (request.start_s, request.first_token_s, request.end_s)
        cells = [scale.text(time - request.arrival_s) for time in waits]
        sizes = [f"{request.prompt_tokens:,}", f"{request.output_tokens:,}"]
        rows.append([numbers.seconds([request.arrival_s]).text(request.arrival_s), *sizes, *cells])
    columns = ">Arrives at | >Prompt tokens | >Answer tokens | >Taken up after | >First token after | >Done after"
    return table("requests at the busiest time", columns, rows, min_width=620)
