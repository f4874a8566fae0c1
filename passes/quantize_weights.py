"""int8 or int4 weights under float activations: TFLite's dynamic range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgecc import ir
from edgecc.errors import UsageError
from edgecc.passes._rewrite import Tally, is_op, new_node
from edgecc.pipeline import Pass, PassContext, PassResult
from edgecc.quant import int4, rules
from edgecc.quant.params import QuantParams, from_weights

# Not ConvTranspose: TFLite's TRANSPOSE_CONV of 2.14 takes no int8 weights with float data.
_OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class QuantizeWeights(Pass):
    """Stores weights as integers with one scale an output channel or a block; activations stay float.

    int8: scale = max|w| / 127 (TFLite quantization specification, symmetric weights). int4: the scale of least error,
    and rounded so that sums stay (weight_scales.py). Weights of fewer than `min_elements` stay as they are, as in
    TensorFlow's converter: they save nothing.

    Attributes:
        dtype: in which weights are stored; int8 where a node takes no int4 ones.
        block_size: of int4: one scale for so many neighbouring inputs of an output; 0: one for all of them.
        min_elements: smaller weights stay float.
    """

    name: ClassVar[str] = "quantize_weights"
    exact: ClassVar[bool] = False
    dtype: Literal["int8", "int4"] = "int8"
    block_size: int = 0
    min_elements: int = 1024

    def __post_init__(self) -> None:
        if self.block_size and self.block_size not in int4.BLOCK_SIZES:
            raise UsageError(
                f"there are no kernels for blocks of {self.block_size}",
                node=f"{self.name}:block_size",
                remedy=f"choose {', '.join(map(str, int4.BLOCK_SIZES))}, or 0 for one scale an output channel",
            )
        if self.block_size and self.dtype != "int4":
            raise UsageError(
                f"there are kernels for blocks of int4 weights, and none for {self.dtype}",
                node=f"{self.name}:block_size",
                remedy="choose --precision int4",
            )

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Puts an integer initializer and a DequantizeLinear in the place of each weight.

        Raises:
            UsageError: blocks are wanted, and no weights can be cut into them.
        """
        tally = Tally()
        made: dict[tuple[ir.Value, QuantParams], ir.Value] = {}
        spared = int4.spared(model) if self.dtype == "int4" else set()
        for node in list(model.graph):
            if not is_op(node, *_OPERATORS):
                continue
            weight = node.inputs[1]
            array = ir.constant(weight)
            if weight is None or array is None or array.dtype != np.float32:
                tally.refuse(node, "its weights are computed")
            elif node.op_type == "MatMul" and array.ndim != 2:
                tally.refuse(node, "its weights are not a matrix")
            elif array.size < self.min_elements:
                tally.refuse(node, f"its weights are {array.size} numbers, fewer than {self.min_elements}")
            else:
                key = weight, self._params(node, array, tally, spared=node in spared)
                if key not in made:
                    made[key] = _dequantized(model.graph, *key, array, node)
                node.replace_input_with(1, made[key])
                tally.rewritten += 1
        if self.block_size and made and not any(params.block_size for _, params in made):
            raise UsageError(
                f"no weights of this network can be cut into blocks of {self.block_size}",
                node=f"{self.name}:block_size",
                remedy="leave block_size out, for one scale an output channel",
            )
        return tally.result()

    def _params(self, node: ir.Node, array: ir.Array, tally: Tally, *, spared: bool) -> QuantParams:
        axis = rules.channel_axis(node)
        if self.dtype == "int8":
            return from_weights(array, axis)
        reason = int4.SPARED if spared else int4.objection(node, "float32")
        if reason is not None:
            tally.refuse(node, f"its weights are int8: {reason}")
            return from_weights(array, axis)
        reason = int4.block_objection(node, self.block_size) if self.block_size else None
        if reason is not None:
            tally.refuse(node, f"its weights have one scale an output channel: {reason}")
        return int4.weight_params(node, array, 0 if reason is not None else self.block_size)


def _dequantized(
    graph: ir.Graph, weight: ir.Value, params: QuantParams, array: ir.Array, user: ir.Node
) -> ir.Value:
    name = str(weight.name)
    integers = int4.quantized(params, array)
    scale = params.scale.reshape(params.blocks(array.shape)) if params.block_size else params.scale
    inputs = [
        ir.add_initializer(graph, integers, ir.fresh_name(graph, f"{name}_quantized")),
        ir.add_initializer(graph, scale, ir.fresh_name(graph, f"{name}_scale")),
    ]
    attributes = {"axis": params.axis, **({"block_size": params.block_size} if params.block_size else {})}
    node = new_node("DequantizeLinear", inputs, weight, attributes, name=f"{inputs[0].name}/DequantizeLinear")
    node.outputs[0].name = ir.fresh_name(graph, f"{name}_dequantized")
    graph.insert_before(user, [node])
    return node.outputs[0]
