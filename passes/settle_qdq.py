"""Brings the Q/DQ nodes of other tools to the places where integer kernels expect them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.analysis.sites import fused_activation
from edgecc.passes import _pairs as pairs
from edgecc.passes import _rewrite as rw
from edgecc.passes._biased import fuse_bias
from edgecc.passes._pairs import Stored
from edgecc.pipeline import Pass, PassContext, PassResult
from edgecc.quant.rules import FUSED_ACTIVATIONS, clip_limits

# Operators whose every result is an operand, so that they commute with any quantization; and those that keep order.
_MOVES = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Split"}
    | {"Squeeze", "Tile", "Transpose", "Unsqueeze", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"}
)  # fmt: skip
_CLAMPS = frozenset({"Relu", "Clip"})
_SEARCHES = frozenset({"ArgMax", "ArgMin"})  # of integers as of the numbers that they stand for
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


@dataclass(frozen=True, kw_only=True)
class SettleQDQ(Pass):
    """Moves, adds and drops Q/DQ pairs where that changes no answer, so that kernels find both ends of an operator.

    Weights: a constant's QuantizeLinear is computed, Transpose and Reshape behind a DequantizeLinear go before it.
    Operators that only move numbers (Reshape, MaxPool, ...) work on what they are given, so they commute with a
    quantization: those on stored integers get real ones, those with a pair on one side get it on the other. A clamp
    that a saturating QuantizeLinear makes anyhow falls away. MatMul with stored weights and a bias behind becomes Gemm.
    """

    name: ClassVar[str] = "settle_qdq"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place; nothing happens where no node quantizes."""
        tally = rw.Tally()
        graph = model.graph
        if not any(rw.is_op(node, *pairs.CONVERSIONS) for node in graph):
            return tally.result()
        for step in (_constant, _moved_weight, _integers, _repeated, _clamp, _bound, fuse_bias):
            for node in tuple(graph):
                if node.graph is graph:
                    tally.rewritten += step(graph, node)
        for node in tuple(graph):
            tally.rewritten += _pair_behind(graph, node)
        for node in reversed(tuple(graph)):
            tally.rewritten += _pair_before(graph, node)
        return tally.result()


def _constant(graph: ir.Graph, node: ir.Node) -> bool:
    """Q(constant): the integers themselves."""
    array = ir.constant(node.inputs[0]) if rw.is_op(node, "QuantizeLinear") else None
    if array is None or array.dtype.kind != "f" or node.outputs[0].is_graph_output():
        return False
    stored = pairs.quantized_constant(node, array)
    if stored is None:
        return False
    out = node.outputs[0]
    name, out.name = out.name, None
    ir.replace([node], [], {out: ir.add_initializer(graph, stored, str(name))})
    return True


def _moved_weight(graph: ir.Graph, node: ir.Node) -> bool:
    """Transpose(DQ(w)) = DQ(Transpose(w)), with the channels on the axis where they are then; reshapes likewise."""
    source = node.inputs[0] if node.inputs else None
    maker = None if source is None else source.producer()
    if (
        not rw.is_op(node, "Transpose", *_RESHAPES)
        or maker is None
        or not rw.is_op(maker, "DequantizeLinear")
    ):
        return False
    array, scale, out = ir.constant(maker.inputs[0]), ir.constant(maker.inputs[1]), node.outputs[0]
    if array is None or scale is None or scale.ndim > 1 or out.is_graph_output() or not ir.is_static(out):
        return False
    axis = int(ir.attribute(maker, "axis", 1)) % max(array.ndim, 1) if scale.size > 1 else None
    if node.op_type == "Transpose":
        order = ir.attribute(node, "perm", tuple(reversed(range(array.ndim))))
        moved, place = array.transpose(order), None if axis is None else list(order).index(axis)
    else:
        moved = array.reshape(ir.static_dims(out))
        place = None if axis is None else _same_axis(array.shape, moved.shape, axis)
        if axis is not None and place is None:
            return False
    stored = maker.inputs[0]
    assert stored is not None
    name = ir.fresh_name(graph, f"{stored.name}_moved")
    inputs = [ir.add_initializer(graph, np.ascontiguousarray(moved), name), *maker.inputs[1:]]
    new = rw.new_node(
        "DequantizeLinear", inputs, out, {} if place is None else {"axis": place}, name=node.name
    )
    ir.replace([node], [new], {out: new.outputs[0]})
    rw.drop_dead([source])
    return True


