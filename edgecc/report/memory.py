"""What a report says of the memory on a microcontroller: predicted, read back, and operator by operator."""

from __future__ import annotations

import html
from typing import Any

from edgecc.micro import MemoryFacts, peak_text
from edgecc.report.schema import ArtifactFacts
from edgecc.report.terminal import clean

_PEAK, _OTHER = "#d55e00", "#0072b2"


def memory_lines(artifact: ArtifactFacts) -> list[str]:
    """Read back, predicted, peak and limits; nothing for what does not run in TFLite Micro."""
    lines = []
    facts = artifact.memory
    if artifact.arena_bytes is not None:
        beside = "" if facts is None else f" ({facts.here_bytes:,} predicted)"
        lines.append(
            f"TFLite Micro needs an arena of {artifact.arena_bytes:,} bytes of RAM on this machine{beside}"
        )
    return lines if facts is None else [*lines, *fact_lines(facts)]


def fact_lines(facts: MemoryFacts) -> list[str]:
    """Predicted, peak and limits."""
    lines = [
        f"predicted for {facts.basis}: an arena of {facts.arena_bytes:,} bytes{_of(facts.ram_bytes, facts.board)},"
        f" {facts.head_bytes:,} for tensors and {facts.tail_bytes:,} for structures and parameters",
        f"{facts.flash_bytes:,} bytes of flash{_of(facts.flash_limit, facts.board)}, and the runtime's code",
    ]
    if facts.given_order_bytes is not None:
        lines.append(
            f"operators were put into another order: {facts.given_order_bytes:,} bytes for tensors without it"
            " (with reference kernels)"
        )
    lines.append(f"most memory lives during {peak_text(facts.peak)}")
    if facts.uncounted:
        lines.append(f"buffers that {', '.join(facts.uncounted)} may take of their own are not counted")
    return lines


def _of(limit: int | None, board: str | None) -> str:
    return "" if limit is None else f" of the {limit:,} of {board or 'the target'}"


def memory_figure(facts: MemoryFacts) -> dict[str, Any]:
    """Bytes that live while each operator runs, in order of execution; the peak in another colour."""
    rows = facts.operators
    bar = {
        "type": "bar",
        "x": list(range(len(rows))),
        "y": [live for _, live in rows],
        "text": [html.escape(clean(name), quote=False) for name, _ in rows],
        "textposition": "none",
        "hovertemplate": "%{text}<br>%{y:,} bytes<extra></extra>",
        "marker": {"color": [_PEAK if live == facts.peak.live else _OTHER for _, live in rows]},
    }
    axes = {
        "xaxis": {"title": {"text": "operator, in order of execution"}},
        "yaxis": {"title": {"text": "bytes that live"}, "rangemode": "tozero"},
    }
    return {"data": [bar], "layout": {"height": 260, "bargap": 0.1, **axes}}
