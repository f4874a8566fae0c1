"""Which indices of which axes each operator ties to each other, one rule an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.analysis.channel_problem import Axis, Choice, Problem, size, sizes
from edgecc.analysis.evaluate import EVALUATION_ERRORS, evaluate
from edgecc.analysis.layout import CARRY, REDUCE


def unknown(node: ir.Node, p: Problem) -> None:
    """What no rule is known for keeps all that it reads and writes as it is."""
    read = [*node.inputs]
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            read += [v for inner in attr.value for v in inner.inputs]
    for value in (*read, *node.outputs):
        p.pin_all(value, f"{ir.label(node)} ({node.op_type}) needs it whole")


def _elementwise(node: ir.Node, p: Problem) -> None:
    out = node.outputs[0]
    rank = len(sizes(out))
    for value in node.inputs:
        own = len(sizes(value))
        for axis in range(own):
            p.same(value, axis, out, rank - own + axis)


def _conv(node: ir.Node, p: Problem) -> None:
    data, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    group, per_group = int(ir.attribute(node, "group", 1)), size(weight, 1)
    channels = np.arange(size(data, 1))
    rows = np.arange(size(weight, 0))
    if group == 1:
        p.same(data, 1, weight, 1)
    elif per_group == 1:  # depthwise
        p.link(data, 1, weight, 0, np.stack([rows * len(channels) // max(len(rows), 1), rows]))
    else:  # the same place of every group, so that groups stay equal
        p.link(data, 1, weight, 1, np.stack([channels, channels % per_group]))
        p.link(weight, 0, weight, 0, np.stack([rows, rows % (len(rows) // group)]))
    p.same(weight, 0, out, 1)
    _spatial(node, p, weight, out)


def _conv_transpose(node: ir.Node, p: Problem) -> None:
    data, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    group, per_group = int(ir.attribute(node, "group", 1)), size(weight, 1)
    p.same(data, 1, weight, 0)
    made = np.arange(size(out, 1))
    if group == 1:
        p.same(weight, 1, out, 1)
    elif per_group == 1 and size(weight, 0) == group:
        p.same(weight, 0, out, 1)
    else:
        rows = np.arange(size(weight, 0))
        p.link(weight, 0, weight, 0, np.stack([rows, rows % (len(rows) // group)]))
        p.link(out, 1, weight, 1, np.stack([made, made % per_group]))
    _spatial(node, p, weight, out)


def _spatial(node: ir.Node, p: Problem, weight: ir.Value | None, out: ir.Value) -> None:
    """The bias, and the axes over which a convolution runs."""
    if len(node.inputs) > 2:
        p.same(node.inputs[2], 0, out, 1)
    p.same(node.inputs[0], 0, out, 0)
    for axis in range(2, len(sizes(out))):
        for value in (node.inputs[0], weight, out):
            p.pin(value, axis, f"{ir.label(node)} slides along it")


def _gemm(node: ir.Node, p: Problem) -> None:
    a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
    turned, other = int(ir.attribute(node, "transA", 0)), int(ir.attribute(node, "transB", 0))
    p.same(a, 1 - turned, b, other)
    p.same(a, turned, out, 0)
    p.same(b, 1 - other, out, 1)
    if len(node.inputs) > 2:
        rank = len(sizes(node.inputs[2]))
        for axis in range(rank):
            p.same(node.inputs[2], axis, out, 2 - rank + axis)


def _matmul(node: ir.Node, p: Problem) -> None:
    a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
    ranks = [len(sizes(v)) for v in (a, b, out)]
    if min(ranks) < 2:
        return unknown(node, p)
    p.same(a, ranks[0] - 1, b, ranks[1] - 2)
    p.same(a, ranks[0] - 2, out, ranks[2] - 2)
    p.same(b, ranks[1] - 1, out, ranks[2] - 1)
    for value, rank in ((a, ranks[0]), (b, ranks[1])):
        for axis in range(rank - 2):
            p.same(value, axis, out, ranks[2] - rank + axis)
    return None


def _per_channel(node: ir.Node, p: Problem) -> None:
    """Normalisation of each channel by itself."""
    out = node.outputs[0]
    for axis in (0, 1):
        p.same(node.inputs[0], axis, out, axis)
    for value in node.inputs[1:]:
        p.same(value, 0, out, 1)
    for axis in range(2, len(sizes(out))):
        p.same(node.inputs[0], axis, out, axis)


def _layer_norm(node: ir.Node, p: Problem) -> None:
    rank = len(sizes(node.inputs[0]))
    first = int(ir.attribute(node, "axis", -1)) % max(rank, 1)
    for axis in range(rank):
        if axis < first:
            p.same(node.inputs[0], axis, node.outputs[0], axis)
        else:
            p.pin(node.inputs[0], axis, f"{ir.label(node)} normalises over it")
            p.pin(node.outputs[0], axis, f"{ir.label(node)} normalises over it")
    for value in (*node.inputs[1:], *node.outputs[1:]):
        p.pin_all(value, f"{ir.label(node)} normalises over it")


def _pool(node: ir.Node, p: Problem) -> None:
    for out in node.outputs:
        for axis in (0, 1):
            p.same(node.inputs[0], axis, out, axis)
        for axis in range(2, len(sizes(node.inputs[0]))):
            p.pin(node.inputs[0], axis, f"{ir.label(node)} slides along it")
            p.pin(out, axis, f"{ir.label(node)} slides along it")


def _resize(node: ir.Node, p: Problem) -> None:
    data, out = node.inputs[0], node.outputs[0]
    for axis in range(len(sizes(out))):
        if axis < 2 and size(data, axis) == size(out, axis):
            p.same(data, axis, out, axis)
        else:
            p.pin(data, axis, f"{ir.label(node)} interpolates along it")
            p.pin(out, axis, f"{ir.label(node)} interpolates along it")


def _softmax(node: ir.Node, p: Problem) -> None:
    rank = len(sizes(node.outputs[0]))
    over = int(ir.attribute(node, "axis", -1)) % max(rank, 1)
    for axis in range(rank):
        if axis == over:
            p.pin(node.inputs[0], axis, f"{ir.label(node)} sums over it")
        p.same(node.inputs[0], axis, node.outputs[0], axis)


def _reduce(node: ir.Node, p: Problem) -> None:
    data, out = node.inputs[0], node.outputs[0]
    given = ir.constant(node.inputs[1]) if len(node.inputs) > 1 else ir.attribute(node, "axes")
    if given is None:
        return unknown(node, p)
    rank, keep = len(sizes(data)), ir.attribute(node, "keepdims", 1)
    over = {int(a) % max(rank, 1) for a in np.asarray(given).reshape(-1)}
    left = [a for a in range(rank) if a not in over]
    for axis in over:
        p.pin(data, axis, f"{ir.label(node)} sums over it")
    for place, axis in enumerate(left):
        p.same(data, axis, out, axis if keep else place)
    return None


def _movement(node: ir.Node, p: Problem) -> None:
    """What only moves elements: found out by moving the numbers of indices."""
    data = [i for i, v in enumerate(node.inputs) if v is not None and i in _moved_inputs(node)]
    others: list[Any] = [None if i in data else ir.constant(v) for i, v in enumerate(node.inputs)]
    known = all(ir.is_static(v) for v in (*(node.inputs[i] for i in data), *node.outputs) if v is not None)
    if not known or any(
        v is not None and others[i] is None for i, v in enumerate(node.inputs) if i not in data
    ):
        return unknown(node, p)
    choice = Choice(node, [])
    related: set[Axis] = set()
    for at in data:
        value = node.inputs[at]
        assert value is not None
        for axis, length in enumerate(sizes(value)):
            if length == 1:
                continue
            try:
                moved = _follow(node, data, others, at, axis, p.version)
            except EVALUATION_ERRORS:
                return unknown(node, p)
            found = [
                ((value, axis), (out, to), pairs)
                for out, array in zip(node.outputs, moved, strict=False)
                for to in range(array.ndim)
                if (pairs := _pairs(array, to)) is not None
            ]
            if not found:
                p.pin(value, axis, f"{ir.label(node)} ({node.op_type}) takes it apart")
            choice.candidates += found
            related |= {b for _, b, _ in found}
    for out in node.outputs:
        for axis in range(len(sizes(out))):
            if (out, axis) not in related:
                p.pin(out, axis, f"{ir.label(node)} ({node.op_type}) makes it")
    _offer(choice, p)
    return None


def _offer(choice: Choice, p: Problem) -> None:
    """Links what each axis has one candidate for; the rest is settled when all else is known."""
    left = []
    for a, b, pairs in choice.candidates:
        rivals = [
            c for c in choice.candidates
            if (c[0] == a and c[1] != b and c[1][0] is b[0]) or (c[1] == b and c[0] != a and c[0][0] is a[0])
        ]  # fmt: skip
        if rivals:
            left.append((a, b, pairs))
        else:
            p.links.append((a, b, pairs))
    if left:
        p.choices.append(Choice(choice.node, left))


def _moved_inputs(node: ir.Node) -> range:
    return range(len(node.inputs)) if node.op_type == "Concat" else range(1)


def _follow(
    node: ir.Node, data: Sequence[int], others: Sequence[Any], at: int, axis: int, version: int
) -> list[ir.Array]:
    """The outputs where each element of one operand is its index along an axis, from 1 on, and all else is 0."""
    inputs = list(others)
    for i in data:
        value = node.inputs[i]
        assert value is not None
        shape = ir.static_dims(value)
        inputs[i] = np.zeros(shape, np.int32)
        if i == at:
            inputs[i] += np.arange(1, shape[axis] + 1, dtype=np.int32).reshape(
                -1, *(1,) * (len(shape) - axis - 1)
            )
    if node.op_type == "Pad" and len(inputs) > 2:
        inputs[2] = np.zeros((), np.int32)
    return evaluate(node, inputs, version)


def _pairs(moved: ir.Array, axis: int) -> ir.Array | None:
    """Index pairs (in the operand, along `axis` of the result); None where one says nothing of the other."""
    rows = np.moveaxis(moved, axis, 0).reshape(moved.shape[axis], -1)
    if len(rows) == 1:
        return None
    found = [(int(v) - 1, k) for k, row in enumerate(rows) for v in np.unique(row[row > 0])]
    if not found:
        return None
    pairs = np.asarray(found).T
    lefts, rights = (len(np.unique(side)) for side in pairs)
    if pairs.shape[1] == lefts * rights and lefts > 1:
        return None
    return pairs


RULES: dict[str, Callable[[ir.Node, Problem], None]] = {
    **dict.fromkeys(CARRY | {"Dropout"}, _elementwise),
    **dict.fromkeys(REDUCE, _reduce),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _per_channel),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _pool),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(
        ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Gather", "Pad",
         "Expand", "Tile", "DepthToSpace", "SpaceToDepth"),
        _movement,
    ),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Resize": _resize,
}  # fmt: skip
