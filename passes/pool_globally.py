"""Writes a pool whose window is the whole image as the global pool that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult


@dataclass(frozen=True, kw_only=True)
class PoolGlobally(Pass):
    """Turns AveragePool and MaxPool over the whole image into GlobalAveragePool and GlobalMaxPool.

    In integers that is no matter of form: TFLite's AVERAGE_POOL_2D has to answer in the scale of what it reads, and
    means are far smaller than maxima; MEAN, which computes the global pool, has a scale of its own.
    """

    name: ClassVar[str] = "pool_globally"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        for node in model.graph:
            if not rw.is_op(node, "AveragePool", "MaxPool"):
                continue
            reason = _objection(node)
            if reason is None:
                source, out = node.inputs[0], node.outputs[0]
                pool = rw.new_node(f"Global{node.op_type}", [source], out, name=node.name)
                ir.replace([node], [pool], {out: pool.outputs[0]})
                tally.rewritten += 1
            elif reason:
                tally.refuse(node, reason)
        return tally.result()


def _objection(node: ir.Node) -> str | None:
    """Why a pool is no global one; "" if its window is smaller than the image, None if it is one."""
    source = node.inputs[0]
    shape = None if source is None else ir.dims(source)
    if shape is None or shape[2:] != ir.attribute(node, "kernel_shape"):
        return ""
    if len(node.outputs) > 1 and node.outputs[1].uses():
        return "the places of the maxima are read, too"
    if any(ir.attribute(node, "pads", ())) or ir.attribute(node, "auto_pad", "NOTSET").startswith("SAME"):
        return "it is padded, so its window goes beyond the image"
    return None
