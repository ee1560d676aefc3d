"""Hugging Face config.json to model fields, by one explicit mapping per architecture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulator.errors import SpecError


def read_config(file: str) -> dict[str, Any]:
    """Placeholder until the mapping lands."""
    raise SpecError("Hugging Face configs are not read yet", file=file)
