"""The quantization that a network brings along: what it is called, and its plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecc import ir
from edgecc.analysis import qdq

if TYPE_CHECKING:
    from edgecc.quant.params import QuantParams
    from edgecc.quant.plan import QuantPlan

# Operators on stored integers, and those that quantize their activations while running.
_STORED = ("QLinear", "QGemm", "QAttention")
_WHILE_RUNNING = frozenset({"ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"})
_WIDE = frozenset({"int16", "uint16"})


@dataclass(frozen=True)
class Carried:
    """What a network's own quantization comes to.

    Attributes:
        precision: what edgecc calls it: int8, int16x8, int4 or dynamic (weights alone).
        activations: how many values are stored in integers.
        weights: how many constants are.
    """

    precision: str
    activations: int
    weights: int

    def __str__(self) -> str:
        kept = f"{self.activations} activations and {self.weights} weights"
        return f"the network is quantized already ({self.precision}: {kept})"


def find(model: ir.Model) -> Carried | None:
    """What quantization an imported network carries; None where it is a float one."""
    stored: list[str] = []
    weights: list[str] = []
    for node in model.graph:
        if node.op_type in _WHILE_RUNNING:
            weights.append("int8")
        elif node.op_type.startswith(_STORED):
            stored.append(_type(node.outputs[0]))
            weights += ["int8"] * sum(_is_weight(v) for v in node.inputs)
        elif node.op_type == qdq.QUANTIZE and ir.constant(node.inputs[0]) is None:
            stored.append(_type(node.outputs[0]))
        elif node.op_type == qdq.DEQUANTIZE and _is_weight(node.inputs[0]):
            weights.append(_type(node.inputs[0]))
        elif node.op_type == qdq.QUANTIZE:
            weights.append(_type(node.outputs[0]))
    if not stored and not weights:
        return None
    if weights and all(kind in ("int4", "uint4") for kind in weights):
        precision = "int4"
    elif not stored:
        precision = "dynamic"
    else:
        precision = "int16x8" if all(kind in _WIDE for kind in stored) else "int8"
    return Carried(precision, len(stored), len(weights))


def plan(model: ir.Model, precision: str) -> QuantPlan | None:
    """The plan that the Q/DQ nodes of a network amount to; None where they store weights alone."""
    from edgecc.quant.plan import QuantPlan

    tensors: dict[str, QuantParams] = {}
    ranges: dict[str, tuple[float, float]] = {}
    for node in model.graph:
        if not qdq.is_conversion(node) or not qdq.absorbed(node):
            continue
        source = node.inputs[0]
        assert source is not None
        if node.op_type == qdq.QUANTIZE:
            params = qdq.params(node)
            tensors[str(source.name)] = params
            ranges[str(source.name)] = params.range
        elif ir.constant(source) is not None and (kept := qdq.stored_constant(node)) is not None:
            tensors[str(source.name)] = kept[1]
    return QuantPlan(precision, ranges, tensors) if ranges else None  # type: ignore[arg-type]


def _is_weight(value: ir.Value | None) -> bool:
    """Whether `value` is a constant of integers of more than one axis."""
    array = ir.constant(value)
    return array is not None and array.ndim > 1 and array.dtype.itemsize == 1


def _type(value: ir.Value | None) -> str:
    return "" if value is None or value.dtype is None else str(value.dtype).lower()
