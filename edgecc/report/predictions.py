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


def prediction_page(found: Sequence[Prediction], title: str) -> str:
    """One self-contained HTML page: the tables, and a bar an operator."""
    parts = [
        f"<tr><td>{_text(item)}</td></tr>" if isinstance(item, str) else ""
        for item in prediction_tables(found, None, title)
    ]
    tables = [t for t in prediction_tables(found, None, title) if isinstance(t, Table)]
    body = "".join(_table(t) for t in tables[:1]) + f"<table>{''.join(parts)}</table>" + _bars(found)
    body += "".join(_table(t) for t in tables[1:])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}: predicted latency</title>'
        "<style>body{font:14px sans-serif;margin:2em}td,th{padding:2px 8px;text-align:left}"
        f"rect{{fill:#0072b2}}</style><h1>{_text(title)}: predicted latency</h1>{body}</html>\n"
    )


def _bars(found: Sequence[Prediction]) -> str:
    charts = []
    for p in found:
        most = max((o.ms for o in p.operators), default=0.0) or 1.0
        width = 800 / max(1, len(p.operators))
        bars = "".join(
            f'<rect x="{i * width:.2f}" y="{120 - 110 * o.ms / most:.2f}" width="{max(0.5, width - 0.5):.2f}"'
            f' height="{110 * o.ms / most:.2f}"><title>{_text(o.name)}: {milliseconds(o.ms)}</title></rect>'
            for i, o in enumerate(p.operators)
        )
        charts.append(
            f"<h2>{_text(p.target)}: {p.tier}, {_text(p.grade)}</h2>"
            f'<svg width="800" height="120" role="img">{bars}</svg>'
        )
    return "".join(charts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name, _ in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{_text(c)}</td>" for c in row) + "</tr>" for row in table.rows)
    return f"<h2>{_text(table.title)}</h2><table><tr>{head}</tr>{rows}</table>"


def _text(text: str) -> str:
    return html.escape(clean(text))
