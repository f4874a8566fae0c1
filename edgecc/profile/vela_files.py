"""What Vela writes: the summary, its debug database, and why it leaves operators to the CPU."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgecc.errors import EdgeccError

MEMORIES: Mapping[str, str] = {
    "npu_cycles": "NPU",
    "Sram_ac": "SRAM",
    "Dram_ac": "DRAM",
    "OnChipFlash_ac": "on-chip flash",
    "OffChipFlash_ac": "off-chip flash",
}
"""Columns of the database with cycles -> what they are spent on."""

_REASON = re.compile(
    r"^Warning \(supported operators\) operator: (\w+), ofm: '(.*?)'\nReason: (.*?)(?=\n\s*\n|\nWarning \(|\Z)",
    re.MULTILINE | re.DOTALL,
)
_TABLE = re.compile(r'<table name="(\w+)">\s*<!\[CDATA\[\n(.*?)\n?\]\]>\s*</table>', re.DOTALL)
_REMEDY = "install the release of ethos-u-vela that edgecc is tested with"


@dataclass(frozen=True)
class Row:
    """One command of the NPU: what it takes in all, and cycles by what they are spent on."""

    cycles: int
    macs: int
    parts: Mapping[str, int]


def read_summary(path: Path) -> dict[str, float]:
    """The columns of a summary that are numbers.

    Raises:
        EdgeccError: it lacks what edgecc reads.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, float] = {}
    for name, text in (rows[-1] if rows else {}).items():
        try:
            found[name] = float(text)
        except (TypeError, ValueError):
            continue
    memories = ("sram", "dram", "on_chip_flash", "off_chip_flash")
    wanted = ("core_clock", "cycles_total", "nn_macs", *(f"{name}_memory_used" for name in memories))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise EdgeccError(f"Vela's summary has no {missing[0]}", remedy=_REMEDY)
    return found


def operator_rows(path: Path) -> dict[int, list[Row]]:
    """The commands that each operator of the TFLite file became, by its place there.

    Raises:
        EdgeccError: the database lacks what edgecc reads.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    tables = dict(_TABLE.findall(text))
    places = {row["id"]: int(row["ext_key"]) for row in _rows(tables, "source") if row["ext_key"].isdigit()}
    found: dict[int, list[Row]] = {}
    for row in _rows(tables, "perf"):
        place = places.get(row["source_id"])
        if place is None:
            continue
        parts = {what: int(row[column] or 0) for column, what in MEMORIES.items() if column in row}
        found.setdefault(place, []).append(Row(int(row["op_cycles"] or 0), int(row["mac_count"] or 0), parts))
    return found


def _rows(tables: Mapping[str, str], name: str) -> list[dict[str, str]]:
    """A table's rows. Names of tensors are not escaped in it; all other columns are numbers or words."""
    if name not in tables:
        raise EdgeccError(f"Vela's database has no table {name!r}", remedy=_REMEDY)
    header, _, body = tables[name].partition("\n")
    columns = header.replace('"', "").split(",")
    cells = (rf'"?(?P<{c}>{".*?" if c == "name" else "-?[0-9A-Za-z_]*"})"?' for c in columns)
    pattern = re.compile(f"^{','.join(cells)}$", re.MULTILINE | re.DOTALL)
    return [found.groupdict() for found in pattern.finditer(body)]


def cpu_reasons(said: str) -> dict[str, str]:
    """Name of a result -> why Vela leaves its operator to the CPU."""
    return {name: "; ".join(reason.split("\n")).strip() for _, name, reason in _REASON.findall(said)}
