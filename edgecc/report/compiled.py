"""What a terminal shows of a compilation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgecc.report.schema import Report
from edgecc.report.tables import pass_table, report_tables
from edgecc.report.terminal import Table


def compiled_items(report: Report, written: Iterable[Path], *, every: bool) -> list[Table | str]:
    """Warnings, the report's tables, the files.

    Args:
        report: of the compilation.
        written: files that are named.
        every: with what each pass did and refused.
    """
    said = [f"warning: {text}" for text in report.warnings]
    items = report_tables(report)
    items.sort(key=lambda item: item not in said)  # warnings stand first, the rest keeps its order
    if every:
        items.append(pass_table(report))
        items += [f"{p.name} left {r.node} alone: {r.reason}" for p in report.passes for r in p.refused]
    return [*items, *(f"wrote {path}" for path in written)]
