"""Text that is safe to show. Imports nothing, so that even an error about a wrong option is told at once."""

from __future__ import annotations

import unicodedata


def clean(text: object) -> str:
    """`text` without control, format (such as right-to-left override) and surrogate characters.

    Names come from model files, which are untrusted: they must not steer the terminal.
    """
    return "".join(c if unicodedata.category(c)[0] != "C" else " " for c in str(text))
