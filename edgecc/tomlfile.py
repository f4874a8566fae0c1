"""Reads a TOML file of the user's."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from edgecc.errors import ModelError, UsageError


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """The table in a file; `kind` is what a message calls it.

    Raises:
        UsageError: there is no such file.
        ModelError: it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no such {kind} file", node=str(path)) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"not a readable TOML file: {error}", node=str(path)) from error
