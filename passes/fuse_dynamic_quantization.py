"""Activations quantized while running, times int8 weights, as a Conv or MatMul with int8 weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.ir import Array
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult
from edgecc.quant.params import from_weights

_MICROSOFT = "com.microsoft"
_CHANNELS = {"ConvInteger": 0, "MatMulInteger": 1, "DynamicQuantizeMatMul": 1}


@dataclass(frozen=True, kw_only=True)
class FuseDynamicQuantization(Pass):
    """Makes what quantize_dynamic writes the form of weights alone, which TFLite runs as dynamic range.

    DynamicQuantizeLinear, MatMulInteger or ConvInteger, Cast and Mul by both scales become MatMul or Conv with a
    DequantizeLinear of the weights. Approximate: TFLite's kernels round activations in their own way (symmetric int8,
    one scale a row), and weights with a zero point that int8 does not hold are stored anew, one scale a channel.
    """

    name: ClassVar[str] = "fuse_dynamic_quantization"
    exact: ClassVar[bool] = False

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        for node in tuple(model.graph):
            microsoft = node.domain == _MICROSOFT and node.op_type == "DynamicQuantizeMatMul"
            if not microsoft and not rw.is_op(node, "ConvInteger", "MatMulInteger"):
                continue
            found = _packed(node) if microsoft else _spelt(node)
            if isinstance(found, str):
                tally.refuse(node, found)
            else:
                _rewrite(model.graph, node, found)
                tally.rewritten += 1
        return tally.result()


@dataclass(frozen=True)
class _Product:
    """What is multiplied: the real operand, the weights, and the value that is the real result, with its bias."""

    data: ir.Value
    weights: Array
    scale: Array
    zero: Array
    out: ir.Value
    bias: Array | None = None


def _packed(node: ir.Node) -> _Product | str:
    """DynamicQuantizeMatMul(A, B, b_scale, b_zero_point, bias) of ONNX Runtime."""
    inputs = [*node.inputs, *[None] * 5][:5]
    weights, scale, zero, bias = (ir.constant(v) for v in inputs[1:])
    if inputs[0] is None or weights is None or scale is None or (inputs[3] is not None and zero is None):
        return "its weights are computed"
    if inputs[4] is not None and bias is None:
        return "its bias is computed"
    return _Product(
        inputs[0], weights, scale, np.zeros(1, weights.dtype) if zero is None else zero, node.outputs[0], bias
    )


def _spelt(node: ir.Node) -> _Product | str:
    """DynamicQuantizeLinear -> node -> Cast -> Mul by the product of the scales, perhaps -> Add of a bias."""
    inputs = [*node.inputs, *[None] * 4][:4]
    source = None if inputs[0] is None else inputs[0].producer()
    if source is None or not rw.is_op(source, "DynamicQuantizeLinear") or source.inputs[0] is None:
        return "its activations are not quantized by a DynamicQuantizeLinear"
    if inputs[2] is not source.outputs[2]:
        return "its zero point is not that of its activations"
    weights, zero = ir.constant(inputs[1]), ir.constant(inputs[3])
    if weights is None or (inputs[3] is not None and zero is None):
        return "its weights are computed"
    cast = ir.single_consumer(node.outputs[0])
    if cast is None or not rw.is_op(cast, "Cast") or cast.outputs[0].dtype != ir.DataType.FLOAT:
        return "its sums are not made real at once"
    found = _scales(cast.outputs[0], source.outputs[1])
    if found is None:
        return "its sums are not multiplied by the scales of both operands"
    out, scale = found
    channels = weights.shape[_CHANNELS[node.op_type] if weights.ndim > 1 else 0]
    bias, out = _bias(out, channels, 1 if node.op_type == "ConvInteger" else -1)
    zero = np.zeros(1, weights.dtype) if zero is None else zero
    return _Product(source.inputs[0], weights, scale, zero, out, bias)


def _scales(value: ir.Value, of_data: ir.Value) -> tuple[ir.Value, Array] | None:
    """Sums times (of_data * constant), in either grouping: the product, and the constant."""
    node = ir.single_consumer(value)
    other = _other(node, value)
    if node is None or other is None:
        return None
    inner = other.producer()
    if inner is not None and (constant := ir.constant(_other(inner, of_data))) is not None:
        return node.outputs[0], constant
    last = ir.single_consumer(node.outputs[0])
    rest = _other(last, node.outputs[0])
    for first, second in ((other, rest), (rest, other)):
        constant = ir.constant(second)
        if first is of_data and constant is not None and last is not None:
            return last.outputs[0], constant
    return None


def _other(node: ir.Node | None, value: ir.Value) -> ir.Value | None:
    """The other factor of a Mul that reads `value`."""
    if node is None or not rw.is_op(node, "Mul") or value not in node.inputs:
        return None
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def _bias(value: ir.Value, channels: int, axis: int) -> tuple[Array | None, ir.Value]:
    """The constant that is added to each channel, and the sum."""
    node = ir.single_consumer(value)
    if node is None or not rw.is_op(node, "Add"):
        return None, value
    array = ir.constant(node.inputs[1] if node.inputs[0] is value else node.inputs[0])
    rank = rw.rank(value)
    if array is None or rank is None or array.size != channels or array.ndim > rank:
        return None, value
    wide = (1,) * (rank - array.ndim) + array.shape
    return (array.reshape(-1), node.outputs[0]) if wide[axis] == channels else (None, value)


def _rewrite(graph: ir.Graph, node: ir.Node, found: _Product) -> None:
    axis = _CHANNELS[node.op_type]
    integers, scale, zero = _storable(found, axis)
    name = str(node.inputs[1].name) if node.inputs[1] is not None else "weights"

    def constant(array: Array, what: str) -> ir.Value:
        return ir.add_initializer(graph, array, ir.fresh_name(graph, f"{name}_{what}"))

    inputs = [constant(integers, "stored"), constant(scale, "scales")]
    if zero is not None:
        inputs.append(constant(zero, "zeros"))
    weights = ir.Node(
        "", "DequantizeLinear", inputs,
        ir.convenience.convert_attributes({"axis": axis} if scale.size > 1 else {}), name=f"{name}/dequantize",
    )  # fmt: skip
    real = weights.outputs[0]
    real.name = ir.fresh_name(graph, f"{name}_dequantized")
    real.type, real.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(integers.shape)
    made = [weights]
    operands = [found.data, real]
    vector = None if found.bias is None else constant(found.bias.astype(np.float32), "bias")
    if node.op_type == "ConvInteger":
        attributes = {k: v.value for k, v in node.attributes.items()}
        work = rw.new_node(
            "Conv", [*operands, *([vector] if vector else [])], found.out, attributes, name=node.name
        )
    elif vector is not None and rw.rank(found.data) == 2:
        work = rw.new_node("Gemm", [*operands, vector], found.out, name=node.name)
    else:
        work = rw.new_node("MatMul", operands, found.out, name=node.name)
        if vector is not None:
            made.append(work)
            work.outputs[0].name = ir.fresh_name(graph, f"{found.out.name}_product")
            work = rw.new_node("Add", [work.outputs[0], vector], found.out, name=f"{node.name}/bias")
    made.append(work)
    last = found.out.producer()
    assert last is not None
    unread = list(last.inputs)
    ir.replace([last], made, {found.out: work.outputs[0]})
    rw.drop_dead(unread)


def _storable(found: _Product, axis: int) -> tuple[Array, Array, Array | None]:
    """Integers, scales and zero points (None: zeros); int8 without a zero point where that is exact or a channel wide.

    A zero point that int8 cannot take in makes the weights be stored anew.
    """
    weights, zero = found.weights, found.zero.reshape(-1)
    scale: Array = found.scale.reshape(-1).astype(np.float32)
    if scale.size == 1:
        scale = scale.reshape(())
    shape = [-1 if a == axis else 1 for a in range(weights.ndim)]
    centred = weights.astype(np.int64) - (
        zero.astype(np.int64).reshape(shape) if zero.size > 1 else int(zero[0])
    )
    if centred.min(initial=0) >= -128 and centred.max(initial=0) <= 127:
        return centred.astype(np.int8), scale, None
    real = (centred * (scale.reshape(shape) if scale.size > 1 else scale)).astype(np.float32)
    params = from_weights(real, axis)
    return params.quantize(real), params.scale, None
