"""Integer weights in the form in which ONNX Runtime computes with them.

What its optimiser makes of one-operator networks (1.31, CPU provider; tests/test_int4_onnx.py reads each back):
DequantizeLinear of int4 or int8 before MatMul or Gemm, weights (in, out), scales of channels or blocks: MatMulNBits.
The same with transB, before Conv, or of int4 before an operator on quantized values: nothing is fused, and the weights
are dequantized anew at every run. A Cast or Mul of constants is computed once, when the file is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edgecc import ir
from edgecc.analysis.sites import FLOAT_MARK
from edgecc.quant import int4

_NARROW = {ir.DataType.INT4: "int4", ir.DataType.INT8: "int8"}


def place_weights(model: ir.Model) -> list[str]:
    """Rewrites the DequantizeLinear of each weight so that it costs nothing at run time.

    Integer kernels read int8, in which int4 is cast; products in float keep the form that becomes MatMulNBits; all
    other weights are made real when the file is loaded.

    Returns:
        What int4 weights come to in the runtime, for the reader of the report.
    """
    graph, found = model.graph, Counter[str]()
    for node in list(graph):
        if node.op_type != "DequantizeLinear" or node.domain != "" or ir.constant(node.inputs[0]) is None:
            continue
        stored = _NARROW.get(node.inputs[0].dtype) if node.inputs[0] is not None else None  # type: ignore[arg-type]
        users = ir.consumers(node.outputs[0])
        if stored is None or not all(_reads_weights(user, node.outputs[0]) for user in users):
            continue
        if all(_is_integer(user) for user in users):
            if stored == "int4":
                _widen(graph, node)
                found["int8"] += 1
        elif len(users) == 1 and _is_product(users[0], node):
            _turn(graph, node, users[0])
            found[f"{stored} MatMulNBits"] += 1
        else:
            _fold_when_loaded(graph, node)
            found[f"{stored} float32"] += 1
    return _remarks(found)


def _remarks(found: Counter[str]) -> list[str]:
    lines = (
        ("int8", "{} int4 weights are int8 once ONNX Runtime has loaded the file, as it has no int4 kernels"),
        ("int4 float32", "{} int4 weights are float32 once ONNX Runtime has loaded the file, as it has no int4 kernel"
                         " for their operators: the file is smaller, and not faster"),
    )  # fmt: skip
    return [text.format(found[key]) for key, text in lines if found[key]]


def _reads_weights(user: ir.Node, value: ir.Value) -> bool:
    return len(user.inputs) > 1 and user.inputs[1] is value and user.op_type in ("Conv", "Gemm", "MatMul")


def _is_integer(user: ir.Node) -> bool:
    """Whether the runtime computes it in integers: its data comes dequantized, and nothing marks it float."""
    data = user.inputs[0].producer() if user.inputs[0] is not None else None
    return data is not None and data.op_type == "DequantizeLinear" and FLOAT_MARK not in user.metadata_props


def _is_product(user: ir.Node, node: ir.Node) -> bool:
    """Whether the pair becomes MatMulNBits once the weights lie (in, out)."""
    rank = len(ir.dims(node.inputs[0]) or ()) if node.inputs[0] is not None else 0
    if user.op_type not in ("Gemm", "MatMul") or rank != 2 or len(node.inputs) > 2:
        return False
    plain = ir.attribute(user, "transA", 0) == 0 and ir.attribute(user, "alpha", 1.0) == 1.0
    transposed = bool(ir.attribute(user, "transB", 0))
    inputs, axis = int(transposed), int(ir.attribute(node, "axis", 1)) % 2
    scale = ir.constant(node.inputs[1])
    blocks = int(ir.attribute(node, "block_size", 0))
    right = axis == (inputs if blocks else 1 - inputs) or (scale is not None and scale.size == 1)
    return plain and ir.attribute(user, "beta", 1.0) == 1.0 and right and blocks in (0, *int4.BLOCK_SIZES)


def _constant(graph: ir.Graph, array: ir.Array, like: ir.Value, suffix: str) -> ir.Value:
    return ir.add_initializer(graph, array, ir.fresh_name(graph, f"{like.name}_{suffix}"))


def _turn(graph: ir.Graph, node: ir.Node, user: ir.Node) -> None:
    """Weights (out, in) under transB as (in, out)."""
    if not ir.attribute(user, "transB", 0):
        return
    for place in (0, 1):
        array, value = ir.constant(node.inputs[place]), node.inputs[place]
        assert array is not None and value is not None
        if array.ndim == 2:
            node.replace_input_with(place, _constant(graph, np.ascontiguousarray(array.T), value, "turned"))
    node.attributes["axis"] = ir.Attr(
        "axis", ir.AttributeType.INT, 1 - int(ir.attribute(node, "axis", 1)) % 2
    )
    user.attributes["transB"] = ir.Attr("transB", ir.AttributeType.INT, 0)
    made = node.outputs[0]
    if made.shape is not None:
        made.shape = ir.Shape(list(made.shape.dims)[::-1])


def _node(op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: int) -> ir.Node:
    made = ir.Node("", op_type, inputs)
    made.attributes.update({k: ir.Attr(k, ir.AttributeType.INT, v) for k, v in attributes.items()})
    made.outputs[0].name = name
    return made


def _widen(graph: ir.Graph, node: ir.Node) -> None:
    """DQ(int4) = DQ(Cast(int4 to int8)), which the runtime fuses with the operator behind it."""
    value, zero = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
    assert value is not None
    cast = _node("Cast", [value], ir.fresh_name(graph, f"{value.name}_widened"), to=int(ir.DataType.INT8))
    graph.insert_before(node, cast)
    node.replace_input_with(0, cast.outputs[0])
    array = ir.constant(zero)
    if zero is not None and array is not None:
        node.replace_input_with(2, _constant(graph, array.astype(np.int8), zero, "widened"))


def _fold_when_loaded(graph: ir.Graph, node: ir.Node) -> None:
    """DQ(q) = Cast(q to float32) * scale, each scale where its numbers are."""
    value, scale, zero = node.inputs[0], ir.constant(node.inputs[1]), _zero(node)
    array = ir.constant(value)
    assert value is not None and scale is not None and array is not None
    if zero is not None and zero.any():
        return
    axis = int(ir.attribute(node, "axis", 1)) % array.ndim
    block = int(ir.attribute(node, "block_size", 0))
    result = node.outputs[0]
    shape = array.shape
    name = result.name or "weights"
    new = [_node("Cast", [value], ir.fresh_name(graph, f"{name}_cast"), to=int(ir.DataType.FLOAT))]
    if block:
        if shape[axis] % block:
            return
        cut = (*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :])
        sizes = _constant(graph, np.array(cut), value, "blocks")
        new.append(_node("Reshape", [new[-1].outputs[0], sizes], ir.fresh_name(graph, f"{name}_blocks")))
        scale = np.expand_dims(scale, axis + 1)
    elif scale.size > 1:
        scale = scale.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    factor = _constant(graph, scale, value, "factor")
    new.append(_node("Mul", [new[-1].outputs[0], factor], ir.fresh_name(graph, f"{name}_scaled")))
    if block:
        sizes = _constant(graph, np.array(shape), value, "shape")
        new.append(_node("Reshape", [new[-1].outputs[0], sizes], ir.fresh_name(graph, f"{name}_whole")))
    last = new[-1].outputs[0]
    last.shape, last.type = result.shape, result.type
    graph.insert_before(node, new)
    last.name, result.name = result.name, None
    ir.convenience.replace_all_uses_with(result, last)
    graph.remove(node, safe=True)


def _zero(node: ir.Node) -> ir.Array | None:
    return ir.constant(node.inputs[2]) if len(node.inputs) > 2 else None
