"""The section of a serving run: what requests see, whether objectives are met, how loaded the engine is."""

from __future__ import annotations

from typing import Any

from simulator.report import numbers
from simulator.report.numbers import NBSP
from simulator.report.serving_curves import curves_chart
from simulator.report.serving_load import lives_chart, lives_table, load_chart
from simulator.report.tables import Cell, Table, table
from simulator.result import Latency, Number, Requests, Result

# Of what can be sustained, where queues begin to grow long.
_NEAR = 0.85


def serving_section(result: Result) -> dict[str, Any]:
    """What the template shows; nothing where no requests were simulated."""
    served = result.serving
    if served is None:
        return {"serving_finding": None}
    finding = serving_finding(served)
    load = _load_words(served)
    lives = "Requests at the busiest time: waiting, prompt, answer."
    return {
        "serving_finding": finding,
        "latencies": latency_table(served),
        "curves_wide": curves_chart(served, label=f"Share of requests by latency. {finding}", wide=True),
        "curves_narrow": curves_chart(served, label=f"Share of requests by latency. {finding}", wide=False),
        "load_words": load,
        "load_wide": load_chart(served, label=f"Load over time. {load}", wide=True),
        "load_narrow": load_chart(served, label=f"Load over time. {load}", wide=False),
        "lives_wide": lives_chart(served, label=lives, wide=True),
        "lives_narrow": lives_chart(served, label=lives, wide=False),
        "lives_table": lives_table(served),
        "serving_figures": figures_table(served),
    }


def serving_finding(served: Requests) -> str:
    """How many requests meet the objectives, or how long nearly all of them wait, and how near the limit is."""
    slow = served.ttft_s.p99.value
    first = f"99{NBSP}% of the requests see their first token within {numbers.seconds([slow]).text(slow)}"
    if served.good_share is not None:
        scales = (("first token within", served.ttft_slo_s), ("tokens no slower than", served.tpot_slo_s))
        asked = [f"{words} {_tick(limit)}" for words, limit in scales if limit is not None]
        first = f"{_part(served.good_share)} of the requests meet the objective ({numbers.listing(asked)})"
    most = served.objective_requests_per_s
    if most is not None and served.objective_share is not None:
        part = numbers.round_share(served.objective_share)
        if not most.value:
            return f"{first}; at no load do {part} of them."
        rate = numbers.significant(most.value, 2)
        return f"{first}. At up to {rate} requests a second, arriving at random, {part} of them would."
    limit = served.sustainable_requests_per_s
    if limit is None or not limit.value:
        return f"{first}."
    share = served.requests_per_s.value / limit.value
    if share > 1:
        return f"{first}; the engine is at its limit."
    near = "which is near its limit" if share > _NEAR else "so there is room for more"
    return f"{first}. The engine carries {numbers.round_share(share)} of what it could sustain, {near}."


def _part(share: float) -> str:
    """Of requests: none and all only where it is so."""
    if share in (0.0, 1.0):
        return "All" if share else "None"
    if share > 0.995:
        return f"More than 99{NBSP}%"
    return numbers.sentence(numbers.round_share(share))


def _tick(seconds: float) -> str:
    return numbers.seconds([seconds]).tick(seconds)


def latency_table(served: Requests) -> Table:
    """Mean and percentiles with the interval of the slowest, and which share of requests keeps the objective."""
    kinds = (
        ("Time to first token", served.ttft_s, served.ttft_slo_s),
        ("Time per output token, mean of a request", served.tpot_s, served.tpot_slo_s),
        ("Time between two tokens", served.itl_s, None),
        ("Whole answer", served.e2e_s, None),
        ("In the queue", served.queue_s, None),
    )
    rows = [_latency_row(name, latency, limit) for name, latency, limit in kinds if latency is not None]
    columns = "Latency | >Mean | >Median | >p90 | >p99 | >90 % interval of p99 | >Objective"
    return table("latencies", columns, rows, min_width=680)


def _latency_row(name: str, latency: Latency, limit: float | None) -> list[str | Cell]:
    scale = numbers.seconds([latency.p90.value or latency.p99.value])
    cells = [scale.text(number.value) for number in (latency.mean, latency.p50, latency.p90, latency.p99)]
    return [name, *cells, scale.interval(latency.p99), numbers.DASH if limit is None else _tick(limit)]


def _load_words(served: Requests) -> str:
    """How full the engine is, in a sentence or two."""
    batch = max((sample.running for sample in served.load), default=0)
    cache = max((sample.cache_share for sample in served.load), default=0.0)
    words = f"At most {batch:,} requests were under way at once, in {numbers.round_share(cache)} of the KV cache"
    if served.preemptions:
        return f"{words}; {served.preemptions:,} were dropped from a full cache and read again."
    return f"{words}; none was dropped from it."


def figures_table(served: Requests) -> Table:
    """Rates, use and prices."""
    rate = numbers.Scale(1.0, f"{NBSP}requests/s")
    money, energy = numbers.dollars, numbers.joules
    rows: list[list[str | Cell]] = [["Requests served", f"{served.served:,}", ""]]

    def add(label: str, number: Number | None, scale: numbers.Scale | None = None) -> None:
        if number is not None:
            shown = scale or rate
            rows.append([label, shown.text(number.value), shown.interval(number)])

    add("Served per second", served.requests_per_s)
    add("Of these within the objectives (goodput)", served.goodput_requests_per_s)
    if served.objective_share is not None:
        part = numbers.round_share(served.objective_share)
        add(f"Could be served with {part} within the objectives", served.objective_requests_per_s)
    add("Could be served for ever", served.sustainable_requests_per_s)
    tokens = (
        ("Prompt tokens", served.prompt_tokens),
        ("Of these found in the cache", served.cached_tokens),
        ("Answer tokens written", served.output_tokens),
    )
    rows += [[words, f"{count:,}", ""] for words, count in tokens if count]
    rows.append(["Replicas", f"{served.instances:,}", ""])
    rows.append(["Time in which GPUs compute", numbers.share(served.busy_share), ""])
    if served.reading_share is not None:
        rows[-1][0] = "Time in which GPUs that write answers compute"
        rows.append(["Time in which GPUs that read prompts compute", numbers.share(served.reading_share), ""])
    if served.handover_bytes is not None and served.handover_s is not None:
        size, time = served.handover_bytes, served.handover_s
        add("KV cache of a prompt that crosses between them", size, numbers.bytes_([size.value]))
        add("Its way, alone", time, numbers.seconds([time.value]))
    rows.append(["Dropped from a full cache and read again", f"{served.preemptions:,}", ""])
    for label, number in (
        ("Price per million tokens, read or written", served.usd_per_million_tokens),
        ("Of a million prompt tokens, by the time they take", served.usd_per_million_prompt_tokens),
        ("Of a million answer tokens, by the time they take", served.usd_per_million_answer_tokens),
    ):
        add(label, number, money([number.value]) if number is not None else None)
    if served.joules_per_token is not None:
        add("Energy per token, read or written", served.joules_per_token, energy([served.joules_per_token.value]))
    return table("serving figures", "Figure | >Value | >90 % interval", rows, min_width=460)
