"""Requests read from a CSV as they are needed: a trace of millions stays on disk.

Columns are `arrival_s, input_tokens, output_tokens`, or those of the Azure LLM inference traces
(github.com/Azure/AzurePublicDataset): `TIMESTAMP, ContextTokens, GeneratedTokens` with calendar instants. Either may
have `cached_tokens`: how many at the front of the prompt are in the KV cache already.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from simulator.errors import SpecError
from simulator.serving.requests import Request

OWN = ("arrival_s", "input_tokens", "output_tokens")
AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
CACHED = "cached_tokens"
MICROSECOND_DIGITS = 6


def read_trace(file: str | Path, limit: int | None = None, longest: float = math.inf) -> Iterator[Request]:
    """The requests of a trace in their order, arrivals counted from the first; at most `limit` of them.

    Raises SpecError with file and line for what is missing, negative, out of order, or longer than `longest` tokens.
    """
    name = str(file)
    try:
        with Path(file).open(newline="", encoding="utf-8") as stream:
            reader = csv.reader(stream)
            columns = [column.strip() for column in next(reader, [])]
            form = next((form for form in (OWN, AZURE) if set(form) <= set(columns)), None)
            if form is None:
                raise SpecError(f"expected the columns {', '.join(OWN)} (or {', '.join(AZURE)})", file=name, line=1)
            places = [columns.index(column) for column in form]
            cached = columns.index(CACHED) if CACHED in columns else None
            for request, line, cells in _requests(reader, places, form, name, limit, longest):
                if cached is not None:
                    tokens = _tokens(_cell(cells, cached, CACHED, name, line), CACHED, name, line, least=0)
                    if tokens > request.prompt:
                        text = f"{tokens} cached tokens of a prompt of {request.prompt}"
                        raise SpecError(text, file=name, line=line, path=CACHED)
                    request.cached = request.done = min(tokens, request.prompt - 1)  # the last one yields an answer
                yield request
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"can't be read as CSV: {error}", file=name) from None


class Means(NamedTuple):
    """Of a trace: requests per second, and tokens of a request."""

    rate: float
    prompt: float
    output: float
    cached: float


@lru_cache(maxsize=16)
def trace_means(file: Path, changed: int, limit: int | None, longest: float) -> Means:
    """Means over a trace as `read_trace` reads it; `changed` is when the file did. Raises SpecError for none."""
    count = prompt = output = cached = 0
    last = 0.0
    for request in read_trace(file, limit, longest):
        count += 1
        prompt += request.prompt
        output += request.output
        cached += request.cached
        last = request.arrival
    if count == 0:
        raise SpecError("no request in it", file=str(file))
    rate = (count - 1) / last if last > 0 else math.inf
    return Means(rate, prompt / count, output / count, cached / count)


def _requests(
    reader: Iterator[list[str]], places: list[int], form: tuple[str, ...], name: str, limit: int | None, longest: float
) -> Iterator[tuple[Request, int, list[str]]]:
    """The requests with their lines and cells."""
    first, last, index = 0.0, -math.inf, 0
    for line, cells in enumerate(reader, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if limit is not None and index >= limit:
            return
        at, prompt, output = (_cell(cells, place, form[i], name, line) for i, place in enumerate(places))
        instant = _instant(at, form[0], name, line)
        tokens = [_tokens(text, column, name, line) for text, column in ((prompt, form[1]), (output, form[2]))]
        if index == 0:
            first = instant
        if instant < last:
            raise SpecError(f"arrives before the request above it ({at})", file=name, line=line, path=form[0])
        if sum(tokens) > longest:
            message = (
                f"a request of {sum(tokens)} tokens is longer than the model and its KV cache allow ({longest:.0f})"
            )
            raise SpecError(message, file=name, line=line)
        last = instant
        yield Request(index, instant - first, tokens[0], tokens[1]), line, cells
        index += 1


def _cell(cells: list[str], place: int, column: str, name: str, line: int) -> str:
    text = cells[place].strip() if place < len(cells) else ""
    if not text:
        raise SpecError("missing", file=name, line=line, path=column)
    return text


def _instant(text: str, column: str, name: str, line: int) -> float:
    """Seconds: a number, or a calendar instant with any number of decimals."""
    if column == OWN[0]:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise SpecError(
                f"'{text[:40]}' is no time; expected seconds, at least 0", file=name, line=line, path=column
            )
        return value
    whole, point, decimals = text.partition(".")
    try:
        return datetime.fromisoformat(whole + point + decimals[:MICROSECOND_DIGITS]).timestamp()
    except ValueError:
        raise SpecError(
            f"'{text[:40]}' is no instant like 2023-11-16 18:17:03.97", file=name, line=line, path=column
        ) from None


def _tokens(text: str, column: str, name: str, line: int, *, least: int = 1) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        message = f"'{text[:40]}' is no number of tokens; expected at least {least}"
        raise SpecError(message, file=name, line=line, path=column)
    return value
