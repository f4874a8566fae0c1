"""Layers that can become two, what the two would cost, and writing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.analysis.cost import layer_cycles, macs
from edgecc.calibration import moments as mo
from edgecc.calibration.columns import groups
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
    layer = layer_of(node)
    if not isinstance(layer, Layer):
        return layer or "it is no layer with constant weights"
    if groups(node) > 1:
        return f"it has {groups(node)} groups"
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
    rows = rows_of(layer)
    return Site(index, layer, rows, macs(node) // rows.size)


def layer_of(node: ir.Node) -> Layer | str | None:
    """The layer whose weights a node holds, with the Add of its bias where it has one; as `layer_that_computes`."""
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
    pairs: list[tuple[Layer | str | None, Layer | str | None]] = []
    if reader is not None and rw.is_op(reader, *SPLIT):
        pairs.append((layer, layer_of(reader)))
    source = layer.node.inputs[0]
    if source is not None and ir.single_consumer(source) is layer.node:
        pairs.append((layer_that_computes(source), layer))
    for first, second in pairs:
        if not isinstance(first, Layer) or not isinstance(second, Layer):
            continue
        if groups(first.node) > 1 or groups(second.node) > 1 or second.inputs != first.outputs:
            continue
        if first.outputs**2 < min(first.weight.size, second.weight.size):
            other = second if first is layer else first
            return f"with {ir.label(other.node)} it is a product of rank {first.outputs} already"
    return None


def rows_of(layer: Layer) -> Array:
    """The weights as they multiply inputs: (out, fan_in) float64, groups of a Conv one after the other."""
    weight = layer.weight.astype(np.float64)
    if layer.node.op_type == "Conv":
        return weight.reshape(len(weight), -1)
    return (weight if ir.attribute(layer.node, "transB", 0) else weight.T) * layer.weight_scale


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
    attributes: Mapping[str, Any]
    sizes: tuple[int, ...] = ()


def write(layer: Layer, factors: Sequence[Factor]) -> None:
    """Puts layers in a row in the place of one. Stored in the type of the old weights."""
    replace_layers([layer], factors)


def replace_layers(layers: Sequence[Layer], factors: Sequence[Factor]) -> None:
    """Puts layers in a row in the place of others that stand in a row, of the same kind."""
    graph, out = layers[-1].node.graph, layers[-1].out
    assert isinstance(graph, ir.Graph)
    old = [n for layer in layers for n in (layer.node, layer.bias_node) if n is not None]
    constants = [v for n in old for v in n.inputs if v is not None and v.const_value is not None]
    value = layers[0].node.inputs[0]
    assert value is not None
    new: list[ir.Node] = []
    for number, factor in enumerate(factors):
        new += _nodes(graph, layers[-1], factor, value, len(factors) - 1 - number)
        value = new[-1].outputs[0]
    ir.replace(old, new, {out: value})
    for constant in constants:
        rw.drop_unused(constant)


def _nodes(graph: ir.Graph, layer: Layer, factor: Factor, source: ir.Value, left: int) -> list[ir.Node]:
    """The operator of one factor, and the Add of its bias where it needs one; `left`: factors that follow."""
    kind, dtype, out = layer.node.op_type, layer.weight.dtype, layer.out
    if kind == "MatMul" and rw.rank(out) == 2:
        kind = "Gemm"
    ending = f"_factor{left}" if left else ""
    stem = f"{out.name}{ending}"

    def stored(array: Array, what: str) -> ir.Value:
        array = np.ascontiguousarray(array.astype(dtype))
        return ir.add_initializer(graph, array, ir.fresh_name(graph, f"{stem}_{what}"))

    inputs: list[ir.Value | None] = [
        source,
        stored(factor.weight.T if kind == "MatMul" else factor.weight, "weight"),
    ]
    attributes = {"Conv": factor.attributes, "Gemm": {"transB": 1}}.get(kind, {})
    bias = None if factor.bias is None else stored(factor.bias, "bias")
    if bias is not None and kind != "MatMul":
        inputs.append(bias)
    made = [rw.new_node(kind, inputs, out, attributes, name=f"{ir.label(layer.node)}{ending}")]
    if bias is not None and kind == "MatMul":
        made.append(
            rw.new_node("Add", [made[0].outputs[0], bias], out, name=f"{ir.label(layer.node)}{ending}_bias")
        )
    for each in made:
        if left or each is not made[-1]:
            each.outputs[0].name = ir.fresh_name(graph, stem if each is made[-1] else f"{stem}_product")
        each.outputs[0].shape = _shape(layer, factor)
    return made


def _shape(layer: Layer, factor: Factor) -> ir.Shape:
    assert layer.out.shape is not None
    shape = list(layer.out.shape.dims)
    shape[layer.axis] = len(factor.weight)
    shape[2:] = factor.sizes or shape[2:]
    return ir.Shape(shape)


def conv_attributes(node: ir.Node, **changed: object) -> dict[str, Any]:
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
