"""How often Python looks for cyclic garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects made before the youngest are looked through; Python's own 700 to 2000 suit programs that hold few. Nodes and
# values of a graph are never garbage while it is worked on, and there are hundreds of thousands of them.
_YOUNG = 100_000


@contextmanager
def rare_collections() -> Iterator[None]:
    """Looks for cyclic garbage seldom: passes over 10,000 nodes spend half their time on it otherwise."""
    before = gc.get_threshold()
    gc.set_threshold(max(_YOUNG, before[0]) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
