"""The run file of an option, as short as people write them: a line a block, blocks in braces."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

from simulator.answer import Option
from simulator.spec.run import set_path

# Words that stand for themselves inside braces; the rest is quoted.
_PLAIN = re.compile(r"[A-Za-z][\w./+-]*")
_RESERVED = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def run_file(name: str, base: Mapping[str, Any], option: Option) -> str:
    """The text of a run file that gives the option's figures again."""
    data = copy.deepcopy(dict(base))
    for path in sorted(option.settings, key=lambda path: path.count(".")):
        set_path(data, path, option.settings[path])
    data["name"] = f"{name}-{option.gpus}x{option.device}"
    return "".join(f"{key}: {_text(value)}\n" for key, value in data.items())


def _text(value: object) -> str:
    match value:
        case Mapping():
            return "{" + ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_text(inner) for inner in value) + "]"
        case str():
            plain = _PLAIN.fullmatch(value) and value.lower() not in _RESERVED
            return value if plain else json.dumps(value, ensure_ascii=False)
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case _:
            return json.dumps(value)
