"""What the charts and the trace are drawn from: schedules, columns, labels, matrices, events."""

from __future__ import annotations

import gzip
import json
from itertools import combinations
from pathlib import Path

import pytest
import report_samples as samples
from report_html import data_of

from simulator.errors import SpecError
from simulator.report import trace as trace_module
from simulator.report.page import render_run
from simulator.report.roofline_chart import of_roof, roofline_chart, roofline_finding
from simulator.report.svg import Box, Mark, number, place
from simulator.report.timeline_chart import columns
from simulator.report.timeline_data import MOST_CHUNKS, selection, timeline_data
from simulator.report.trace import trace, write_trace
from simulator.report.traffic_tables import matrices
from simulator.result import Chunk, Span, Timeline


def two_stages() -> Timeline:
    """A second each: stage 0 computes then waits, stage 1 waits then computes."""
    block = [
        Span(stream="Host", name="launch", color="host", start_s=0, end_s=0.1),
        Span(stream="Compute", name="GEMM", color="dense", start_s=0.1, end_s=1),
    ]
    chunks = [Chunk(stage=s, start_s=float(s), end_s=s + 1.0, phase="forward", micro_batch=0, chunk=0) for s in (0, 1)]
    return Timeline(
        stages=2,
        duration_s=2,
        chunks=chunks,
        blocks={f"{s}/forward/0": block for s in (0, 1)},
        shares={f"{s}/forward/0": {"dense": 0.9, "host": 0.1} for s in (0, 1)},
    )


def test_chunks_are_kept_as_steps_from_the_one_before() -> None:
    data = timeline_data(two_stages())
    assert data["tick"] == 1e-6
    assert data["duration"] == 2_000_000
    assert data["chunks"] == [[[0, 1_000_000, 0, 0, 0, 0]], [[1_000_000, 1_000_000, 0, 0, 0, 0]]]
    assert data["stages"] == [0, 1]


def test_blocks_that_are_alike_are_kept_once_and_computing_is_the_first_lane() -> None:
    data = timeline_data(two_stages())
    assert data["lanes"] == ["Compute", "Host"]
    assert data["blocks"] == [[[1, 0, 0, 0, 100_000], [0, 1, 1, 100_000, 900_000]]]


def test_a_chunk_whose_inside_is_unknown_is_drawn_whole() -> None:
    line = two_stages().model_copy(update={"blocks": {}, "shares": {}})
    data = timeline_data(line)
    assert [chunk[5] for stage in data["chunks"] for chunk in stage] == [-1, -1]
    assert columns(line, selection(line), 0, 2) == [{"dense": pytest.approx(1.0)}, {}]


def test_columns_hold_the_share_of_each_kind() -> None:
    line = two_stages()
    assert columns(line, selection(line), 0, 4) == [
        {"dense": pytest.approx(0.9), "host": pytest.approx(0.1)},
        {"dense": pytest.approx(0.9), "host": pytest.approx(0.1)},
        {},
        {},
    ]


def test_many_stages_are_thinned_out_between_the_first_and_the_last() -> None:
    chosen = selection(samples.timeline(stages=64))
    assert len(chosen.stages) == 16
    assert (chosen.stages[0], chosen.stages[-1]) == (0, 63)
    assert not chosen.cut


def test_a_very_long_schedule_is_cut_to_the_budget_and_says_so() -> None:
    first = two_stages()
    chunks = [
        Chunk(stage=i % 2, start_s=i / 50_000, end_s=(i + 1) / 50_000, phase="decode", micro_batch=i, chunk=0)
        for i in range(50_000)
    ]
    line = first.model_copy(update={"chunks": chunks, "blocks": {}, "shares": {}})
    chosen = selection(line)
    assert chosen.cut
    assert sum(len(c) for c in chosen.chunks.values()) == MOST_CHUNKS
    html = render_run(samples.training(timeline=line))
    assert len(html.encode()) < 1_000_000
    assert "Later chunks are left out" in html


def test_the_page_carries_the_schedule_it_draws() -> None:
    result = samples.training()
    data = data_of(render_run(result), "timeline-data")
    assert result.timeline is not None
    assert sum(len(stage) for stage in data["chunks"]) == len(result.timeline.chunks)


