"""Reads the batch of constants that are repeated for every sample from an input of the network, in one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.analysis.shapes import batch_symbols
from edgecc.passes import _rewrite as rw
from edgecc.passes._same_samples import same_for_every_sample
from edgecc.pipeline import Pass, PassContext, PassResult


@dataclass(frozen=True, kw_only=True)
class SpreadBatch(Pass):
    """Makes Expand(x, [batch of an input, constants]) of Expand, Tile and ConstantOfShape with a computed shape.

    That is how class tokens, queries and first states come to every sample. What exporters compute the shape with
    (Shape, Gather, Equal, Where, ... of any value) goes away. What is computed of such constants alone is a constant
    itself: position embeddings are a mask of ones, CumSum, Sin and Cos in EdgeNeXt and DETR.
    """

    name: ClassVar[str] = "spread_batch"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally, symbols = rw.Tally(), batch_symbols(model)
        sources = {
            d.value: v for v in model.graph.inputs if v.shape and isinstance(d := v.shape[0], ir.SymbolicDim)
        }
        for node in model.graph:
            axis = _batch_axis(node, symbols)
            if axis is None:
                continue
            symbol = node.outputs[0].shape[axis].value  # type: ignore[index, union-attr]
            if rw.is_op(node, "Expand", "Tile", "ConstantOfShape"):
                _spread(model.graph, node, axis, sources[symbol], tally)
            elif (sample := same_for_every_sample(node, axis, rw.opset(model))) is not None:
                name = ir.fresh_name(model.graph, f"{node.outputs[0].name}_sample")
                constant = ir.add_initializer(model.graph, sample, name)
                _expand(model.graph, node, constant, axis, sources[symbol])
                tally.rewritten += 1
        return tally.result()


def _batch_axis(node: ir.Node, symbols: set[str]) -> int | None:
    """The axis of the result that is the batch, where the operand lacks it."""
    out, shape = node.outputs[0], ir.dims(node.outputs[0])
    if out.shape is None or shape is None or shape.count(None) != 1:
        return None
    axis = shape.index(None)
    symbol = out.shape[axis]
    return axis if isinstance(symbol, ir.SymbolicDim) and symbol.value in symbols else None


def _spread(graph: ir.Graph, node: ir.Node, axis: int, batch: ir.Value, tally: rw.Tally) -> None:
    out = node.outputs[0]
    shape = ir.dims(out) or ()
    source = node.inputs[0]
    if node.op_type == "ConstantOfShape":
        given = ir.attribute(node, "value")
        fill = np.zeros((), np.float32) if given is None else np.asarray(given.numpy()).reshape(())
        source = ir.add_initializer(graph, fill, ir.fresh_name(graph, f"{out.name}_value"))
    assert source is not None
    before = ir.dims(source)
    if before is None or None in before:
        return  # it has the batch itself, or nothing is known
    padded = (1,) * (len(shape) - len(before)) + before
    if padded[axis] != 1 or any(a not in (1, b) for a, b in zip(padded, shape, strict=True) if b is not None):
        tally.refuse(node, "it repeats a value that is larger than 1 along the axis of the batch")
        return
    if node.op_type == "Tile" and any(a not in (1, b) for a, b in zip(padded, shape, strict=True)):
        tally.refuse(node, "it repeats a sequence")
        return
    if node.op_type == "Expand" and _is_spread(node, axis, len(shape)):
        return
    _expand(graph, node, source, axis, batch)
    tally.rewritten += 1


def _expand(graph: ir.Graph, node: ir.Node, source: ir.Value, axis: int, batch: ir.Value) -> None:
    """Expand(source, [constants, batch of an input, constants]) in place of `node`."""
    out = node.outputs[0]
    shape = ir.dims(out) or ()
    size = rw.new_node("Shape", [batch], out, {"start": 0, "end": 1})
    size.outputs[0].shape, size.outputs[0].type = ir.Shape([1]), ir.TensorType(ir.DataType.INT64)
    size.outputs[0].name = ir.fresh_name(graph, f"{out.name}_batch")
    parts = [
        *([rw.integers(graph, [d or 1 for d in shape[:axis]], f"{out.name}_front")] if axis else []),
        size.outputs[0],
        *(
            [rw.integers(graph, [d or 1 for d in shape[axis + 1 :]], f"{out.name}_rest")]
            if shape[axis + 1 :]
            else []
        ),
    ]
    join = rw.new_node("Concat", parts, size.outputs[0], {"axis": 0})
    join.outputs[0].shape = ir.Shape([len(shape)])
    join.outputs[0].name = ir.fresh_name(graph, f"{out.name}_shape")
    new = rw.new_node("Expand", [source, join.outputs[0]], out, name=node.name)
    unread = list(node.inputs)
    ir.replace([node], [size, join, new], {out: new.outputs[0]})
    rw.drop_dead(v for v in unread if v is not source)


def _is_spread(node: ir.Node, axis: int, rank: int) -> bool:
    """Whether it has the form that this pass makes."""
    target = node.inputs[1]
    join = target.producer() if target is not None else None
    if not rw.is_op(join, "Concat") or join is None:
        return False
    sizes = [v for v in join.inputs if ir.constant(v) is None]
    size = sizes[0].producer() if len(sizes) == 1 and sizes[0] is not None else None
    if not rw.is_op(size, "Shape") or size is None or size.inputs[0] is None:
        return False
    return size.inputs[0].is_graph_input() and len(join.inputs) == (axis > 0) + 1 + (axis + 1 < rank)
