"""Recognises layer normalization that is spelt out as primitive operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult

_SINCE = 17  # the opset that brought LayerNormalization


@dataclass(frozen=True, kw_only=True)
class FuseLayerNorm(Pass):
    """Writes (x - mean) / sqrt(mean of squares + epsilon) * scale + shift over the last axes as LayerNormalization.

    Scale and shift are optional. As one operator it stays real arithmetic in an int8 network, where squares of
    integers would drown small variances. (Ba, Kiros and Hinton 2016, equation 4)
    """

    name: ClassVar[str] = "fuse_layer_norm"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally, version = rw.Tally(), rw.opset(model)
        for node in model.graph:
            if rw.is_op(node, "Div", "Mul"):
                found = _match(node)
                if isinstance(found, str):
                    tally.refuse(node, found)
                elif found is not None and version < _SINCE:
                    tally.refuse(
                        node, f"LayerNormalization exists from opset {_SINCE} on, the model has {version}"
                    )
                elif found is not None:
                    _fuse(model.graph, node, found)
                    tally.rewritten += 1
        return tally.result()


@dataclass(frozen=True)
class _Norm:
    """What is normalized, along which axis and all behind it, and the summand under the root."""

    source: ir.Value
    axis: int
    epsilon: float


def _made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if rw.is_op(node, *op_types) else None


def _match(node: ir.Node) -> _Norm | str | None:
    """The normalization that ends in `node`; a reason where it is nearly one."""
    for centred, other in (node.inputs, node.inputs[::-1]):
        if node.op_type == "Mul":  # by the reciprocal
            inverse = _made_by(other, "Reciprocal")
            other = None if inverse is None else inverse.inputs[0]
        root, minus = _made_by(other, "Sqrt"), _made_by(centred, "Sub")
        total = None if root is None else _made_by(root.inputs[0], "Add")
        if minus is not None and total is not None and centred is not None:
            return _under_root(minus, total, centred)
        if node.op_type == "Div":
            break
    return None


def _under_root(minus: ir.Node, total: ir.Node, centred: ir.Value) -> _Norm | str | None:
    """`minus`: x - mean; `total`: variance + epsilon."""
    source = minus.inputs[0]
    mean = _made_by(minus.inputs[1], "ReduceMean")
    for variance, constant in (total.inputs, total.inputs[::-1]):
        spread, epsilon = _made_by(variance, "ReduceMean"), rw.scalar(constant)
        if spread is not None and epsilon is not None:
            break
    else:
        return None
    if (
        mean is None
        or source is None
        or mean.inputs[0] is not source
        or not _square(spread.inputs[0], centred)
    ):
        return None
    axes = [_trailing(n) for n in (mean, spread)]
    if axes[0] is None or axes[0] != axes[1]:
        return "it averages along other axes than the last ones"
    return _Norm(source, axes[0], epsilon)


def _square(value: ir.Value | None, centred: ir.Value) -> bool:
    node = _made_by(value, "Pow", "Mul")
    if node is None or node.inputs[0] is not centred:
        return False
    return rw.scalar(node.inputs[1]) == 2 if node.op_type == "Pow" else node.inputs[1] is centred


def _trailing(node: ir.Node) -> int | None:
    """The first of the axes that a ReduceMean averages, where they are the last ones and stay as 1."""
    source = node.inputs[0]
    axes = rw.integer_constant(node.inputs[1]) if len(node.inputs) > 1 else None
    count = None if source is None else rw.rank(source)
    if axes is None or count is None or not ir.attribute(node, "keepdims", 1):
        return None
    found = sorted(rw.axes_of(axes, count))
    return found[0] if found and found == list(range(found[0], count)) else None


def _fuse(graph: ir.Graph, node: ir.Node, norm: _Norm) -> None:
    sizes = (ir.dims(norm.source) or ())[norm.axis :]
    scale, last = _operand(node, "Mul", sizes)
    shift, last = _operand(last, "Add", sizes) if scale is not None else (None, last)
    if scale is None:
        ones = np.ones(
            [d or 1 for d in sizes], norm.source.dtype.numpy() if norm.source.dtype else np.float32
        )
        scale = ir.add_initializer(graph, ones, ir.fresh_name(graph, f"{node.outputs[0].name}_scale"))
    inputs = [norm.source, _shaped(graph, scale, sizes)]
    if shift is not None:
        inputs.append(_shaped(graph, shift, sizes))
    out, unread = last.outputs[0], [*node.inputs, *last.inputs]
    attributes = {"axis": norm.axis - (rw.rank(norm.source) or 0), "epsilon": norm.epsilon}
    new = rw.new_node("LayerNormalization", inputs, out, attributes, name=node.name)
    ir.replace([last], [new], {out: new.outputs[0]})
    rw.drop_dead(v for v in unread if v not in inputs)


def _operand(node: ir.Node, op_type: str, sizes: tuple[int | None, ...]) -> tuple[ir.Value | None, ir.Node]:
    """The constant of the normalized shape that the only reader multiplies by (or adds), and that reader."""
    reader = ir.single_consumer(node.outputs[0])
    if reader is None or not rw.is_op(reader, op_type):
        return None, node
    other = next((v for v in reader.inputs if v is not node.outputs[0]), None)
    array = ir.constant(other)
    if array is None or (array.size != 1 and not _fits(array.shape, sizes)) or None in sizes:
        return None, node
    if array.size == 1 and rw.rank(reader.outputs[0]) != rw.rank(node.outputs[0]):
        return None, node
    return other, reader


def _fits(shape: tuple[int, ...], sizes: tuple[int | None, ...]) -> bool:
    return (1,) * (len(shape) - len(sizes)) + tuple(sizes) == shape


def _shaped(graph: ir.Graph, value: ir.Value, sizes: tuple[int | None, ...]) -> ir.Value:
    """The constant in the normalized shape, which the operator asks for."""
    array = ir.constant(value)
    assert array is not None
    wanted = tuple(d or 1 for d in sizes)
    if array.shape == wanted:
        return value
    whole = np.broadcast_to(array.reshape(-1), wanted) if array.size == 1 else array.reshape(wanted)
    return ir.add_initializer(graph, np.ascontiguousarray(whole), ir.fresh_name(graph, f"{value.name}_last"))
