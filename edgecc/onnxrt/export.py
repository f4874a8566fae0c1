"""Writes an ONNX artifact that ONNX Runtime computes in integers wherever it has a kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecc import ir
from edgecc.artifact import Artifact, Port
from edgecc.errors import UnsupportedError
from edgecc.onnxfile import serialize
from edgecc.onnxrt.float_islands import keep_float
from edgecc.onnxrt.readback import read_back
from edgecc.onnxrt.weights import place_weights
from edgecc.quant import rules

if TYPE_CHECKING:
    from edgecc.target import Target

# ONNX Runtime 1.18, the oldest that is served, knows the file format up to IR version 10 (opset 21).
_IR_VERSION = 10
_PROTOBUF_LIMIT = 2**31 - 1
# Room for nodes and names beside the weights. A guess, far above what real graphs take.
_MARGIN = 2**24


def export(model: ir.Model, *, precision: str, target: Target | str) -> Artifact:
    """The artifact of a float network or of one with Q/DQ nodes; `model` stays as it is.

    Q/DQ nodes are left for the runtime to fuse. Rewritten is what it would not fuse though it has the kernel:
    see `_REWRITES`. The bytes depend on nothing but the model.

    Args:
        model: float, or after insert_qdq with a plan for "onnx".
        precision: recorded in the artifact.
        target: recorded in the artifact.

    Raises:
        UnsupportedError: int16x8, which ONNX Runtime cannot compute, or a file over 2 GB.
    """
    if precision == "int16x8":
        raise UnsupportedError(
            "ONNX Runtime has no kernels for int16 activations: all operators would run in float",
            remedy="choose --format tflite, or --precision int8",
        )
    copy = model.clone()
    remarks = place_weights(copy)
    for node in list(copy.graph):
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is not None and node.domain in ("", "ai.onnx"):
            rewrite(copy.graph, node)
    keep_float(copy.graph)
    _strip(copy)
    _check_size(copy)
    data = serialize(copy)
    return Artifact(
        data,
        "onnx",
        precision,
        target if isinstance(target, str) else target.name,
        tuple(_port(v) for v in copy.graph.inputs),
        tuple(_port(v) for v in copy.graph.outputs),
        notes={**_notes(model, copy, data), **({"remarks": remarks} if remarks else {})},
    )


def _notes(model: ir.Model, written: ir.Model, data: bytes) -> dict[str, Any]:
    """What the runtime makes of the file; for networks that compute in float, what is in it."""
    quantizes = any(node.op_type == "QuantizeLinear" for node in model.graph)
    return read_back(data).notes() if quantizes else {"operators": _histogram(written.graph)}


def _check_size(model: ir.Model) -> None:
    tensors = (v.const_value for graph in model.graphs() for v in graph.initializers.values())
    size = sum(t.nbytes for t in tensors if t is not None)
    if size + _MARGIN > _PROTOBUF_LIMIT:  # protobuf itself fails only after it has copied everything
        raise UnsupportedError(
            f"the file would hold {size:,} bytes of weights, and protobuf ends at 2 GB",
            remedy="choose a narrower --precision",
        )


def _histogram(graph: ir.Graph) -> dict[str, int]:
    return dict(Counter(node.op_type for node in graph))


def _drop_clamp(graph: ir.Graph, node: ir.Node) -> None:
    """Q(clamp(x)) = Q(x) where no stored value lies outside the clamp: QuantizeLinear saturates there."""
    after = ir.single_consumer(node.outputs[0])
    if after is None or after.op_type != "QuantizeLinear" or after.inputs[0] is not node.outputs[0]:
        return
    scale, zero = ir.constant(after.inputs[1]), ir.constant(after.inputs[2])
    if scale is None or zero is None or scale.size != 1:
        return
    limits = np.iinfo(zero.dtype)
    step, offset = float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
    low, high = rules.clip_limits(node)
    # Half a step: what lies between the limit and the nearest stored value rounds to that value.
    if (limits.min - offset) * step < low - step / 2 or (limits.max - offset) * step > high + step / 2:
        return
    value = node.inputs[0]
    assert value is not None
    after.replace_input_with(0, value)
    graph.remove(node, safe=True)


def _pad_integers(graph: ir.Graph, node: ir.Node) -> None:
    """Q(Pad(DQ(x))) = Pad(x) with the zero point for 0; the runtime leaves this pair unfused."""
    around = _around(node)
    if around is None:
        return
    before, after = around
    inputs = list(node.inputs) + [None] * (4 - len(node.inputs))
    zero = _zero_point(graph, before)
    if ir.attribute(node, "mode", "constant") == "constant":
        inputs[2] = zero
    elif inputs[2] is not None:
        inputs[2] = None
    while inputs and inputs[-1] is None:
        inputs.pop()
    pad = ir.Node(
        "", "Pad", [before.inputs[0], *inputs[1:]], attributes=node.attributes.values(), name=node.name
    )
    _take_over(graph, node, after, pad)


def _mean_as_pool(graph: ir.Graph, node: ir.Node) -> None:
    """A mean over height and width is a GlobalAveragePool, for which there is an integer kernel."""
    after = ir.single_consumer(node.outputs[0])
    source = node.inputs[0]
    if after is None or after.op_type != "QuantizeLinear" or source is None or not _dequantized(source):
        return
    if isinstance(rules.column(node, "onnx"), str):
        return
    pool = ir.Node("", "GlobalAveragePool", [source], name=node.name)
    mean = node.outputs[0]
    shape = ir.dims(source) or ()
    pooled = pool.outputs[0]
    pooled.type, pooled.shape = mean.type, ir.Shape([*shape[:2], 1, 1])
    if ir.attribute(node, "keepdims", 1):
        pooled.name, mean.name = mean.name, None
        graph.insert_before(node, pool)
        after.replace_input_with(0, pooled)
        graph.remove(node, safe=True)
        return
    # The two lost dimensions are taken off the stored integers.
    pooled.name, mean.name = mean.name, None
    stored = after.outputs[0]
    fresh = ir.Node("", "QuantizeLinear", [pooled, *after.inputs[1:]])
    fresh.outputs[0].name = ir.fresh_name(graph, f"{pooled.name}_pooled")
    fresh.outputs[0].type, fresh.outputs[0].shape = stored.type, pooled.shape
    axes = ir.add_initializer(graph, np.array([2, 3], np.int64), ir.fresh_name(graph, f"{pooled.name}_axes"))
    squeeze = ir.Node("", "Squeeze", [fresh.outputs[0], axes])
    graph.insert_before(after, [pool, fresh])
    _take_over(graph, node, after, squeeze)


def _take_over(graph: ir.Graph, node: ir.Node, after: ir.Node, new: ir.Node) -> None:
    """Puts `new` in the place of `node` and the QuantizeLinear behind it."""
    old, out = after.outputs[0], new.outputs[0]
    out.type, out.shape = old.type, old.shape
    out.name, old.name = old.name, None
    graph.insert_before(after, new)
    ir.convenience.replace_all_uses_with(old, out)
    graph.remove([after, node], safe=True)


def _around(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The DequantizeLinear before and the QuantizeLinear behind, if they have one scale and zero point."""
    source = node.inputs[0]
    before = source.producer() if source is not None else None
    after = ir.single_consumer(node.outputs[0])
    if before is None or after is None:
        return None
    if before.op_type != "DequantizeLinear" or after.op_type != "QuantizeLinear":
        return None
    for a, b in zip(before.inputs[1:], after.inputs[1:], strict=False):
        x, y = ir.constant(a), ir.constant(b)
        if x is None or y is None or x.size != 1 or not np.array_equal(x, y):
            return None
    return before, after


