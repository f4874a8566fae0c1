"""What `profile` found as one self-contained HTML page: tables, lines of text, and bars of operators or functions."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecc.report.tables import milliseconds
from edgecc.report.terminal import Table, clean

if TYPE_CHECKING:
    from edgecc.profile import Profile
    from edgecc.profile.emulated import Emulated
    from edgecc.profile.side_by_side import SideBySide

_WIDTH, _HEIGHT = 1000, 180
# Colours that people with the common kinds of colour blindness tell apart (Okabe and Ito, 2008).
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_UNKNOWN = "#8f8f8f"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; }
h1 { font-size: 1.5em; overflow-wrap: anywhere; }
h2 { font-size: 1.1em; margin: 1.8em 0 .5em; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 10px 2px 0; text-align: left; vertical-align: top; }
td { max-width: 30em; overflow-wrap: break-word; border-top: 1px solid #8884; }
.n { text-align: right; white-space: nowrap; } p { margin: .3em 0; } svg { width: 100%; height: auto; }
text { fill: currentColor; font-size: 12px; } .key { display: inline-block; margin-right: 1.2em; }
.key i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
"""


@dataclass(frozen=True)
class Bar:
    """One operator or function.

    Attributes:
        name: that the pointer shows.
        value: its height.
        group: what its colour tells; empty: nothing is known.
    """

    name: str
    value: float
    group: str = ""


@dataclass(frozen=True)
class Chart:
    """Bars side by side.

    Attributes:
        title: with the tier of the figures.
        bars: from left to right.
        abscissa: what their order is.
        unit: writes a value.
    """

    title: str
    bars: Sequence[Bar]
    abscissa: str = "operators, in order of execution"
    unit: Callable[[float], str] = milliseconds


def profile_page(found: Profile, title: str) -> str:
    """Of a measured file."""
    bars = [Bar(f"{o.name}, {o.type}", o.us / 1e3, o.bound) for o in found.operators]
    charts = [Chart(f"{found.runtime} {found.runtime_version}: {found.tier}", bars)] if bars else []
    return page(found.tables(None), charts, title)


def figures_page(found: SideBySide, title: str) -> str:
    """Of what an NPU's compiler computed and of predictions."""
    charts = [
        Chart(f"{f.target}: {f.tier}", [Bar(f"{o.name}, {o.type}", o.ms, o.bound) for o in f.operators])
        for f in found.computed
    ] + [
        Chart(
            f"{p.target}: {p.tier}, {p.grade}",
            [Bar(f"{o.name}, {o.type}", o.ms, o.bound) for o in p.operators],
        )
        for p in found.predictions
    ]
    charts += [
        Chart(
            f"{name}: memory of each operator, {facts.basis}",
            [Bar(step, live, "peak" if live == facts.peak.live else "") for step, live in facts.operators],
            unit=lambda value: f"{value:,.0f} bytes",
        )
        for name, facts in found.memory.items()
    ]
    return page(found.tables(None, title), charts, title)


def emulated_page(found: Emulated, title: str) -> str:
    """Of an emulated processor: a chart a level, of the functions that execute most."""
    charts = [
        Chart(
            f"{each.level}: {found.tier}",
            [Bar(f.name, f.instructions) for f in each.count.functions[:40]],
            "functions of the runtime's library, those that execute most",
            lambda value: f"{value:,.0f} instructions",
        )
        for each in found.levels
        if each.count is not None
    ]
    return page(found.tables(None), charts, title)


def page(items: Sequence[Table | str], charts: Sequence[Chart], title: str) -> str:
    """The page: the first table, lines of text, charts, the other tables."""
    tables = [_table(item, title) for item in items if isinstance(item, Table)]
    lines = "".join(f"<p>{_text(item)}</p>" for item in items if isinstance(item, str))
    first = 1 if isinstance(next(iter(items), None), Table) else 0
    body = [*tables[:first], lines, *map(_chart, charts), *tables[first:]]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}: profile</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{_text(title)}</h1>\n{chr(10).join(body)}\n</body></html>\n"
    )


def _chart(chart: Chart) -> str:
    most = max((bar.value for bar in chart.bars), default=0.0)
    groups = sorted({bar.group for bar in chart.bars if bar.group})
    colours = dict(zip(groups, _COLOURS, strict=False))
    width = _WIDTH / max(1, len(chart.bars))
    bars = "".join(
        f'<rect x="{i * width:.2f}" y="{20 + _HEIGHT * (1 - bar.value / (most or 1.0)):.2f}"'
        f' width="{max(0.5, 0.85 * width):.2f}" height="{_HEIGHT * bar.value / (most or 1.0):.2f}"'
        f' fill="{colours.get(bar.group, _UNKNOWN if groups else _COLOURS[0])}">'
        f"<title>{_text(bar.name)}: {chart.unit(bar.value)}</title></rect>"
        for i, bar in enumerate(chart.bars)
    )
    keys = "".join(
        f'<span class="key"><i style="background:{colours.get(group, _UNKNOWN)}"></i>{_text(group)}</span>'
        for group in groups
    )
    return (
        f'<h2>{_text(chart.title)}</h2><svg viewBox="0 0 {_WIDTH} {_HEIGHT + 42}" role="img">'
        f'<text x="0" y="12">{chart.unit(most)}</text>{bars}'
        f'<text x="0" y="{_HEIGHT + 36}">{_text(chart.abscissa)}</text></svg><p>{keys}</p>'
    )


def _table(table: Table, page_title: str) -> str:
    marks = [' class="n"' if align == "right" else "" for _, align in table.columns]
    head = "".join(
        f"<th{mark}>{_text(name)}</th>" for mark, (name, _) in zip(marks, table.columns, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{mark}>{_text(cell)}</td>" for mark, cell in zip(marks, row, strict=True))
        + "</tr>"
        for row in table.rows
    )
    title = f"<h2>{_text(table.title)}</h2>" if table.title not in ("", page_title) else ""
    return (
        f'{title}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _text(text: str) -> str:
    return html.escape(clean(text))
