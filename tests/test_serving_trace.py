"""Traces: both forms are read as they are needed, and what is wrong in them is named with its line."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from simulator.errors import SpecError
from simulator.serving.trace import read_trace
from simulator.spec.base import data_root

HEADER = "arrival_s,input_tokens,output_tokens\n"


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "trace.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_arrivals_count_from_the_first(tmp_path: Path) -> None:
    requests = list(read_trace(written(tmp_path, HEADER + "5,100,20\n\n6.5,200,30\n")))
    assert [(r.index, r.arrival, r.prompt, r.output) for r in requests] == [(0, 0.0, 100, 20), (1, 1.5, 200, 30)]


def test_the_azure_form(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,4808,10\n"
        "2023-11-16 18:17:04.0319600,3180,8\n"
    )
    first, second = read_trace(written(tmp_path, text))
    assert (first.arrival, first.prompt, first.output) == (0.0, 4808, 10)
    assert second.arrival == pytest.approx(0.052, abs=1e-5)


def test_tokens_that_are_cached_already(tmp_path: Path) -> None:
    """The last token of a prompt is read in any case: it yields the answer."""
    text = "arrival_s,input_tokens,output_tokens,cached_tokens\n0,100,20,60\n1,100,20,100\n2,100,20,0\n"
    requests = list(read_trace(written(tmp_path, text)))
    assert [(r.cached, r.pending) for r in requests] == [(60, 40), (99, 1), (0, 100)]


def test_a_limit_leaves_the_rest_unread(tmp_path: Path) -> None:
    file = written(tmp_path, HEADER + "0,1,1\n1,1,1\nnot read\n")
    assert len(list(read_trace(file, limit=2))) == 2
    assert len(list(islice(read_trace(file), 2))) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", ":1: expected the columns arrival_s, input_tokens, output_tokens (or TIMESTAMP, "),
        (HEADER + "0,10,5\n1,10\n", ":3: output_tokens: missing"),
        (HEADER + "0,10,5\n1,,5\n", ":3: input_tokens: missing"),
        (HEADER + "-1,10,5\n", ":2: arrival_s: '-1' is no time; expected seconds, at least 0"),
        (HEADER + "nan,10,5\n", ":2: arrival_s: 'nan' is no time; expected seconds, at least 0"),
        (HEADER + "0,-3,5\n", ":2: input_tokens: '-3' is no number of tokens; expected at least 1"),
        (HEADER + "0,10,five\n", ":2: output_tokens: 'five' is no number of tokens; expected at least 1"),
        (HEADER + "2,10,5\n1,10,5\n", ":3: arrival_s: arrives before the request above it (1)"),
        (
            HEADER + "0,900,200\n",
            ":2: a request of 1100 tokens is longer than the model and its KV cache allow (1000)",
        ),
        (
            "arrival_s,input_tokens,output_tokens,cached_tokens\n0,10,5,11\n",
            ":2: cached_tokens: 11 cached tokens of a prompt of 10",
        ),
        (
            "arrival_s,input_tokens,output_tokens,cached_tokens\n0,10,5,4\n0,10,5,-1\n",
            ":3: cached_tokens: '-1' is no number of tokens; expected at least 0",
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n",
            ":2: TIMESTAMP: 'yesterday' is no instant like 2023-11-16 18:17:03.97",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(SpecError) as refused:
        list(read_trace(file, longest=1000))
    assert str(refused.value).startswith(f"{file}{message}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="can't be read as CSV"):
        list(read_trace(tmp_path / "none.csv"))


def test_the_shipped_trace() -> None:
    requests = list(read_trace(data_root() / "workloads/traces/chat-swell.csv"))
    assert len(requests) == 600
    assert requests[0].arrival == 0.0
