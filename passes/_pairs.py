"""Q/DQ pairs for passes: how a value is stored, and nodes that store it so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.quant.rules import RULES

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
STORED = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16)


@dataclass(frozen=True)
class Stored:
    """One scale and zero point, and the type of the integers."""

    scale: float
    zero_point: int
    dtype: ir.DataType

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest number that can be stored."""
        limits = np.iinfo(self.dtype.numpy())
        return (limits.min - self.zero_point) * self.scale, (limits.max - self.zero_point) * self.scale


def stored(node: ir.Node | None) -> Stored | None:
    """The parameters of a Q or DQ node; None where they are computed, several, or of another kind."""
    if node is None or not rw.is_op(node, *CONVERSIONS):
        return None
    kept = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    scale = rw.scalar(node.inputs[1])
    zero = rw.scalar(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else 0.0
    if scale is None or zero is None or kept is None or kept.dtype not in STORED or not scale > 0:
        return None
    if node.inputs[1] is None or node.inputs[1].dtype != ir.DataType.FLOAT:
        return None
    return Stored(scale, int(zero), kept.dtype)


def same(first: ir.Node, second: ir.Node) -> bool:
    """Whether two nodes store alike."""
    found = stored(first)
    return found is not None and found == stored(second)


def stored_as(value: ir.Value) -> Stored | None:
    """How the integers of `value` were made."""
    maker = value.producer()
    return stored(maker) if maker is not None and rw.is_op(maker, "QuantizeLinear") else None


def read_as(value: ir.Value) -> Stored | None:
    """How all readers of the integers of `value` understand them."""
    return _common(value, "DequantizeLinear")


def made_as(value: ir.Value | None) -> Stored | None:
    """How the real numbers of `value` were stored before."""
    maker = None if value is None else value.producer()
    return stored(maker) if maker is not None and rw.is_op(maker, "DequantizeLinear") else None


def wanted_as(value: ir.Value) -> Stored | None:
    """How all readers of the real numbers of `value` store them."""
    return _common(value, "QuantizeLinear")


def _common(value: ir.Value, op_type: str) -> Stored | None:
    uses = tuple(value.uses())
    if value.is_graph_output() or not uses:
        return None
    if any(use.idx != 0 or not rw.is_op(use.node, op_type) for use in uses):
        return None
    found = {stored(use.node) for use in uses}
    return next(iter(found)) if len(found) == 1 else None


def data_positions(node: ir.Node) -> list[int]:
    """Which inputs are moved, and not axes, indices or shapes."""
    rule = RULES.get(node.op_type)
    several = rule is not None and rule.data is None
    return [i for i, v in enumerate(node.inputs) if v is not None and (several or i == 0)]


def quantized_constant(node: ir.Node, array: ir.Array) -> ir.Array | None:
    """What QuantizeLinear makes of a constant, as the runtime computes it: in float32, ties to even."""
    scale, zero = ir.constant(node.inputs[1]), ir.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    out = node.outputs[0]
    if scale is None or scale.ndim > 1 or out.dtype not in STORED:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and zero is None:
        return None
    zeros = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    shape: tuple[int, ...] = ()
    if scale.size > 1:
        axis = int(ir.attribute(node, "axis", 1)) % array.ndim
        shape = tuple(-1 if a == axis else 1 for a in range(array.ndim))
    kept = np.rint(array / scale.astype(array.dtype).reshape(shape)) + zeros.reshape(shape)
    limits = np.iinfo(out.dtype.numpy())
    clipped: ir.Array = np.clip(kept, limits.min, limits.max).astype(out.dtype.numpy())
    return clipped


def pad_in_reals(graph: ir.Graph, node: ir.Node, found: Stored) -> bool:
    """Gives a Pad of integers the real number for its constant; False where that is computed."""
    if node.op_type != "Pad" or ir.attribute(node, "mode", "constant") != "constant":
        return True
    given = node.inputs[2] if len(node.inputs) > 2 else None
    filler = 0.0 if given is None else rw.scalar(given)
    if filler is None:
        return False
    real = np.array((filler - found.zero_point) * found.scale, np.float32)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    name = ir.fresh_name(graph, f"{node.outputs[0].name}_filler")
    node.replace_input_with(2, ir.add_initializer(graph, real, name))
    return True


def dequantize(graph: ir.Graph, value: ir.Value, found: Stored, before: ir.Node) -> ir.Value:
    """The real numbers of stored integers, for the node `before`."""
    node = _node(graph, "DequantizeLinear", value, found, ir.fresh_name(graph, f"{value.name}_dequantized"))
    graph.insert_before(before, [node])
    return node.outputs[0]


def quantize_behind(graph: ir.Graph, out: ir.Value, found: Stored) -> None:
    """Makes `out`, which held integers, real; a Q behind it computes the integers under their name."""
    maker = out.producer()
    assert maker is not None
    name, out.name = str(out.name), ir.fresh_name(graph, f"{out.name}_real")
    uses = tuple(out.uses())
    out.type = ir.TensorType(ir.DataType.FLOAT)
    node = _node(graph, "QuantizeLinear", out, found, name)
    graph.insert_after(maker, [node])
    _hand_over(graph, out, node.outputs[0], uses)


def pair_behind(graph: ir.Graph, out: ir.Value, found: Stored) -> None:
    """Puts Q and DQ between a value and all its readers but those that quantize it so anyhow."""
    maker = out.producer()
    assert maker is not None
    uses = tuple(use for use in out.uses() if stored(use.node) != found)
    first = _node(graph, "QuantizeLinear", out, found, ir.fresh_name(graph, f"{out.name}_quantized"))
    second = _node(
        graph, "DequantizeLinear", first.outputs[0], found, ir.fresh_name(graph, f"{out.name}_dequantized")
    )
    graph.insert_after(maker, [first, second])
    for use in uses:
        use.node.replace_input_with(use.idx, second.outputs[0])


def pair_before(graph: ir.Graph, node: ir.Node, position: int, found: Stored) -> None:
    """Puts Q and DQ between an operand and the node."""
    value = node.inputs[position]
    assert value is not None
    first = _node(graph, "QuantizeLinear", value, found, ir.fresh_name(graph, f"{value.name}_quantized"))
    second = _node(
        graph, "DequantizeLinear", first.outputs[0], found, ir.fresh_name(graph, f"{value.name}_dequantized")
    )
    graph.insert_before(node, [first, second])
    node.replace_input_with(position, second.outputs[0])


def _node(graph: ir.Graph, op_type: str, source: ir.Value, found: Stored, name: str) -> ir.Node:
    zero = np.array(found.zero_point, found.dtype.numpy())
    inputs = [source]
    for array, what in ((np.array(found.scale, np.float32), "scale"), (zero, "zero_point")):
        inputs.append(ir.add_initializer(graph, array, ir.fresh_name(graph, f"{name}_{what}")))
    node = ir.Node("", op_type, inputs, name=f"{name}/{op_type}")
    out = node.outputs[0]
    out.name, out.shape = name, None if source.shape is None else ir.Shape(source.shape)
    out.type = ir.TensorType(found.dtype if op_type == "QuantizeLinear" else ir.DataType.FLOAT)
    return node


def _hand_over(graph: ir.Graph, old: ir.Value, new: ir.Value, uses: tuple[object, ...]) -> None:
    """All readers that `old` had, and the graph output that it was, get `new`."""
    for use in uses:
        use.node.replace_input_with(use.idx, new)  # type: ignore[attr-defined]
    for position, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[position] = new
