"""int8 weights under float activations: TFLite's dynamic range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.passes._rewrite import Tally, is_op, new_node
from edgecc.pipeline import Pass, PassContext, PassResult

# Operator -> axis of its weights' output channels. TFLite's TRANSPOSE_CONV takes no int8 weights with float data.
_CHANNEL_AXIS = {"Conv": 0, "Gemm": 0, "MatMul": 1}


@dataclass(frozen=True, kw_only=True)
class QuantizeWeights(Pass):
    """Stores weights as int8 with one scale an output channel; activations stay float.

    scale = max|w| / 127 (TFLite quantization specification, symmetric weights). Weights of fewer than `min_elements`
    stay as they are, as in TensorFlow's converter: they save nothing.
    """

    name: ClassVar[str] = "quantize_weights"
    exact: ClassVar[bool] = False
    min_elements: int = 1024

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Puts an int8 initializer and a DequantizeLinear in the place of each weight."""
        tally = Tally()
        stored: dict[tuple[ir.Value, int], ir.Value] = {}
        for node in list(model.graph):
            if not is_op(node, *_CHANNEL_AXIS):
                continue
            weight = node.inputs[1]
            array = ir.constant(weight)
            if weight is None or array is None or array.dtype != np.float32:
                tally.refuse(node, "its weights are computed")
                continue
            if array.size < self.min_elements:
                tally.refuse(node, f"its weights are {array.size} numbers, fewer than {self.min_elements}")
                continue
            axis = _CHANNEL_AXIS[node.op_type] if not ir.attribute(node, "transB", 0) else 0
            if node.op_type == "Gemm" and not ir.attribute(node, "transB", 0):
                axis = 1
            key = (weight, axis)
            if key not in stored:
                stored[key] = _quantized(model.graph, weight, array, axis, node)
            node.replace_input_with(1, stored[key])
            tally.rewritten += 1
        return tally.result()


def _quantized(graph: ir.Graph, weight: ir.Value, array: ir.Array, axis: int, user: ir.Node) -> ir.Value:
    others = tuple(a for a in range(array.ndim) if a != axis)
    scale = np.maximum(np.abs(array).max(axis=others) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    shape = [-1 if a == axis else 1 for a in range(array.ndim)]
    integers = np.clip(np.rint(array / scale.reshape(shape)), -127, 127).astype(np.int8)
    name = str(weight.name)
    inputs = [
        ir.add_initializer(graph, integers, ir.fresh_name(graph, f"{name}_quantized")),
        ir.add_initializer(graph, scale, ir.fresh_name(graph, f"{name}_scale")),
    ]
    node = new_node("DequantizeLinear", inputs, weight, {"axis": axis}, name=f"{name}_dequantize")
    node.outputs[0].name = ir.fresh_name(graph, f"{name}_dequantized")
    graph.insert_before(user, [node])
    return node.outputs[0]
