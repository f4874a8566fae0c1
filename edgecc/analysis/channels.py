"""Which channels can only be removed together: the indices of axes of values that a network ties to each other.

A position is an index of an axis of a value. Operators link positions: the output channel of a convolution is the
row of its weights, its bias, the channel that the next layer reads, the channel on the other side of an Add. What
is linked, directly or not, is one unit; a unit that touches an input or output of the network, or an axis over
which something is computed, must stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from edgecc import ir
from edgecc.analysis.channel_links import RULES, unknown
from edgecc.analysis.channel_problem import Axis, Problem, size, sizes


@dataclass(frozen=True)
class ChannelGroup:
    """Units of the same axes: channels of which any may be removed.

    Attributes:
        axes: the axes that shrink with each unit, and by how many indices.
        units: their numbers.
    """

    axes: Mapping[Axis, int]
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
    problem = Problem(version=max(model.opset_imports.get(d, 0) for d in ("", "ai.onnx")))
    for value in model.graph.inputs:
        problem.pin_all(value, "is an input of the network")
    for node in model.graph:
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        (rule or unknown)(node, problem)
    for value in model.graph.outputs:
        problem.pin_all(value, "is an output of the network")
    problem.settle()
    return _solve(problem, model)


def _solve(problem: Problem, model: ir.Model) -> Channels:
    """Units as connected components of positions."""
    import networkx as nx

    start: dict[Axis, int] = {}
    owner: list[Axis] = []
    for value in _values(model):
        for axis, length in enumerate(sizes(value)):
            if length > 1:
                start[value, axis] = len(owner)
                owner += [(value, axis)] * length
    graph = nx.Graph()
    for a, b, pairs in problem.links:
        if not (a in problem.pins and b in problem.pins):
            graph.add_edges_from(
                zip((pairs[0] + start[a]).tolist(), (pairs[1] + start[b]).tolist(), strict=True)
            )
    stays = {
        i for axis in problem.pins if axis in start for i in range(start[axis], start[axis] + size(*axis))
    }
    labels = np.full(len(owner), -1, np.int64)
    reasons = dict(problem.pins)
    count = 0
    for component in nx.connected_components(graph):
        if bound := stays & component:
            reason = problem.pins[owner[min(bound)]]
            for axis in {owner[i] for i in component}:
                reasons.setdefault(axis, reason)
        else:
            labels[list(component)] = count
            count += 1
    unit = {axis: labels[at : at + size(*axis)] for axis, at in start.items()}
    unit = {axis: units for axis, units in unit.items() if (units >= 0).any()}
    return Channels(unit, _groups(unit), {axis: r for axis, r in reasons.items() if axis not in unit})


def _groups(unit: dict[Axis, ir.Array]) -> tuple[ChannelGroup, ...]:
    members: dict[int, list[tuple[Axis, int]]] = {}
    for axis, units in unit.items():
        found, counts = np.unique(units[units >= 0], return_counts=True)
        for u, count in zip(found.tolist(), counts.tolist(), strict=True):
            members.setdefault(u, []).append((axis, count))
    groups: dict[tuple[tuple[Axis, int], ...], list[int]] = {}
    for u, axes in members.items():
        groups.setdefault(tuple(axes), []).append(u)
    return tuple(ChannelGroup(dict(axes), tuple(units)) for axes, units in groups.items())


def _values(model: ir.Model) -> Iterable[ir.Value]:
    yield from model.graph.inputs
    seen = set(model.graph.inputs)
    for node in model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value not in seen:
                seen.add(value)
                yield value
