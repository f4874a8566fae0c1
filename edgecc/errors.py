"""Every failure a user can cause, with its exit code (DESIGN §3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class EdgeccError(Exception):
    """A failure with its cause, the node it concerns and what to do about it.

    Attributes:
        message: the cause, one sentence.
        node: name of the node, value, file or option concerned, if there is one.
        remedy: what the user can do, if anything.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, node: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"{self.node}: " if self.node else ""
        stop = "" if self.message.endswith((".", "!", "?")) else "."
        remedy = f"{stop} Remedy: {self.remedy}" if self.remedy else ""
        return f"{where}{self.message}{remedy}"


class PassError(EdgeccError):
    """A pass failed or changed the answers: a defect in the pass (exit 1)."""


class UsageError(EdgeccError):
    """Wrong use: an unknown option, missing data, a bad value (exit 2)."""

    exit_code = 2


class ModelError(EdgeccError):
    """A model, data or target file cannot be read or is malformed (exit 2)."""

    exit_code = 2


@dataclass(frozen=True)
class Finding:
    """One node that cannot be served, and why."""

    node: str
    op_type: str
    reason: str
    remedy: str = ""


class UnsupportedError(EdgeccError):
    """Operators or types that the target cannot run, all listed at once (exit 3)."""

    exit_code = 3

    def __init__(self, message: str, findings: Sequence[Finding] = (), *, remedy: str | None = None) -> None:
        lines = [
            f"{f.op_type} {f.node!r}: {f.reason}{f' ({f.remedy})' if f.remedy else ''}" for f in findings
        ]
        super().__init__("\n  ".join([message, *lines]), remedy=remedy)
        self.findings = tuple(findings)


class FidelityError(EdgeccError):
    """The result is less faithful than allowed (exit 4)."""

    exit_code = 4


class BudgetError(EdgeccError):
    """A budget (size, MACs, latency) cannot be met (exit 5)."""

    exit_code = 5
