"""Removes what computes nothing: dead nodes, operators that return their input, repeated subexpressions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult

_UNBOUNDED = 2**31 - 1  # what exporters write, at least, for "to the end"


@dataclass(frozen=True, kw_only=True)
class CleanUp(Pass):
    """Removes dead nodes, unused constants and operators without effect, and shares equal subexpressions.

    Names of graph inputs and outputs stay.
    """

    name: ClassVar[str] = "clean_up"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        for node in model.graph:
            if rw.is_op(node, "Concat"):
                tally.rewritten += _drop_empty(node)
            returns_input = _NO_EFFECT.get(node.op_type) if node.domain in rw.MAIN_DOMAINS else None
            if returns_input is None or not returns_input(node):
                continue
            if rw.bypass(node):
                tally.rewritten += 1
            else:
                tally.refuse(
                    node, "has no effect, but joins two inputs or outputs of the graph, whose names stay"
                )
        tally.rewritten += rw.remove_unused(model)
        tally.rewritten += rw.share_equal(model)
        tally.rewritten += rw.remove_unused(model)
        return tally.result()


def _drop_empty(node: ir.Node) -> int:
    """Takes from a Concat the operands that have no elements. Returns how many."""
    axis = ir.attribute(node, "axis", 0)
    shapes = [() if value is None else ir.dims(value) or () for value in node.inputs]
    if any(not -len(shape) <= axis < len(shape) for shape in shapes if shape):
        return 0  # malformed: whoever needs the axis says so
    full = [v for v, shape in zip(node.inputs, shapes, strict=True) if not shape or shape[axis] != 0]
    dropped = len(node.inputs) - len(full)
    if not dropped or not full:
        return 0
    unread = list(node.inputs)
    node.resize_inputs(len(full))
    for index, value in enumerate(full):
        node.replace_input_with(index, value)
    rw.drop_dead([value for value in unread if value not in full])
    return dropped


def _always(node: ir.Node) -> bool:
    return True


def _one_input(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _dropout(node: ir.Node) -> bool:
    training = ir.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.False_
    mask_unused = len(node.outputs) == 1 or not (node.outputs[1].uses() or node.outputs[1].is_graph_output())
    return training is not None and not bool(np.any(training)) and mask_unused


def _same_type(node: ir.Node) -> bool:
    source = node.inputs[0]
    return source is not None and source.dtype is not None and source.dtype == node.outputs[0].dtype


def _transpose(node: ir.Node) -> bool:
    perm = ir.attribute(node, "perm")
    return perm is not None and perm == tuple(range(len(perm)))


def _reshape(node: ir.Node) -> bool:
    return node.inputs[0] is not None and rw.same_elements(node.inputs[0], node.outputs[0])


_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Equal", "Greater", "Less", "And", "Or")


def _expand(node: ir.Node) -> bool:
    return _expands_nothing(node) or _expanded_anyway(node)


def _expanded_anyway(node: ir.Node) -> bool:
    """Whether every reader broadcasts its operands, and has another one of the full shape."""
    out = node.outputs[0]
    if out.is_graph_output() or out.shape is None or not out.uses():
        return False
    for use in out.uses():
        if not rw.is_op(use.node, *_BROADCASTING):
            return False
        other = use.node.inputs[1 - use.idx]
        if other is out or other is None or other.shape != out.shape:
            return False
        if use.node.op_type == "PRelu" and use.idx == 0:  # only its slope is broadcast
            return False
    return True


def _expands_nothing(node: ir.Node) -> bool:
    target = rw.integer_constant(node.inputs[1])
    source = node.inputs[0]
    if target is None or source is None:
        return False
    shape = ir.dims(source)
    if shape is None or len(target) > len(shape):
        return False
    own = shape[len(shape) - len(target) :]
    return all(want in {1, have} for want, have in zip(target, own, strict=True))


def _pad(node: ir.Node) -> bool:
    pads = rw.integer_constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return pads is not None and not any(pads)


def _slice(node: ir.Node) -> bool:
    spec = rw.slice_spec(node)
    shape = None if node.inputs[0] is None else ir.dims(node.inputs[0])
    if spec is None or shape is None:
        return False
    sizes = [_UNBOUNDED if (size := shape[axis]) is None else size for axis in spec.axes]
    ends_beyond = all(end >= size for end, size in zip(spec.ends, sizes, strict=True))
    return ends_beyond and set(spec.steps) <= {1} and set(spec.starts) <= {0}


# Operators that return their first input, and when they do.
_NO_EFFECT: dict[str, Callable[[ir.Node], bool]] = {
    "Cast": _same_type,
    "CastLike": _same_type,
    "Concat": _one_input,
    "Dropout": _dropout,
    "Expand": _expand,
    "Identity": _always,
    "Max": _one_input,
    "Mean": _one_input,
    "Min": _one_input,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Sum": _one_input,
    "Transpose": _transpose,
}
