"""One self-contained HTML page from a report: no file beside it, nothing fetched from anywhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

from edgecc.errors import EdgeccError
from edgecc.fidelity import MAX_SQNR_DB
from edgecc.profile import Profile, time_by_type
from edgecc.report import npu, tables
from edgecc.report.memory import memory_figure, memory_lines
from edgecc.report.schema import ArtifactFacts, Report
from edgecc.report.terminal import clean

Figure = dict[str, Any]

# Colours that people with the common kinds of colour blindness tell apart (Okabe and Ito, "Color Universal
# Design", 2008). A kernel keeps its colour in all charts of a page.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8f8f8f")


def render_html(report: Report) -> str:
    """The page. Charts are drawn by plotly.js, which is embedded (4.8 MB) if there is anything to draw.

    Raises:
        EdgeccError: the plotly package lacks its script.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if isinstance(value, str) and type(value) is str else value,
    )
    environment.filters.update(
        size=tables.size_text,
        ms=tables.milliseconds,
        percent=tables.percent,
        db=tables.decibels,
        count=lambda value: "-" if value is None else f"{value:,}".replace(",", "\u202f"),
        pretty=lambda value: json.dumps(value, indent=1, ensure_ascii=False),
    )
    charts, on_target = figures(report), tables.on_target(report)
    return environment.get_template("report.html.j2").render(
        r=report,
        profiles=[(a.label, a.profile) for a in report.artifacts if a.profile is not None],
        conditions=conditions(report),
        operators=operator_counts(report),
        charts=charts,
        charts_json=embedded(charts),
        plotly=_plotly() if charts else "",
        options=report.to_dict()["options"],
        memory={i: memory_lines(a) for i, a in enumerate(report.artifacts) if a.memory is not None},
        compression=tables.compression_table(report),
        on_target=[item for item in on_target if not isinstance(item, str)],
        on_target_notes=[item for item in on_target if isinstance(item, str)],
        npu_line=npu.figure_line,
        npu_left=npu.cpu_lines,
    )


def figures(report: Report) -> dict[str, Figure]:
    """Plotly figures by the id of the element that they are drawn in."""
    found: dict[str, Figure] = {}
    layers = layer_figure(report.artifacts)
    if layers is not None:
        found["layers"] = layers
    colours = _kernel_colours(report)
    for index, artifact in enumerate(report.artifacts):
        if artifact.memory is not None:
            found[f"memory{index}"] = memory_figure(artifact.memory)
        if artifact.profile is not None and artifact.profile.operators:
            found[f"operators{index}"] = operator_figure(artifact.profile, colours)
            found[f"kernels{index}"] = kernel_figure(artifact.profile, colours)
    return found


def layer_figure(artifacts: Sequence[ArtifactFacts]) -> Figure | None:
    """SQNR of each intermediate value in graph order, a line an artifact; None where nothing was measured."""
    place = _places(artifacts)
    traces = []
    for colour, artifact in zip(_COLOURS, artifacts, strict=False):
        layers = artifact.fidelity.layers if artifact.fidelity is not None else ()
        if not layers:
            continue
        names = [f"<b>{_text(x.name)}</b><br>{_text(x.op_type)}" for x in layers]
        for kind, dash, levels in (
            ("with all before it", "solid", [x.sqnr_db for x in layers]),
            ("own", "dot", [x.own_sqnr_db for x in layers]),
        ):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": f"{artifact.label}, {kind}",
                    "x": [place[x.name] for x in layers],
                    # A value that does not differ at all has no finite SQNR: it is left out of the line.
                    "y": [None if level >= MAX_SQNR_DB else round(level, 2) for level in levels],
                    "text": names,
                    "hovertemplate": "%{text}<br>%{y:.1f} dB",
                    "line": {"color": colour, "width": 1.5, "dash": dash},
                    "marker": {"size": 6 if dash == "solid" else 4},
                }
            )
    if not traces:
        return None
    return {
        "data": traces,
        "layout": {
            "height": 340,
            "xaxis": {"title": {"text": "value, in the order of the graph"}},
            "yaxis": {"title": {"text": "SQNR, dB (more is better)"}},
        },
    }


