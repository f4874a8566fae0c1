"""Operators that are to stay float between integer ones, in a form that ONNX Runtime leaves so.

Where a Conv, ConvTranspose or Gemm with float weights stands between DequantizeLinear and QuantizeLinear, ONNX Runtime
rounds the weights to int8 with one scale a tensor (WeightBiasQuantization; a file cannot switch it off). It asks for a
scalar scale of the input, so here the scale is given channel by channel, with the same number each time.
"""

from __future__ import annotations

import numpy as np

from edgecc import ir
from edgecc.analysis.sites import FLOAT_MARK

_TAKEN = frozenset({"Conv", "ConvTranspose", "Gemm"})


def keep_float(graph: ir.Graph) -> None:
    """Gives every such operator that is marked as float a DequantizeLinear of its own, with a scale a channel."""
    for node in list(graph):
        if node.op_type not in _TAKEN or node.domain != "" or FLOAT_MARK not in node.metadata_props:
            continue
        source = node.inputs[0]
        before = source.producer() if source is not None else None
        if (
            source is None
            or before is None
            or before.op_type != "DequantizeLinear"
            or not _is_quantized_next(node)
        ):
            continue
        scale, zero = ir.constant(before.inputs[1]), _zero_point(before)
        sizes = ir.dims(source) or ()
        axis = next((i for i, d in enumerate(sizes) if i and d is not None and d > 1), None)
        if scale is None or scale.size != 1 or zero is None or axis is None:
            continue
        count = int(sizes[axis] or 1)
        inputs = [before.inputs[0]]
        for stem, array in (("scale", scale), ("zero_point", zero)):
            name = ir.fresh_name(graph, f"{source.name}_{stem}s")
            inputs.append(ir.add_initializer(graph, np.full(count, array.reshape(-1)[0], array.dtype), name))
        out = ir.Value(name=ir.fresh_name(graph, f"{source.name}_real"), shape=source.shape, type=source.type)
        own = ir.Node(
            "", "DequantizeLinear", inputs, [ir.Attr("axis", ir.AttributeType.INT, axis)], outputs=[out]
        )
        graph.insert_before(node, own)
        node.replace_input_with(0, out)
        if not source.uses() and not source.is_graph_output():
            graph.remove(before, safe=True)


def _zero_point(dq: ir.Node) -> ir.Array | None:
    return ir.constant(dq.inputs[2]) if len(dq.inputs) > 2 else np.zeros(1, np.uint8)


def _is_quantized_next(node: ir.Node) -> bool:
    """Whether the result alone goes to a QuantizeLinear, perhaps through a Relu or Clip."""
    after = ir.single_consumer(node.outputs[0])
    while after is not None and after.op_type in ("Relu", "Clip"):
        after = ir.single_consumer(after.outputs[0])
    return after is not None and after.op_type == "QuantizeLinear"
