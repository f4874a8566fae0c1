"""LiteRT's profiler events as rows, an operator each."""

from __future__ import annotations

from collections.abc import Sequence

from edgecc.profile import OperatorTime
from edgecc.profile.ort_profile import Event, operator_rows

# tflite::Profiler::EventType: an operator of the interpreter, and one inside a delegate.
_BUILTIN, _DELEGATED = 2, 8


def operators_from_litert(events: Sequence[Event]) -> tuple[OperatorTime, ...]:
    """Rows in order of execution from (tag, event type, microseconds, index) of every event of every run.

    The delegate's own entry among the interpreter's operators is left out: it repeats its operators' time.
    """
    kept = [
        e for e in events if e[1] == _DELEGATED or (e[1] == _BUILTIN and "delegate" not in str(e[0]).lower())
    ]
    return operator_rows(kept, _describe)


def _describe(event: Event) -> tuple[str, str, str]:
    tag = str(event[0])
    source = "xnnpack" if event[1] == _DELEGATED else "builtin"
    return f"{tag} #{event[3]}", tag, source
