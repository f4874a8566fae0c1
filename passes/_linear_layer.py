"""Layers that are linear in their input, with constant weights: what scales and shifts fold into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecc import ir
from edgecc.ir import Array
from edgecc.passes import _rewrite as rw

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul (with the Add of its bias) whose weights are constant.

    Attributes:
        node: the operator that holds the weights; `bias_node`: the Add after a MatMul.
        weight: Conv (out, in / group, ...), ConvTranspose (in, out / group, ...), Gemm and MatMul (in, out),
            with transB (out, in).
        bias: (out,) float64, or None.
        weight_scale: what the operator itself multiplies its weights with (Gemm's alpha).
        outputs, inputs: channels. axis: the channels' axis in the output (and in the input).
    """

    node: ir.Node
    bias_node: ir.Node | None
    weight: Array
    bias: Array | None
    weight_scale: float
    outputs: int
    inputs: int
    axis: int

    @property
    def out(self) -> ir.Value:
        """The value that the layer computes."""
        return (self.bias_node or self.node).outputs[0]

    def spread_outputs(self, vector: Array) -> Array:
        """A vector (out,) in a shape that multiplies the weights of each output channel."""
        if self.node.op_type == "ConvTranspose":  # weights (in, out / group, ...): one row of groups an input
            group = ir.attribute(self.node, "group", 1)
            vector = np.repeat(vector.reshape(group, -1), self.inputs // group, axis=0)
            return vector.reshape(*vector.shape, *(1,) * (self.weight.ndim - 2))
        return vector.reshape(vector.size, *(1,) * (self.weight.ndim - 1)) if self._rows_out else vector

    def spread_inputs(self, vector: Array) -> Array:
        """A vector (in,) in a shape that multiplies the weights of each input channel."""
        if self.node.op_type == "Conv":  # weights (out, in / group, ...)
            group = ir.attribute(self.node, "group", 1)
            vector = np.repeat(vector.reshape(group, -1), self.outputs // group, axis=0)
            return vector.reshape(*vector.shape, *(1,) * (self.weight.ndim - 2))
        return vector if self._rows_out else vector.reshape(vector.size, *(1,) * (self.weight.ndim - 1))

    def sum_inputs(self, weight: Array) -> Array:
        """The sum of weights over everything but the output channels: (out,). Not for ConvTranspose."""
        return np.asarray(weight.sum(axis=tuple(range(1, weight.ndim)) if self._rows_out else 0))

    @property
    def _rows_out(self) -> bool:
        """Whether the first axis of the weights is that of the output channels."""
        return self.node.op_type == "Conv" or bool(ir.attribute(self.node, "transB", 0))

    def rebuild(
        self, weight: Array, bias: Array | None, source: ir.Value | None, out: ir.Value
    ) -> list[ir.Node]:
        """New nodes with other weights (float64, stored in the type of the old) in place of this layer."""
        graph, node = self.node.graph, self.node
        assert isinstance(graph, ir.Graph)
        data = _store(graph, weight.astype(self.weight.dtype), node.inputs[1], f"{out.name}_weight")
        inputs: list[ir.Value | None] = [source, data]
        attributes = {k: v for k, v in node.attributes.items() if k not in {"alpha", "beta"}}
        if bias is None:
            return [_copy(node, node.op_type, inputs, attributes, out)]
        shift = _store(graph, bias.astype(self.weight.dtype), self._bias_value(), f"{out.name}_bias")
        if node.op_type != "MatMul":
            return [_copy(node, node.op_type, [*inputs, shift], attributes, out)]
        if rw.rank(out) == 2:
            return [_copy(node, "Gemm", [*inputs, shift], {}, out)]
        product = _copy(node, "MatMul", inputs, {}, out)
        product.outputs[0].name = ir.fresh_name(graph, f"{out.name}_product")
        name = None if self.bias_node is None else self.bias_node.name
        return [product, rw.new_node("Add", [product.outputs[0], shift], out, name=name)]

    def _bias_value(self) -> ir.Value | None:
        if self.bias_node is not None:
            return next(v for v in self.bias_node.inputs if v is not None and v.const_value is not None)
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None


def _copy(
    node: ir.Node, op_type: str, inputs: list[ir.Value | None], attributes: dict[str, ir.Attr], out: ir.Value
) -> ir.Node:
    new = rw.new_node(op_type, inputs, out, name=node.name)
    new.attributes.update(attributes)
    return new


def _store(graph: ir.Graph, array: Array, old: ir.Value | None, stem: str) -> ir.Value:
    """A new constant, under the name of the one it replaces where nothing else reads that."""
    if (
        old is not None
        and old.name
        and len(old.uses()) == 1
        and old.is_initializer()
        and not old.is_graph_output()
    ):
        name = old.name
        del graph.initializers[name]
        return ir.add_initializer(graph, array, name)
    return ir.add_initializer(graph, array, ir.fresh_name(graph, stem))


def layer_that_computes(value: ir.Value) -> Layer | str | None:
    """The layer whose output is `value`; the reason if its weights rule it out; None if it is none."""
    node = value.producer()
    if node is None:
        return None
    if rw.is_op(node, *LINEAR):
        return _layer(node, None)
    if not rw.is_op(node, "Add"):
        return None
    for product, constant in (node.inputs, node.inputs[::-1]):
        inner = None if product is None else product.producer()
        if product is None or inner is None or not rw.is_op(inner, "MatMul"):
            continue
        if ir.constant(constant) is not None and ir.single_consumer(product) is node:
            return _layer(inner, node, ir.constant(constant))
    return None


def layer_that_reads(value: ir.Value) -> Layer | str | None:
    """The one layer that reads `value` as its data; the reason if it is no such layer; None if it is none."""
    node = ir.single_consumer(value)
    producer = value.producer()
    if node is None or not rw.is_op(node, *LINEAR) or node.inputs[0] is not value:
        return None
    if producer is None or producer.graph is not node.graph:
        return f"{ir.label(node)} stands in a branch or a loop"
    return _layer(node, None)


def _layer(node: ir.Node, bias_node: ir.Node | None, bias: Array | None = None) -> Layer | str:
    weight = ir.constant(node.inputs[1])
    label = ir.label(node)
    if weight is None:
        return f"the weights of {label} are computed while running"
    if weight.dtype.kind != "f" or weight.ndim < 2:
        return f"the weights of {label} are no matrix or kernel of floats"
    if node.op_type == "Gemm" and ir.attribute(node, "transA", 0):
        return f"{label} transposes its input"
    if node.op_type == "MatMul" and (weight.ndim != 2 or (rw.rank(node.outputs[0]) or 0) < 2):
        return f"{label} multiplies stacked matrices or vectors"
    group, transposed = ir.attribute(node, "group", 1), bool(ir.attribute(node, "transB", 0))
    rows, columns = weight.shape[:2]
    outputs, inputs = {
        "Conv": (rows, columns * group),
        "ConvTranspose": (columns * group, rows),
    }.get(node.op_type, (rows, columns) if transposed else (columns, rows))
    axis = 1 if node.op_type != "MatMul" else (rw.rank(node.outputs[0]) or 2) - 1
    if bias_node is None and len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = ir.constant(node.inputs[2])
        if bias is None:
            return f"the bias of {label} is computed while running"
    vector = None
    if bias is not None:
        convolution = node.op_type in {"Conv", "ConvTranspose"}
        vector = (
            per_channel(bias, 1, 0, outputs) if convolution else per_channel(bias, axis + 1, axis, outputs)
        )
        if vector is None:
            return f"the bias of {label} is not one number a channel"
        vector = vector * ir.attribute(node, "beta", 1.0)
    return Layer(node, bias_node, weight, vector, ir.attribute(node, "alpha", 1.0), outputs, inputs, axis)


def per_channel(array: Array, rank: int, axis: int, channels: int) -> Array | None:
    """The vector (channels,) float64 that a constant means when broadcast; None if it varies otherwise."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(d != 1 for position, d in enumerate(shape) if position != axis) or shape[axis] not in {
        1,
        channels,
    }:
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), (channels,))
