"""What the tables of a report, of `verify` and of `profile` say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgecc.fidelity import MAX_SQNR_DB, BitTrue, Fidelity
from edgecc.profile import Profile
from edgecc.report.memory import memory_lines
from edgecc.report.schema import ArtifactFacts, Island, Report
from edgecc.report.terminal import Table

if TYPE_CHECKING:
    from edgecc.pack.files import PackedFile


def report_tables(report: Report) -> list[Table | str]:
    """What `compile` prints: before and after, what is left to know, and what each pass did."""
    items: list[Table | str] = [before_after(report)]
    figures = (report.original_profile, *(a.profile for a in report.artifacts))
    items.extend(dict.fromkeys(conditions(p) for p in figures if p is not None))
    items.extend(
        f"{a.label}: {note}" for a in report.artifacts if a.profile is not None for note in a.profile.notes
    )
    items.extend(on_target(report))
    data = {
        f"fidelity measured on {a.fidelity.data} ({a.fidelity.samples} compared)"
        for a in report.artifacts
        if a.fidelity
    }
    items.extend(sorted(data))
    items.extend(f"{a.label}: {text}" for a in report.artifacts for text in memory_lines(a))
    items.extend(
        f"{a.label}: packed {size_text(a.packed_bytes)}{times(report.model.size_bytes, a.packed_bytes)}"
        for a in report.artifacts
        if a.packed_bytes is not None
    )
    for artifact in report.artifacts:
        items.extend(npu_lines(artifact))
        items.extend(
            f"{artifact.label}: Transpose of {t.value} stays: {t.reason}" for t in artifact.transposes
        )
        items.extend(f"{artifact.label}: {text}" for text in islands(artifact.float_islands))
        if artifact.float_islands and artifact.conversions:
            items.append(f"{artifact.label}: {artifact.conversions} conversions between types of activations")
    for artifact in report.artifacts:
        if artifact.fidelity is not None:
            items.extend(
                worst_layers(artifact.fidelity, f"{artifact.label}: layers that lose most by themselves")
            )
    compressed = compression_table(report)
    items.extend([] if compressed is None else [compressed])
    items.extend(f"warning: {text}" for text in report.warnings)
    if report.failure:
        items.append(f"failed: {report.failure}")
    return items


def npu_lines(artifact: ArtifactFacts) -> list[str]:
    """What the compiler of the target's NPU computes for an artifact, and the file that it made."""
    if artifact.npu is None:
        return []
    from edgecc.report.npu import figure_line

    lines = [f"{artifact.label}: {figure_line(artifact.npu)}"]
    if artifact.npu.file is not None:
        lines.append(f"{artifact.npu.file} ({size_text(artifact.npu.size_bytes)}) is the file for the device")
    return lines


def islands(found: Iterable[Island]) -> list[str]:
    """What runs in float and why: a line a node, one for all alike where there are many."""
    groups: dict[tuple[str, str], list[str]] = {}
    for island in found:
        groups.setdefault((island.op_type, island.reason), []).append(island.node)
    lines = []
    for (op_type, reason), nodes in groups.items():
        if len(nodes) <= _MANY:
            lines += [f"{op_type} {node} runs in float: {reason}" for node in nodes]
        else:
            lines.append(f"{len(nodes)} {op_type} ({nodes[0]} and others) run in float: {reason}")
    return lines


_MANY = 3  # islands of one kind that get a line each


def before_after(report: Report) -> Table:
    """The original and each artifact: size, latency, memory, fidelity."""
    size = report.model.size_bytes
    rows = [before_after_row("original (ONNX float)", size, report.original_profile, None)]
    accuracies = (a.fidelity.reference_accuracy for a in report.artifacts if a.fidelity is not None)
    rows[0][-1] = percent(next(accuracies, None))
    rows += [before_after_row(a.label, a.size_bytes, a.profile, a.fidelity) for a in report.artifacts]
    headings = ("", ">size", ">latency", ">p10..p90", ">memory", ">SQNR", ">agreement", ">accuracy")
    return Table(f"{report.model.name} for {report.target}", headings, rows)


