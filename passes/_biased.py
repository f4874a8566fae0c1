"""MatMul with stored weights and the Add of its bias, as one Gemm: what kernels on integers compute at once."""

from __future__ import annotations

import numpy as np

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.passes._emit import Emitter


def fuse_bias(graph: ir.Graph, node: ir.Node) -> bool:
    """Add(MatMul(x, DQ(w)), b) = Gemm(x, DQ(w), b); more axes are made rows of a matrix, and axes again."""
    data, weight = (node.inputs[0], node.inputs[1]) if rw.is_op(node, "MatMul") else (None, None)
    add = ir.single_consumer(node.outputs[0])
    if data is None or weight is None or add is None or not rw.is_op(add, "Add"):
        return False
    product, out = node.outputs[0], add.outputs[0]
    bias = next((v for v in add.inputs if v is not product), None)
    matrix, vector = _stored(weight), None if bias is None else _constant(bias)
    rank = rw.rank(data)
    if matrix is None or matrix.ndim != 2 or vector is None or bias is None or rank is None or rank < 2:
        return False
    if vector.size != matrix.shape[1] or vector.shape[-1:] != (matrix.shape[1],) or vector.ndim > rank:
        return False
    shape = ir.dims(product)
    if shape is None or shape != ir.dims(out) or shape.count(None) > 1 or 0 in shape:
        return False
    if vector.ndim > 1 and ir.constant(bias) is None:
        return False  # a stored one whose channels are on another axis than a vector's
    emit = Emitter(graph, str(out.name), ir.DataType.FLOAT)
    if vector.ndim > 1:
        bias = emit.constant(vector.reshape(-1), "bias")
    result = emit.op("Gemm", [_rows(emit, data, matrix.shape[0]), weight, bias], None)
    rows = None if None in shape else int(np.prod([d for d in shape[:-1] if d is not None]))
    result.shape = ir.Shape([rows, matrix.shape[1]])
    if rank > 2:
        assert out.shape is not None
        result = emit.reshape(result, tuple(out.shape))
    ir.replace([add], emit.nodes, {out: result})
    rw.drop_dead([product])
    return True


def _rows(emit: Emitter, data: ir.Value, columns: int) -> ir.Value:
    if rw.rank(data) == 2:
        return data
    target = emit.integers([-1, columns], "rows")
    return emit.op("Reshape", [data, target], None)


def _stored(value: ir.Value) -> ir.Array | None:
    """The integers of a constant behind a DequantizeLinear."""
    maker = value.producer()
    return ir.constant(maker.inputs[0]) if maker is not None and rw.is_op(maker, "DequantizeLinear") else None


def _constant(value: ir.Value) -> ir.Array | None:
    array = ir.constant(value)
    return _stored(value) if array is None else array
