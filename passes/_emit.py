"""Writes operators into a graph one after the other, with their shapes; what is constant is computed at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.ir import Array
from edgecc.passes import _rewrite as rw

Dim = int | ir.SymbolicDim
Dims = tuple[Dim, ...]

_FOLDED: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Transpose": lambda array, perm: array.transpose(perm),
}


@dataclass
class Emitter:
    """Collects new nodes, which the caller puts into the graph (`ir.replace`).

    Attributes:
        stem: begins the names of what is made.
        dtype: of what is computed; parts, joins and other shapes of a value keep the value's.
        nodes: made so far, in order.
    """

    graph: ir.Graph
    stem: str
    dtype: ir.DataType
    nodes: list[ir.Node] = field(default_factory=list)

    def constant(self, array: Any, what: str = "constant", dtype: ir.DataType | None = None) -> ir.Value:
        """A new constant, of the emitter's type if no other is given."""
        array = np.asarray(array, (dtype or self.dtype).numpy())
        return ir.add_initializer(self.graph, array, ir.fresh_name(self.graph, f"{self.stem}_{what}"))

    def integers(self, values: Sequence[int], what: str) -> ir.Value:
        """A new one-dimensional int64 constant."""
        return self.constant(values, what, ir.DataType.INT64)

    def op(
        self, op_type: str, inputs: Sequence[ir.Value | None], shape: Sequence[Dim] | None,
        dtype: ir.DataType | None = None, **attributes: Any,
    ) -> ir.Value:  # fmt: skip
        """The result of an operator with one output of this shape; None: to be inferred."""
        return self.ops(op_type, inputs, [shape], dtype, **attributes)[0]

    def ops(
        self, op_type: str, inputs: Sequence[ir.Value | None], shapes: Sequence[Sequence[Dim] | None],
        dtype: ir.DataType | None = None, **attributes: Any,
    ) -> list[ir.Value]:  # fmt: skip
        """The results of an operator."""
        arrays = [ir.constant(value) for value in inputs]
        if op_type in _FOLDED and all(array is not None for array in arrays):
            return [self.constant(_FOLDED[op_type](*arrays, **attributes), op_type.lower(), dtype)]
        outputs = [
            ir.Value(
                name=ir.fresh_name(self.graph, f"{self.stem}_{op_type.lower()}"),
                shape=None if shape is None else ir.Shape(shape),
                type=ir.TensorType(dtype or self.dtype),
            )
            for shape in shapes
        ]
        node = ir.Node(
            "", op_type, inputs, ir.convenience.convert_attributes(attributes), outputs=outputs,
            name=f"{outputs[0].name}_node",
        )  # fmt: skip
        self.nodes.append(node)
        return outputs

    def reshape(self, value: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """The same elements in another shape; a symbolic dimension becomes -1."""
        if tuple(value.shape or ()) == tuple(shape):
            return value
        array = ir.constant(value)
        target = [d if isinstance(d, int) else -1 for d in shape]
        if array is not None:
            return self.constant(array.reshape(target), "reshape", value.dtype)
        return self.op("Reshape", [value, self.integers(target, "shape")], shape, value.dtype)

    def part(self, value: ir.Value, start: int, stop: int, axis: int = 0) -> ir.Value:
        """The elements `start` to `stop` of one axis."""
        shape = list(value.shape or ())
        if (start, stop) == (0, shape[axis]):
            return value
        array = ir.constant(value)
        if array is not None:
            index = (slice(None),) * axis + (slice(start, stop),)
            return self.constant(array[index], "part", value.dtype)
        bounds = [self.integers([v], "bound") for v in (start, stop, axis)]
        shape[axis] = stop - start
        return self.op("Slice", [value, *bounds], shape, value.dtype)

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """The axes in another order."""
        shape = list(value.shape or ())
        return self.op("Transpose", [value], [shape[a] for a in perm], value.dtype, perm=list(perm))

    def split(self, value: ir.Value, sizes: Sequence[int], axis: int) -> list[ir.Value]:
        """Consecutive parts of one axis."""
        if len(sizes) == 1:
            return [value]
        if ir.constant(value) is not None:
            ends = np.cumsum(sizes)
            return [self.part(value, int(e - s), int(e), axis) for s, e in zip(sizes, ends, strict=True)]
        shape = list(value.shape or ())
        shapes = [[*shape[:axis], size, *shape[axis + 1 :]] for size in sizes]
        lengths = self.integers(sizes, "sizes")
        return self.ops("Split", [value, lengths], shapes, value.dtype, axis=axis)

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """One value behind the other along an axis."""
        if len(values) == 1:
            return values[0]
        shape = list(values[0].shape or ())
        lengths = [v.shape[axis] for v in values if v.shape is not None]
        shape[axis] = sum(d for d in lengths if isinstance(d, int))
        return self.op("Concat", list(values), shape, values[0].dtype, axis=axis)

    def replace(self, node: ir.Node, outputs: Sequence[tuple[ir.Value, ir.Value]]) -> None:
        """Puts the new nodes in the place of `node`, each pair's second value in that of the first."""
        made = {out for new in self.nodes for out in new.outputs}
        taken: dict[ir.Value, ir.Value] = {}
        for out, value in outputs:
            if (
                value not in made or value in taken.values()
            ):  # a node's result has one name, a graph output too
                shape = None if value.shape is None else tuple(value.shape)
                value = self.op("Identity", [value], shape, value.dtype or out.dtype)
            taken[out] = value
        unread = list(node.inputs)
        ir.replace([node], self.nodes, taken)
        rw.forget_bodies(node)
        rw.drop_dead(unread)


def read_outputs(node: ir.Node) -> list[ir.Value]:
    """The outputs that something reads, or that are the graph's."""
    return [out for out in node.outputs if out.uses() or out.is_graph_output()]


def settle(model: ir.Model, ctx: Any) -> None:
    """Learns the shapes of new nodes and evaluates what has become constant, nested branches included."""
    from edgecc.analysis.shapes import infer_static
    from edgecc.passes.fold_constants import FoldConstants

    infer_static(model)
    while FoldConstants().apply(model, ctx).rewritten:
        infer_static(model)
    rw.remove_unused(model)
