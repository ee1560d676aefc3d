"""Findings that no chart module owns: sentences chosen by rule that name the thing, the number and the consequence."""

from __future__ import annotations

from simulator.report import numbers
from simulator.report.kinds import kind_name, seconds_by_color, total_seconds, work_unit
from simulator.result import Result


def breakdown_finding(result: Result) -> str:
    """The largest kind of time, and what communication, or else the largest loss, adds."""
    total = total_seconds(result)
    if not total:
        return "No breakdown was kept for this run."
    unit = work_unit(result)
    colors = seconds_by_color(result.breakdown)
    first = max(colors, key=lambda c: colors[c])
    name = kind_name(first, colors)
    verb = "take" if name.endswith("s") else "takes"
    lead = (
        f"{name} {verb} {numbers.round_share(colors[first] / total)} of the "
        f"{numbers.seconds([total]).text(total)} {unit}"
    )
    exposed = sum(i.seconds.value for i in result.breakdown if i.group == "communicating")
    hidden = sum(i.hidden_s for i in result.breakdown)
    if exposed + hidden == 0:
        return f"{lead}; nothing is sent."
    share = numbers.round_share(hidden / (exposed + hidden))
    if exposed == 0:
        return f"{lead}; communication adds nothing, because all of it hides behind compute."
    if hidden == 0:
        return f"{lead}; communication takes {numbers.round_share(exposed / total)}, none of it hidden."
    if first in ("a2a", "comm"):
        return f"{lead}; {share} of all communication hides behind compute."
    adds = numbers.round_share(exposed / total)
    return f"{lead}; communication adds {adds}, because {share} of it hides behind compute."
