"""What a network costs before anybody runs it: multiply-accumulates, parameters, bytes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from edgecc import ir


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
    seen = {v for node in model.graph for v in node.inputs if v is not None}
    return sum(_constants(v) for v in seen)


def _constants(value: ir.Value | None) -> int:
    if (
        value is None
        or value.const_value is None
        or value.dtype is None
        or not value.dtype.is_floating_point()
    ):
        return 0
    return int(prod(ir.static_dims(value)))


def macs(node: ir.Node) -> int:
    """Multiply-accumulates of a Conv, ConvTranspose, Gemm or MatMul whose shapes are known; else 0."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.inputs) < 2:
        return 0
    data, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    if data is None or weight is None or not all(ir.is_static(v) and ir.dims(v) for v in (data, weight, out)):
        return 0
    shape, filters, result = ir.static_dims(data), ir.static_dims(weight), ir.static_dims(out)
    if node.op_type == "Conv":  # each output cell sums over (in/groups) x kernel
        return prod(result) * prod(filters[1:])
    if node.op_type == "ConvTranspose":  # each input cell is spread over (out/groups) x kernel
        return prod(shape) * prod(filters[1:])
    if node.op_type == "Gemm":
        return prod(result) * (shape[0] if ir.attribute(node, "transA", 0) else shape[1])
    return prod(result) * shape[-1]
