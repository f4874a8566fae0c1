"""ONNX Runtime's profiler events as rows, an operator each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from edgecc.profile import OperatorTime

Event: TypeAlias = Sequence[str | int]
"""What one execution of one operator took: (name or tag, type, microseconds, ...), as stopwatch.py tells."""

Describe: TypeAlias = Callable[[Event], tuple[str, str, str]]
"""Name, type and source of an event."""


def operators_from_ort(events: Sequence[Event]) -> tuple[OperatorTime, ...]:
    """Rows in order of execution from (node, operator, microseconds, "ort") of every node of every run."""
    return operator_rows(events, lambda e: (str(e[0]), str(e[1]), "ort"))


def operator_rows(events: Sequence[Event], describe: Describe) -> tuple[OperatorTime, ...]:
    """One row an operator from the events of several equal runs, in order.

    A run executes the same operators in the same order, so runs are the repetitions of one sequence. Where
    they are not (control flow), events are put together by their description.
    """
    described = [describe(e) for e in events]
    length = _period(described)
    groups: list[Sequence[int]]
    if length:
        groups = [range(start, len(events), length) for start in range(length)]
    else:
        known: dict[tuple[str, str, str], list[int]] = {}
        for index, text in enumerate(described):
            known.setdefault(text, []).append(index)
        groups = list(known.values())
    times = [steady_mean([float(events[i][2]) for i in group]) for group in groups]
    total = sum(times) or 1.0
    rows = []
    for index, (group, us) in enumerate(zip(groups, times, strict=True)):
        name, kind, source = described[group[0]]
        rows.append(OperatorTime(index, name, kind, us, us / total, source))
    return tuple(rows)


def steady_mean(values: Sequence[float]) -> float:
    """Mean of microseconds without outliers: those above three times the median plus two (a guess)."""
    limit = 3 * sorted(values)[len(values) // 2] + 2
    kept = [value for value in values if value <= limit]
    return sum(kept) / len(kept)


def _period(described: Sequence[tuple[str, str, str]]) -> int:
    """Length of the shortest sequence that all repeats; 0 if it is repeated less than three times."""
    count = len(described)
    for runs in range(60, 2, -1):  # stopwatch.py profiles 3 to 60 runs
        length, rest = divmod(count, runs)
        if length and not rest and all(described[i] == described[i % length] for i in range(count)):
            return length
    return 0
