"""Which weights are stored in 4 bits, and which of them in blocks; what stays in 8 bits, and why.

The same choice for every runtime: bit widths are part of the plan (DESIGN §1). What LiteRT has kernels for is in
edgecc/tflite/weights.py, what ONNX Runtime fuses in edgecc/onnxrt/weights.py.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import ml_dtypes
import numpy as np

from edgecc import ir
from edgecc.quant import rules
from edgecc.quant.params import QuantParams, from_weights
from edgecc.quant.shared_values import shares_values
from edgecc.quant.weight_scales import sum_preserving

# The smallest layers, which together hold so much of the weights, stay in 8 bits: they are many, hold little, and the
# first ones, which err most, are among them. EfficientNet-Lite0 with int8 activations: 7.3 dB without, 9.8 dB at 0.05
# (27 of 50 layers); 10.4 at 0.1 and 11.2 at 0.2, where small networks lose much of what int4 saves.
_SPARED = 0.05
SPARED = f"it is one of the smallest layers, which together hold {_SPARED:.0%} of the weights"
NOISY = (
    "in int4 they would err more than the limits on the answers leave room for, or it was asked for by name"
)
# LiteRT's XNNPACK takes multiples of 32, ONNX Runtime 1.31 powers of two up to 256.
BLOCK_SIZES = (32, 64, 128, 256)
# Below this LiteRT's built-in kernel answers wrongly in blocks.
BLOCK_OUTPUTS = 4


def objection(node: ir.Node, activations: Literal["float32", "int8"]) -> str | None:
    """Why the weights of a node with a weight rule are not stored in 4 bits, or None.

    Args:
        activations: in which the node computes.
    """
    rank = len(ir.dims(node.inputs[1]) or ()) if node.inputs[1] is not None else 0
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return "LiteRT has no int4 kernel for it"
    if node.op_type == "Conv" and rank > 4:
        return "LiteRT has no int4 kernel for three spatial axes"
    if node.op_type == "MatMul" and rank != 2:
        return "its weights are not a matrix"
    if _is_depthwise(node):
        if activations == "float32":
            return "LiteRT has no int4 kernel for a depthwise convolution of float32"
        return "a depthwise convolution has few weights and loses most in 4 bits"
    return None


def spared(model: ir.Model) -> set[ir.Node]:
    """The layers whose weights stay in 8 bits because they are few."""
    sizes = {
        node: prod(ir.static_dims(weight))
        for node in model.graph
        if (weight := rules.weight_of(node)) is not None and objection(node, "int8") is None
    }
    left, found = _SPARED * sum(sizes.values()), set[ir.Node]()
    for node, size in sorted(sizes.items(), key=lambda item: item[1]):
        left -= size
        if left < 0:
            break
        found.add(node)
    return found


def block_objection(node: ir.Node, block_size: int) -> str | None:
    """Why int4 weights of a node have one scale an output channel and not one a block, or None."""
    weight = node.inputs[1]
    assert weight is not None
    shape = ir.static_dims(weight)
    axis = input_axis(node)
    if shape[axis] % block_size:
        return f"its {shape[axis]} inputs are no multiple of {block_size}"
    if prod(shape) // shape[axis] < BLOCK_OUTPUTS:
        return f"it has fewer than {BLOCK_OUTPUTS} outputs"
    if node.op_type == "Conv":
        alone = prod(shape[2:]) == 1 and prod(ir.attribute(node, "strides", (1,))) == 1
        if not alone or ir.attribute(node, "group", 1) != 1:
            return "LiteRT has kernels for blocks in matrix products and 1x1 convolutions only"
    elif _is_flattened(node.inputs[0]):
        return "its inputs are a flattened image, whose order depends on the layout"
    return None


def input_axis(node: ir.Node) -> int:
    """The axis of the weights along which a Conv, Gemm or MatMul sums; blocks are cut from it."""
    return 1 - rules.channel_axis(node)


def weight_params(node: ir.Node, array: ir.Array, block_size: int = 0) -> QuantParams:
    """The int4 parameters of a node's weights, one scale an output channel or one a block."""
    axis = input_axis(node) if block_size else rules.channel_axis(node)
    return from_weights(array, axis, "int4", block_size)


def stored(params: QuantParams, integers: ir.Array) -> ir.Array:
    """Integers in the type in which an ONNX file stores them: int4 is packed there, and is int8 elsewhere here."""
    return integers.astype(ml_dtypes.int4) if params.dtype == "int4" else integers


def quantized(params: QuantParams, weights: ir.Array) -> ir.Array:
    """Weights as integers, in the type in which an ONNX file stores them; int4 is rounded so that sums stay.

    Equal weights that share few values stay equal.

    Args:
        weights: (out, in, ...) or any order of the axes that `params` was made for.
    """
    if params.dtype != "int4" or params.axis is None or shares_values(weights):
        return stored(params, params.quantize(weights))
    scale, _ = params.aligned(weights.shape)
    units = np.asarray(weights, np.float32) / scale.astype(np.float32)
    size, axis = params.block_size, params.axis
    if size:
        cut = (*units.shape[:axis], units.shape[axis] // size, size, *units.shape[axis + 1 :])
        lanes = np.moveaxis(units.reshape(cut), axis + 1, -1)
    else:
        lanes = np.moveaxis(units, axis, 0)
    taps = prod(units.shape[2:]) if not size and axis == 0 else 1
    rows = lanes.reshape(-1, size) if size else lanes.reshape(len(lanes), -1)
    found = sum_preserving(rows, params.limits[1], taps).reshape(lanes.shape)
    back = np.moveaxis(found, -1, axis + 1).reshape(units.shape) if size else np.moveaxis(found, 0, axis)
    return stored(params, back)


def _is_depthwise(node: ir.Node) -> bool:
    weight = node.inputs[1]
    groups = int(ir.attribute(node, "group", 1))
    return node.op_type == "Conv" and groups > 1 and weight is not None and ir.static_dims(weight)[1] == 1


def _is_flattened(value: ir.Value | None) -> bool:
    """Whether a matrix (batch, everything else) was made from a tensor that TFLite may store channels last."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in ("Flatten", "Reshape"):
        return False
    source = node.inputs[0]
    if source is None or not ir.is_static(source):
        return False
    rest = ir.static_dims(source)[1:]
    return len(rest) > 1 and int(np.count_nonzero(np.array(rest) > 1)) > 1
