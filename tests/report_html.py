"""Reading a report as a reader does: its text by section, its tables, its ids."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br", "link", "img", "input"}
SVG_LEAVES = {"circle", "path", "rect", "polyline"}


@dataclass
class Page(HTMLParser):
    """The text of a page by the id of the section it stands in, and everything a test counts."""

    html: str
    text: dict[str, str] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    anchors: list[str] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    unclosed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[tuple[str, str]] = []
        self._in_finding = False
        self.feed(self.html)
        self.unclosed += [tag for tag, _ in self._open]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "a" and str(given.get("href", "")).startswith("#"):
            self.anchors.append(str(given["href"])[1:])
        if given.get("class") in ("finding", "verdict"):
            self.findings.append("")
            self._in_finding = True
        if tag not in VOID and tag not in SVG_LEAVES | {"doctype"}:
            self._open.append(
                (tag, str(given.get("id") or "") if tag in ("section", "header", "style", "script") else "")
            )

    def handle_endtag(self, tag: str) -> None:
        if tag in SVG_LEAVES:
            return
        if not self._open or self._open[-1][0] != tag:
            self.unclosed.append(tag)
            return
        self._open.pop()
        if tag == "p":
            self._in_finding = False

    def handle_data(self, data: str) -> None:
        if any(tag in ("style", "script") for tag, _ in self._open):
            return
        place = next((name for _, name in reversed(self._open) if name), "")
        self.text[place] = self.text.get(place, "") + data
        if self._in_finding:
            self.findings[-1] += data

    def all_text(self) -> str:
        return " ".join(self.text.values())


def widths(html: str, kind: str) -> list[float]:
    """The widths in percent of all elements of a class, in order."""
    return [float(w) for w in re.findall(rf'class="{kind}[^"]*" style="[^"]*?width:([\d.]+)%', html)]


def data_of(html: str, element: str) -> Any:
    """The JSON of a data element."""
    match = re.search(rf'<script type="application/json" id="{element}">(.*?)</script>', html, re.S)
    assert match, f"no data element {element}"
    return json.loads(match.group(1))
