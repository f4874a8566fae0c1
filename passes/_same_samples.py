"""What a node computes where all that it reads is constant and the same for every sample of a free batch."""

from __future__ import annotations

import numpy as np

from edgecc import ir
from edgecc.analysis.evaluate import EVALUATION_ERRORS, evaluate
from edgecc.ir import Array
from edgecc.passes import _rewrite as rw
from edgecc.passes._result_size import BOUNDS

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_LARGEST = 16 << 20  # bytes of a sample; a choice


def same_for_every_sample(node: ir.Node, axis: int, version: int) -> Array | None:
    """Its result for one sample, size 1 along `axis`, the batch; None where samples differ or nobody knows.

    The node is computed for one sample and for two, and the second result must be the first one twice.
    """
    bound = BOUNDS.get(node.op_type) if node.domain in rw.MAIN_DOMAINS else None
    if bound is None or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
        return None
    whole = node.outputs[0].shape
    assert whole is not None
    one = [_operand(v, 1, whole[axis]) for v in node.inputs]
    two = [_operand(v, 2, whole[axis]) for v in node.inputs]
    if any(v is not None and a is None for v, a in zip(node.inputs, one, strict=True)):
        return None
    try:
        if bound(node, one) * 8 > _LARGEST:
            return None
        first, second = _computed(node, one, 1, version), _computed(node, two, 2, version)
    except EVALUATION_ERRORS:
        return None
    shape, dtype = ir.dims(node.outputs[0]) or (), node.outputs[0].dtype
    expected = tuple(1 if d is None else d for d in shape)
    if first.shape != expected or dtype is None or first.dtype != dtype.numpy():
        return None
    return (
        first
        if np.array_equal(second, np.repeat(first, 2, axis), equal_nan=dtype.is_floating_point())
        else None
    )


def _operand(value: ir.Value | None, batch: int, symbol: object) -> Array | None:
    """A constant, or a constant that Expand repeats for every sample, for `batch` of them; `symbol` is their number."""
    array, node = ir.constant(value), value.producer() if value is not None else None
    if array is not None or not rw.is_op(node, "Expand") or node is None or value is None:
        return array
    source, shape = ir.constant(node.inputs[0]), ir.dims(value)
    if source is None or shape is None or value.shape is None or shape.count(None) != 1:
        return None
    if value.shape[shape.index(None)] != symbol:
        return None
    return np.broadcast_to(source, [batch if d is None else d for d in shape])


def _computed(node: ir.Node, inputs: list[Array | None], batch: int, version: int) -> Array:
    if node.op_type in _RESHAPES and inputs[0] is not None:
        shape = ir.dims(node.outputs[0]) or ()
        return inputs[0].reshape([batch if d is None else d for d in shape])
    return evaluate(node, inputs, version)[0]
