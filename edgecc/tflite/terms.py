"""Constants and tensors under one name, with what numpy does where all operands are constant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecc.ir import Array

if TYPE_CHECKING:
    from edgecc.tflite.arithmetic import Arithmetic

BINARY: dict[str, Callable[[Array, Array], Any]] = {
    "ADD": np.add, "SUB": np.subtract, "MUL": np.multiply, "DIV": np.divide, "FLOOR_MOD": np.mod,
    "MAXIMUM": np.maximum, "MINIMUM": np.minimum, "POW": np.power, "EQUAL": np.equal, "NOT_EQUAL": np.not_equal,
    "LESS": np.less, "LESS_EQUAL": np.less_equal, "GREATER": np.greater, "GREATER_EQUAL": np.greater_equal,
    "LOGICAL_AND": np.logical_and, "LOGICAL_OR": np.logical_or,
}  # fmt: skip
COMPARISONS = frozenset({"EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"})
UNARY: dict[str, Callable[[Array], Any]] = {
    "FLOOR": np.floor, "CEIL": np.ceil, "ROUND": np.round, "NEG": np.negative, "ABS": np.abs, "EXP": np.exp,
    "LOG": np.log, "SQRT": np.sqrt, "RSQRT": lambda x: 1 / np.sqrt(x), "COS": np.cos, "SIN": np.sin,
    "LOGICAL_NOT": np.logical_not,
}  # fmt: skip
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "SUM": np.sum, "MEAN": np.mean, "REDUCE_MAX": np.max, "REDUCE_MIN": np.min, "REDUCE_PROD": np.prod,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Term:
    """A constant (`array`) or the tensor `index`."""

    make: Arithmetic
    array: Array | None
    index: int = -1

    @property
    def shape(self) -> tuple[int, ...]:
        """A symbolic batch counts as 1."""
        return self.make.b.shape(self.index) if self.array is None else self.array.shape

    @property
    def dtype(self) -> str:
        """Name of the element type."""
        return self.make.b.graph.tensors[self.index].dtype if self.array is None else str(self.array.dtype)

    @property
    def batched(self) -> bool:
        """Whether axis 0 is the symbolic batch."""
        return self.array is None and self.make.b.graph.tensors[self.index].batched

    def __add__(self, other: Operandlike) -> Term:
        return self.make.binary("ADD", self, other)

    def __sub__(self, other: Operandlike) -> Term:
        return self.make.binary("SUB", self, other)

    def __mul__(self, other: Operandlike) -> Term:
        return self.make.binary("MUL", self, other)

    def __truediv__(self, other: Operandlike) -> Term:
        return self.make.binary("DIV", self, other)

    def __mod__(self, other: Operandlike) -> Term:
        return self.make.binary("FLOOR_MOD", self, other)


Operandlike = Term | float | int | Array
