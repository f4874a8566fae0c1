"""What a network costs before anybody runs it: multiply-accumulates, parameters, bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from edgecc import ir

if TYPE_CHECKING:
    from edgecc.target import CostSpec


@dataclass(frozen=True)
class NodeCost:
    """One node: multiply-accumulates of one inference with batch 1, and elements of its constants."""

    name: str
    op_type: str
    macs: int
    parameters: int


def node_costs(model: ir.Model) -> list[NodeCost]:
    """A cost a node, in execution order; 0 multiply-accumulates for operators that are not sums of products."""
    return [
        NodeCost(ir.label(node), node.op_type, macs(node), sum(_constants(v) for v in node.inputs))
        for node in model.graph
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
    ]


def total_macs(model: ir.Model) -> int:
    """Multiply-accumulates of one inference with batch 1."""
    return sum(macs(node) for node in model.graph)


def total_parameters(model: ir.Model) -> int:
    """Elements of all floating-point constants that a node reads, each once."""
    seen = {_stored(v) for node in model.graph for v in node.inputs if v is not None}
    return sum(_constants(v) for v in seen)


def cycles(node: ir.Node, outputs: Iterable[ir.Value], precision: str, rates: CostSpec) -> float:
    """What a node takes for one inference with batch 1, by a target's numbers.

    Args:
        node: Conv, Add, ...
        outputs: what it writes: the results of the activation that it absorbs, if it does.
        precision: fp32, int8, int16x8 (int16 activations, int8 weights) or int4 (int8 activations), which counts
            as int8.
        rates: of the target.
    """
    precision = "int8" if precision == "int4" else precision
    made = output_channels(node)
    products = macs(node) * (padded(made, precision, rates) / made if made else 1)
    return priced(products, moved_bytes(node, outputs, precision), precision, rates)


def output_channels(node: ir.Node) -> int:
    """How many channels a product of a group makes; 0 of what is none, and of depthwise convolutions."""
    if not macs(node) or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    if node.op_type == "Conv":
        made = ir.static_dims(node.inputs[1])[0] // int(ir.attribute(node, "group", 1))  # type: ignore[arg-type]
        return made if ir.attribute(node, "group", 1) == 1 or made > 1 else 0
    return ir.static_dims(node.outputs[0])[-1]


def padded(channels: float, precision: str, rates: CostSpec) -> float:
    """Channels that take as long as so many."""
    step = rates.channels.get(precision, 1)
    return -(-channels // step) * step


def layer_cycles(
    products: int, activations: int, weights: int, precision: str, rates: CostSpec, *, operators: int = 1
) -> float:
    """As `cycles`, of layers that are not there yet.

    Args:
        products: multiply-accumulates.
        activations, weights: elements that are read or written.
        precision, rates: as there.
        operators: how many layers.
    """
    precision = "int8" if precision == "int4" else precision
    width = _WIDTHS[precision]
    moved = activations * width + weights * (1 if precision != "fp32" else width)
    return priced(products, moved, precision, rates, operators)


def priced(products: float, moved: float, precision: str, rates: CostSpec, operators: int = 1) -> float:
    """Cycles of so many multiply-accumulates, bytes moved and operators."""
    return products * rates.mac[precision] + moved * rates.byte[precision] + operators * rates.operator


def total_cycles(model: ir.Model, rates: CostSpec, precision: str = "fp32") -> float:
    """Of all nodes of a network (see `cycles`)."""
    return sum(cycles(node, node.outputs, precision, rates) for node in model.graph)


def moved_bytes(node: ir.Node, outputs: Iterable[ir.Value], precision: str) -> int:
    """Bytes of activations and constants that a node reads and writes."""
    width = _WIDTHS[precision]
    moved = sum(elements(v) for v in outputs) * width
    for value in node.inputs:
        if value is not None and _is_real(value):
            weight = value.const_value is not None and not value.is_graph_input()
            moved += elements(value) * (1 if weight and precision != "fp32" else width)
    return moved


def conversion(value: ir.Value, rates: CostSpec) -> float:
    """Cycles to store a value in another type."""
    return elements(value) * rates.conversion + rates.operator


def elements(value: ir.Value) -> int:
    """Elements of a value with batch 1."""
    return prod(d or 1 for d in ir.dims(value) or ())


# Bytes of an activation.
_WIDTHS = {"fp32": 4, "int8": 1, "int16x8": 2}


def _is_real(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()


def _constants(value: ir.Value | None) -> int:
    """Elements of a constant: real numbers, or weights that are stored in integers (of at most 8 bits, in rows)."""
    value = _stored(value)
    if value is None or value.const_value is None or value.dtype is None:
        return 0
    shape = ir.static_dims(value)
    stored = value.dtype.itemsize <= 1 and len(shape) > 1 and value.dtype != ir.DataType.BOOL
    return int(prod(shape)) if value.dtype.is_floating_point() or stored else 0


def _stored(value: ir.Value | None) -> ir.Value | None:
    """What a DequantizeLinear makes `value` of, if one does."""
    maker = None if value is None else value.producer()
    return maker.inputs[0] if maker is not None and maker.op_type == "DequantizeLinear" else value


# Operator on stored integers -> what it computes, and the position of its weights.
_STORED = {
    "QLinearConv": ("Conv", 3), "ConvInteger": ("Conv", 1), "QGemm": ("Gemm", 3), "QLinearMatMul": ("MatMul", 3),
    "MatMulInteger": ("MatMul", 1), "DynamicQuantizeMatMul": ("MatMul", 1),
}  # fmt: skip


def macs(node: ir.Node) -> int:
    """Multiply-accumulates of a Conv, ConvTranspose, Gemm or MatMul whose shapes are known; else 0."""
    op_type, position = _STORED.get(node.op_type, (node.op_type, 1))
    if op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.inputs) <= position:
        return 0
    data, weight, out = node.inputs[0], node.inputs[position], node.outputs[0]
    if data is None or weight is None or not all(ir.is_static(v) and ir.dims(v) for v in (data, weight, out)):
        return 0
    shape, filters, result = ir.static_dims(data), ir.static_dims(weight), ir.static_dims(out)
    if op_type == "Conv":  # each output cell sums over (in/groups) x kernel
        return prod(result) * prod(filters[1:])
    if op_type == "ConvTranspose":  # each input cell is spread over (out/groups) x kernel
        return prod(shape) * prod(filters[1:])
    if op_type == "Gemm":
        return prod(result) * (shape[0] if ir.attribute(node, "transA", 0) else shape[1])
    return prod(result) * shape[-1]
