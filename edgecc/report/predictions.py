"""Predicted latencies as tables and as a page: every figure with its tier, error bar and grade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgecc.profile.predict import OperatorPrediction, Prediction
from edgecc.report.tables import milliseconds, percent, short, slowest_first
from edgecc.report.terminal import Table

if TYPE_CHECKING:
    from edgecc.profile.by_instructions import CountedPrediction


PREDICTION_HEADINGS = ("target", "runtime", "precision", ">latency", ">from..to", "tier", "grade")


def prediction_tables(
    found: Sequence[Prediction], limit: int | None = 20, title: str = ""
) -> list[Table | str]:
    """A line a target, then the operators that take longest, targets side by side."""
    rows = [[p.target, p.runtime, p.precision, milliseconds(p.ms), spread(p), p.tier, p.grade] for p in found]
    items: list[Table | str] = [Table(title, PREDICTION_HEADINGS, rows)]
    for p in found:
        threads = f"{p.threads} thread{'s' if p.threads > 1 else ''}"
        items.append(f"{p.target}: {threads} at {p.ghz:g} GHz, by {p.source} ({p.board})")
        items.extend(f"{p.target}: {note}" for note in p.notes)
    items.append(_operator_table(found, limit))
    return items


def spread(found: Prediction | CountedPrediction) -> str:
    """The error bar in milliseconds."""
    return f"{milliseconds(found.low_ms)}..{milliseconds(found.high_ms)}"


def _operator_table(found: Sequence[Prediction], limit: int | None) -> Table:
    first = found[0]
    order = sorted(range(len(first.operators)), key=lambda i: -first.operators[i].ms)[:limit]
    rows = [_operator_row(first.operators[i], [p.operators[i] for p in found]) for i in order]
    headings = (">#", "name", "operator", ">MACs", ">bytes")
    columns = [h for p in found for h in (f">{p.target}", ">share", "bound by")]
    title = f"predicted: {slowest_first(len(rows), len(first.operators))}"
    return Table(title, (*headings, *columns), rows)


def _operator_row(one: OperatorPrediction, every: Sequence[OperatorPrediction]) -> list[str]:
    cells = [str(one.index), one.name, one.type, short(one.macs), short(one.bytes)]
    return cells + [text for o in every for text in (milliseconds(o.ms), percent(o.share), o.bound)]
