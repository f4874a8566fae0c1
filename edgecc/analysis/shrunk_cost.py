"""What a network would cost with fewer channels, without making it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from edgecc import ir
from edgecc.analysis.channel_problem import Axis, size
from edgecc.analysis.cost import elements, macs, output_channels, padded, priced
from edgecc.target import CostSpec

# Axis -> how many of its indices are gone.
Gone = Mapping[Axis, int]


@dataclass(frozen=True)
class _Part:
    """A node's multiply-accumulates, which shrink with each of `by`, and what it reads and writes.

    `made`: how many output channels a product makes, and the axis of the weights by which these shrink.
    """

    macs: int
    by: tuple[Axis, ...]
    made: tuple[int, Axis] | None
    moved: tuple[tuple[int, tuple[Axis, ...]], ...]


class ShrunkCost:
    """Sums over the nodes of a network some of whose axes have fewer indices."""

    def __init__(self, model: ir.Model, rates: CostSpec, axes: set[Axis]) -> None:
        """Looks at a network.

        Args:
            model: with known shapes.
            rates: of the target, in float32.
            axes: those that may shrink.
        """
        self._rates = rates
        self._parts = [_part(node, axes) for node in model.graph]
        self._weights = [
            (elements(v), _own(v, axes))
            for v in model.graph.initializers.values()
            if v.dtype == ir.DataType.FLOAT
        ]
        self._readers: dict[Axis, set[int]] = {}
        for i, part in enumerate(self._parts):
            for axis in {*part.by, *(a for _, own in part.moved for a in own)}:
                self._readers.setdefault(axis, set()).add(i)

    def macs(self, gone: Gone) -> float:
        """Multiply-accumulates of one inference with batch 1."""
        return sum(_macs(part, gone) for part in self._parts)

    def size(self, gone: Gone) -> float:
        """Bytes of the constants in float32."""
        return sum(4 * count * _left(own, gone) for count, own in self._weights)

    def latency(self, gone: Gone) -> float:
        """Cycles by the target's numbers (see `analysis.cost.cycles`)."""
        return sum(self._cycles(part, gone) for part in self._parts)

    def saved(self, kind: str, before: Gone, after: Gone) -> float:
        """What `after` saves beside `before`, of macs, size or latency; only where the two differ is looked at."""
        if kind == "size":
            return self.size(before) - self.size(after)
        changed = {axis for axis, count in after.items() if count != before.get(axis, 0)}
        parts = [self._parts[i] for i in set().union(*(self._readers.get(axis, set()) for axis in changed))]
        measure: Callable[[_Part, Gone], float] = self._cycles if kind == "latency" else _macs
        return sum(measure(part, before) - measure(part, after) for part in parts)

    def _cycles(self, part: _Part, gone: Gone) -> float:
        rates = self._rates
        moved = sum(4 * count * _left(own, gone) for count, own in part.moved)
        products = _macs(part, gone)
        if part.made is not None:
            left = max(part.made[0] * _left((part.made[1],), gone), 1.0)
            products *= padded(round(left), "fp32", rates) / left
        return priced(products, moved, "fp32", rates)


def _macs(part: _Part, gone: Gone) -> float:
    return part.macs * _left(part.by, gone)


def _left(axes: tuple[Axis, ...], gone: Gone) -> float:
    return prod(1 - gone.get(axis, 0) / size(*axis) for axis in axes)


def _own(value: ir.Value, axes: set[Axis]) -> tuple[Axis, ...]:
    return tuple((value, i) for i in range(len(value.shape or ())) if (value, i) in axes)


def _part(node: ir.Node, axes: set[Axis]) -> _Part:
    count = macs(node)
    values = [
        v
        for v in (*node.inputs, *node.outputs)
        if v is not None and (v.dtype is None or v.dtype.is_floating_point())
    ]
    by: tuple[Axis, ...] = ()
    if count and node.inputs[1] is not None:
        weight, out = node.inputs[1], node.outputs[0]
        summed = (weight, len(weight.shape or ()) - (1 if ir.attribute(node, "transB", 0) else 2))
        computed = (*_own(out, axes), *({summed} & axes))
        by = _own(weight, axes) if weight.const_value is not None else computed
    channels, made = output_channels(node), None
    if channels and node.inputs[1] is not None and node.inputs[1].const_value is not None:
        rows = node.op_type == "Conv" or ir.attribute(node, "transB", 0)
        made = (channels, (node.inputs[1], 0 if rows else len(node.inputs[1].shape or ()) - 1))
    return _Part(count, by, made, tuple((elements(v), _own(v, axes)) for v in values))