def on_target(report: Report) -> list[Table | str]:
    """Predicted latency on the target, before and after; nothing where nothing is predicted."""
    if not report.predictions:
        return []
    labels = {"original": "original (ONNX float)", **{a.file: a.label for a in report.artifacts}}
    rows = [
        [
            labels.get(key, key),
            p.runtime,
            milliseconds(p.ms),
            f"{milliseconds(p.low_ms)}..{milliseconds(p.high_ms)}",
            p.grade,
        ]
        for key, p in report.predictions.items()
    ]
    name = next(iter(report.predictions.values())).target
    headings = ("", "runtime", ">latency", ">from..to", "grade")
    notes = dict.fromkeys(note for p in report.predictions.values() for note in p.notes)
    return [Table(f"predicted for {name}, not measured", headings, rows), *notes]


def before_after_row(
    label: str, size: int | None, profile: Profile | None, fidelity: Fidelity | None
) -> list[str]:
    """Label, size, latency, its spread, memory, SQNR, agreement and accuracy; "-" where unknown."""
    memory = None if profile is None else profile.memory_bytes
    return [
        label,
        size_text(size),
        "-" if profile is None else milliseconds(profile.typical_ms),
        "-"
        if profile is None or profile.p10_ms is None or profile.p90_ms is None
        else f"{milliseconds(profile.p10_ms)}..{milliseconds(profile.p90_ms)}",
        size_text(memory),
        "-" if fidelity is None else decibels(fidelity.sqnr_db),
        percent(None if fidelity is None else fidelity.agreement),
        percent(None if fidelity is None else fidelity.accuracy),
    ]


def pass_table(report: Report) -> Table:
    """What each pass did."""
    rows = [
        [
            p.name,
            "exact" if p.exact else "approximate",
            str(p.rewritten),
            str(len(p.refused)),
            f"{p.nodes_before} > {p.nodes_after}",
            f"{1e3 * p.seconds:.0f} ms",
            "-" if p.error is None else f"{p.error:.1e}",
        ]
        for p in report.passes
    ]
    headings = ("pass", "kind", ">rewritten", ">refused", ">nodes", ">time", ">error")
    return Table("passes", headings, rows)


def compression_table(report: Report) -> Table | None:
    """What compressing passes did to the network; None where none ran."""
    rows = [
        [
            p.name,
            ", ".join(f"{k}={v}" for k, v in p.effect.given.items()) or "defaults",
            fewer(*p.effect.macs),
            fewer(*p.effect.weights),
            "-" if p.effect.cycles is None else fewer(*p.effect.cycles),
            decibels(p.effect.sqnr_db),
            percent(p.effect.agreement),
        ]
        for p in report.passes
        if p.effect is not None
    ]
    headings = (
        "compression",
        "options",
        ">MACs",
        ">weights not 0",
        ">cycles (predicted)",
        ">SQNR",
        ">agreement",
    )
    return Table("what compression did to the float network", headings, rows) if rows else None


def fewer(before: float, after: float) -> str:
    """A count before and after, and the share that is left."""
    share = f" ({100 * after / before:.0f} %)" if before else ""
    return f"{short(before)} > {short(after)}{share}"


