"""Numbers rounded to the precision of the 16-bit floats, which the kernels compute with as float32.

A Cast to float16 is where a network says that it rounds, and its float16 outputs hold nothing finer. Between them
edgecc computes in float32, as ONNX Runtime's CPU provider does.
"""

from __future__ import annotations

import numpy as np

from edgecc import ir
from edgecc.tflite.builder import Builder
from edgecc.tflite.writer import tensor_type

# Operators whose results are numbers that they read: nothing is left to round.
_MOVING = frozenset(
    """
    Concat DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND Identity Max MaxPool Min Neg Relu
    Reshape Slice SpaceToDepth Split Squeeze Tile TopK Transpose Unsqueeze Where Abs Sign Floor Ceil Round Cast
    CastLike ReduceMax ReduceMin Clip
    """.split()  # noqa: SIM905 - a table reads better as words
)
_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def is_finer(value: ir.Value) -> bool:
    """Whether a value that ONNX computes in 16-bit floats may come out of float32 kernels with more digits."""
    node = value.producer()
    if value.dtype not in _HALVES or node is None:
        return False
    if node.op_type not in _MOVING:
        return True
    data = [v for v in node.inputs if v is not None and v.dtype == value.dtype]
    return any(is_finer(v) for v in data[:4])


def rounded(b: Builder, index: int, kind: ir.DataType | None) -> int:
    """The float32 tensor `index` rounded to float16 or bfloat16, as float32; itself for another `kind`.

    Ties go to the even neighbour; beyond 65504 float16 is infinite.
    """
    if kind == ir.DataType.FLOAT16:
        return _cast(b, _cast(b, index, "float16"), "float32")
    if kind == ir.DataType.BFLOAT16:
        return _without_low_bits(b, index)
    return index


def _cast(b: Builder, index: int, dtype: str) -> int:
    tensor = b.graph.tensors[index]
    result = b.tensor(f"{tensor.name}_as_{dtype}", tensor.shape, dtype, batched=tensor.batched)
    types = {"inDataType": tensor_type(tensor.dtype), "outDataType": tensor_type(dtype)}
    return b.operator("CAST", [index], [result], types)


def _without_low_bits(b: Builder, index: int) -> int:
    """The upper 16 bits, after adding 0x7fff and the lowest of them: round half to even."""
    tensor = b.graph.tensors[index]
    rank = len(tensor.shape)
    flat = (tensor.shape[0], int(np.prod(tensor.shape[1:]))) if rank > 2 else tensor.shape

    def make(code: str, *operands: int | np.int32, dtype: str = "int32") -> int:
        inputs = [
            o if isinstance(o, int) else b.constant(np.asarray(o), f"{tensor.name}/bits") for o in operands
        ]
        result = b.tensor(f"{tensor.name}/{code.lower()}", flat, dtype, batched=tensor.batched)
        return b.operator(code, inputs, [result], {})

    if flat != tensor.shape:
        index = b.reshape(index, b.tensor(f"{tensor.name}/flat", flat, "float32", batched=tensor.batched))
    bits, places = make("BITCAST", index), np.int32(16)
    odd = make("FLOOR_MOD", make("RIGHT_SHIFT", bits, places), np.int32(2))
    nearest = make("ADD", make("ADD", bits, np.int32(0x7FFF)), odd)
    kept = make("MUL", make("RIGHT_SHIFT", nearest, places), np.int32(2**16))
    result = make("BITCAST", kept, dtype="float32")
    if flat != tensor.shape:
        whole = b.tensor(f"{tensor.name}/rounded", tensor.shape, "float32", batched=tensor.batched)
        result = b.reshape(result, whole)
    return result
