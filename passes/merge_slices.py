"""Merges consecutive Slices of different axes into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult


@dataclass(frozen=True, kw_only=True)
class MergeSlices(Pass):
    """Merges Slices that take constant ranges of different axes (PyTorch writes x[:, ::2, ::2] as two)."""

    name: ClassVar[str] = "merge_slices"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        for node in model.graph:
            source = node.inputs[0] if rw.is_op(node, "Slice") else None
            inner = None if source is None else source.producer()
            if inner is None or not rw.is_op(inner, "Slice"):
                continue
            reason = _merge(model.graph, inner, node)
            if reason:
                tally.refuse(node, reason)
            else:
                tally.rewritten += 1
        return tally.result()


def _merge(graph: ir.Graph, inner: ir.Node, outer: ir.Node) -> str | None:
    """Replaces the two by one; the reason if it does not."""
    first, second = rw.slice_spec(inner), rw.slice_spec(outer)
    if first is None or second is None:
        return "a range is computed while running"
    if set(first.axes) & set(second.axes):
        return "both slice the same axis"
    if ir.single_consumer(inner.outputs[0]) is None:
        return f"{inner.outputs[0].name} between the two is read elsewhere"
    out = outer.outputs[0]
    ranges = {
        "starts": first.starts + second.starts,
        "ends": first.ends + second.ends,
        "axes": first.axes + second.axes,
        "steps": first.steps + second.steps,
    }
    inputs = [rw.integers(graph, values, f"{out.name}_{part}") for part, values in ranges.items()]
    unread = [*inner.inputs[1:], *outer.inputs[1:]]
    merged = rw.new_node("Slice", [inner.inputs[0], *inputs], out, name=outer.name)
    ir.replace([inner, outer], [merged], {out: merged.outputs[0]})
    rw.drop_dead(unread)
    return None
