"""Latency per operator and in whole: measured, here or on a device, each figure with its tier (DESIGN §6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecc.artifact import Artifact
    from edgecc.report.terminal import Table

MEASURED_HERE = "measured here"
MEASURED_THERE = "measured on a device"


@dataclass(frozen=True)
class OperatorTime:
    """What one operator takes.

    Attributes:
        index: in the order in which the runtime executes.
        name: of the node where the runtime keeps it, else the operator's type.
        type: the kernel, in the runtime's words.
        us: microseconds, mean of the runs without outliers (the clocks of the runtimes count whole
            microseconds, of which a median would keep no fraction).
        share: of the sum over all operators, 0 to 1.
        source: whose kernel and clock it is: "xnnpack", "builtin" or "ort".
        macs, bytes: multiply-accumulates, and bytes read and written, of the operator of the file that it executes;
            None where the runtime does not tell which one that is (`edgecc.profile.work`).
        bound: "compute" or "memory", whichever would take longer at the highest rates that the file reaches; "neither"
            where both would take less than a quarter of the time; empty where not known.
    """

    index: int
    name: str
    type: str
    us: float
    share: float
    source: str
    macs: int | None = None
    bytes: int | None = None
    bound: str = ""


@dataclass(frozen=True)
class Profile:
    """The latency of one file.

    Attributes:
        runtime, runtime_version: what ran it.
        machine: the processor.
        threads: of the runtime.
        runs: timed ones, without an operator profiler.
        median_ms, p10_ms, p90_ms: of these runs; None where the tool that timed them tells no quantiles.
        min_ms: the fastest.
        operators: in order of execution; empty where the runtime did not tell.
        memory_bytes: peak resident memory of loading and running, above what the runtime's own libraries
            take, read in a process that does nothing else; None where the system does not tell.
        size_bytes: of the file.
        tier: where the figures come from.
        notes: what is missing, and why.
        mean_ms: of the runs; None where each was told, of which the median says more.
    """

    runtime: str
    runtime_version: str
    machine: str
    threads: int
    runs: int
    median_ms: float | None
    p10_ms: float | None
    p90_ms: float | None
    min_ms: float
    operators: tuple[OperatorTime, ...]
    memory_bytes: int | None
    size_bytes: int
    tier: str = MEASURED_HERE
    notes: tuple[str, ...] = ()
    mean_ms: float | None = None

    @property
    def typical_ms(self) -> float:
        """The median; the mean where the tool told no median."""
        found = self.median_ms if self.median_ms is not None else self.mean_ms
        return self.min_ms if found is None else found

    def tables(self, limit: int | None = 20, title: str = "") -> list[Table | str]:
        """What a terminal shows: the whole, then the slowest operators."""
        from edgecc.report.measured import profile_tables

        return profile_tables(self, limit, title)

    def table(self, limit: int | None = 20) -> str:
        """The figures as plain text: one line for the whole, then the slowest operators."""
        from edgecc.report.measured import profile_lines

        return "\n".join(profile_lines(self, limit))

    def page(self, title: str) -> str:
        """One self-contained HTML page."""
        from edgecc.report.page import profile_page

        return profile_page(self, title)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return asdict(self)


def spread(samples: Sequence[float]) -> dict[str, Any]:
    """The fields of a `Profile` that tell of its runs, from the milliseconds of each."""
    return {
        "runs": len(samples),
        "median_ms": quantile(samples, 0.5),
        "p10_ms": quantile(samples, 0.1),
        "p90_ms": quantile(samples, 0.9),
        "min_ms": min(samples),
    }


def quantile(samples: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics."""
    ordered = sorted(samples)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def time_by_type(operators: Iterable[OperatorTime]) -> dict[str, float]:
    """Microseconds summed over the operators of each type, the slowest first."""
    sums: dict[str, float] = {}
    for row in operators:
        sums[row.type] = sums.get(row.type, 0.0) + row.us
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def profile_artifact(
    artifact: Artifact | Path | str,
    *,
    runs: int | None = None,
    threads: int = 1,
    operators: bool = True,
    input_shape: dict[str, tuple[int, ...]] | None = None,
) -> Profile:
    """Measures one file on this machine: see `edgecc.profile.local.profile_all`; a path's operators with their work."""
    from edgecc.profile.local import Job, profile_all
    from edgecc.profile.work import with_work

    job = Job(artifact, operators=operators, input_shape=input_shape or {})
    found = profile_all({"": job}, runs=runs, threads=threads)[""]
    return with_work(found, Path(artifact), input_shape) if isinstance(artifact, (str, Path)) else found
