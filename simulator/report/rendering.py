"""Templates to one self-contained page: everything is escaped, nothing is fetched, an undefined value is an error."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"
# JSON inside a script element: these could end the element or start a comment.
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(template: str, **values: Any) -> str:
    """The page of a template in `templates/`."""
    return _environment().get_template(template).render(**values).strip() + "\n"


def file_name(name: str, suffix: str) -> str:
    """A name a file may have on any system, from a name a user chose."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name[:80]).strip(".-")
    return f"{kept or 'run'}{suffix}"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def asset(file: str) -> Markup:
        """A style sheet or script of this package, as it stands."""
        return Markup((_TEMPLATES / file).read_text(encoding="utf-8").strip())

    def embed(data: object) -> Markup:
        """Data for a script element; user text in it can't end the element."""
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return Markup(text.translate(_UNSAFE))

    def drawing(text: str) -> Markup:
        """SVG made by `svg`, which has escaped every value."""
        return Markup(text)

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"embed": embed, "drawing": drawing}
    environment.globals |= {"asset": asset}
    return environment
