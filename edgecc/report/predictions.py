"""Predicted latencies as tables and as a page: every figure with its tier, error bar and grade."""

from __future__ import annotations

import html
from collections.abc import Sequence

from edgecc.profile.predict import OperatorPrediction, Prediction
from edgecc.report.tables import milliseconds, percent, short
from edgecc.report.terminal import Table, clean


def prediction_tables(
    found: Sequence[Prediction], limit: int | None = 20, title: str = ""
) -> list[Table | str]:
    """A line a target, then the operators that take longest, targets side by side."""
    rows = [[p.target, p.runtime, p.precision, milliseconds(p.ms), spread(p), p.tier, p.grade] for p in found]
    headings = ("target", "runtime", "precision", ">latency", ">from..to", "tier", "grade")
    items: list[Table | str] = [Table(title, headings, rows)]
    for p in found:
        threads = f"{p.threads} thread{'s' if p.threads > 1 else ''}"
        items.append(f"{p.target}: {threads} at {p.ghz:g} GHz, by {p.source} ({p.board})")
        items.extend(f"{p.target}: {note}" for note in p.notes)
    items.append(_operator_table(found, limit))
    return items


def spread(found: Prediction) -> str:
    """The error bar in milliseconds."""
    return f"{milliseconds(found.low_ms)}..{milliseconds(found.high_ms)}"


def _operator_table(found: Sequence[Prediction], limit: int | None) -> Table:
    first = found[0]
    order = sorted(range(len(first.operators)), key=lambda i: -first.operators[i].ms)[:limit]
    rows = [_operator_row(first.operators[i], [p.operators[i] for p in found]) for i in order]
    headings = (">#", "name", "operator", ">MACs", ">moved", ">weights")
    columns = [h for p in found for h in (f">{p.target}", ">share", "bound by")]
    title = f"predicted: slowest {len(rows)} of {len(first.operators)} operators"
    return Table(title, (*headings, *columns), rows)


def _operator_row(one: OperatorPrediction, every: Sequence[OperatorPrediction]) -> list[str]:
    cells = [str(one.index), one.name, one.type, short(one.macs), short(one.moved), short(one.weights)]
    return cells + [text for o in every for text in (milliseconds(o.ms), percent(o.share), o.bound)]


Chart = tuple[str, Sequence[tuple[str, float]]]
"""A heading, and the name and milliseconds of each operator."""


def latency_page(items: Sequence[Table | str], charts: Sequence[Chart], title: str) -> str:
    """One self-contained HTML page: tables and lines of text, and a bar an operator behind the first table."""
    tables = [item for item in items if isinstance(item, Table)]
    lines = "".join(f"<tr><td>{_text(item)}</td></tr>" for item in items if isinstance(item, str))
    body = "".join(map(_table, tables[:1])) + f"<table>{lines}</table>" + _bars(charts)
    body += "".join(map(_table, tables[1:]))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}: latency</title>'
        "<style>body{font:14px sans-serif;margin:2em}td,th{padding:2px 8px;text-align:left}"
        f"rect{{fill:#0072b2}}</style><h1>{_text(title)}: latency</h1>{body}</html>\n"
    )


def _bars(charts: Sequence[Chart]) -> str:
    made = []
    for heading, operators in charts:
        most = max((ms for _, ms in operators), default=0.0) or 1.0
        width = 800 / max(1, len(operators))
        bars = "".join(
            f'<rect x="{i * width:.2f}" y="{120 - 110 * ms / most:.2f}" width="{max(0.5, width - 0.5):.2f}"'
            f' height="{110 * ms / most:.2f}"><title>{_text(name)}: {milliseconds(ms)}</title></rect>'
            for i, (name, ms) in enumerate(operators)
        )
        made.append(f'<h2>{_text(heading)}</h2><svg width="800" height="120" role="img">{bars}</svg>')
    return "".join(made)


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name, _ in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{_text(c)}</td>" for c in row) + "</tr>" for row in table.rows)
    return f"<h2>{_text(table.title)}</h2><table><tr>{head}</tr>{rows}</table>"


def _text(text: str) -> str:
    return html.escape(clean(text))
