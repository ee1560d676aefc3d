"""The kinds of time and of memory: their names, order and colours, the same in every chart."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from simulator.result import Basis, BreakdownItem, Color, Result

COLORS: tuple[Color, ...] = ("expert", "dense", "mem", "a2a", "comm", "wait", "host")

KIND_NAMES: Mapping[Color, str] = {
    "expert": "Expert GEMMs",
    "dense": "Attention and other GEMMs",
    "mem": "HBM-bound operators",
    "a2a": "All-to-all",
    "comm": "Other communication",
    "wait": "Waiting",
    "host": "Host and launch gaps",
}
_SHORT_NAMES: Mapping[Color, str] = {
    "expert": "Expert GEMMs",
    "dense": "Attention",
    "mem": "HBM",
    "a2a": "All-to-all",
    "comm": "Network",
    "wait": "Waiting",
    "host": "Host",
}

GROUP_NAMES = {
    "computing": "Computing",
    "communicating": "Communicating, exposed",
    "waiting": "Waiting",
    "host": "Host",
}

MEMORY_NAMES = {
    "parameters": "Parameters",
    "gradients": "Gradients",
    "optimizer_states": "Optimizer states",
    "activations": "Activations",
    "kv_cache": "KV cache",
    "buffers": "Buffers",
    "framework": "Framework",
}

BASIS_MEANINGS: Mapping[Basis, str] = {
    "measured": "This operator and shape was timed on this device.",
    "interpolated": "Between shapes that were timed on this device.",
    "extrapolated": "Outside the timed range; the interval is widened.",
    "transferred": "Fitted on published timings of this or a related device, or scaled by data-sheet ratios.",
    "datasheet": "Vendor figure with a general efficiency; nothing measured.",
    "exact": "Counted, not estimated: parameters, FLOPs, bytes.",
}
WEAK: frozenset[Basis] = frozenset({"extrapolated", "transferred", "datasheet"})


def kind_name(color: Color, present: Collection[str], *, short: bool = False) -> str:
    """What a kind of time is called; where no experts compute, the other GEMMs are simply the GEMMs."""
    if color == "dense" and "expert" not in present:
        return "GEMMs"
    return _SHORT_NAMES[color] if short else KIND_NAMES[color]


def memory_colors(parts: Collection[str]) -> dict[str, str]:
    """Colour variable of each component of memory: one hue for the model's state, activations or the cache last."""
    caching = "kv_cache" in parts
    colors = {
        "parameters": "m1",
        "gradients": "m2",
        "optimizer_states": "m3",
        "activations": "m3" if caching else "m4",
        "kv_cache": "m4",
        "buffers": "m5",
        "framework": "m6",
    }
    return {key: color for key, color in colors.items() if key in parts}


def seconds_by_color(items: Collection[BreakdownItem]) -> dict[Color, float]:
    """Seconds of a step by kind, for the kinds that take any."""
    sums = {color: sum(item.seconds.value for item in items if item.color == color) for color in COLORS}
    return {color: value for color, value in sums.items() if value > 0}


def total_seconds(result: Result) -> float:
    """What the breakdown sums to: the step."""
    return sum(item.seconds.value for item in result.breakdown)


def work_unit(result: Result) -> str:
    """What the breakdown, the operators, the links and the levers are measured over.

    Where drafted tokens are checked a step yields several tokens, and times are those of one.
    """
    if result.kind == "training":
        return "step"
    work = result.run.get("inference")
    return "output token" if isinstance(work, dict) and "speculative" in work else "decode step"


def chip(result: Result) -> str:
    """What a reader calls the devices of this run."""
    return "TPU" if result.summary.device.lower().startswith("tpu") else "GPU"


def batch_unit(result: Result) -> str:
    """What energy and bytes are counted over."""
    return "step" if result.kind == "training" else "batch"