def _zero_point(graph: ir.Graph, dq: ir.Node) -> ir.Value:
    zero = dq.inputs[2]
    array = ir.constant(zero)
    assert zero is not None
    assert array is not None
    if array.ndim == 0:
        return zero
    return ir.add_initializer(graph, array.reshape(()), ir.fresh_name(graph, f"{zero.name}_scalar"))


def _dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


# What the runtime has an integer kernel for, but no fusion (seen in its optimised graph, 1.31).
_REWRITES: dict[str, Callable[[ir.Graph, ir.Node], None]] = {
    "Relu": _drop_clamp,
    "Clip": _drop_clamp,
    "Pad": _pad_integers,
    "ReduceMean": _mean_as_pool,
}


def _strip(model: ir.Model) -> None:
    """Removes what no answer depends on: unused constants, types of inner values, texts of exporters."""
    graph = model.graph
    for value in [v for v in graph.initializers.values() if not v.uses() and not v.is_graph_output()]:
        del graph.initializers[str(value.name)]
    for value in graph.initializers.values():  # described by their data
        value.type, value.shape = None, None
    model.ir_version = min(model.ir_version, _IR_VERSION)
    model.producer_name, model.producer_version = "edgecc", None
    model.doc_string = graph.doc_string = None
    model.metadata_props.clear()
    graph.metadata_props.clear()
    for node in graph:
        node.doc_string = None
        node.metadata_props.clear()
        for out in node.outputs:
            out.doc_string = None
            out.metadata_props.clear()
            if not out.is_graph_output():
                out.type, out.shape = None, None


def _port(value: ir.Value) -> Port:
    shape = tuple(-1 if d is None else d for d in ir.dims(value) or ())
    return Port(
        str(value.name), shape, shape, value.dtype.numpy().name if value.dtype is not None else "float32"
    )
