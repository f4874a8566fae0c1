"""What stands behind the name of a device: `?name=value&name=value`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from edgecc.errors import UsageError


def options(query: str | None, known: Sequence[str]) -> dict[str, str]:
    """`name=value&name=value`, percent-encoded where need be.

    Raises:
        UsageError: another name, one twice, or one without a value.
    """
    found: dict[str, str] = {}
    for part in (query or "").split("&") if query else ():
        name, _, value = part.partition("=")
        if name not in known or name in found or not value:
            raise UsageError(
                f"{part!r} is no option of a device", node="--device", remedy=f"known: {', '.join(known)}"
            )
        found[name] = unquote(value)
    return found


def seconds(text: str | None, default: float) -> float:
    """A duration in seconds, at least one.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,6}", text, re.ASCII) or not int(text):
        raise UsageError(f"{text!r} is no number of seconds", node="--device")
    return float(text)
