"""The report of one run: twelve sections, each a finding in a sentence, a chart and a table."""

from __future__ import annotations

from typing import Any

from simulator.report import numbers
from simulator.report.bars import BarChart, chart_table
from simulator.report.breakdown_chart import breakdown_chart, stack
from simulator.report.energy_chart import (
    bill_table,
    energy_chart,
    energy_finding,
    energy_sum,
    per_token_line,
    rates_table,
)
from simulator.report.fabric_chart import fabric_chart, fabric_finding
from simulator.report.figures import figures, precision_finding
from simulator.report.findings import breakdown_finding
from simulator.report.kinds import batch_unit, chip, work_unit
from simulator.report.levers_chart import levers_chart, levers_finding, refused
from simulator.report.links_chart import beside_sentence, links_over_time, meetings_finding, meetings_tables
from simulator.report.memory_chart import infeasible_chart, memory_chart, memory_finding, memory_table
from simulator.report.rendering import file_name, render
from simulator.report.roofline_chart import roofline_chart, roofline_finding, roofline_table
from simulator.report.serving_section import serving_section
from simulator.report.sources_tables import (
    assumption_sources,
    assumptions_table,
    basis_table,
    fields_table,
    labels_table,
    precedents_chart,
    precedents_finding,
    sources_finding,
)
from simulator.report.tables import Table
from simulator.report.timeline_chart import overview, timeline_finding
from simulator.report.timeline_data import selection, timeline_data
from simulator.report.traffic_tables import algorithms_table, collectives_table, links_chart, matrices, traffic_finding
from simulator.report.verdict import refusal, title, verdict
from simulator.result import Infeasible, Result


def render_run(result: Result) -> str:
    """One self-contained HTML page; the same result gives the same bytes."""
    common = {
        "result": result,
        "summary": result.summary,
        "title": title(result),
        "unit": work_unit(result),
        "batch": batch_unit(result),
        "chip": chip(result),
        "run_file_name": file_name(result.name, ".yaml"),
        "fields": fields_table(result),
        "seconds_to_simulate": numbers.seconds([result.provenance.seconds_to_simulate]).text(
            result.provenance.seconds_to_simulate
        ),
    }
    if result.infeasible is not None:
        return render("infeasible.html.jinja", **common, **_infeasible(result, result.infeasible))
    sections = (
        _headline,
        serving_section,
        _time,
        _timeline,
        _memory,
        _roofline,
        _traffic,
        _energy,
        _levers,
        _sources,
        _record,
    )
    values: dict[str, Any] = {}
    for section in sections:
        values |= section(result)
    return render("run.html.jinja", **common, **values)


def _headline(result: Result) -> dict[str, Any]:
    return {
        "verdict": verdict(result),
        "figures": figures(result),
        "precision_finding": precision_finding(result),
    }


def _time(result: Result) -> dict[str, Any]:
    finding = breakdown_finding(result)
    if not result.breakdown:
        return {"breakdown_finding": finding, "stack": None}
    chart = breakdown_chart(result)
    return {
        "breakdown_finding": finding,
        "stack": stack(result),
        "breakdown": chart,
        "breakdown_table": _table("where the time goes", "Kind | >Time", "Share and hidden", chart),
    }


def _timeline(result: Result) -> dict[str, Any]:
    timeline = result.timeline
    topic = "Timeline of one step" if result.kind == "training" else "Timeline of prefill and decode"
    if timeline is None or not timeline.chunks:
        finding = "No timeline was kept for this run."
        return {"timeline_topic": topic, "timeline_finding": finding, "overview": None}
    chosen = selection(timeline)
    return {
        "timeline_topic": topic,
        "timeline_finding": timeline_finding(result),
        "overview": overview(result, timeline),
        "timeline": timeline_data(timeline),
        "stages_shown": chosen.stages,
        "stages": timeline.stages,
        "timeline_cut": chosen.cut,
    }


