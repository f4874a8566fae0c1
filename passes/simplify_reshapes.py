"""Gives every reshape one form: a Reshape with a constant target, read from the inferred shapes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, kw_only=True)
class SimplifyReshapes(Pass):
    """Makes constant Reshapes of computed targets (Shape, Gather, Concat), Flatten, Squeeze and Unsqueeze.

    A symbolic dimension becomes -1, so a batch that is free stays free. Consecutive reshapes are merged, and
    those without effect are removed together with the arithmetic on shapes that nothing reads any more.
    The targets of Expand and Resize become constant, too: of the dimensions that change.
    """

    name: ClassVar[str] = "simplify_reshapes"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        for op_types in (
            _RESHAPES[:1],
            _RESHAPES,
        ):  # a target that becomes constant leaves its own reshapes dead
            for node in model.graph:
                if rw.is_op(node, *op_types):
                    _simplify(model.graph, node, tally)
                elif rw.is_op(node, "Expand", "Resize"):
                    _fix_target(model.graph, node, tally)
        return tally.result()


def _simplify(graph: ir.Graph, node: ir.Node, tally: rw.Tally) -> None:
    source, out = node.inputs[0], node.outputs[0]
    assert source is not None
    if _take_softmax_out(node):
        tally.rewritten += 1
        return None
    if ir.constant(source) is not None:
        return tally.refuse(node, "reshapes a constant: fold_constants evaluates it")
    while _dies_with(producer := source.producer(), source):
        assert producer is not None
        source = producer.inputs[0]
        assert source is not None
    if rw.same_elements(source, out) and ir.can_bypass(out, source):
        unread = [v for v in node.inputs if v is not source]
        ir.replace([node], [], {out: source})
        rw.drop_dead(unread)
        tally.rewritten += 1
        return None
    target = _target(out)
    if target is None:
        return tally.refuse(node, f"its output shape {out.shape} leaves more than one dimension open")
    given = rw.integer_constant(node.inputs[1]) if rw.is_op(node, "Reshape") else None
    if given == target and source is node.inputs[0]:
        return None
    shape = rw.integers(graph, target, f"{out.name}_shape")
    unread = list(node.inputs)
    new = rw.new_node("Reshape", [source, shape], out, name=node.name)
    ir.replace([node], [new], {out: new.outputs[0]})
    rw.drop_dead(unread)
    tally.rewritten += 1
    return None


def _fix_target(graph: ir.Graph, node: ir.Node, tally: rw.Tally) -> None:
    """Gives an Expand or Resize that computes its target a constant one, which leaves a symbolic batch open.

    A Resize of some axes becomes one of all: ONNX Runtime's change of layout overlooks `axes` (1.31).
    """
    position = 1 if node.op_type == "Expand" else 3
    target = node.inputs[position] if len(node.inputs) > position else None
    source, out = node.inputs[0], node.outputs[0]
    partial = node.op_type == "Resize" and ir.attribute(node, "axes") is not None
    if source is None or not (partial or (target is not None and ir.constant(target) is None)):
        return None
    shape, before = ir.dims(out), ir.dims(source)
    if shape is None or before is None or source.shape is None or out.shape is None:
        return tally.refuse(node, "the shape of its input or output is not known")
    offset = len(shape) - len(before)
    open_axes = [i for i, d in enumerate(shape) if d is None]
    if any(i < offset or source.shape[i - offset] != out.shape[i] for i in open_axes):
        return tally.refuse(
            node, f"its output shape {out.shape} has an open dimension that its input has not"
        )
    unread = list(node.inputs[1:])
    if node.op_type == "Expand":  # what it asks for, 1, the batch has anyhow
        node.replace_input_with(1, rw.integers(graph, [d or 1 for d in shape], f"{out.name}_shape"))
    elif isinstance(scales := _scales(node, before, shape), str):
        return tally.refuse(node, scales)
    else:
        name = ir.fresh_name(graph, f"{out.name}_scales")
        node.resize_inputs(3)
        node.replace_input_with(1, None)
        node.replace_input_with(2, ir.add_initializer(graph, scales, name))
        node.attributes.pop("axes", None)
    rw.drop_dead(unread)
    tally.rewritten += 1
    return None


def _scales(node: ir.Node, before: tuple[int | None, ...], after: tuple[int | None, ...]) -> ir.Array | str:
    """The factors of all axes that give the same answers as the sizes, or why there are none."""
    mode = ir.attribute(node, "mode", "nearest")
    if ir.attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return "it resizes a region"
    if ir.attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return "it keeps the aspect ratio"
    given = ir.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if given is not None and given.size:  # of some axes
        axes = [a % len(before) for a in ir.attribute(node, "axes", ())]
        if len(axes) != given.size:
            return "it has another number of factors than of axes"
        scales = np.ones(len(before), np.float32)
        scales[axes] = given
        return scales
    pairs = [
        (1, 1) if d is None or size is None else (d, size) for d, size in zip(before, after, strict=True)
    ]
    if any(not d for d, _ in pairs):
        return "it enlarges what has no elements"
    scales = np.array([size / d for d, size in pairs], np.float32)
    for (d, size), scale in zip(pairs, scales, strict=True):
        exact = Fraction(float(scale)) == Fraction(size, d)
        if not exact and (mode == "nearest" or int(np.float32(d) * scale) != size):
            return f"its sizes, {d} to {size}, are no factor in float32"
    return scales


def _take_softmax_out(node: ir.Node) -> bool:
    """Removes the reshapes around a Softmax of the last axis, which they keep (opset 12 needs them)."""
    out = node.outputs[0]
    softmax = None if node.inputs[0] is None else node.inputs[0].producer()
    if softmax is None or not rw.is_op(softmax, "Softmax", "LogSoftmax") or softmax.inputs[0] is None:
        return False
    first = softmax.inputs[0].producer()
    source = first.inputs[0] if first is not None and rw.is_op(first, *_RESHAPES) else None
    shapes = [None if v is None else ir.dims(v) for v in (source, softmax.outputs[0], out)]
    if source is None or any(not shape or shape[-1] is None for shape in shapes):
        return False
    before, inside, _ = (shape or () for shape in shapes)
    last = ir.attribute(softmax, "axis", -1) in {-1, len(inside) - 1}
    if not (last and before[-1] == inside[-1] and rw.same_elements(source, out)):
        return False
    if ir.single_consumer(softmax.outputs[0]) is None:
        return False
    unread = list(node.inputs)
    new = rw.new_node(softmax.op_type, [source], out, {"axis": -1}, name=softmax.name)
    ir.replace([node], [new], {out: new.outputs[0]})
    rw.drop_dead(unread)
    return True


def _dies_with(producer: ir.Node | None, value: ir.Value) -> bool:
    """Whether a value comes from a reshape whose readers are all reshapes, which can pass it by."""
    if producer is None or not rw.is_op(producer, *_RESHAPES) or value.is_graph_output():
        return False
    return all(rw.is_op(use.node, *_RESHAPES) and use.idx == 0 for use in value.uses())


def _target(out: ir.Value) -> tuple[int, ...] | None:
    """The constant target of a Reshape to the shape of `out`; None if two dimensions are not numbers.

    A zero would mean "as in the input" there, so empty values are not served either.
    """
    shape = ir.dims(out)
    if shape is None or shape.count(None) > 1 or 0 in shape:
        return None
    return tuple(-1 if d is None else d for d in shape)
