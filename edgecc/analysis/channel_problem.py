"""Links between indices of axes, and axes that must stay: what the rules of operators write down."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgecc import ir

Axis = tuple[ir.Value, int]


@dataclass
class Choice:
    """A node that merges or splits axes: of its candidates (from, to, pairs) each axis can be in one."""

    node: ir.Node
    candidates: list[tuple[Axis, Axis, ir.Array]]


@dataclass
class Problem:
    """Links between positions, and axes that must stay."""

    version: int
    links: list[tuple[Axis, Axis, ir.Array]] = field(default_factory=list)
    pins: dict[Axis, str] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)

    def pin(self, value: ir.Value | None, axis: int, reason: str) -> None:
        """An axis that cannot shrink."""
        if value is not None:
            self.pins.setdefault((value, axis), reason)

    def pin_all(self, value: ir.Value | None, reason: str) -> None:
        """A value none of whose axes can shrink."""
        for axis in range(len(sizes(value))):
            self.pin(value, axis, reason)

    def same(self, a: ir.Value | None, i: int, b: ir.Value | None, j: int) -> None:
        """Index for index, where both axes have the same length (above 1: a single index never goes)."""
        length = size(a, i)
        if length > 1 and length == size(b, j):
            index = np.arange(length)
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
            stays = set(self.pins)
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


def sizes(value: ir.Value | None) -> tuple[int, ...]:
    """The lengths of the axes, 1 for what is not known."""
    return () if value is None else tuple(d or 1 for d in ir.dims(value) or ())


def size(value: ir.Value | None, axis: int) -> int:
    """The length of one axis, 1 where it is not known or there is none."""
    known = sizes(value)
    return known[axis] if axis < len(known) else 1
