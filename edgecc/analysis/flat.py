"""A network as a TFLite file holds it: tensors and operators in order of execution, without their constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any


@dataclass(frozen=True)
class FlatTensor:
    """A tensor.

    Attributes:
        name, shape: as the file has them.
        item: bytes of an element.
        kind: numpy name of the element type; "int4" for two to a byte.
        constant: the file holds its values.
        variable: it keeps its values from one inference to the next.
        scales: how many quantization scales it has; 0: it is not quantized.
    """

    name: str
    shape: tuple[int, ...]
    item: int
    kind: str
    constant: bool = False
    variable: bool = False
    scales: int = 0

    @property
    def elements(self) -> int:
        """How many."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Of the tensor in memory."""
        return self.elements * self.item


@dataclass(frozen=True)
class FlatOperator:
    """An operator: its BuiltinOperator name, tensor indices (-1: absent), the fields of its options table."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FlatNetwork:
    """The main graph of a file.

    Attributes:
        tensors, operators: operators in order of execution.
        inputs, outputs: tensor indices.
        subgraphs: of the file; those behind the first are not looked at.
    """

    tensors: tuple[FlatTensor, ...]
    operators: tuple[FlatOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    subgraphs: int = 1

    def operand(self, operator: FlatOperator, position: int) -> FlatTensor | None:
        """An operand; None where it is absent."""
        if len(operator.inputs) <= position or operator.inputs[position] < 0:
            return None
        return self.tensors[operator.inputs[position]]

    def name(self, position: int) -> str:
        """What tells an operator from the others: the tensor that it makes."""
        operator = self.operators[position]
        made = self.tensors[operator.outputs[0]].name if operator.outputs else ""
        return f"{operator.code} {made}".rstrip()

    def ordered(self, order: Sequence[int]) -> FlatNetwork:
        """The same with its operators in another order."""
        return replace(self, operators=tuple(self.operators[i] for i in order))

    def narrowed(self, item: int, kind: str) -> FlatNetwork:
        """The same with every float32 and int16 tensor held in `item` bytes an element: what it would be quantized."""
        wide = {"float32", "int16"}
        return replace(
            self,
            tensors=tuple(
                replace(t, item=item, kind=kind, scales=max(1, t.scales)) if t.kind in wide else t
                for t in self.tensors
            ),
        )
