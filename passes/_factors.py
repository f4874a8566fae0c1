"""Layers that can become two, what the two would cost, and writing them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from edgecc import ir
from edgecc.analysis.cost import layer_cycles, macs
from edgecc.calibration import moments as mo
from edgecc.ir import Array
from edgecc.passes import _rewrite as rw
from edgecc.passes._linear_layer import Layer, layer_that_computes
from edgecc.target import CostSpec

SPLIT = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Price:
    """What one way to compute a layer costs: multiply-accumulates, and cycles by the target's numbers."""

    macs: int
    cycles: float


@dataclass(frozen=True)
class Site:
    """A layer that could be split.

    Attributes:
        index: of its node in the graph.
        layer: Conv (one group), Gemm or MatMul.
        rows: (out, fan_in) float64, what it multiplies its inputs with.
        places: of its output, each of `out` sums.
    """

    index: int
    layer: Layer
    rows: Array
    places: int

    @property
    def node(self) -> ir.Node:
        """That holds the weights."""
        return self.layer.node

    @property
    def centred(self) -> bool:
        """Whether a bias can take the mean of the error without another operator."""
        return self.layer.bias is not None or self.node.op_type != "MatMul" or rw.rank(self.layer.out) == 2

    def price(self, precision: str, rates: CostSpec) -> Price:
        """As it is."""
        assert self.node.inputs[0] is not None
        seen = elements(self.node.inputs[0]) + elements(self.layer.out)
        count = macs(self.node)
        return Price(count, layer_cycles(count, seen, self.rows.size, precision, rates))

    def price_of_rank(self, rank: int, precision: str, rates: CostSpec) -> Price:
        """Of (in -> rank) and (rank -> out), the kernel in the first."""
        assert self.node.inputs[0] is not None
        weights = rank * sum(self.rows.shape)
        seen = elements(self.node.inputs[0]) + elements(self.layer.out) + 2 * rank * self.places
        count = weights * self.places
        return Price(count, layer_cycles(count, seen, weights, precision, rates, operators=2))


def elements(value: ir.Value) -> int:
    """With batch 1."""
    return prod(ir.static_dims(value))


def sites(model: ir.Model, operators: tuple[str, ...], tally: rw.Tally) -> Iterator[Site]:
    """The layers of these operators that could be split; for the others, the reason is noted."""
    for index, node in enumerate(model.graph):
        if not rw.is_op(node, *operators):
            continue
        found = _site(index, node)
        if isinstance(found, str):
            tally.refuse(node, found)
        elif found is not None:
            yield found


