"""Which channels can only be removed together: the indices of axes of values that a network ties to each other.

A position is an index of an axis of a value. Operators link positions: the output channel of a convolution is the
row of its weights, its bias, the channel that the next layer reads, the channel on the other side of an Add. What
is linked, directly or not, is one unit; a unit that touches an input or output of the network, or an axis over
which something is computed, must stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.analysis.evaluate import EVALUATION_ERRORS, evaluate
from edgecc.analysis.layout import CARRY, REDUCE

Axis = tuple[ir.Value, int]


@dataclass(frozen=True)
class ChannelGroup:
    """Units of the same axes: channels of which any may be removed.

    Attributes:
        axes: the axes that lose an index, or several, with each unit.
        units: their numbers.
    """

    axes: tuple[Axis, ...]
    units: tuple[int, ...]


@dataclass(frozen=True)
class Channels:
    """What can be removed from a network.

    Attributes:
        unit: of each index of an axis the number of its unit; -1 where it must stay. Axes that cannot shrink at all
            are not listed.
        groups: the units by their axes, in the order of the graph.
        reasons: why an axis must stay.
    """

    unit: dict[Axis, ir.Array]
    groups: tuple[ChannelGroup, ...]
    reasons: dict[Axis, str]

    def kept(self, removed: set[int]) -> dict[Axis, ir.Array]:
        """The indices that stay of every axis that loses some."""
        gone = np.asarray(sorted(removed), np.int64)
        found = {axis: np.flatnonzero(~np.isin(units, gone)) for axis, units in self.unit.items()}
        return {axis: kept for axis, kept in found.items() if len(kept) < len(self.unit[axis])}


def find_channels(model: ir.Model) -> Channels:
    """Looks at the main graph; what a branch or a loop reads must stay."""
    problem = _Problem(version=max(model.opset_imports.get(d, 0) for d in ("", "ai.onnx")))
    for value in model.graph.inputs:
        problem.pin_all(value, "is an input of the network")
    for node in model.graph:
        rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        (rule or _unknown)(node, problem)
    for value in model.graph.outputs:
        problem.pin_all(value, "is an output of the network")
    problem.settle()
    return _solve(problem, model)


@dataclass
class _Choice:
    """A node that merges or splits axes: of its candidates (from, to, pairs) each axis can be in one."""

    node: ir.Node
    candidates: list[tuple[Axis, Axis, ir.Array]]


@dataclass
class _Problem:
    """Links between positions, and axes that must stay."""

    version: int
    links: list[tuple[Axis, Axis, ir.Array]] = field(default_factory=list)
    pins: dict[Axis, str] = field(default_factory=dict)
    choices: list[_Choice] = field(default_factory=list)

    def pin(self, value: ir.Value | None, axis: int, reason: str) -> None:
        if value is not None:
            self.pins.setdefault((value, axis), reason)

    def pin_all(self, value: ir.Value | None, reason: str) -> None:
        for axis in range(len(_sizes(value))):
            self.pin(value, axis, reason)

    def same(self, a: ir.Value | None, i: int, b: ir.Value | None, j: int) -> None:
        """Index for index, where both axes have the same length (above 1: a single index never goes)."""
        size = _size(a, i)
        if size > 1 and size == _size(b, j):
            index = np.arange(size)
            self.link(a, i, b, j, np.stack([index, index]))

    def link(self, a: ir.Value | None, i: int, b: ir.Value | None, j: int, pairs: ir.Array) -> None:
        """Ties index pairs[0, k] of one axis to pairs[1, k] of the other."""
        if a is not None and b is not None:
            self.links.append(((a, i), (b, j), pairs))

    def settle(self) -> None:
        """Decides which axes merges and splits carry: where an axis is not bound to stay, the finest."""
        import networkx as nx

        graph = nx.Graph()
        graph.add_edges_from((a, b) for a, b, _ in self.links)
        graph.add_nodes_from(self.pins)
        for choice in self.choices:
            graph.add_nodes_from(axis for a, b, _ in choice.candidates for axis in (a, b))
            stays = {axis for pin in self.pins if pin in graph for axis in (pin,)}
            bound = {
                axis: bool(stays & nx.node_connected_component(graph, axis))
                for axis in {axis for a, b, _ in choice.candidates for axis in (a, b)}
            }
            used: set[Axis] = set()
            order = sorted(choice.candidates, key=lambda c: (bound[c[0]] or bound[c[1]], -_parts(c[2])))
            for a, b, pairs in order:
                if a not in used and b not in used:
                    self.links.append((a, b, pairs))
                    graph.add_edge(a, b)
                    used |= {a, b}
                else:
                    for axis in {a, b} - used:
                        self.pin(
                            *axis,
                            f"{ir.label(choice.node)} ({choice.node.op_type}) merges it with another axis",
                        )


def _parts(pairs: ir.Array) -> int:
    return min(len(np.unique(pairs[0])), len(np.unique(pairs[1])))


def _sizes(value: ir.Value | None) -> tuple[int, ...]:
    """The lengths of the axes, 1 for what is not known."""
    return () if value is None else tuple(d or 1 for d in ir.dims(value) or ())


def _size(value: ir.Value | None, axis: int) -> int:
    sizes = _sizes(value)
    return sizes[axis] if axis < len(sizes) else 1


def _solve(problem: _Problem, model: ir.Model) -> Channels:
    """Units as connected components of positions."""
    import networkx as nx

    start: dict[Axis, int] = {}
    count = 0
    for value in _values(model):
        for axis, size in enumerate(_sizes(value)):
            if size > 1:
                start[value, axis] = count
                count += size
    graph = nx.Graph()
    for a, b, pairs in problem.links:
        if not (a in problem.pins and b in problem.pins):
            graph.add_edges_from(
                zip((pairs[0] + start[a]).tolist(), (pairs[1] + start[b]).tolist(), strict=True)
            )
    stays = {
        i for axis in problem.pins if axis in start for i in range(start[axis], start[axis] + _size(*axis))
    }
    labels = np.full(count, -1, np.int64)
    number = 0
    for component in nx.connected_components(graph):
        if stays.isdisjoint(component):
            labels[list(component)] = number
            number += 1
    unit = {axis: labels[at : at + _size(*axis)] for axis, at in start.items()}
    unit = {axis: units for axis, units in unit.items() if (units >= 0).any()}
    # A lone index that nothing is tied to, as what a Slice drops, is no channel: it has its maker's axis.
    members: dict[int, list[Axis]] = {}
    for axis, units in unit.items():
        for u in np.unique(units[units >= 0]).tolist():
            members.setdefault(u, []).append(axis)
    groups: dict[tuple[Axis, ...], list[int]] = {}
    for u, axes in members.items():
        groups.setdefault(tuple(axes), []).append(u)
    found = tuple(ChannelGroup(axes, tuple(units)) for axes, units in groups.items())
    return Channels(unit, found, dict(problem.pins))


def _values(model: ir.Model) -> Iterable[ir.Value]:
    yield from model.graph.inputs
    seen = set(model.graph.inputs)
    for node in model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value not in seen:
                seen.add(value)
                yield value


# One rule an operator: which positions it links, which axes it needs whole.


def _unknown(node: ir.Node, p: _Problem) -> None:
    read = [*node.inputs]
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            read += [v for inner in attr.value for v in inner.inputs]
    for value in (*read, *node.outputs):
        p.pin_all(value, f"{ir.label(node)} ({node.op_type}) needs it whole")


def _elementwise(node: ir.Node, p: _Problem) -> None:
    out = node.outputs[0]
    rank = len(_sizes(out))
    for value in node.inputs:
        own = len(_sizes(value))
        for axis in range(own):
            p.same(value, axis, out, rank - own + axis)


def _conv(node: ir.Node, p: _Problem) -> None:
    data, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    group, per_group = int(ir.attribute(node, "group", 1)), _size(weight, 1)
    channels = np.arange(_size(data, 1))
    rows = np.arange(_size(weight, 0))
    if group == 1:
        p.same(data, 1, weight, 1)
    elif per_group == 1:  # depthwise
        p.link(data, 1, weight, 0, np.stack([rows * len(channels) // max(len(rows), 1), rows]))
    else:  # the same place of every group, so that groups stay equal
        p.link(data, 1, weight, 1, np.stack([channels, channels % per_group]))
        p.link(weight, 0, weight, 0, np.stack([rows, rows % (len(rows) // group)]))
    p.same(weight, 0, out, 1)
    _spatial(node, p, weight, out)


def _conv_transpose(node: ir.Node, p: _Problem) -> None:
    data, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    group, per_group = int(ir.attribute(node, "group", 1)), _size(weight, 1)
    p.same(data, 1, weight, 0)
    made = np.arange(_size(out, 1))
    if group == 1:
        p.same(weight, 1, out, 1)
    elif per_group == 1 and _size(weight, 0) == group:
        p.same(weight, 0, out, 1)
    else:
        rows = np.arange(_size(weight, 0))
        p.link(weight, 0, weight, 0, np.stack([rows, rows % (len(rows) // group)]))
        p.link(out, 1, weight, 1, np.stack([made, made % per_group]))
    _spatial(node, p, weight, out)


def _spatial(node: ir.Node, p: _Problem, weight: ir.Value | None, out: ir.Value) -> None:
    """The bias, and the axes over which a convolution runs."""
    if len(node.inputs) > 2:
        p.same(node.inputs[2], 0, out, 1)
    p.same(node.inputs[0], 0, out, 0)
    for axis in range(2, len(_sizes(out))):
        for value in (node.inputs[0], weight, out):
            p.pin(value, axis, f"{ir.label(node)} slides along it")


def _gemm(node: ir.Node, p: _Problem) -> None:
    a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
    turned, other = int(ir.attribute(node, "transA", 0)), int(ir.attribute(node, "transB", 0))
    p.same(a, 1 - turned, b, other)
    p.same(a, turned, out, 0)
    p.same(b, 1 - other, out, 1)
    if len(node.inputs) > 2:
        rank = len(_sizes(node.inputs[2]))
        for axis in range(rank):
            p.same(node.inputs[2], axis, out, 2 - rank + axis)


def _matmul(node: ir.Node, p: _Problem) -> None:
    a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
    ranks = [len(_sizes(v)) for v in (a, b, out)]
    if min(ranks) < 2:
        return _unknown(node, p)
    p.same(a, ranks[0] - 1, b, ranks[1] - 2)
    p.same(a, ranks[0] - 2, out, ranks[2] - 2)
    p.same(b, ranks[1] - 1, out, ranks[2] - 1)
    for value, rank in ((a, ranks[0]), (b, ranks[1])):
        for axis in range(rank - 2):
            p.same(value, axis, out, ranks[2] - rank + axis)
    return None


def _per_channel(node: ir.Node, p: _Problem) -> None:
    """Normalisation of each channel by itself."""
    out = node.outputs[0]
    for axis in (0, 1):
        p.same(node.inputs[0], axis, out, axis)
    for value in node.inputs[1:]:
        p.same(value, 0, out, 1)
    for axis in range(2, len(_sizes(out))):
        p.same(node.inputs[0], axis, out, axis)


def _layer_norm(node: ir.Node, p: _Problem) -> None:
    rank = len(_sizes(node.inputs[0]))
    first = int(ir.attribute(node, "axis", -1)) % max(rank, 1)
    for axis in range(rank):
        if axis < first:
            p.same(node.inputs[0], axis, node.outputs[0], axis)
        else:
            p.pin(node.inputs[0], axis, f"{ir.label(node)} normalises over it")
            p.pin(node.outputs[0], axis, f"{ir.label(node)} normalises over it")
    for value in (*node.inputs[1:], *node.outputs[1:]):
        p.pin_all(value, f"{ir.label(node)} normalises over it")


def _pool(node: ir.Node, p: _Problem) -> None:
    for out in node.outputs:
        for axis in (0, 1):
            p.same(node.inputs[0], axis, out, axis)
        for axis in range(2, len(_sizes(node.inputs[0]))):
            p.pin(node.inputs[0], axis, f"{ir.label(node)} slides along it")
            p.pin(out, axis, f"{ir.label(node)} slides along it")


def _resize(node: ir.Node, p: _Problem) -> None:
    data, out = node.inputs[0], node.outputs[0]
    for axis in range(len(_sizes(out))):
        if axis < 2 and _size(data, axis) == _size(out, axis):
            p.same(data, axis, out, axis)
        else:
            p.pin(data, axis, f"{ir.label(node)} interpolates along it")
            p.pin(out, axis, f"{ir.label(node)} interpolates along it")


def _softmax(node: ir.Node, p: _Problem) -> None:
    rank = len(_sizes(node.outputs[0]))
    over = int(ir.attribute(node, "axis", -1)) % max(rank, 1)
    for axis in range(rank):
        if axis == over:
            p.pin(node.inputs[0], axis, f"{ir.label(node)} sums over it")
        p.same(node.inputs[0], axis, node.outputs[0], axis)


def _reduce(node: ir.Node, p: _Problem) -> None:
    data, out = node.inputs[0], node.outputs[0]
    given = ir.constant(node.inputs[1]) if len(node.inputs) > 1 else ir.attribute(node, "axes")
    if given is None:
        return _unknown(node, p)
    rank, keep = len(_sizes(data)), ir.attribute(node, "keepdims", 1)
    over = {int(a) % max(rank, 1) for a in np.asarray(given).reshape(-1)}
    left = [a for a in range(rank) if a not in over]
    for axis in over:
        p.pin(data, axis, f"{ir.label(node)} sums over it")
    for place, axis in enumerate(left):
        p.same(data, axis, out, axis if keep else place)
    return None


def _movement(node: ir.Node, p: _Problem) -> None:
    """What only moves elements: found out by moving the numbers of indices."""
    data = [i for i, v in enumerate(node.inputs) if v is not None and i in _moved_inputs(node)]
    others: list[Any] = [None if i in data else ir.constant(v) for i, v in enumerate(node.inputs)]
    known = all(ir.is_static(v) for v in (*(node.inputs[i] for i in data), *node.outputs) if v is not None)
    if not known or any(
        v is not None and others[i] is None for i, v in enumerate(node.inputs) if i not in data
    ):
        return _unknown(node, p)
    choice = _Choice(node, [])
    related: set[Axis] = set()
    for at in data:
        value = node.inputs[at]
        assert value is not None
        for axis, size in enumerate(_sizes(value)):
            if size == 1:
                continue
            try:
                moved = _follow(node, data, others, at, axis, p.version)
            except EVALUATION_ERRORS:
                return _unknown(node, p)
            found = [
                ((value, axis), (out, to), pairs)
                for out, array in zip(node.outputs, moved, strict=False)
                for to in range(array.ndim)
                if (pairs := _pairs(array, to)) is not None
            ]
            if not found:
                p.pin(value, axis, f"{ir.label(node)} ({node.op_type}) takes it apart")
            choice.candidates += found
            related |= {b for _, b, _ in found}
    for out in node.outputs:
        for axis in range(len(_sizes(out))):
            if (out, axis) not in related:
                p.pin(out, axis, f"{ir.label(node)} ({node.op_type}) makes it")
    _offer(choice, p)
    return None


def _offer(choice: _Choice, p: _Problem) -> None:
    """Links what each axis has one candidate for; the rest is settled when all else is known."""
    left = []
    for a, b, pairs in choice.candidates:
        rivals = [
            c for c in choice.candidates
            if (c[0] == a and c[1] != b and c[1][0] is b[0]) or (c[1] == b and c[0] != a and c[0][0] is a[0])
        ]  # fmt: skip
        if rivals:
            left.append((a, b, pairs))
        else:
            p.links.append((a, b, pairs))
    if left:
        p.choices.append(_Choice(choice.node, left))


def _moved_inputs(node: ir.Node) -> range:
    return range(len(node.inputs)) if node.op_type == "Concat" else range(1)


def _follow(
    node: ir.Node, data: Sequence[int], others: Sequence[Any], at: int, axis: int, version: int
) -> list[ir.Array]:
    """The outputs where each element of one operand is its index along an axis, from 1 on, and all else is 0."""
    inputs = list(others)
    for i in data:
        value = node.inputs[i]
        assert value is not None
        shape = ir.static_dims(value)
        inputs[i] = np.zeros(shape, np.int32)
        if i == at:
            inputs[i] += np.arange(1, shape[axis] + 1, dtype=np.int32).reshape(
                -1, *(1,) * (len(shape) - axis - 1)
            )
    if node.op_type == "Pad" and len(inputs) > 2:
        inputs[2] = np.zeros((), np.int32)
    return evaluate(node, inputs, version)


def _pairs(moved: ir.Array, axis: int) -> ir.Array | None:
    """Index pairs (index in the operand, index along `axis` of the result); None where one says nothing of the other."""
    rows = np.moveaxis(moved, axis, 0).reshape(moved.shape[axis], -1)
    if len(rows) == 1:
        return None
    found = [(int(v) - 1, k) for k, row in enumerate(rows) for v in np.unique(row[row > 0])]
    if not found:
        return None
    pairs = np.asarray(found).T
    lefts, rights = (len(np.unique(side)) for side in pairs)
    if pairs.shape[1] == lefts * rights and lefts > 1:
        return None
    return pairs


_RULES: dict[str, Callable[[ir.Node, _Problem], None]] = {
    **dict.fromkeys(CARRY | {"Dropout"}, _elementwise),
    **dict.fromkeys(REDUCE, _reduce),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _per_channel),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _pool),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(
        ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Gather", "Pad",
         "Expand", "Tile", "DepthToSpace", "SpaceToDepth"),
        _movement,
    ),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Resize": _resize,
}  # fmt: skip
