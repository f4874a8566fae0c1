"""Cast: numbers of one type as another."""

from __future__ import annotations

from edgecc import ir
from edgecc.analysis.sites import Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder
from edgecc.tflite.half import rounded
from edgecc.tflite.writer import tensor_type

# What every 16-bit float holds exactly.
_COARSE = frozenset(
    {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8}
)


@lowers("Cast")
def cast(site: Site, b: Builder) -> None:
    """CAST; nothing where TFLite's types are the same, but to float16 and bfloat16 numbers are rounded."""
    operand, result = site.inputs[0], site.outputs[0].value
    assert operand is not None
    index = b.input(0, b.order(result))
    tensor, wanted = b.graph.tensors[index], b.dtype(result)
    if tensor.dtype != wanted:
        types = {"inDataType": tensor_type(tensor.dtype), "outDataType": tensor_type(wanted)}
        index = b.operator("CAST", [index], [b.output()], types)
    if operand.value.dtype not in _COARSE - {result.dtype} and operand.value.dtype != result.dtype:
        index = rounded(b, index, result.dtype)
    b.alias(index)
