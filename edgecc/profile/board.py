"""What `edgecc calibrate` does: measured networks in, a target of the user's own board out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecc.errors import UsageError
from edgecc.options import make_options
from edgecc.output import check_output, write_file
from edgecc.profile.measure_networks import measured_rows
from edgecc.profile.recalibrate import Measured, refit, target_text
from edgecc.target import target as find_target


@dataclass(frozen=True)
class Calibrated:
    """A target that was written.

    Attributes:
        file: its TOML.
        base: the target whose rates it had before.
        measured: what the rates were refitted to.
        error_before, error: mean relative errors of the rates before, and of the new ones on a network that is not
            among those measured.
    """

    file: Path
    base: str
    measured: tuple[Measured, ...]
    error_before: float
    error: float

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return {
            "file": str(self.file),
            "networks": len(self.measured),
            "error_before": self.error_before,
            "error": self.error,
            "measured": [{**asdict(row), "model": row.model.as_posix()} for row in self.measured],
        }

    def lines(self) -> list[str]:
        """What a terminal shows."""
        return [
            *(f"{row.model}: {note}" for row in self.measured for note in row.notes),
            f"{len(self.measured)} measured: the rates of {self.base} were off by {100 * self.error_before:.0f} % on"
            f" average; the new ones by {100 * self.error:.0f} % on a network that is not among them",
            f"wrote {self.file}",
        ]


def calibrate_board(
    files: Sequence[str],
    path: Path,
    *,
    target: str,
    device: str | None = None,
    precision: str = "int8",
    runtime: str | None = None,
    ghz: float | None = None,
) -> Calibrated:
    """Writes a target that extends another, with latency rates refitted to networks measured before or now.

    Args:
        files: one CSV with `model,latency_ms`; with a device, networks to measure there.
        path: the target that is written, a .toml.
        target: name or TOML file of the one whose rates are refitted.
        device: as for `profile_on`, or "local".
        precision: of what was measured.
        runtime: that ran it; None: the target's first.
        ghz: the board's clock; None: the target's.

    Raises:
        UsageError: no such precision, `path` is no .toml or cannot be written, or the files are not what is wanted.
        EdgeccError: a network cannot be measured, or the target has no rates to begin with.
    """
    if path.suffix != ".toml":
        raise UsageError("the name of a target file ends in .toml", node="--output")
    make_options({"precision": precision})  # which refuses what is none
    check_output(path.parent)  # before anything is measured
    base = find_target(target)
    rows = measured_rows(files, device, target=target, precision=precision, runtime=runtime)
    spec, before = refit(rows, base, runtime=runtime, precision=precision, ghz=ghz, board=path.stem)
    extends = str(Path(target).resolve()) if target.endswith(".toml") else base.name
    write_file(path, target_text(spec, base, path.stem, extends).encode())
    return Calibrated(path, base.name, tuple(rows), before, spec.error)
