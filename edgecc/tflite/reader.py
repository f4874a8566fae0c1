"""Tensors and operators of a .tflite file: the one reader, for simulation, prediction and memory planning."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecc.errors import ModelError
from edgecc.ir import Array
from edgecc.runtime.litert_ports import check_identifier

CUSTOM = "CUSTOM "
"""What the codes of custom operators begin with."""
_PACKED = "INT4"
_ABSENT = -1  # an input that is left out
_NAMES = {
    "FLOAT32": "float32", "FLOAT16": "float16", "INT32": "int32", "UINT8": "uint8", "INT64": "int64", "BOOL": "bool",
    "INT16": "int16", "INT8": "int8", "UINT32": "uint32", "UINT16": "uint16", "FLOAT64": "float64", _PACKED: "int8",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        dtype: numpy's name; int4 is unpacked to int8; "" for types that no kernel here knows.
        kind: the schema's name of the type, as "INT4".
        shape, signature: signature has -1 where a size is not fixed.
        scales: float32, (1,) or one a channel; empty: not quantized.
        zero_points: int64, as long as `scales`.
        data: of a constant; None: computed, or stored sparsely or in a type that no kernel here knows.
        constant: the file holds its values.
        variable: it keeps its values from one inference to the next.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    scales: Array = field(repr=False)
    zero_points: Array = field(repr=False)
    data: Array | None = field(default=None, repr=False)
    kind: str = ""
    constant: bool = False
    variable: bool = False

    @property
    def scale(self) -> np.float32:
        """The only one.

        Raises:
            ModelError: there is none, or there are several.
        """
        if len(self.scales) != 1:
            raise ModelError(
                f"the tensor has {len(self.scales)} scales, its operator takes one", node=self.name
            )
        return np.float32(self.scales[0])

    @property
    def zero_point(self) -> int:
        """The only one; 0 where none is written."""
        return int(self.zero_points[0]) if len(self.zero_points) else 0

    def detail(self) -> dict[str, Any]:
        """As LiteRT's interpreter describes tensors."""
        return {
            "name": self.name,
            "index": self.index,
            "shape": np.array(self.shape, np.int32),
            "shape_signature": np.array(self.signature, np.int32),
            "dtype": np.dtype(self.dtype or "uint8").type,
            "quantization_parameters": {"scales": self.scales, "zero_points": self.zero_points},
        }


@dataclass(frozen=True)
class Operator:
    """A step: its name in the schema (CONV_2D), its tensors (None: left out), its options and its version."""

    code: str
    number: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Any = field(repr=False)
    version: int = 1

    def given(self, place: int) -> Tensor:
        """An input that must be there.

        Raises:
            ModelError: it is not.
        """
        found = self.inputs[place] if place < len(self.inputs) else None
        if found is None:
            raise ModelError(f"operator {self.number} ({self.code}) has no input {place}")
        return found

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.code} {self.outputs[0].name!r}" if self.outputs else self.code


@dataclass(frozen=True)
class Graph:
    """The first subgraph of a file, in the order of execution; `subgraphs`: how many the file has."""

    tensors: tuple[Tensor, ...] = field(repr=False)
    operators: tuple[Operator, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    subgraphs: int = 1


def read_graph(data: bytes) -> Graph:
    """Parses a file.

    Raises:
        ModelError: it is not a TFLite file, or it is damaged.
    """
    check_identifier(data)
    from ai_edge_litert import schema_py_generated as schema

    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        main = model.subgraphs[0]
        buffers = [_bytes(data, buffer) for buffer in model.buffers]
        kinds = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
        tensors = tuple(_tensor(i, each, buffers, kinds) for i, each in enumerate(main.tensors))
        codes = _codes(model, schema)
        operators = tuple(_operator(i, each, codes, tensors) for i, each in enumerate(main.operators or ()))
        inputs, outputs = (_named(tensors, side) for side in (main.inputs, main.outputs))
    except (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"the TFLite file is damaged: {error}") from error
    return Graph(tensors, operators, inputs, outputs, len(model.subgraphs))


def _codes(model: Any, schema: Any) -> list[tuple[str, int]]:
    """Name and version of each."""
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    found = []
    for each in model.operatorCodes:
        number = max(
            each.builtinCode, each.deprecatedBuiltinCode
        )  # files before version 3a have only the latter
        custom = (each.customCode or b"").decode("utf-8", "replace")
        name = names.get(number, str(number))
        found.append((CUSTOM + custom if name == "CUSTOM" else name, int(each.version)))
    return found


def _bytes(data: bytes, buffer: Any) -> Array | None:
    if buffer.offset > 1:  # stored behind the flatbuffer
        if buffer.offset + buffer.size > len(data):
            raise ValueError("a buffer lies beyond the end")
        return np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
    return None if buffer.data is None else np.asarray(buffer.data, np.uint8)


def _tensor(index: int, made: Any, buffers: Sequence[Array | None], kinds: Mapping[int, str]) -> Tensor:
    kind = kinds[made.type]
    shape = tuple(int(d) for d in (made.shape if made.shape is not None else ()))
    signature = tuple(int(d) for d in made.shapeSignature) if made.shapeSignature is not None else shape
    quantization = made.quantization
    scales = None if quantization is None else quantization.scale
    zeros = None if quantization is None else quantization.zeroPoint
    dtype, raw = _NAMES.get(kind, ""), buffers[made.buffer]
    dense = raw is not None and dtype and made.sparsity is None
    return Tensor(
        index=index,
        name=(made.name or b"").decode("utf-8", "replace"),
        dtype=dtype,
        shape=shape,
        signature=signature or shape,
        scales=np.asarray([] if scales is None else scales, np.float32),
        zero_points=np.asarray([] if zeros is None else zeros, np.int64),
        data=_values(raw, kind, dtype, shape) if raw is not None and dense else None,
        kind=kind,
        constant=raw is not None and len(raw) > 0,
        variable=bool(made.isVariable),
    )


def _values(raw: Array, kind: str, dtype: str, shape: tuple[int, ...]) -> Array | None:
    count = int(np.prod(shape, dtype=np.int64))
    if kind == _PACKED:  # two a byte, the lower half first
        halves = np.stack([raw << np.uint8(4), raw], axis=-1).reshape(-1).view(np.int8) >> 4
        return halves[:count].reshape(shape)
    if not len(raw) and count:
        return None
    return raw.view(dtype)[:count].reshape(shape)


def _operator(
    number: int, made: Any, codes: Sequence[tuple[str, int]], tensors: Sequence[Tensor]
) -> Operator:
    inputs = [] if made.inputs is None else made.inputs
    code, version = codes[made.opcodeIndex]
    return Operator(
        code=code,
        number=number,
        inputs=tuple(None if i == _ABSENT else _named(tensors, (i,))[0] for i in inputs),
        outputs=_named(tensors, made.outputs),
        options=made.builtinOptions,
        version=version,
    )


def _named(tensors: Sequence[Tensor], places: Sequence[int] | None) -> tuple[Tensor, ...]:
    found = [] if places is None else places
    if any(not 0 <= i < len(tensors) for i in found):
        raise ValueError("it names a tensor that it does not have")
    return tuple(tensors[i] for i in found)
