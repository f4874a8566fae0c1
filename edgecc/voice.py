"""How a command speaks: a table of rows for people, JSON for programs, or not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgecc.plaintext import clean

if TYPE_CHECKING:
    from edgecc.report.terminal import Table


@dataclass(frozen=True)
class Voice:
    """The options that every command has."""

    json: bool
    quiet: bool
    verbose: bool

    @property
    def limit(self) -> int | None:
        """The most operators that a table shows; None: all."""
        return None if self.verbose else 20

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Tells of each stage on standard error: a bar that vanishes on a terminal, plain lines elsewhere."""
        if self.quiet or self.json:
            yield lambda stage: None
            return
        if not sys.stderr.isatty():
            yield _tell
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        # Drawn seldom: what is timed meanwhile should not notice.
        with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as bar:
            task = bar.add_task("", total=None)
            yield lambda stage: bar.update(task, description=clean(stage))

    def show(self, data: Any, tables: Callable[[], Sequence[Table | str]]) -> None:
        """The result: `data` as JSON, else `tables()`."""
        if self.json:
            from edgecc.report.schema import jsonable

            print_json(jsonable(data))
        elif not self.quiet:
            from edgecc.report.terminal import show

            show(tables(), sys.stdout)


def print_json(data: Any) -> None:
    """Writes to standard output what JSON takes."""
    sys.stdout.write(json.dumps(data, indent=1) + "\n")


def _tell(stage: str) -> None:
    sys.stderr.write(clean(stage) + "\n")
    sys.stderr.flush()
