"""What QuantizeLinear and DequantizeLinear nodes mean to TFLite: part of an edge, a stored constant, or an operator.

An integer kernel's operand carries its scale, so a Q/DQ pair around it is no operator. Every other such node (its
scale is computed, its integers go elsewhere, it has a scale a channel) is one, and is lowered like any operator.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from edgecc import ir
from edgecc.ir import Array
from edgecc.quant.params import LIMITS, DType, QuantParams

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# What activations are stored in. TFLite's int16 has no zero point: see `params`.
ACTIVATIONS = frozenset({"int8", "uint8", "int16", "uint16"})
PORTS = frozenset({"int8", "uint8", "int16"})


def is_conversion(node: ir.Node | None) -> bool:
    """Whether `node` is a QuantizeLinear or DequantizeLinear."""
    return node is not None and node.op_type in (QUANTIZE, DEQUANTIZE) and node.domain == ""


def absorbed(node: ir.Node) -> bool:
    """Whether a Q or DQ node is part of an edge or of a constant, and no operator of its own."""
    if not is_conversion(node) or not _constant_parameters(node):
        return False
    source = node.inputs[0]
    assert source is not None
    if node.op_type == QUANTIZE:
        return _is_edge(node) and _read_back(node)
    if ir.constant(source) is not None:
        return True
    if not _is_edge(node):
        return False
    maker = source.producer()
    if maker is None:
        return stored_input(source) is not None
    return maker.op_type == QUANTIZE and absorbed(maker)


def stored_input(value: ir.Value) -> QuantParams | None:
    """How a graph input of integers is read, where all its readers dequantize it alike."""
    if not value.is_graph_input() or value.is_graph_output() or _type(value) not in PORTS:
        return None
    uses = tuple(value.uses())
    nodes = [use.node for use in uses if use.idx == 0 and use.node.op_type == DEQUANTIZE]
    if not uses or len(nodes) < len(uses):
        return None
    if not all(_constant_parameters(node) and _is_edge(node) for node in nodes):
        return None
    found = [params(node) for node in nodes]
    if _type(value) == "int16" and found[0] != _as_written(nodes[0]):
        return None  # other integers than those that are fed
    return found[0] if all(p == found[0] for p in found) else None


def params(node: ir.Node) -> QuantParams:
    """Scale, zero point and axis of a Q or DQ node with constant ones, as TFLite has them.

    uint8 is the int8 that means the same. 16 bits with a zero point, which no kernel has, become the int16 without
    one that covers the same range: up to half as fine.
    """
    scale = ir.constant(node.inputs[1])
    assert scale is not None, "the caller asks `absorbed` first"
    scale = scale.astype(np.float32)
    zeros, stored = _zeros(node, scale), _stored_type(node)
    if stored == "uint8":
        stored, zeros = "int8", zeros - 128
    elif stored == "uint16" or (stored == "int16" and zeros.any()):
        low, high = (0, 65535) if stored == "uint16" else LIMITS["int16"]
        reach = np.maximum(np.abs(low - zeros), np.abs(high - zeros))
        stored, scale, zeros = "int16", scale * (reach / 32767).astype(np.float32), np.zeros_like(zeros)
    return QuantParams(
        scale=scale.reshape(-1), zero_point=zeros.reshape(-1), dtype=cast(DType, stored), axis=_axis(node, scale),
        block_size=_block_size(node, scale),
    )  # fmt: skip


def stored_constant(node: ir.Node) -> tuple[Array, QuantParams] | None:
    """The integers of a DQ node of a constant with their parameters; None where TFLite stores them otherwise."""
    scale, array = ir.constant(node.inputs[1]), ir.constant(node.inputs[0])
    assert scale is not None
    assert array is not None
    kind = _stored_type(node)
    whole = scale.ndim < 2 or array.shape[_axis(node, scale) or 0] % _block_size(node, scale) == 0
    if not whole or kind not in LIMITS or (kind == "int16" and _zeros(node, scale).any()):
        return None
    if kind == "uint8":
        array = (array.astype(np.int16) - 128).astype(np.int8)
    return array.astype(np.int8) if kind == "int4" else array, params(node)


def real_constant(node: ir.Node) -> Array:
    """The real values of a DQ node of a constant, float32: any type, one scale, one a channel or one a block."""
    array, scale = ir.constant(node.inputs[0]), ir.constant(node.inputs[1])
    assert array is not None
    assert scale is not None
    zeros = _zeros(node, scale)
    axis = int(ir.attribute(node, "axis", 1)) % max(array.ndim, 1)
    if scale.ndim > 1:
        cells = np.arange(array.shape[axis]) // _block_size(node, scale)
        scale, zeros = scale.take(cells, axis), zeros.take(cells, axis)
    elif scale.size > 1:
        shape = [-1 if a == axis else 1 for a in range(array.ndim)]
        scale, zeros = scale.reshape(shape), zeros.reshape(shape)
    else:
        scale, zeros = scale.reshape(()), zeros.reshape(())
    centred = array.astype(np.float32) - zeros if array.dtype.kind == "f" else array.astype(np.int64) - zeros
    return np.asarray(centred * scale.astype(np.float32), np.float32)


def wanted_by_readers(value: ir.Value, *, one: bool = False) -> QuantParams | None:
    """The quantization in which the readers of `value` take it; None if one takes it as it is.

    Where they differ: the one of the widest range, from which the others are made; None if there must be `one`.
    """
    uses = tuple(value.uses())
    if value.is_graph_output() or not uses:
        return None
    if any(use.node.op_type != QUANTIZE or use.idx != 0 or not absorbed(use.node) for use in uses):
        return None
    found = [params(use.node) for use in uses]
    if one and any(p != found[0] for p in found):
        return None
    return max(found, key=lambda p: (p.dtype == "int16", p.range[1] - p.range[0]))


def _constant_parameters(node: ir.Node) -> bool:
    return all(v is None or ir.constant(v) is not None for v in node.inputs[1:])


def _is_edge(node: ir.Node) -> bool:
    """Whether an integer kernel's operand can be stored so: one scale, in 8 or 16 bits."""
    scale = ir.constant(node.inputs[1])
    if scale is None or scale.size != 1 or _stored_type(node) not in ACTIVATIONS:
        return False
    return 0 < float(scale.reshape(-1)[0]) < float("inf")


