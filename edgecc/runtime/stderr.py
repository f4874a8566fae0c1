"""What C++ code writes to standard error, past Python: kept for whoever wants to read it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_stderr() -> Iterator[list[str]]:
    """Keeps what is written to file descriptor 2; the list has its lines when the block is left, raising or not.

    Of the whole process: not for code beside which other threads report something.
    """
    lines: list[str] = []
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            lines += held.read().decode(errors="replace").splitlines()
