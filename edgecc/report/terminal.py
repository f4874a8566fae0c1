"""Reports as text: tables on a terminal, aligned plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Literal

from edgecc.plaintext import clean as clean  # noqa: PLC0414 - also found here

if TYPE_CHECKING:
    import rich.table

Align = Literal["left", "right"]


@dataclass(frozen=True)
class Table:
    """Cells of text under headings. A heading that begins with ">" stands over right-aligned cells."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=tuple)

    @property
    def columns(self) -> list[tuple[str, Align]]:
        """Heading and alignment of each column."""
        return [(h.lstrip(">"), "right" if h.startswith(">") else "left") for h in self.headings]


def plain_lines(table: Table) -> list[str]:
    """The table as aligned lines, its title first."""
    columns = table.columns
    cells = [[name for name, _ in columns], *([clean(c) for c in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [clean(table.title)] if table.title else []
    for row in cells:
        padded = (
            text.rjust(width) if align == "right" else text.ljust(width)
            for text, width, (_, align) in zip(row, widths, columns, strict=True)
        )
        lines.append("  " + "  ".join(padded).rstrip())
    return lines


def rich_table(table: Table) -> rich.table.Table:
    """The table for rich; strings of the model are no markup in it."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    made = RichTable(title=escape(clean(table.title)) or None, title_justify="left", box=box.SIMPLE_HEAD)
    for name, align in table.columns:
        made.add_column(escape(name), justify=align, overflow="fold", no_wrap=align == "right")
    for row in table.rows:
        made.add_row(*(escape(clean(cell)) for cell in row))
    return made


def show(tables: Iterable[Table | str], stream: IO[str]) -> None:
    """Writes tables and lines of text: with rich where `stream` is a terminal, plain elsewhere."""
    if not stream.isatty():
        for item in tables:
            lines = [clean(item)] if isinstance(item, str) else plain_lines(item)
            stream.write("\n".join(lines) + "\n")
        return
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    for item in tables:
        if isinstance(item, str):
            console.print(clean(item), markup=False)
        else:
            console.print(rich_table(item))