def _places(artifacts: Sequence[ArtifactFacts]) -> dict[str, int]:
    """One abscissa a value in all lines: the order of the graph, which each artifact's layers are a part of."""
    orders = [[x.name for x in a.fidelity.layers] for a in artifacts if a.fidelity is not None]
    merged: list[str] = []
    for order in sorted(orders, key=len, reverse=True):
        at = 0
        for name in order:
            if name in merged:
                at = merged.index(name) + 1
            else:
                merged.insert(at, name)
                at += 1
    return {name: position for position, name in enumerate(merged)}


def operator_figure(profile: Profile, colours: Mapping[str, str]) -> Figure:
    """Microseconds of every operator in order of execution, coloured by kernel."""
    rows = profile.operators
    bar = {
        "type": "bar",
        "x": [o.index for o in rows],
        "y": [round(o.us, 3) for o in rows],
        "text": [f"<b>{_text(o.name)}</b><br>{_text(o.type)}" for o in rows],
        "customdata": [round(100 * o.share, 1) for o in rows],
        "textposition": "none",
        "hovertemplate": "%{text}<br>%{y:.1f} µs, %{customdata} %<extra></extra>",
        "marker": {"color": [colours[o.type] for o in rows]},
    }
    axes = {
        "xaxis": {"title": {"text": "operator, in order of execution"}},
        "yaxis": {"title": {"text": "µs"}},
    }
    return {"data": [bar], "layout": {"height": 280, "bargap": 0.15, **axes}}


def kernel_figure(profile: Profile, colours: Mapping[str, str]) -> Figure:
    """Microseconds summed over each kernel, the slowest on top."""
    sums = list(time_by_type(profile.operators).items())[:12][::-1]
    labels = [_text(kind if len(kind) < 44 else kind[:42] + "…") for kind, _ in sums]
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": labels,
        "x": [round(us, 3) for _, us in sums],
        "text": [tables.milliseconds(us / 1e3) for _, us in sums],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}<br>%{x:.1f} µs<extra></extra>",
        "marker": {"color": [colours[kind] for kind, _ in sums]},
    }
    limit = 1.3 * max((us for _, us in sums), default=1.0) or 1.0
    axes = {
        "xaxis": {"title": {"text": "µs, all operators of a kernel"}, "range": [0, limit]},
        "yaxis": {"automargin": True, "showgrid": False},
    }
    return {"data": [bar], "layout": {"height": 90 + 26 * len(sums), **axes}}


def conditions(report: Report) -> list[str]:
    """One line for each runtime that was timed: tier, version, threads, machine."""
    measured = (report.original_profile, *(a.profile for a in report.artifacts))
    return list(dict.fromkeys(tables.conditions(p) for p in measured if p is not None))


def operator_counts(report: Report) -> list[tuple[str, list[tuple[str, int]]]]:
    """How many operators of each kind, of the original and of each artifact."""
    counts = [("original", report.model.operators), *((a.label, a.operators) for a in report.artifacts)]
    return [(label, list(kinds.items())) for label, kinds in counts if kinds]


def embedded(value: object) -> str:
    """JSON that may stand inside a script element: no `<`, so neither `</script>` nor `<!--` can occur."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text(name: str) -> str:
    """For plotly, which reads a few HTML tags in its labels."""
    return html.escape(clean(name), quote=False)


def _kernel_colours(report: Report) -> dict[str, str]:
    sums: dict[str, float] = {}
    for artifact in report.artifacts:
        if artifact.profile is not None:
            total = sum(o.us for o in artifact.profile.operators) or 1.0
            for kind, us in time_by_type(artifact.profile.operators).items():
                sums[kind] = sums.get(kind, 0.0) + us / total
    ordered = sorted(sums, key=lambda kind: (-sums[kind], kind))
    return {kind: _COLOURS[min(i, len(_COLOURS) - 1)] for i, kind in enumerate(ordered)}


def _plotly() -> str:
    """The text of plotly.min.js; the package itself is not imported."""
    package = util.find_spec("plotly")
    places = list(package.submodule_search_locations or ()) if package is not None else []
    for place in places:
        script = Path(place) / "package_data" / "plotly.min.js"
        if script.is_file():
            return script.read_text(encoding="utf-8").replace("</script", "<\\/script")
    raise EdgeccError(
        "the plotly package or its plotly.min.js is missing", remedy="pip install --upgrade plotly"
    )