def _read_back(node: ir.Node) -> bool:
    """Whether the integers of a Q node are only read by DQ nodes with its parameters, or are a result of the graph."""
    made = node.outputs[0]
    uses = tuple(made.uses())
    if made.is_graph_output() and _type(made) not in PORTS:
        return False
    if made.is_graph_output() and _type(made) == "int16" and params(node) != _as_written(node):
        return False
    for use in uses:
        if use.idx != 0 or use.node.op_type != DEQUANTIZE or not _constant_parameters(use.node):
            return False
        if not _is_edge(use.node) or params(use.node) != params(node):
            return False
    return bool(uses) or made.is_graph_output()


def _as_written(node: ir.Node) -> QuantParams | None:
    scale = ir.constant(node.inputs[1])
    assert scale is not None
    zeros = _zeros(node, scale).reshape(-1)
    return QuantParams(scale.astype(np.float32).reshape(-1), zeros, cast(DType, _stored_type(node)))


def _axis(node: ir.Node, scale: Array) -> int | None:
    axis = int(ir.attribute(node, "axis", 1)) if scale.size > 1 or scale.ndim > 1 else None
    if axis is not None and axis < 0 and node.inputs[0] is not None:
        axis += len(ir.dims(node.inputs[0]) or ())
    return axis


def _block_size(node: ir.Node, scale: Array) -> int:
    """How many neighbours share a scale, where scales lie in blocks; else 0."""
    if scale.ndim < 2:
        return 0
    given, source = int(ir.attribute(node, "block_size", 0)), node.inputs[0]
    axis = _axis(node, scale) or 0
    return given or -(-ir.static_dims(source)[axis] // scale.shape[axis]) if source is not None else given


def _zeros(node: ir.Node, scale: Array) -> Array:
    zero = ir.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if zero is None:
        return np.zeros(scale.shape, np.int64)
    return np.broadcast_to(zero.astype(np.float32 if zero.dtype.kind == "f" else np.int64), scale.shape)


def _stored_type(node: ir.Node) -> str:
    """The type of the integers."""
    stored = node.outputs[0] if node.op_type == QUANTIZE else node.inputs[0]
    if stored is not None and stored.dtype is not None:
        return str(stored.dtype).lower()
    zero = ir.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return "uint8" if zero is None else str(zero.dtype)


def _type(value: ir.Value) -> str:
    return "" if value.dtype is None else str(value.dtype).lower()
