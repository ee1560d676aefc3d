"""Drawing primitives: elements as text with every value escaped, and labels placed where they touch nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

# Of a 15 px character in the widest of the fallback fonts (DejaVu Sans), and of a line of such text, px.
CHARACTER, LINE = 9.0, 18.0


def number(value: float) -> str:
    """A coordinate with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0").replace("-0", "-0" if value <= -0.05 else "0")


def element(tag: str, content: str = "", **attributes: str | float) -> str:
    """`<tag a="b">content</tag>`; `content` is markup, attributes are escaped, `_` in a name stands for `-`."""
    parts = [tag]
    for name, value in attributes.items():
        text = value if isinstance(value, str) else number(value)
        parts.append(f'{name.rstrip("_").replace("_", "-")}="{escape(text)}"')
    return f"<{' '.join(parts)}>{content}</{tag}>" if content else f"<{' '.join(parts)}/>"


def text(x: float, y: float, words: str, *, anchor: str = "start", muted: bool = False, halo: bool = False) -> str:
    """Words at a point; a halo in the ground colour keeps them readable over lines."""
    style = {"class_": " ".join(name for name, on in (("m", muted), ("halo", halo)) if on)}
    shown = style if style["class_"] else {}
    return element("text", escape(words), x=x, y=y, text_anchor=anchor, **shown)


def line(x: float, y: float, x2: float, y2: float, *, stroke: str = "rule", width: float = 1) -> str:
    path = f"M{number(x)} {number(y)}L{number(x2)} {number(y2)}"
    return element("path", d=path, stroke=f"var(--{stroke})", stroke_width=width)


def image(width: float, height: float, label: str, content: str) -> str:
    """An SVG that screen readers meet as one image with a finding for a name."""
    box = f"0 0 {number(width)} {number(height)}"
    return element("svg", content, viewBox=box, role="img", aria_label=label)


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def touches(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )

    def grown(self, by: float) -> Box:
        return replace(self, left=self.left - by, top=self.top - by, right=self.right + by, bottom=self.bottom + by)


@dataclass(frozen=True)
class Mark:
    """A dot with the words that should stand near it."""

    x: float
    y: float
    radius: float
    words: str


@dataclass(frozen=True)
class Placed:
    """Where the words of a mark stand; with a leader where they had to go further away."""

    mark: Mark
    x: float
    y: float
    anchor: str
    leader: bool

    @property
    def joint(self) -> tuple[float, float]:
        """Where the leader meets the words: their near end, or the middle of their upper or lower edge."""
        if self.anchor != "middle":
            return self.x, self.y - 4
        return self.x, self.y - 13 if self.y > self.mark.y else self.y + 3


def place(marks: list[Mark], area: Box, taken: list[Box], thin: Sequence[Box] = ()) -> list[Placed]:
    """Labels in order of the marks, beside their mark or on a leader; one that finds no room is dropped.

    Neither words nor leaders touch what is `taken`; leaders may cross what is `thin`.
    """
    boxes = [*taken, *map(disc, marks)]
    placed = []
    for mark in marks:
        for spot in _spots(mark, area):
            box = _box(spot)
            path = _leader(spot)
            others = [b for b in boxes if b != disc(mark)]
            free = not any(part.touches(b) for b in others for part in (box, *path))
            if free and box.inside(area) and not any(box.touches(b) for b in thin):
                placed.append(spot)
                boxes += [box.grown(1), *path]
                break
    return placed


def disc(mark: Mark) -> Box:
    return Box(mark.x - mark.radius, mark.y - mark.radius, mark.x + mark.radius, mark.y + mark.radius)


def _leader(spot: Placed) -> list[Box]:
    """The line from a mark to its words, as small boxes that start outside the mark."""
    if not spot.leader:
        return []
    dx, dy = spot.joint[0] - spot.mark.x, spot.joint[1] - spot.mark.y
    length = (dx * dx + dy * dy) ** 0.5
    count = int(length / 3) + 1
    far = [i / count for i in range(1, count) if length * i / count > spot.mark.radius + 2]
    return [Box(x - 1, y - 1, x + 1, y + 1) for t in far for x, y in [(spot.mark.x + t * dx, spot.mark.y + t * dy)]]


def _spots(mark: Mark, area: Box) -> list[Placed]:
    """Right, left, above and below, then further away on a leader; centred words keep inside the area."""
    near, half = mark.radius + 6, len(mark.words) * CHARACTER / 2
    centre = min(max(mark.x, area.left + half), area.right - half)
    spots = [
        Placed(mark, mark.x + near, mark.y + 4, "start", leader=False),
        Placed(mark, mark.x - near, mark.y + 4, "end", leader=False),
        Placed(mark, centre, mark.y - near, "middle", leader=False),
        Placed(mark, centre, mark.y + near + 10, "middle", leader=False),
    ]
    for far in (26.0, 46.0, 66.0, 90.0, 120.0, 150.0):
        for up in (1, -1):
            for slant in (-0.4, 0.4, -1.2, 1.2):
                anchor = "end" if slant < 0 else "start"
                spots.append(Placed(mark, mark.x + slant * far, mark.y + up * far + 4, anchor, leader=True))
            spots.append(Placed(mark, centre, mark.y + up * far + 4, "middle", leader=True))
    return spots


def _box(spot: Placed) -> Box:
    width = len(spot.mark.words) * CHARACTER
    left = spot.x - {"start": 0.0, "middle": width / 2, "end": width}[spot.anchor]
    return Box(left, spot.y - LINE + 4, left + width, spot.y + 4)
