"""Lists and pages of what there is: targets and passes."""

from __future__ import annotations

import dataclasses
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
        also = f" (also {', '.join(device.aliases)})" if device.aliases else ""
        found[name] = f"{device.description}{also}"
    return found


def target_page(name: str) -> dict[str, Any]:
    """Everything that is known about a target."""
    page: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(target(name)))  # lists, no tuples
    return page


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
    options = {f.name: f"{f.type}, default {f.default}" for f in dataclasses.fields(kind)}
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