def _same_axis(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """Where an axis is after a reshape, if it is still one: the same length, and as many elements before it."""
    ahead = int(np.prod(before[:axis]))
    for place, length in enumerate(after):
        if length == before[axis] and int(np.prod(after[:place])) == ahead:
            return place
    return None


def _integers(graph: ir.Graph, node: ir.Node) -> bool:
    """An operator that moves stored integers: DQ -> operator -> Q."""
    if not rw.is_op(node, *_MOVES, *_SEARCHES, "Pad"):
        return False
    positions = pairs.data_positions(node)
    kept = [node.inputs[i] for i in positions]
    if any(v is None or v.dtype not in pairs.STORED for v in kept):
        return False
    makers = {pairs.stored_as(v) for v in kept if v is not None}
    if len(makers) != 1 or None in makers:
        makers = {pairs.read_as(out) for out in node.outputs}
    found = next(iter(makers))
    if found is None or len(makers) != 1 or not pairs.pad_in_reals(graph, node, found):
        return False
    for position in positions:
        value = node.inputs[position]
        assert value is not None
        node.replace_input_with(position, pairs.dequantize(graph, value, found, node))
    if node.op_type not in _SEARCHES:
        for out in node.outputs:
            pairs.quantize_behind(graph, out, found)
    return True


def _repeated(graph: ir.Graph, node: ir.Node) -> bool:
    """Q(DQ(q)) = q where both have the same parameters."""
    source = node.inputs[0] if rw.is_op(node, "QuantizeLinear") else None
    before = None if source is None else source.producer()
    if before is None or not rw.is_op(before, "DequantizeLinear") or not pairs.same(before, node):
        return False
    stored = before.inputs[0]
    if stored is None or stored.dtype != node.outputs[0].dtype or not ir.can_bypass(node.outputs[0], stored):
        return False
    ir.replace([node], [], {node.outputs[0]: stored})
    rw.drop_dead([source])
    return True


def _clamp(graph: ir.Graph, node: ir.Node) -> bool:
    """A Relu or Clip that changes nothing that is stored, before or behind it."""
    if not _is_clamp(node):
        return False
    source, out = node.inputs[0], node.outputs[0]
    assert source is not None
    low, high = clip_limits(node)
    before, behind = pairs.made_as(source), pairs.wanted_as(out)
    inside = before is not None and low <= before.range[0] and before.range[1] <= high
    if behind is not None and not inside and not _moves_range(behind):
        # Half a step: what lies between the limit and the nearest stored value rounds to that value.
        margin = behind.scale / 2
        inside = behind.range[0] >= low - margin and behind.range[1] <= high + margin
    return inside and not out.is_graph_output() and rw.bypass(node)


def _bound(graph: ir.Graph, node: ir.Node) -> bool:
    """A clamp before a Q of 16 bits with a zero point, at the end of its range that int16 without one goes beyond."""
    found = pairs.stored(node) if rw.is_op(node, "QuantizeLinear") else None
    source = node.inputs[0]
    if found is None or source is None or not _moves_range(found):
        return False
    low, high = found.range
    upper = -low > high  # that range is as wide to both sides as the wider of the two
    maker = source.producer()
    if maker is None or (_is_clamp(maker) and clip_limits(maker)[upper] == (high if upper else low)):
        return False  # what is fed to the network is left as it is
    uses = [
        use
        for use in source.uses()
        if pairs.stored(use.node) == found and rw.is_op(use.node, "QuantizeLinear")
    ]
    name = ir.fresh_name(graph, f"{source.name}_bounded")
    inputs: list[ir.Value | None] = [source]
    if low != 0.0 or upper:
        limit = np.array(high if upper else low, np.float32)
        inputs += [
            *([None] if upper else []),
            ir.add_initializer(graph, limit, ir.fresh_name(graph, f"{name}_at")),
        ]
    clamp = rw.new_node("Clip" if len(inputs) > 1 else "Relu", inputs, source, name=f"{source.name}/bound")
    clamp.outputs[0].name = name
    graph.insert_before(node, [clamp])
    for use in uses:
        use.node.replace_input_with(0, clamp.outputs[0])
    return True


def _moves_range(found: Stored) -> bool:
    """Whether TFLite stores 16 bits with another range than this: see `edgecc.analysis.qdq.params`."""
    return found.dtype == ir.DataType.UINT16 or (found.dtype == ir.DataType.INT16 and found.zero_point != 0)


def _is_clamp(node: ir.Node) -> bool:
    """Whether `node` is a Relu or a Clip with constant limits."""
    limits = [v for v in node.inputs[1:] if v is not None]
    return rw.is_op(node, *_CLAMPS) and all(ir.constant(v) is not None for v in limits)


def _pair_behind(graph: ir.Graph, node: ir.Node) -> bool:
    """DQ -> Reshape -> reader: the numbers that move are on the grid still, so a pair behind changes nothing."""
    if not rw.is_op(node, *_MOVES):
        return False
    found = _one(pairs.made_as(node.inputs[i]) for i in pairs.data_positions(node))
    if found is None:
        return False
    bare = [out for out in node.outputs if out.uses() and pairs.wanted_as(out) is None]
    bare = [out for out in bare if not out.is_graph_output()]
    for out in bare:
        pairs.pair_behind(graph, out, found)
    return bool(bare)


def _pair_before(graph: ir.Graph, node: ir.Node) -> bool:
    """Q(max(a, b)) = max(Q(a), Q(b)): what moves numbers or keeps their order may follow the rounding."""
    if not (rw.is_op(node, *_MOVES) or (_is_clamp(node) and not _fuses(node))):
        return False
    found = _one(pairs.wanted_as(out) for out in node.outputs if out.uses() or out.is_graph_output())
    if found is None:
        return False
    positions = [i for i in pairs.data_positions(node) if pairs.made_as(node.inputs[i]) is None]
    for position in positions:
        value = node.inputs[position]
        if value is None or value.dtype != ir.DataType.FLOAT:
            return False
    for position in positions:
        pairs.pair_before(graph, node, position, found)
    return bool(positions)


def _fuses(node: ir.Node) -> bool:
    """Whether the operator before computes the clamp on its way."""
    source = node.inputs[0]
    before = None if source is None else source.producer()
    if before is None or source is None or ir.single_consumer(source) is None:
        return False
    return before.op_type in FUSED_ACTIVATIONS and fused_activation(node) is not None


def _one(found: Iterable[Stored | None]) -> Stored | None:
    """The only one of them; None where they differ or one is missing."""
    kinds = set(found)
    return next(iter(kinds)) if len(kinds) == 1 else None
