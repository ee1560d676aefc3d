"""Catalog entries chosen by what they are: `devices where memory >= 80 GiB and vendor = nvidia`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from math import ceil
from typing import Any, NamedTuple

from simulator.errors import nearest
from simulator.spec.base import catalog
from simulator.spec.hardware import Device, Network, load_device, load_network
from simulator.spec.model import ModelSpec, resolve_model
from simulator.units import GIB, parse


class Fact(NamedTuple):
    """How a fact is read off an entry; `dimension` is empty for words and plain numbers."""

    of: Callable[[Any], Any]
    dimension: str = ""


def _memory(device: Device) -> float:
    """Capacity as it is sold: whole GiB, of which the driver keeps a little."""
    return ceil(device.memory.capacity / GIB) * GIB


_FACTS: dict[str, dict[str, Fact]] = {
    "devices": {
        "memory": Fact(_memory, "size"),
        "bandwidth": Fact(lambda device: device.memory.bandwidth, "bandwidth"),
        "bf16": Fact(lambda device: device.peak.get("bf16", 0.0), "rate"),
        "fp8": Fact(lambda device: device.peak.get("fp8", 0.0), "rate"),
        "tdp": Fact(lambda device: device.tdp, "power"),
        "scale_up": Fact(lambda device: device.scale_up.bandwidth, "bandwidth"),
        "domain": Fact(lambda device: device.scale_up.domain),
        "vendor": Fact(lambda device: device.vendor),
        "architecture": Fact(lambda device: device.architecture),
    },
    "networks": {
        "bandwidth": Fact(lambda network: network.bandwidth, "bandwidth"),
        "kind": Fact(lambda network: network.kind),
        "topology": Fact(lambda network: network.topology),
    },
    "models": {
        "parameters": Fact(lambda model: model.parameters),
        "active_parameters": Fact(lambda model: model.active_parameters),
        "experts": Fact(lambda model: model.num_experts or 0),
    },
}
_LOADERS: dict[str, Callable[[str], Device | Network | ModelSpec]] = {
    "devices": load_device,
    "networks": load_network,
    "models": resolve_model,
}
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "!=": operator.ne,
    "=": operator.eq,
}
_CLAUSE = re.compile(r"(\w+)\s*(>=|<=|!=|>|<|=)\s*(.+)")


def is_selection(value: object) -> bool:
    """Whether a value of a plan chooses from a catalog."""
    return isinstance(value, str) and value.partition(" ")[0] in _FACTS


def select(text: str, priced: Collection[str] = ()) -> list[str]:
    """The names of the entries that `text` chooses, in the catalog's order; `priced` are the devices with a price.

    Raises ValueError for a filter that can't be read, or that nothing passes.
    """
    kind, _, rest = text.strip().partition(" ")
    where, _, conditions = rest.strip().partition(" ")
    if where not in ("", "where") or (where and not conditions.strip()):
        raise ValueError(f"expected '{kind} where ...', as in 'devices where memory >= 80 GiB', got '{text}'")
    tests = [_test(kind, clause.strip(), priced) for clause in conditions.split(" and ")] if where else []
    load = _LOADERS[kind]
    chosen = [name for name in catalog(kind[:-1]) if all(test(name, load(name)) for test in tests)]
    if not chosen:
        raise ValueError(f"no entry of the catalog passes '{text}'")
    return chosen


def _test(kind: str, clause: str, priced: Collection[str]) -> Callable[[str, Any], bool]:
    if clause == "priced" and kind == "devices":
        return lambda name, entry: name in priced
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        raise ValueError(f"'{clause}' is no comparison, such as memory >= 80 GiB")
    name, symbol, wanted = match.groups()
    facts = _FACTS[kind]
    if name not in facts:
        raise ValueError(f"{kind} have no '{name}' to choose by.{nearest(name, facts)}")
    fact, compare = facts[name], _COMPARE[symbol]
    value: object = parse(wanted, fact.dimension) if fact.dimension else _plain(wanted)
    if isinstance(value, str) and symbol not in ("=", "!="):
        raise ValueError(f"'{clause}' compares words; only = and != can")
    return lambda _, entry: compare(_folded(fact.of(entry)), value)


def _plain(text: str) -> float | str:
    """A number, or a word in lower case."""
    try:
        return float(text)
    except ValueError:
        return text.lower()


def _folded(value: object) -> object:
    return value.lower() if isinstance(value, str) else value
