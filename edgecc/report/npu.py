"""What an NPU's compiler computed, as tables: every figure with its tier, operators on the CPU by name and reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgecc.report.tables import milliseconds, percent, short, slowest_first
from edgecc.report.terminal import Table

if TYPE_CHECKING:
    from edgecc.profile.npu import NpuFigures, NpuOperator

_MANY = 5  # operators on the CPU that get a line each


def npu_tables(found: Sequence[NpuFigures], limit: int | None = 20, title: str = "") -> list[Table | str]:
    """A line a target, then the operators that take longest, targets side by side."""
    rows = [
        [f.target, milliseconds(f.ms), f"{f.cycles:,}", kib(f.sram_bytes), kib(f.dram_bytes), kib(f.flash_bytes),
         f"{len(f.operators) - len(f.on_cpu)}", f"{len(f.on_cpu)}", f.tier]
        for f in found
    ]  # fmt: skip
    headings = (
        "target",
        ">latency",
        ">cycles",
        ">SRAM",
        ">DRAM",
        ">flash",
        ">on the NPU",
        ">on the CPU",
        "tier",
    )
    items: list[Table | str] = [Table(title, headings, rows)]
    for f in found:
        items.append(f"{f.target}: {configuration(f)}")
        items += [f"{f.target}: {line}" for line in cpu_lines(f)]
    items.append(_operator_table(found, limit))
    return items


def configuration(figures: NpuFigures) -> str:
    """What Vela was told."""
    return (
        f"{figures.accelerator_config} at {1e3 * figures.ghz:g} MHz, system config {figures.system_config},"
        f" memory mode {figures.memory_mode}"
    )


def figure_line(figures: NpuFigures) -> str:
    """The whole network in a line."""
    left = len(figures.on_cpu)
    where = f"{left} of {len(figures.operators)} operators on the CPU" if left else (
        f"all {len(figures.operators)} operators on the NPU"
    )  # fmt: skip
    dram = f", DRAM {kib(figures.dram_bytes)}" if figures.dram_bytes else ""
    return (
        f"{milliseconds(figures.ms)} ({figures.cycles:,} cycles), {figures.tier} for {configuration(figures)};"
        f" SRAM {kib(figures.sram_bytes)}{dram}, flash {kib(figures.flash_bytes)}; {where}"
    )


def cpu_lines(figures: NpuFigures) -> list[str]:
    """The operators on the CPU and why: a line each, those of a kind and reason in one where there are many."""
    groups: dict[tuple[str, str], list[NpuOperator]] = {}
    for each in figures.on_cpu:
        groups.setdefault((each.type, each.reason), []).append(each)
    lines = []
    for (kind, reason), members in groups.items():
        if len(members) <= _MANY:
            lines += [f"{kind} {o.name!r} runs on the CPU: {reason}" for o in members]
        else:
            lines.append(f"{len(members)} {kind} ({members[0].name!r} and others) run on the CPU: {reason}")
    return [*lines, *figures.notes]


def _operator_table(found: Sequence[NpuFigures], limit: int | None) -> Table:
    first = found[0]
    order = sorted(range(len(first.operators)), key=lambda i: -first.operators[i].cycles)[:limit]
    rows = []
    for i in order:
        one = first.operators[i]
        cells = [str(one.index), one.name, one.type, short(one.macs)]
        for f in found:  # the same file, so the same operators
            each = f.operators[i]
            cells += [
                f"{each.cycles:,}",
                milliseconds(each.ms),
                percent(each.share),
                each.bound or each.placed,
            ]
        rows.append(cells)
    columns = [h for f in found for h in (f">{f.target}, cycles", ">latency", ">share", "bound by")]
    heading = slowest_first(len(rows), len(first.operators))
    return Table(heading, (">#", "name", "operator", ">MACs", *columns), rows)


def kib(value: int) -> str:
    """Binary kilobytes, which memories are built in."""
    return f"{value / 1024:.1f} KiB" if value else "-"
