"""Where the symbolic batch is in every value: which axis it makes up, alone or together with other axes.

A network computes each sample for itself, but exporters move the batch about: PyTorch's attention works on
(sequence, batch, width) and (batch * heads, sequence, width), vision transformers on (3, batch, heads, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from edgecc import ir
from edgecc.analysis.layout import BIND, CARRY, REDUCE

RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
ELEMENTWISE = CARRY | {"Dropout"}
LAST = frozenset({"Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "LpNormalization"})


@dataclass(frozen=True)
class Batch:
    """The batch in the shape of a value: axis `axis` has outer * N * inner positions, N in the middle."""

    axis: int
    outer: int = 1
    inner: int = 1

    @property
    def alone(self) -> bool:
        """Whether the axis is the batch and nothing else."""
        return self.outer == self.inner == 1

    @property
    def leads(self) -> bool:
        """Whether samples follow each other in memory: what every runtime takes for a batch."""
        return self.axis == 0 and self.outer == 1


@dataclass(frozen=True)
class Sample:
    """A value of one sample: the shape at a batch of one, and where the batch is; None: the same for all samples."""

    shape: tuple[int, ...]
    batch: Batch | None = None


Samples = dict[ir.Value, Sample]


def batch_axes(graph: ir.Graph) -> Samples:
    """What is known of every value; values behind an operator that mixes samples, or that no rule knows, are absent."""
    found: Samples = {}
    for value in graph.inputs:
        shape = ir.dims(value)
        if shape is not None and ir.is_static(value):
            batch = Batch(0) if shape and shape[0] is None else None
            found[value] = Sample(ir.static_dims(value), batch)
    for node in graph:
        for out in node.outputs:
            sample = result_of(node, out, found)
            if sample is not None:
                found[out] = sample
    return found


def sample_of(value: ir.Value | None, found: Mapping[ir.Value, Sample]) -> Sample | None:
    """As found, or a constant's."""
    if value is None:
        return None
    if value in found:
        return found[value]
    array = ir.constant(value)
    return None if array is None else Sample(array.shape)


def result_of(node: ir.Node, out: ir.Value, found: Mapping[ir.Value, Sample]) -> Sample | None:
    """What is known of one result of `node` from what is known of its operands."""
    shape = ir.dims(out)
    if shape is None:
        return None
    if None not in shape:
        return Sample(tuple(d for d in shape if d is not None))
    if node.domain or shape.count(None) > 1:
        return None
    rule = _RULES.get(node.op_type, _alone)
    batch = rule(node, shape.index(None), shape, found)
    if batch is None or batch.axis != shape.index(None):
        return None
    return Sample(tuple(batch.outer * batch.inner if d is None else d for d in shape), batch)


Shape = tuple[int | None, ...]
Found = Mapping[ir.Value, Sample]


def _data(node: ir.Node, found: Found) -> Sample | None:
    return sample_of(node.inputs[0], found) if node.inputs else None


def _alone(node: ir.Node, axis: int, shape: Shape, found: Found) -> Batch | None:
    """Of an operator that nobody described: (N, ...) makes (N, ...)."""
    for value in node.inputs:
        sample = sample_of(value, found)
        if value is not None and (sample is None or (sample.batch or Batch(0)) != Batch(0)):
            return None
    return Batch(0) if axis == 0 else None


def _transposed(node: ir.Node, axis: int, shape: Shape, found: Found) -> Batch | None:
    data = _data(node, found)
    if data is None or data.batch is None:
        return None
    perm = ir.attribute(node, "perm", tuple(reversed(range(len(data.shape)))))
    return replace(data.batch, axis=perm.index(data.batch.axis))


