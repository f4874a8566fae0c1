"""Lists and pages of what there is: targets and passes."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from edgecc import registry
from edgecc.report.terminal import Table
from edgecc.target import target


def targets() -> dict[str, str]:
    """Name -> description (with aliases) of every target."""
    found = {}
    for name in registry.target_files():
        device = target(name)
        others = (*device.aliases, *device.boards)
        also = f" (also {', '.join(others)})" if others else ""
        found[name] = f"{device.description}{also}"
    return found


def target_page(name: str) -> dict[str, Any]:
    """Everything that is known about a target."""
    page: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(target(name)))  # lists, no tuples
    return page


def target_items(page: dict[str, Any]) -> list[Table | str]:
    """The page of a target: limits and kernels, facts with their sources, boards, and its latency model."""
    tables = {"facts", "latency", "instructions", "boards"}
    items: list[Table | str] = [
        *page_lines({k: v for k, v in page.items() if k not in tables and v not in ([], {})})
    ]
    if page["facts"]:
        rows = [[f["name"], f"{f['value']:g}", f["unit"], f["source"]] for f in page["facts"]]
        items.append(Table("facts", ("fact", ">value", "unit", "source"), rows))
    if page["boards"]:
        rows = [
            [name, f"{b['ghz']:g} GHz", _kb(b["ram_kb"]), _kb(b["flash_kb"]), b["source"]]
            for name, b in page["boards"].items()
        ]
        items.append(
            Table("boards (each a name for --target)", ("board", ">clock", ">RAM", ">flash", "source"), rows)
        )
    if page["vela"] is not None:
        return [*items, "latency: computed by Arm's Vela from the int8 .tflite file"]
    if not page["latency"]:
        return [*items, "latency: no table; predictions are refused"]
    rows = [
        [s["runtime"], s["precision"], s["board"], f"{s['ghz']:g} GHz", str(s["threads"]), str(s["networks"]),
         *(_error(s[key]) for key in ("error", "error_new", "error_other"))]
        for s in page["latency"]
    ]  # fmt: skip
    headings = ("runtime", "precision", "figures of", ">clock", ">threads", ">networks", ">error", ">new network",
                ">other runtime")  # fmt: skip
    items.append(Table("latency model (mean error on a network left out)", headings, rows))
    items += [f"{s['runtime']} {s['precision']}: {s['source']}" for s in page["latency"]]
    items += [
        f"{s['runtime']} {s['precision']} for {other}: times {f['factor']:.2g}, error {_error(f['error'])}"
        f" ({f['devices']} devices)"
        for s in page["latency"]
        for other, f in s["factors"].items()
    ]
    if page["instructions"]:
        rows = [
            [s["runtime"], s["precision"], s["level"], f"{s['per_cycle']:g}", str(s["devices"]), str(s["figures"]),
             _error(s["error"])]
            for s in page["instructions"]
        ]  # fmt: skip
        counted = ("runtime", "precision", "counted on", ">a cycle", ">devices", ">figures", ">error")
        items.append(Table("instructions a cycle (error on devices and networks left out)", counted, rows))
    return items


def _kb(value: int | None) -> str:
    return "-" if value is None else f"{value} KB"


def _error(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def passes() -> dict[str, str]:
    """Name -> what it does, in a line, of every pass."""
    found = {}
    for name in registry.pass_names():
        kind = registry.pass_class(name)
        exact = "" if kind.exact else " (approximate)"
        found[name] = f"{_summary(kind)}{exact}"
    return found


def pass_page(name: str) -> dict[str, Any]:
    """Docstring and options of a pass."""
    kind = registry.pass_class(name)
    options = {f.name: f"{f.type}, default {f.default}" for f in kind.declared()}
    return {
        "name": name,
        "kind": "exact: the same function up to float rounding"
        if kind.exact
        else "approximate: its loss is measured",
        "does": inspect.getdoc(kind) or "",
        "options": options,
    }


def list_table(title: str, found: dict[str, str]) -> Table:
    """A list as a table."""
    return Table(title, ("name", "what"), [[name, text] for name, text in found.items()])


def page_lines(page: dict[str, Any]) -> list[str]:
    """A page as lines of text, nested tables indented."""
    lines = []
    for key, value in page.items():
        if value is None:
            continue
        if isinstance(value, dict):
            lines.append(f"{key}:")
            lines += [f"  {k}: {_inline(v)}" for k, v in value.items()] or ["  none"]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{key}:")
            lines += [f"  {_inline(item)}" for item in value]
        else:
            lines += [
                f"{key}: {line}" if i == 0 else f"  {line}"
                for i, line in enumerate(_inline(value).split("\n"))
            ]
    return lines


def _inline(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return "; ".join(f"{k} {v}" for k, v in value.items())
    return str(value)


def _summary(kind: type) -> str:
    return (inspect.getdoc(kind) or "").split("\n")[0].rstrip(".")
