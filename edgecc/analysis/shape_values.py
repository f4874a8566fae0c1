"""Integers that a graph computes from shapes, known before it runs: Shape, Gather, Concat and their like."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgecc import ir
from edgecc.ir import Array

# Longer integer vectors are not shapes.
MAX_ELEMENTS = 64

# An element that is not known yet: the size of a symbolic dimension. Object arrays hold int or None.
Known = Array


def shape_values(graph: ir.Graph) -> dict[ir.Value, Known]:
    """The elements of every small integer value that shapes and constants determine, wholly or in part.

    Returns:
        an object array of int and None (not known), in the value's own shape, for every value that comes from
        a Shape or Size by rules of this file.
    """
    found: dict[ir.Value, Known] = {}
    for node in graph:
        rule = _RULES.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
        if rule is None or len(node.outputs) != 1:
            continue
        if node.op_type not in {"Shape", "Size"} and not any(
            v in found for v in node.inputs if v is not None
        ):
            continue
        value = rule(node, found)
        if value is not None and value.size <= MAX_ELEMENTS:
            found[node.outputs[0]] = value
    return found


def _read(value: ir.Value | None, found: Mapping[ir.Value, Known]) -> Known | None:
    if value is None:
        return None
    if value in found:
        return found[value]
    array = ir.constant(value)
    if array is None or array.dtype.kind not in "iu" or array.size > MAX_ELEMENTS:
        return None
    return array.astype(object)


def _constant(value: ir.Value | None) -> tuple[int, ...] | None:
    array = ir.constant(value)
    return None if array is None else tuple(int(v) for v in array.reshape(-1))


def _shape(node: ir.Node, found: Mapping[ir.Value, Known]) -> Known | None:
    shape = None if node.inputs[0] is None else ir.dims(node.inputs[0])
    if shape is None:
        return None
    return np.array(
        shape[ir.attribute(node, "start", 0) : ir.attribute(node, "end", len(shape))], dtype=object
    )


def _size(node: ir.Node, found: Mapping[ir.Value, Known]) -> Known | None:
    shape = None if node.inputs[0] is None else ir.dims(node.inputs[0])
    if shape is None or None in shape:
        return None
    return np.array(int(np.prod([d for d in shape if d is not None], dtype=object)), dtype=object)


def _gather(node: ir.Node, found: Mapping[ir.Value, Known]) -> Known | None:
    data, indices = _read(node.inputs[0], found), ir.constant(node.inputs[1])
    if data is None or indices is None or data.ndim != 1 or np.any(np.abs(indices) > data.size - 1):
        return None
    return np.asarray(data[indices], dtype=object)


def _slice(node: ir.Node, found: Mapping[ir.Value, Known]) -> Known | None:
    data, bounds = _read(node.inputs[0], found), [_constant(v) for v in node.inputs[1:]]
    if data is None or data.ndim != 1 or not all(b is not None and len(b) == 1 for b in bounds):
        return None
    start, end, _, step = ([b[0] for b in bounds if b] + [0, 1][len(bounds) - 4 :])[:4]
    return np.asarray(data[start:end:step]) if step > 0 else None


def _concat(node: ir.Node, found: Mapping[ir.Value, Known]) -> Known | None:
    parts = [_read(v, found) for v in node.inputs]
    if any(part is None or part.ndim != 1 for part in parts):
        return None
    return np.concatenate([part for part in parts if part is not None])


def _same(node: ir.Node, found: Mapping[ir.Value, Known]) -> Known | None:
    return _read(node.inputs[0], found) if node.outputs[0].dtype in _INTEGERS else None


def _reshaped(node: ir.Node, found: Mapping[ir.Value, Known]) -> Known | None:
    data, shape = _read(node.inputs[0], found), ir.dims(node.outputs[0])
    if data is None or shape is None or None in shape or len(shape) > 1:
        return None
    return data.reshape([d for d in shape if d is not None])


def _arithmetic(function: Callable[[int, int], int]) -> Callable[..., Known | None]:
    def apply(node: ir.Node, found: Mapping[ir.Value, Known]) -> Known | None:
        a, b = _read(node.inputs[0], found), _read(node.inputs[1], found)
        if a is None or b is None:
            return None
        x, y = np.broadcast_arrays(a, b)
        result = np.empty(x.shape, dtype=object)
        for index in np.ndindex(x.shape):
            unknown = x[index] is None or y[index] is None
            result[index] = None if unknown else function(int(x[index]), int(y[index]))
        return result

    return apply


def _divide(a: int, b: int) -> int:
    """Integer division as ONNX has it, towards zero; 0 where it is undefined: no valid graph does that."""
    return 0 if b == 0 else (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)


_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})

_RULES: dict[str, Callable[[ir.Node, Mapping[ir.Value, Known]], Known | None]] = {
    "Add": _arithmetic(lambda a, b: a + b),
    "Cast": _same,
    "Concat": _concat,
    "Div": _arithmetic(_divide),
    "Gather": _gather,
    "Identity": _same,
    "Mul": _arithmetic(lambda a, b: a * b),
    "Reshape": _reshaped,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _reshaped,
    "Sub": _arithmetic(lambda a, b: a - b),
    "Unsqueeze": _reshaped,
}