def short(count: float) -> str:
    """Three significant digits with k, M or G."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g}{unit}"
    return f"{count:.3g}"


def fidelity_tables(fidelity: Fidelity, title: str = "fidelity") -> list[Table | str]:
    """Per output, and per layer where that was measured: what `verify` prints."""
    headings = (
        "output",
        ">SQNR",
        ">cosine",
        ">largest error",
        ">of range",
        ">agreement",
        ">accuracy",
        ">original",
    )
    rows = [
        [
            o.name,
            decibels(o.sqnr_db),
            f"{o.cosine:.6f}",
            f"{o.max_abs_error:.3g}",
            f"{o.relative_error:.2e}",
            percent(o.agreement),
            percent(o.accuracy),
            percent(o.reference_accuracy),
        ]
        for o in fidelity.outputs
    ]
    tables: list[Table | str] = [Table(title, headings, rows)]
    tables.append(f"measured on {fidelity.data} ({fidelity.samples} compared)")
    if fidelity.bit_true is not None:
        tables.append(bit_true_table(fidelity.bit_true))
    if fidelity.layers:
        cells = [
            [x.name, x.op_type, decibels(x.sqnr_db), decibels(x.own_sqnr_db), f"{x.relative_error:.2e}"]
            for x in fidelity.layers
        ]
        columns = ("value", "computed by", ">SQNR", ">own SQNR", ">error of range")
        tables += [Table("layers", columns, cells), *worst_layers(fidelity)]
    return tables


def bit_true_table(found: BitTrue) -> Table:
    """Which kernels of the runtime answer otherwise than the simulated integers."""
    cells = [
        [k.kernels, f"{k.samples}", f"{k.compared:,}", f"{k.differing:,}", f"{k.largest}", k.explanation]
        for k in found.kernels
    ]
    columns = ("against the simulated integers", ">samples", ">compared", ">differ", ">most steps", "")
    return Table("bit-true", columns, cells)


def worst_layers(fidelity: Fidelity, title: str = "layers that lose most by themselves") -> list[Table | str]:
    """The ten worst layers and what would help them; nothing where no layer was compared."""
    worst = fidelity.worst_layers()
    cells = [
        [x.name, x.op_type, decibels(x.own_sqnr_db), decibels(x.sqnr_db), x.advice or "-"] for x in worst
    ]
    headings = ("value", "computed by", ">own SQNR", ">with all before it", "known trap and remedy")
    return [Table(title, headings, cells)] if cells else []


def slowest_first(shown: int, count: int) -> str:
    """Heading of a table of operators."""
    return (
        f"all {count} operators, slowest first" if shown == count else f"slowest {shown} of {count} operators"
    )


def packed_lines(found: PackedFile) -> list[Table | str]:
    """What `pack` prints."""
    rest = (found.size - found.weights, found.packed_size - found.packed_weights)
    rows = [
        [name, size_text(before), size_text(after), f"{before / after:.2f}" if after else "-"]
        for name, before, after in (
            ("weights", found.weights, found.packed_weights),
            ("structure", *rest),
            ("file", found.size, found.packed_size),
        )
    ]
    return [Table(found.source, ("", ">size", ">packed", ">times smaller"), rows), f"wrote {found.file}"]


def conditions(profile: Profile) -> str:
    """Under which conditions the figures were made, their tier first."""
    threads = f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"
    where = f"{profile.runtime} {profile.runtime_version}, {threads}, {profile.machine}"
    return f"latency {profile.tier}: {where}"


def milliseconds(value: float) -> str:
    """Three significant digits, in the unit that suits: µs below 1 ms, seconds from 1000 ms."""
    if value < 1:
        return f"{1e3 * value:.3g} µs"
    return f"{value:.3g} ms" if value < 999.5 else f"{value / 1e3:.3g} s"


def size_text(value: int | None) -> str:
    """Decimal kB and MB, three significant digits."""
    if value is None:
        return "-"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.3g} {unit}" if scaled < 1000 else f"{scaled:.0f} {unit}"
    return f"{value} B"


def times(before: int | None, after: int) -> str:
    """How much smaller a file is than the original, after a comma."""
    return "" if before is None else f", {before / after:.1f} times smaller than the original"


def percent(share: float | None) -> str:
    """With one decimal; "-" where unknown."""
    return "-" if share is None else f"{100 * share:.1f} %"


def decibels(value: float) -> str:
    """With one decimal; "equal" where nothing differs."""
    return "equal" if value >= MAX_SQNR_DB else f"{value:.1f} dB"