def _site(index: int, node: ir.Node) -> Site | str | None:
    if node.op_type == "MatMul" and ir.constant(node.inputs[1]) is None:
        return None  # a product of two values is no layer
    layer = _layer(node)
    if not isinstance(layer, Layer):
        return layer or "it is no layer with constant weights"
    if mo.groups(node) > 1:
        return f"it has {mo.groups(node)} groups"
    weight = node.inputs[1]
    assert weight is not None
    if len(weight.uses()) > 1 or weight.is_graph_output():
        return "other nodes read its weights, too"
    if (reason := mo.objection(node)) is not None:
        return reason
    values = (node.inputs[0], layer.out)
    if any(v is None or ir.dims(v) is None or not ir.is_static(v) for v in values) or not macs(node):
        return "the shapes of what it reads and writes are not known"
    if (reason := _product(layer)) is not None:
        return reason
    rows = _rows(layer) * layer.weight_scale
    return Site(index, layer, rows, macs(node) // rows.size)


def _layer(node: ir.Node) -> Layer | str | None:
    """With the Add of its bias, where it has one."""
    out = node.outputs[0]
    reader = ir.single_consumer(out)
    if node.op_type == "MatMul" and reader is not None and rw.is_op(reader, "Add"):
        found = layer_that_computes(reader.outputs[0])
        if isinstance(found, Layer) and found.node is node:
            return found
    return layer_that_computes(out)


def _product(layer: Layer) -> str | None:
    """Why a layer that is a factor of a matrix of low rank already is not split again."""
    reader = ir.single_consumer(layer.out)
    pairs = [(layer, _layer(reader))] if rw.is_op(reader, *SPLIT) and reader is not None else []
    source = layer.node.inputs[0]
    if source is not None and ir.single_consumer(source) is layer.node:
        pairs.append((_found(source), layer))  # type: ignore[arg-type]
    for first, second in pairs:
        if not isinstance(first, Layer) or not isinstance(second, Layer):
            continue
        if mo.groups(first.node) > 1 or mo.groups(second.node) > 1 or second.inputs != first.outputs:
            continue
        if first.outputs**2 < min(first.weight.size, second.weight.size):
            other = second if first is layer else first
            return f"with {ir.label(other.node)} it is a product of rank {first.outputs} already"
    return None


def _found(value: ir.Value) -> Layer | str | None:
    return None if value.producer() is None else layer_that_computes(value)


def _rows(layer: Layer) -> Array:
    weight = layer.weight.astype(np.float64)
    if layer.node.op_type == "Conv":
        return weight.reshape(len(weight), -1)
    return weight if ir.attribute(layer.node, "transB", 0) else weight.T


@dataclass(frozen=True)
class Factor:
    """One of the layers that take the place of another.

    Attributes:
        weight: Conv (out, in / group, ...), else (out, in).
        bias: (out,) or None.
        attributes: of a Conv.
        sizes: of its output, where it is a Conv: the axes after the channels.
    """

    weight: Array
    bias: Array | None
    attributes: dict[str, object]
    sizes: tuple[int, ...] = ()


def write(layer: Layer, factors: list[Factor]) -> list[ir.Node]:
    """Puts layers in a row in the place of one: the new nodes. Stored in the type of the old weights."""
    graph, node, out = layer.node.graph, layer.node, layer.out
    assert isinstance(graph, ir.Graph)
    old = [node] if layer.bias_node is None else [layer.bias_node, node]
    constants = [v for n in old for v in n.inputs[1:] if v is not None]
    value = node.inputs[0]
    assert value is not None
    new: list[ir.Node] = []
    for number, factor in enumerate(factors):
        last = number == len(factors) - 1
        name = ir.label(node) if last else f"{ir.label(node)}_factor{number}"
        new += _nodes(graph, layer, factor, value, name, last=last)
        value = new[-1].outputs[0]
    ir.replace(old, new, {out: value})
    for constant in constants:
        rw.drop_unused(constant)
    return new


def _nodes(
    graph: ir.Graph, layer: Layer, factor: Factor, source: ir.Value, name: str, *, last: bool
) -> list[ir.Node]:
    kind, dtype, out = layer.node.op_type, layer.weight.dtype, layer.out
    if kind == "MatMul" and rw.rank(out) == 2:
        kind = "Gemm"
    weight = factor.weight.T if kind == "MatMul" else factor.weight
    stem = f"{layer.node.inputs[1].name}_{name.rpartition('_')[2]}"  # type: ignore[union-attr]

    def stored(array: Array, what: str) -> ir.Value:
        return ir.add_initializer(graph, array.astype(dtype), ir.fresh_name(graph, f"{stem}_{what}"))

    inputs: list[ir.Value | None] = [source, stored(weight, "weight")]
    attributes = factor.attributes if kind == "Conv" else {"transB": 1} if kind == "Gemm" else {}
    if factor.bias is not None and kind != "MatMul":
        inputs.append(stored(factor.bias, "bias"))
    node = rw.new_node(kind, inputs, out, attributes, name=name)
    made = [node]
    if factor.bias is not None and kind == "MatMul":
        made.append(rw.new_node("Add", [node.outputs[0], stored(factor.bias, "bias")], out))
    for each in made:
        value = each.outputs[0]
        if not last or each is not made[-1]:
            value.name = ir.fresh_name(graph, f"{out.name}_{name.rpartition('_')[2]}")
        value.shape = _shape(layer, factor, kind)
    return made


def _shape(layer: Layer, factor: Factor, kind: str) -> ir.Shape:
    assert layer.out.shape is not None
    shape = list(layer.out.shape.dims)
    shape[layer.axis] = len(factor.weight)
    if kind == "Conv":
        shape[2:] = factor.sizes or shape[2:]
    return ir.Shape(shape)


def conv_attributes(node: ir.Node, **changed: object) -> dict[str, object]:
    """Of a Conv, written out, with some changed."""
    rank = len(ir.static_dims(node.inputs[1])) - 2  # type: ignore[arg-type]
    return {
        "kernel_shape": list(ir.static_dims(node.inputs[1])[2:]),  # type: ignore[arg-type]
        "strides": list(ir.attribute(node, "strides", (1,) * rank)),
        "pads": list(ir.attribute(node, "pads", (0,) * 2 * rank)),
        "dilations": list(ir.attribute(node, "dilations", (1,) * rank)),
        "group": 1,
        **changed,
    }
