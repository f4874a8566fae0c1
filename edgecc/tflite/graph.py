"""The TFLite graph: a flat list of tensors and operators that maps one to one onto the flatbuffer.

It is write-only. All rewriting happens in the ONNX IR before it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecc.ir import Array
from edgecc.quant.params import QuantParams


@dataclass
class Tensor:
    """A tensor of the flatbuffer.

    Attributes:
        name: unique; the ONNX value's name where it holds that value.
        shape: with a symbolic batch as 1.
        dtype: numpy name of the element type ("int4" for packed 4-bit weights).
        data: the constant's array, None for an activation.
        quant: scale and zero point, None for real or index values.
        batched: axis 0 is the symbolic batch (-1 in the shape signature).
        sparse: the file holds of the constant what is not zero, and where that stands.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Array | None = None
    quant: QuantParams | None = None
    batched: bool = False
    sparse: bool = False


@dataclass
class Operator:
    """An operator: its BuiltinOperator name, tensor indices (-1: absent) and the fields of its options table."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1


@dataclass
class Graph:
    """One subgraph. `inputs` and `outputs` are tensor indices, `port_names` their ONNX names for the signature."""

    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    input_names: list[str] = field(default_factory=list)
    output_names: list[str] = field(default_factory=list)

    def histogram(self) -> dict[str, int]:
        """How often each operator occurs, most frequent first."""
        counts: dict[str, int] = {}
        for op in self.operators:
            counts[op.code] = counts.get(op.code, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def itemsize(dtype: str) -> int:
    """Bytes of one element (1 for int4, which is packed two to a byte only in the file)."""
    return 1 if dtype == "int4" else int(np.dtype(dtype).itemsize)
