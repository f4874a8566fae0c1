"""What a measured file took, operator by operator, as a table."""

from __future__ import annotations

from edgecc.profile import OperatorTime, Profile
from edgecc.report.tables import conditions, milliseconds, percent, short, size_text, slowest_first
from edgecc.report.terminal import Table, clean, plain_lines


def profile_tables(profile: Profile, limit: int | None = 20, title: str = "") -> list[Table | str]:
    """The whole network in a line, then its slowest operators: what `profile` prints."""
    items: list[Table | str] = [
        f"{milliseconds(profile.typical_ms)} ({_spread(profile)}fastest {milliseconds(profile.min_ms)};"
        f" {profile.runs} runs),"
        f" file {size_text(profile.size_bytes)}, memory {size_text(profile.memory_bytes)}",
        conditions(profile),
        *profile.notes,
    ]
    slowest = sorted(profile.operators, key=lambda o: -o.us)[:limit]
    if slowest:
        heading = title or slowest_first(len(slowest), len(profile.operators))
        headings = (">#", "name", "kernel", ">us", ">share", ">MACs", ">bytes", "bound by", "clock")
        items.append(Table(heading, headings, [operator_cells(o) for o in slowest]))
    return items


def operator_cells(row: OperatorTime) -> list[str]:
    """Index, name, kernel, time, share, work and clock; "-" where unknown."""
    work = ["-" if count is None else short(count) for count in (row.macs, row.bytes)]
    return [
        str(row.index), row.name, row.type, f"{row.us:.1f}", percent(row.share), *work, row.bound or "-", row.source
    ]  # fmt: skip


def _spread(profile: Profile) -> str:
    if profile.p10_ms is not None and profile.p90_ms is not None:
        return f"p10 {milliseconds(profile.p10_ms)}, p90 {milliseconds(profile.p90_ms)}, "
    return "mean, " if profile.median_ms is None else "median, "


def profile_lines(profile: Profile, limit: int | None = 20) -> list[str]:
    """`profile_tables` as plain lines."""
    items = profile_tables(profile, limit)
    return [line for i in items for line in ([clean(i)] if isinstance(i, str) else plain_lines(i))]