def _reshaped(node: ir.Node, axis: int, shape: Shape, found: Found) -> Batch | None:
    """The batch keeps its distance from the front, or else the reshape mixes samples."""
    data = _data(node, found)
    if data is None or data.batch is None:
        return None
    before = math.prod(data.shape[: data.batch.axis]) * data.batch.outer
    whole = math.prod(data.shape)
    front, rest = math.prod(d or 1 for d in shape[:axis]), math.prod(d for d in shape if d is not None)
    if 0 in (front, rest, whole) or before % front or whole % rest:
        return None
    outer, extent = before // front, whole // rest
    return Batch(axis, outer, extent // outer) if extent % outer == 0 else None


def _elementwise(node: ir.Node, axis: int, shape: Shape, found: Found) -> Batch | None:
    """All operands that have the batch have it in one place, counted from behind; the others are 1 there."""
    places: set[Batch] = set()
    for value in node.inputs:
        if value is None:
            continue
        sample = sample_of(value, found)
        if sample is None:
            return None
        offset = len(shape) - len(sample.shape)
        if sample.batch is not None:
            places.add(replace(sample.batch, axis=sample.batch.axis + offset))
        elif axis >= offset and sample.shape[axis - offset] != 1:
            return None
    return places.pop() if len(places) == 1 else None


def _product(node: ir.Node, axis: int, shape: Shape, found: Found) -> Batch | None:
    """MatMul and Gemm: among the leading axes, or among the rows of the first operand."""
    left, right = (sample_of(v, found) for v in node.inputs[:2])
    if left is None or right is None or min(len(left.shape), len(right.shape)) < 2:
        return None
    if node.op_type == "Gemm":
        plain = left.batch is not None and right.batch is None and not ir.attribute(node, "transA", 0)
        bias = sample_of(node.inputs[2], found) if len(node.inputs) > 2 else Sample(())
        if bias is None or bias.batch is not None or (len(bias.shape) == 2 and bias.shape[0] != 1):
            return None
        return left.batch if plain and left.batch is not None and left.batch.axis == 0 else None
    places = set()
    for sample in (left, right):
        offset = len(shape) - len(sample.shape)
        if sample.batch is None:
            if axis < len(shape) - 2 and axis >= offset and sample.shape[axis - offset] != 1:
                return None
            continue
        place = replace(sample.batch, axis=sample.batch.axis + offset)
        if place.axis > len(shape) - (3 if sample is right else 2):  # columns, or rows of the second
            return None
        places.add(place)
    if right.batch is None and axis == len(shape) - 2 and len(right.shape) > 2:
        return None
    return places.pop() if len(places) == 1 else None


def _same(node: ir.Node, axis: int, shape: Shape, found: Found) -> Batch | None:
    """Operators along other axes than the batch's."""
    data = _data(node, found)
    if data is None or data.batch is None:
        return None
    along = axes_along(node, len(data.shape))
    return None if along is None or data.batch.axis in along else data.batch


def axes_along(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """The axes along which an operator works; None where they are computed."""
    kind = node.op_type
    if kind in ("LayerNormalization", "RMSNormalization"):
        return tuple(range(int(ir.attribute(node, "axis", -1)) % rank, rank))
    if kind in REDUCE or kind in ("Slice", "Pad"):
        position = 1 if kind in REDUCE else 3
        value = node.inputs[position] if len(node.inputs) > position else None
        if value is None:
            if kind == "Slice":
                starts = ir.constant(node.inputs[1])
                return None if starts is None else tuple(range(starts.size))
            pads = ir.constant(node.inputs[1]) if kind == "Pad" else None
            return tuple(a for a in range(rank) if pads is None or pads.reshape(2, rank)[:, a].any())
        array = ir.constant(value)
        return None if array is None else tuple(int(a) % rank for a in array.reshape(-1))
    default = {"Softmax": -1, "LogSoftmax": -1, "LpNormalization": -1}.get(kind, 0)
    return (int(ir.attribute(node, "axis", default)) % rank,)


def _reduced(node: ir.Node, axis: int, shape: Shape, found: Found) -> Batch | None:
    batch = _same(node, axis, shape, found)
    data = _data(node, found)
    if batch is None or data is None or ir.attribute(node, "keepdims", 1):
        return batch
    gone = axes_along(node, len(data.shape)) or ()
    return replace(batch, axis=batch.axis - sum(a < batch.axis for a in gone))


def _gathered(node: ir.Node, axis: int, shape: Shape, found: Found) -> Batch | None:
    data, places = (sample_of(v, found) for v in node.inputs[:2])
    if data is None or places is None:
        return None
    along = int(ir.attribute(node, "axis", 0)) % len(data.shape)
    if data.batch is None:
        return None if places.batch is None else replace(places.batch, axis=places.batch.axis + along)
    if places.batch is not None or along == data.batch.axis:
        return None
    shift = len(places.shape) - 1 if along < data.batch.axis else 0
    return replace(data.batch, axis=data.batch.axis + shift)


def _joined(node: ir.Node, axis: int, shape: Shape, found: Found) -> Batch | None:
    samples = [sample_of(v, found) for v in node.inputs]
    places = {None if s is None else s.batch for s in samples}
    place = places.pop()
    if places or place is None or int(ir.attribute(node, "axis", 0)) % len(shape) == place.axis:
        return None
    return place


def _spread(node: ir.Node, axis: int, shape: Shape, found: Found) -> Batch | None:
    """Expand: the batch of its operand, or that of the target, which the pass `spread_batch` writes."""
    data = _data(node, found)
    if data is not None and data.batch is not None:
        return replace(data.batch, axis=data.batch.axis + len(shape) - len(data.shape))
    target = node.inputs[1].producer() if node.inputs[1] is not None else None
    if data is None or target is None or target.op_type != "Concat":
        return None
    sizes = [v.producer() for v in target.inputs if v is not None and ir.constant(v) is None]
    of_input = len(sizes) == 1 and sizes[0] is not None and sizes[0].op_type == "Shape"
    return Batch(axis) if of_input else None


def _spatial(node: ir.Node, axis: int, shape: Shape, found: Found) -> Batch | None:
    data = _data(node, found)
    if data is None or data.batch is None or not data.batch.leads:
        return None
    others = [sample_of(v, found) for v in node.inputs[1:] if v is not None]
    return data.batch if all(s is not None and s.batch is None for s in others) else None


Rule = Callable[[ir.Node, int, Shape, Found], Batch | None]
_RULES: dict[str, Rule] = {
    "Transpose": _transposed,
    "MatMul": _product,
    "Gemm": _product,
    "Gather": _gathered,
    "Concat": _joined,
    "Expand": _spread,
    "Split": _same,
    "Slice": _same,
    "Pad": _same,
    **dict.fromkeys(RESHAPES, _reshaped),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(LAST, _same),
    **dict.fromkeys(REDUCE, _reduced),
    **dict.fromkeys(BIND, _spatial),
}
