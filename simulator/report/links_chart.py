"""How full the links were over a step, as events played it, and who met on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from simulator.report import numbers, svg
from simulator.report.tables import Cell, Table, table
from simulator.report.timeline_chart import steps_path, time_axis
from simulator.result import Beside, Fabric, LinkLoad, Meeting, Result

MOST_LINKS = 10
_TOP, _ROW, _GAP = 8.0, 28.0, 10.0
_UNSEEN = 1e-3
"""A link less full than this on average is not worth a row."""


@dataclass(frozen=True)
class LinksOverTime:
    """Two drawings of the same rows, and their table."""

    wide: str
    narrow: str
    column_text: str
    table: Table


def links_over_time(result: Result, fabric: Fabric) -> LinksOverTime | None:
    """The fullest links over the step; None where no events were played or nothing is carried."""
    shown = _shown(fabric)
    if not shown or result.step_time_s is None:
        return None
    seconds = result.step_time_s.value
    column = seconds / len(shown[0].load)
    return LinksOverTime(
        wide=_drawing(shown, seconds, wide=True),
        narrow=_drawing(shown, seconds, wide=False),
        column_text=numbers.seconds([column]).text(column),
        table=_table(shown, seconds),
    )


MOST_MEETINGS = 8
"""Rows that a reader sees at once; the rest is folded away."""


def meetings_tables(result: Result, fabric: Fabric) -> list[Table]:
    """Which transfers met on which link, how long, and how much later they got done: the worst, then the others."""
    parts = fabric.meetings[:MOST_MEETINGS], fabric.meetings[MOST_MEETINGS:]
    names = ("transfers that met on a link", "further transfers that met on a link")
    return [_meetings(name, part, result) for name, part in zip(names, parts, strict=True) if part]


def _meetings(name: str, meetings: list[Meeting], result: Result) -> Table:
    assert result.step_time_s is not None
    scale = numbers.seconds([m.delay_s for m in meetings])
    rows: list[list[str | Cell]] = []
    for meeting in meetings:
        counts = Counter(meeting.transfers)
        who = " with ".join(name if count == 1 else f"{count} × {name}" for name, count in counts.items())
        who = who if len(meeting.transfers) > 1 else f"{who}, alone"
        share = numbers.share(meeting.seconds / result.step_time_s.value)
        seconds = (scale.text(meeting.seconds), share, scale.text(meeting.delay_s))
        rows.append([numbers.sentence(meeting.link), who, *seconds])
    columns = "Link | Transfers | >Together | >Of the step | >Later, summed"
    return table(name, columns, rows, min_width=620)


def meetings_finding(result: Result, fabric: Fabric) -> str:
    """What sharing cost the step, and where most was lost."""
    if not fabric.meetings or fabric.sharing_s is None or result.step_time_s is None:
        return "No two transfers asked a link for more than it carries."
    cost, share = numbers.seconds([fabric.sharing_s]), fabric.sharing_s / result.step_time_s.value
    worst = fabric.meetings[0].link
    return f"Sharing adds {cost.text(fabric.sharing_s)} to the step, {numbers.share(share)} of it; most met on {worst}."


def beside_sentence(beside: Beside) -> str:
    """What two jobs on one fabric do to each other."""
    mine, theirs = beside.beside_s / beside.alone_s - 1, beside.other_beside_s / beside.other_alone_s - 1
    scale = numbers.seconds([beside.alone_s])
    return (
        f"Beside {beside.other} a step takes {scale.text(beside.beside_s)}, alone on its nodes "
        f"{scale.text(beside.alone_s)} ({numbers.signed_share(mine)}); {beside.other} changes by "
        f"{numbers.signed_share(theirs)}."
    )


def _shown(fabric: Fabric) -> list[LinkLoad]:
    """The fuller direction of each link that carries something, the fullest links first, as many as fit."""
    places: dict[str, LinkLoad] = {}
    for link in fabric.links:
        place = link.name.rpartition(", ")[0]
        if (
            link.load
            and link.utilisation > _UNSEEN
            and (place not in places or link.utilisation > places[place].utilisation)
        ):
            places[place] = link
    return sorted(places.values(), key=lambda link: (-link.utilisation, link.name))[:MOST_LINKS]


def _drawing(links: list[LinkLoad], seconds: float, *, wide: bool) -> str:
    """A stepped area for each link, as high as the link is full; its ground is the link's bandwidth."""
    width, left = (860.0, 300.0) if wide else (330.0, 0.0)
    row = _ROW if wide else _ROW + svg.LINE
    parts, y = [], _TOP
    for link in links:
        name = numbers.sentence(link.name)
        base = y + row
        parts.append(svg.text(0, base - 9 if wide else y + 13, name))
        parts.append(svg.element("rect", x=left, y=base - _ROW, width=width - left, height=_ROW, fill="var(--waitbg)"))
        columns = link.load if wide else _coarser(link.load, 2)
        heights = [min(1.0, share) * _ROW for share in columns]
        path = steps_path(heights, left, (width - left) / len(heights), base)
        parts.append(svg.element("path", d=path, fill="var(--comm)", shape_rendering="crispEdges"))
        y = base + _GAP
    parts += time_axis(seconds, left, width, y - _GAP + 2, wide=wide)
    fullest = links[0]
    label = f"{len(links)} links over time; the fullest, {fullest.name}, is {numbers.share(fullest.utilisation)} full."
    return svg.image(width, y + 22, label, "".join(parts))


def _coarser(values: list[float], by: int) -> list[float]:
    """Means of `by` neighbours each."""
    return [sum(values[i : i + by]) / len(values[i : i + by]) for i in range(0, len(values), by)]


def _table(links: list[LinkLoad], seconds: float) -> Table:
    rows: list[list[str | Cell]] = []
    rate = numbers.si([link.bandwidth_bytes_per_s for link in links], "B/s", smallest=0)
    for link in links:
        full = numbers.share((link.full_s or 0.0) / seconds)
        cells = [numbers.share(link.utilisation), numbers.share(max(link.load)), full]
        rows.append([numbers.sentence(link.name), rate.text(link.bandwidth_bytes_per_s), *cells])
    return table("links over time", "Link | >Carries | >Mean | >Fullest moment | >Asked for more", rows, min_width=560)
