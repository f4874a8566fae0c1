"""Old forms of operators rewritten into those of opset 21, so that everything after import sees one form.

The source of every row is the operator changelog (onnx.defs, schemas by version). A test walks the changelog
and fails on a change that has no row here and is not among the compatible ones that the test lists.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.errors import ModelError

# The opset of the canonical form, and those that can be read. Newer ones have operators no lowering knows.
CANONICAL = 21
OLDEST, NEWEST = 7, 28


@dataclass(frozen=True)
class Upgrade:
    """One change of an operator's form: nodes written before opset `version` pass through `apply`."""

    op_type: str
    version: int
    apply: Callable[[Rewriter, ir.Node], None]


class Rewriter:
    """Adds constants and nodes around the node that is being upgraded."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        # Constants go to the main graph, where sub-graphs see them: no graph may have a value of that name.
        self._taken = {name for graph in model.graphs() for name in graph.initializers}
        for graph in model.graphs():
            self._taken.update(value.name for value in graph.inputs if value.name)
            self._taken.update(out.name for node in graph for out in node.outputs if out.name)

    def fresh(self, stem: str) -> str:
        """A name that no value of any graph has."""
        name = next(
            candidate
            for candidate in itertools.chain([stem], (f"{stem}_{n}" for n in itertools.count(1)))
            if candidate not in self._taken and candidate not in self.graph.initializers
        )
        self._taken.add(name)
        return name

    def constant(self, array: ir.Array, stem: str) -> ir.Value:
        """A new initializer of the main graph."""
        return ir.add_initializer(self.graph, array, self.fresh(stem))

    def set_input(self, node: ir.Node, index: int, value: ir.Value) -> None:
        """Makes `value` the input `index`, after inputs left out where there were fewer."""
        if len(node.inputs) <= index:
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)

    def insert(
        self, before: ir.Node, op_type: str, inputs: Sequence[ir.Value], suffix: str, **attributes: Any
    ) -> ir.Value:
        """A new node in front of `before`; returns its output."""
        stem = ir.label(before)
        out = ir.Value(name=self.fresh(f"{stem}_{suffix}"))
        node = ir.Node(
            "",
            op_type,
            inputs,
            attributes=ir.convenience.convert_attributes(attributes),
            outputs=[out],
            name=f"{stem}_{suffix}",
        )
        assert before.graph is not None
        before.graph.insert_before(before, node)
        return out


def upgrade(model: ir.Model, version: int) -> bool:
    """Rewrites, in place, the nodes of all graphs whose form is older than opset 21. Returns whether any was.

    Args:
        model: without functions; shapes of values that are known make the result simpler.
        version: opset of the nodes that name none themselves.

    Raises:
        ModelError: a form that has no equivalent, naming the node.
    """
    rewriter, changed = Rewriter(model), False
    for node in list(model.graph.all_nodes()):
        if node.domain:
            continue
        at = node.version or version
        # Taken one by one, as a row may turn the node into another operator (Upsample becomes Resize).
        while step := next((s for s in UPGRADES if s.op_type == node.op_type and at < s.version), None):
            step.apply(rewriter, node)
            at, changed = step.version, True
        node.version = None
    return changed


def _to_inputs(*moves: tuple[str, int, str | None], **defaults: Any) -> Callable[[Rewriter, ir.Node], None]:
    """Attributes that became inputs: (attribute, index of the input, type; None: that of input 0).

    A type that ends in `[]` makes a scalar attribute a vector of one. `defaults` are written out, because the
    new form has another default.
    """

    def apply(rewriter: Rewriter, node: ir.Node) -> None:
        for name, index, kind in moves:
            value = ir.attribute(node, name, defaults.get(name))
            node.attributes.pop(name, None)
            if value is None:
                continue
            data = node.inputs[0]
            dtype = kind.removesuffix("[]") if kind else _numpy_name(data)
            array = np.array([value] if kind and kind.endswith("[]") else value, dtype)
            rewriter.set_input(node, index, rewriter.constant(array, f"{ir.label(node)}_{name}"))

    return apply


def _numpy_name(value: ir.Value | None) -> str:
    return "float32" if value is None or value.dtype is None else str(value.dtype.numpy())


def _set(node: ir.Node, **attributes: Any) -> None:
    for attr in ir.convenience.convert_attributes(attributes):
        node.attributes[attr.name] = attr


def _batch_norm_spatial(_: Rewriter, node: ir.Node) -> None:
    if ir.attribute(node, "spatial", 1) != 1:
        raise _refusal(node, "normalises every element with its own statistics (spatial=0)")
    node.attributes.pop("spatial", None)


def _batch_norm_outputs(_: Rewriter, node: ir.Node) -> None:
    """Before 14 the form for training is told by the outputs with statistics."""
    if any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        raise _refusal(node, "is in training form, its statistics are used")
    node.resize_outputs(1)


def _dropout_mask(_: Rewriter, node: ir.Node) -> None:
    if any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        raise _refusal(node, "has a mask that is used, whose type was not yet bool")
    node.resize_outputs(1)


def _upsample(_: Rewriter, node: ir.Node) -> None:
    node.op_type = "Resize"


def _resize(rewriter: Rewriter, node: ir.Node) -> None:
    """Resize-10 samples at x/scale. In nearest mode, ONNX Runtime rounds down when it enlarges, else up."""
    scales = node.inputs[1]
    known = ir.constant(scales)
    if known is None and scales is not None and (producer := scales.producer()) is not None:
        known = constant_output(producer)
    nearest = "floor"
    if known is not None and ir.attribute(node, "mode", "nearest") == "nearest" and (known < 1).any():
        if (known > 1).any():
            raise _refusal(node, "enlarges one axis and shrinks another, in nearest mode")
        nearest = "ceil"
    node.resize_inputs(3)
    node.replace_input_with(2, scales)
    node.replace_input_with(1, None)
    _set(node, coordinate_transformation_mode="asymmetric", nearest_mode=nearest)


def _resize_modes(_: Rewriter, node: ir.Node) -> None:
    if ir.attribute(node, "coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        raise _refusal(node, "uses tf_half_pixel_for_nn, which newer operator sets do not have")


def _roi_align(_: Rewriter, node: ir.Node) -> None:
    _set(node, coordinate_transformation_mode="output_half_pixel")


def _grid_sample(_: Rewriter, node: ir.Node) -> None:
    mode = ir.attribute(node, "mode", "bilinear")
    _set(node, mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


def _scatter(_: Rewriter, node: ir.Node) -> None:
    node.op_type = "ScatterElements"


def _scan(_: Rewriter, node: ir.Node) -> None:
    raise _refusal(node, "is the batched Scan of opset 8")


def _split(_: Rewriter, node: ir.Node) -> None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        _set(node, num_outputs=len(node.outputs))


def _group_norm(rewriter: Rewriter, node: ir.Node) -> None:
    """Scale and bias were one number a group; now one a channel."""
    groups = ir.attribute(node, "num_groups")
    shape = ir.dims(node.inputs[0]) if node.inputs[0] is not None else None
    arrays = [ir.constant(value) for value in node.inputs[1:3]]
    if shape is None or len(shape) < 2 or shape[1] is None or any(array is None for array in arrays):
        raise _refusal(node, "has a scale, bias or channel count that is not constant")
    for index, array, name in zip((1, 2), arrays, ("scale", "bias"), strict=True):
        assert array is not None
        repeated = np.repeat(array, shape[1] // groups)
        rewriter.set_input(node, index, rewriter.constant(repeated, f"{ir.label(node)}_{name}"))


def _softmax(rewriter: Rewriter, node: ir.Node) -> None:
    """Before 13 the axes from `axis` on were flattened into one, and 1 was the default axis."""
    data = node.inputs[0]
    assert data is not None
    axis: int = ir.attribute(node, "axis", 1)
    shape = ir.dims(data)
    if shape is not None:
        axis += len(shape) if axis < 0 else 0
        wide = [i for i in range(axis, len(shape)) if shape[i] != 1]
        if len(wide) <= 1:  # the others have one element: nothing to flatten
            _set(node, axis=wide[0] if wide else min(axis, len(shape) - 1))
            return
    flat = rewriter.insert(node, "Flatten", [data], "flat", axis=axis)
    inner = rewriter.insert(node, node.op_type, [flat], "inner", axis=-1)
    if shape is not None and sum(d is None for d in shape) <= 1:
        back = rewriter.constant(
            np.array([-1 if d is None else d for d in shape], np.int64), f"{ir.label(node)}_shape"
        )
    else:
        back = rewriter.insert(node, "Shape", [data], "shape")
    node.op_type = "Reshape"
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(0, inner)
    node.replace_input_with(1, back)


def constant_output(node: ir.Node) -> ir.Array | None:
    """What a Constant node computes, None for another node.

    Raises:
        ModelError: it holds something that is no dense tensor.
    """
    if node.op_type != "Constant" or node.domain:
        return None
    held = [attr for name, attr in node.attributes.items() if name.startswith(("value", "sparse_value"))]
    if len(held) != 1 or held[0].name not in _CONSTANT_TYPES or held[0].is_ref():
        raise _refusal(node, "is a constant that is not one dense tensor")
    if held[0].name == "value":
        return held[0].as_tensor().numpy()
    return np.array(held[0].value, _CONSTANT_TYPES[held[0].name])


_CONSTANT_TYPES = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": object,
    "value_strings": object,
}


def _refusal(node: ir.Node, cause: str) -> ModelError:
    remedy = f"export the model again with opset {CANONICAL}"
    return ModelError(f"this {node.op_type} {cause}", node=ir.label(node), remedy=remedy)


_AXES = _to_inputs(("axes", 1, "int64"))
_REDUCE_18 = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

# In the order of versions for each operator.
UPGRADES: tuple[Upgrade, ...] = (
    Upgrade("BatchNormalization", 9, _batch_norm_spatial),
    Upgrade("BatchNormalization", 14, _batch_norm_outputs),
    Upgrade("Clip", 11, _to_inputs(("min", 1, None), ("max", 2, None))),
    Upgrade("DFT", 20, _to_inputs(("axis", 2, "int64"), axis=1)),
    Upgrade("Dropout", 10, _dropout_mask),
    Upgrade("Dropout", 12, _to_inputs(("ratio", 1, "float32"))),
    Upgrade("GridSample", 20, _grid_sample),
    Upgrade("GroupNormalization", 21, _group_norm),
    Upgrade("Pad", 11, _to_inputs(("pads", 1, "int64"), ("value", 2, None))),
    *(Upgrade(f"Reduce{kind}", 18, _AXES) for kind in _REDUCE_18),
    Upgrade("ReduceSum", 13, _AXES),
    Upgrade("Upsample", 9, _to_inputs(("scales", 1, "float32"))),
    Upgrade("Upsample", 10, _upsample),
    Upgrade("Resize", 11, _resize),
    Upgrade("Resize", 13, _resize_modes),
    Upgrade("RoiAlign", 16, _roi_align),
    Upgrade("Scan", 9, _scan),
    Upgrade("Scatter", 11, _scatter),
    Upgrade("Slice", 10, _to_inputs(("starts", 1, "int64"), ("ends", 2, "int64"), ("axes", 3, "int64"))),
    *(Upgrade(name, 13, _softmax) for name in ("Hardmax", "LogSoftmax", "Softmax")),
    Upgrade("Split", 13, _to_inputs(("split", 1, "int64"))),
    Upgrade("Split", 18, _split),
    Upgrade("Squeeze", 13, _AXES),
    Upgrade("TopK", 10, _to_inputs(("k", 1, "int64[]"))),
    Upgrade("Unsqueeze", 13, _AXES),
)