def _memory(result: Result) -> dict[str, Any]:
    if result.memory_gib is None:
        return {"memory_finding": "Memory was not counted for this run.", "memory_table": None, "memory": None}
    stages = result.memory_by_stage
    return {
        "memory_finding": memory_finding(result, result.memory_gib),
        "memory_table": memory_table(result, result.memory_gib),
        "memory": memory_chart(stages, result.summary) if stages else None,
        "allocatable": numbers.significant(result.summary.allocatable_gib),
        "peak_moments": sorted({stage.peak_moment for stage in stages if stage.peak_moment}),
    }


def _roofline(result: Result) -> dict[str, Any]:
    return {
        "roofline_finding": roofline_finding(result),
        "roofline_wide": roofline_chart(result, wide=True),
        "roofline_narrow": roofline_chart(result, wide=False),
        "roofline_table": roofline_table(result) if result.operators else None,
    }


def _traffic(result: Result) -> dict[str, Any]:
    traffic = result.traffic
    fabric = traffic.fabric if traffic else None
    return {
        "fabric": fabric,
        "beside": beside_sentence(result.beside) if result.beside else "",
        "fabric_wide": fabric_chart(fabric, wide=True) if fabric else "",
        "fabric_narrow": fabric_chart(fabric, wide=False) if fabric else "",
        "fabric_finding": fabric_finding(fabric) if fabric else "",
        "links_over_time": links_over_time(result, fabric) if fabric else None,
        "meetings": meetings_tables(result, fabric) if fabric else [],
        "meetings_finding": meetings_finding(result, fabric) if fabric else "",
        "traffic_finding": traffic_finding(result),
        "matrices": matrices(result, traffic) if traffic else [],
        "links": links_chart(traffic.links) if traffic else None,
        "traffic_note": traffic.note if traffic else "",
        "collectives": collectives_table(result.communication_s) if result.communication_s else None,
        "algorithms": algorithms_table(traffic.collectives) if traffic and traffic.collectives else None,
    }


def _energy(result: Result) -> dict[str, Any]:
    energy = result.energy_j
    total = energy_sum(energy) if energy else 0.0
    chart = energy_chart(energy) if energy else None
    return {
        "energy_finding": energy_finding(result),
        "energy": chart,
        "energy_table": _table("energy by part", "Part | >Energy", "Share", chart),
        "energy_total": numbers.joules([total]).text(total),
        "bill": bill_table(result),
        "rates": rates_table(result),
        "per_token": per_token_line(result),
    }


def _levers(result: Result) -> dict[str, Any]:
    parts, changes = levers_chart(result, "hardware"), levers_chart(result, "run")
    return {
        "levers_finding": levers_finding(result),
        "parts": parts,
        "parts_table": _table("parts of the machine", "Part | >Change of time", "Over all tokens", parts),
        "changes": changes,
        "changes_table": _table("changes of the run", "Change | >Change of time", "Over all tokens", changes),
        "refused": refused(result),
    }


def _sources(result: Result) -> dict[str, Any]:
    return {
        "sources_finding": sources_finding(result),
        "assumptions": assumptions_table(result),
        "assumption_sources": assumption_sources(result),
        "basis_table": basis_table(result),
        "labels": labels_table(),
        "not_modelled": numbers.sentence(numbers.listing(map(numbers.inside, result.not_modelled)))
        if result.not_modelled
        else "",
    }


def _record(result: Result) -> dict[str, Any]:
    chart = precedents_chart(result)
    return {
        "precedents_finding": precedents_finding(result),
        "precedents": chart,
        "precedents_table": _table("published runs", "Run | >Predicted over measured, less one", "Note", chart),
    }


def _table(name: str, columns: str, note: str, chart: BarChart | None) -> Table | None:
    return chart_table(name, f"{columns} | >90 % interval | {note}", chart) if chart else None


def _infeasible(result: Result, problem: Infeasible) -> dict[str, Any]:
    chart, parts = infeasible_chart(problem)
    return {"refusal": refusal(result, problem), "reason": problem.reason, "memory": chart, "memory_table": parts}
