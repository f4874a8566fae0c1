"""Takes indices out of axes of a network: constants, shapes, and what operators say about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgecc import ir
from edgecc.analysis.channel_problem import Axis
from edgecc.passes import _rewrite as rw

Kept = Mapping[Axis, ir.Array]


def shrink(model: ir.Model, kept: Kept) -> None:
    """Keeps these indices of these axes, in place; `kept` must be whole units (see `Channels.kept`)."""
    for node in list(model.graph):
        fix = _FIXES.get(node.op_type) if node.domain in rw.MAIN_DOMAINS else None
        if fix is not None:
            fix(node, model.graph, kept)
    for (value, axis), indices in kept.items():
        if value.const_value is not None:
            array = np.ascontiguousarray(np.take(value.const_value.numpy(), indices, axis))
            value.const_value = ir.Tensor(array, name=value.name)
            value.shape = ir.Shape(array.shape)
        elif value.shape is not None:
            value.shape = ir.Shape([len(indices) if i == axis else d for i, d in enumerate(value.shape)])


def _group(node: ir.Node, graph: ir.Graph, kept: Kept) -> None:
    """A depthwise convolution has as many groups as channels."""
    data, weight = node.inputs[0], node.inputs[1]
    left = None if data is None else kept.get((data, 1))
    if left is None or weight is None or ir.attribute(node, "group", 1) == 1:
        return
    per_group = ir.static_dims(weight)[0 if node.op_type == "ConvTranspose" else 1]
    if node.op_type == "ConvTranspose":
        per_group //= ir.attribute(node, "group", 1)
    if per_group == 1:
        node.attributes["group"] = ir.Attr("group", ir.AttributeType.INT, len(left))


def _target_shape(node: ir.Node, graph: ir.Graph, kept: Kept) -> None:
    """The second input of a Reshape or Expand."""
    out = node.outputs[0]
    changed = {axis: len(left) for (value, axis), left in kept.items() if value is out}
    given = rw.integer_constant(node.inputs[1])
    if not changed or given is None:
        return
    lead = len(out.shape or ()) - len(given)  # Expand's shape may be shorter
    sizes = [changed.get(i + lead, d) if d != -1 else -1 for i, d in enumerate(given)]
    node.replace_input_with(1, rw.integers(graph, sizes, f"{out.name}_shape"))


def _split(node: ir.Node, graph: ir.Graph, kept: Kept) -> None:
    axis = _axis(node, 0)
    if not any((out, axis) in kept for out in node.outputs):
        return
    sizes = [
        len(kept[out, axis]) if (out, axis) in kept else ir.static_dims(out)[axis] for out in node.outputs
    ]
    node.attributes.pop("num_outputs", None)
    value = rw.integers(graph, sizes, f"{node.outputs[0].name}_split")
    if len(node.inputs) > 1:
        node.replace_input_with(1, value)
    else:
        node.resize_inputs(2)
        node.replace_input_with(1, value)


def _pad(node: ir.Node, graph: ir.Graph, kept: Kept) -> None:
    data, out = node.inputs[0], node.outputs[0]
    pads = rw.integer_constant(node.inputs[1])
    rank = len(out.shape or ())
    given = (
        rw.integer_constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    )
    axes = range(rank) if given is None else rw.axes_of(given, rank)
    if pads is None or data is None:
        return
    new = list(pads)
    for place, axis in enumerate(axes):
        left = kept.get((out, axis))
        if left is not None:
            front, size = pads[place], ir.static_dims(data)[axis]
            new[place] = int(np.count_nonzero(left < front))
            new[place + len(axes)] = int(np.count_nonzero(left >= front + size))
    if new != list(pads):
        node.replace_input_with(1, rw.integers(graph, new, f"{out.name}_pads"))


def _resize(node: ir.Node, graph: ir.Graph, kept: Kept) -> None:
    out = node.outputs[0]
    sizes = rw.integer_constant(node.inputs[3]) if len(node.inputs) > 3 else None
    left = kept.get((out, 1))
    if sizes is not None and left is not None and len(sizes) == len(out.shape or ()):
        node.replace_input_with(
            3,
            rw.integers(
                graph, [len(left) if i == 1 else s for i, s in enumerate(sizes)], f"{out.name}_sizes"
            ),
        )


def _gather(node: ir.Node, graph: ir.Graph, kept: Kept) -> None:
    data, out, axis = node.inputs[0], node.outputs[0], _axis(node, 0)
    before, after = kept.get((data, axis)), kept.get((out, axis))  # type: ignore[arg-type]
    indices = ir.constant(node.inputs[1])
    if before is None or data is None or indices is None:
        return
    size = ir.static_dims(data)[axis]
    taken = indices.reshape(-1) % size if after is None else (indices % size)[after]
    new = np.searchsorted(before, taken).astype(np.int64).reshape(indices.shape if after is None else -1)
    node.replace_input_with(1, ir.add_initializer(graph, new, ir.fresh_name(graph, f"{out.name}_channels")))


def _slice(node: ir.Node, graph: ir.Graph, kept: Kept) -> None:
    """New bounds along each axis that shrinks; where they are no regular steps any more, a Gather before it."""
    data, out, spec = node.inputs[0], node.outputs[0], rw.slice_spec(node)
    if data is None or spec is None:
        return
    bounds = {a: (s, e, t) for a, s, e, t in zip(spec.axes, spec.starts, spec.ends, spec.steps, strict=True)}
    changed = [axis for axis in bounds if (data, axis) in kept]
    for axis in changed:
        size = ir.static_dims(data)[axis]
        taken = (
            np.arange(size)[slice(*bounds[axis])] if bounds[axis][2] > 0 else _backwards(size, bounds[axis])
        )
        if (out, axis) in kept:
            taken = taken[kept[out, axis]]
        new = np.searchsorted(kept[data, axis], taken)
        steps = np.unique(np.diff(new))
        if len(new) and len(steps) <= 1 and (len(steps) == 0 or steps[0] > 0):
            step = int(steps[0]) if len(steps) else 1
            bounds[axis] = (int(new[0]), int(new[-1]) + 1, step)
        else:
            bounds[axis] = (0, len(new), 1)
            _choose(node, graph, axis, new, {axis: len(taken)})
    if changed:
        listed = list(bounds)
        for place, values in enumerate(zip(*bounds.values(), strict=True)):
            position = (1, 2, 4)[place]
            if position >= len(node.inputs):
                node.resize_inputs(5)
            node.replace_input_with(position, rw.integers(graph, values, f"{out.name}_bounds"))
        node.replace_input_with(3, rw.integers(graph, listed, f"{out.name}_axes"))


def _backwards(size: int, bounds: tuple[int, int, int]) -> ir.Array:
    start, end, step = bounds
    return np.arange(size)[start : None if end < -size else end : step]


def _choose(node: ir.Node, graph: ir.Graph, axis: int, indices: ir.Array, size: Mapping[int, int]) -> None:
    """Reads these indices through a new Gather."""
    data = node.inputs[0]
    assert data is not None
    given = ir.add_initializer(graph, indices.astype(np.int64), ir.fresh_name(graph, f"{data.name}_channels"))
    gather = rw.new_node("Gather", [data, given], data, {"axis": axis})
    out = gather.outputs[0]
    out.name = ir.fresh_name(graph, f"{data.name}_chosen")
    out.shape = None if data.shape is None else ir.Shape([size.get(i, d) for i, d in enumerate(data.shape)])
    graph.insert_before(node, gather)
    node.replace_input_with(0, out)


def _axis(node: ir.Node, default: int) -> int:
    data = node.inputs[0]
    return int(ir.attribute(node, "axis", default)) % max(len(data.shape or ()) if data is not None else 1, 1)


_FIXES: dict[str, Callable[[ir.Node, ir.Graph, Kept], None]] = {
    "Conv": _group,
    "ConvTranspose": _group,
    "Expand": _target_shape,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _target_shape,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
}
