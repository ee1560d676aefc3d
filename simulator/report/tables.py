"""Tables as data: what a template needs to write a real table with scopes, swatches and basis marks."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.report.numbers import NBSP
from simulator.result import Basis


@dataclass(frozen=True)
class Cell:
    """Text with, where it helps, a colour swatch before it, a note below it or a basis mark in its place."""

    text: str = ""
    swatch: str = ""
    basis: Basis | None = None
    code: bool = False
    note: str = ""


@dataclass(frozen=True)
class Column:
    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """`name` tells screen readers what the table is; `min_width` in px is where it starts to scroll sideways."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: tuple[Cell, ...] = ()
    min_width: int = 0


def table(
    name: str,
    columns: str,
    rows: list[list[str | Cell]],
    *,
    total: list[str | Cell] | None = None,
    min_width: int = 0,
) -> Table:
    """A table from its heading line `Item | Rate | >Amount`, where > marks a column of numbers."""
    heads = [part.strip().replace(" %", f"{NBSP}%") for part in columns.split("|")]
    return Table(
        name=name,
        columns=tuple(Column(head.removeprefix(">"), head.startswith(">")) for head in heads),
        rows=tuple(_cells(row) for row in rows),
        total=_cells(total or []),
        min_width=min_width,
    )


def _cells(row: list[str | Cell]) -> tuple[Cell, ...]:
    return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row)