def test_coordinates_have_one_decimal_and_no_negative_zero() -> None:
    assert [number(v) for v in (1.0, 1.26, -0.01, -0.5, 10.0, -3.0)] == ["1", "1.3", "0", "-0.5", "10", "-3"]


def test_labels_touch_neither_each_other_nor_the_dots() -> None:
    area = Box(0, 0, 400, 300)
    marks = [Mark(200 + 6 * i, 150 + 4 * i, 4, f"operator {i}") for i in range(8)]
    placed = place(marks, area, [])
    boxes = []
    for spot in placed:
        width = len(spot.mark.words) * 7.8
        left = spot.x - {"start": 0.0, "middle": width / 2, "end": width}[spot.anchor]
        boxes.append(Box(left, spot.y - 12, left + width, spot.y + 4))
    assert len(placed) >= 6
    assert not any(a.touches(b) for a, b in combinations(boxes, 2))
    assert all(box.inside(area) for box in boxes)


def test_a_label_without_room_is_dropped() -> None:
    assert place([Mark(10, 10, 4, "a long name")], Box(0, 0, 40, 20), []) == []


def test_the_roofline_judges_against_the_nearer_roof() -> None:
    result = samples.training()
    row = result.operators[0].model_copy(update={"flops": 100e12, "bytes": 1e12, "seconds": 1.0})
    # 100 FLOP/byte at 3.35 TB/s allow 335 TFLOP/s.
    assert of_roof(row, result) == pytest.approx(100 / 335)


def test_the_roofline_names_what_could_be_saved() -> None:
    assert roofline_finding(samples.training()).replace("\u00a0", " ") == (
        "Expert GEMMs run at 66 % of the matrix units' peak. "
        "Attention core, at 44 % of the roof, would save 3 % of the step there."
    )


def test_an_operator_that_only_moves_data_has_no_place_on_the_roofline() -> None:
    result = samples.training()
    moving = [row for row in result.operators if row.flops == 0]
    assert roofline_chart(result.model_copy(update={"operators": moving}), wide=True) == ""


def test_nothing_sent_is_no_matrix() -> None:
    result = samples.one_gpu()
    assert result.traffic is not None
    assert matrices(result, result.traffic) == []


def test_a_matrix_says_what_each_receives_against_the_mean() -> None:
    result = samples.training()
    assert result.traffic is not None
    inside = matrices(result, result.traffic)[0]
    assert inside.caption == "GB per step, from GPU (row) to GPU (column)"
    # Columns were filled in proportion to a skew whose mean is 1.
    assert inside.load == ("1.04", "0.95", "0.97", "0.99", "0.94", "1.09", "1.02", "1.00")
    assert inside.rows[0][1][0].text == ""
    assert inside.rows[0][1][1].text == "4.1"


def events(path: Path) -> dict[str, list[dict[str, object]]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return json.load(stream)  # type: ignore[no-any-return]


def test_the_trace_has_a_process_per_stage_and_a_thread_per_stream(tmp_path: Path) -> None:
    result = samples.training(timeline=two_stages())
    write_trace(result, tmp_path / "trace.json.gz")
    data = events(tmp_path / "trace.json.gz")
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]  # type: ignore[index]
        for event in data["traceEvents"]
        if event["name"] in ("thread_name",)
    }
    assert names == {(s, t): name for s in (0, 1) for t, name in enumerate(["Chunks", "Compute", "Host"])}
    complete = [event for event in data["traceEvents"] if event["ph"] == "X"]
    assert len(complete) == 2 + 4
    gemm = next(event for event in complete if event["name"] == "GEMM" and event["pid"] == 1)
    assert (gemm["ts"], gemm["dur"]) == (1_100_000, 900_000)
    assert "cut" not in data["otherData"]


def test_a_long_trace_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "MOST_EVENTS", 3)
    result = samples.training(timeline=two_stages())
    data = trace(result, two_stages())
    assert sum(event["ph"] == "X" for event in data["traceEvents"]) == 3
    assert data["otherData"]["cut"] == "3 of 6 events; operators of later chunks are left out"


def test_the_same_result_gives_the_same_trace(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        write_trace(samples.training(), tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_result_without_a_timeline_has_no_trace(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="this result holds no timeline, so there is no trace to write"):
        write_trace(samples.bare(), tmp_path / "trace.json.gz")
    assert not (tmp_path / "trace.json.gz").exists()
