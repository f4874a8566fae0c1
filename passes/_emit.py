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
        dtype: of every floating-point value.
        nodes: made so far, in order.
    """

    graph: ir.Graph
    stem: str
    dtype: ir.DataType
    nodes: list[ir.Node] = field(default_factory=list)

    def constant(self, array: Any, what: str = "constant", *, integer: bool = False) -> ir.Value:
        """A new constant of the emitter's type, or of int64."""
        array = np.asarray(array, np.int64 if integer else self.dtype.numpy())
        return ir.add_initializer(self.graph, array, ir.fresh_name(self.graph, f"{self.stem}_{what}"))

    def op(
        self, op_type: str, inputs: Sequence[ir.Value | None], shape: Sequence[Dim], **attributes: Any
    ) -> ir.Value:
        """The result of an operator with one output of this shape."""
        return self.ops(op_type, inputs, [shape], **attributes)[0]

    def ops(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        shapes: Sequence[Sequence[Dim]],
        **attributes: Any,
    ) -> list[ir.Value]:
        """The results of an operator."""
        arrays = [ir.constant(value) for value in inputs]
        if op_type in _FOLDED and all(array is not None for array in arrays):
            return [self.constant(_FOLDED[op_type](*arrays, **attributes), op_type.lower())]
        outputs = [
            ir.Value(
                name=ir.fresh_name(self.graph, f"{self.stem}_{op_type.lower()}"),
                shape=ir.Shape(shape),
                type=ir.TensorType(self.dtype),
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
            return self.constant(array.reshape(target), "reshape")
        return self.op("Reshape", [value, self.constant(target, "shape", integer=True)], shape)

    def part(self, value: ir.Value, start: int, stop: int, axis: int = 0) -> ir.Value:
        """The elements `start` to `stop` of one axis."""
        shape = list(value.shape or ())
        if (start, stop) == (0, shape[axis]):
            return value
        array = ir.constant(value)
        if array is not None:
            index = (slice(None),) * axis + (slice(start, stop),)
            return self.constant(array[index], "part")
        bounds = [self.constant([v], "bound", integer=True) for v in (start, stop, axis)]
        shape[axis] = stop - start
        return self.op("Slice", [value, *bounds], shape)

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """The axes in another order."""
        shape = list(value.shape or ())
        return self.op("Transpose", [value], [shape[a] for a in perm], perm=list(perm))

    def split(self, value: ir.Value, sizes: Sequence[int], axis: int) -> list[ir.Value]:
        """Consecutive parts of one axis."""
        if len(sizes) == 1:
            return [value]
        if ir.constant(value) is not None:
            ends = np.cumsum(sizes)
            return [self.part(value, int(e - s), int(e), axis) for s, e in zip(sizes, ends, strict=True)]
        shape = list(value.shape or ())
        shapes = [[*shape[:axis], size, *shape[axis + 1 :]] for size in sizes]
        lengths = self.constant(sizes, "sizes", integer=True)
        return self.ops("Split", [value, lengths], shapes, axis=axis)

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """One value behind the other along an axis."""
        if len(values) == 1:
            return values[0]
        shape = list(values[0].shape or ())
        lengths = [v.shape[axis] for v in values if v.shape is not None]
        shape[axis] = sum(d for d in lengths if isinstance(d, int))
        return self.op("Concat", list(values), shape, axis=axis)

    def identity(self, value: ir.Value) -> ir.Value:
        """The value itself under a new name, computed by a node."""
        return self.op("Identity", [value], tuple(value.shape or ()))


def settle(model: ir.Model, ctx: Any) -> None:
    """Learns the shapes of new nodes and evaluates what has become constant, nested branches included."""
    from edgecc.analysis.shapes import infer_static
    from edgecc.passes.fold_constants import FoldConstants

    infer_static(model)
    while FoldConstants().apply(model, ctx).rewritten:
        infer_static(model)
    rw.remove_unused(model)
