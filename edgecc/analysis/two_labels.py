"""Choosing one of two labels for each of many variables, at the least cost: a minimum cut.

Greig, Porteous, Seheult 1989: with two labels and costs only where neighbours differ the optimum is an s-t cut.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

_SOURCE, _SINK = "source", "sink"


@dataclass
class TwoLabels:
    """A problem: variables, what each label costs them, and values that one variable makes and others read.

    Attributes:
        costs: of label 0 and of label 1, by variable.
        pins: variables whose label is given.
        values: (maker, readers, cost): paid once where a reader's label is not the maker's.
    """

    costs: dict[Hashable, tuple[float, float]] = field(default_factory=dict)
    pins: dict[Hashable, int] = field(default_factory=dict)
    values: list[tuple[Hashable, tuple[Hashable, ...], float]] = field(default_factory=list)

    def add(self, variable: Hashable, cost0: float = 0.0, cost1: float = 0.0) -> None:
        """Adds a variable to be labelled."""
        self.costs[variable] = (cost0, cost1)

    def pin(self, variable: Hashable, label: int) -> None:
        """Gives a variable its label."""
        self.costs.setdefault(variable, (0.0, 0.0))
        self.pins[variable] = label

    def value(self, maker: Hashable, readers: Collection[Hashable], cost: float) -> None:
        """Adds a value."""
        others = tuple(dict.fromkeys(r for r in readers if r != maker))
        if others:
            self.values.append((maker, others, cost))

    def total(self, labels: dict[Hashable, int]) -> float:
        """What an assignment costs."""
        own = sum(self.costs[v][label] for v, label in labels.items() if v not in self.pins)
        return own + sum(
            cost
            for maker, readers, cost in self.values
            if any(labels[reader] != labels[maker] for reader in readers)
        )

    def solve(self) -> dict[Hashable, int]:
        """The cheapest label of every variable; 1 where both cost the same.

        Components in which nothing disagrees are labelled without a solver.
        """
        labels = dict(self.pins)
        for part in self._components():
            wanted = {self.pins[v] for v in self._around(part) if v in self.pins}
            wanted |= {int(one < zero) for zero, one in (self.costs[v] for v in part) if one != zero}
            if len(wanted) <= 1:
                labels.update(dict.fromkeys(part, wanted.pop() if wanted else 1))
            else:
                labels.update(self._cut(part))
        return labels

    def _components(self) -> list[list[Hashable]]:
        """The variables without a pin that hang together without passing through a pinned one, in order."""
        parent: dict[Hashable, Hashable] = {v: v for v in self.costs if v not in self.pins}

        def root(v: Hashable) -> Hashable:
            while parent[v] != v:
                parent[v] = parent[parent[v]]
                v = parent[v]
            return v

        self._touching: dict[Hashable, list[int]] = {}
        for number, (maker, readers, _) in enumerate(self.values):
            free = [v for v in (maker, *readers) if v in parent]
            for v in free:
                self._touching.setdefault(v, []).append(number)
                parent[root(v)] = root(free[0])
        found: dict[Hashable, list[Hashable]] = {}
        for v in parent:
            found.setdefault(root(v), []).append(v)
        return list(found.values())

    def _around(self, part: list[Hashable]) -> list[Hashable]:
        numbers = dict.fromkeys(n for v in part for n in self._touching.get(v, ()))
        return [v for n in numbers for v in (self.values[n][0], *self.values[n][1])]

    def _cut(self, part: list[Hashable]) -> dict[Hashable, int]:
        """Label 1 is the source's side, as networkx leaves there what could be on either."""
        import networkx as nx
        from networkx.algorithms.flow import boykov_kolmogorov

        graph = nx.DiGraph()
        graph.add_nodes_from((_SOURCE, _SINK))

        def edge(a: Hashable, b: Hashable, capacity: float | None) -> None:
            if capacity is None:  # networkx takes an absent capacity as infinite
                graph.add_edge(a, b)
            elif graph.has_edge(a, b):
                graph[a][b]["capacity"] += capacity
            else:
                graph.add_edge(a, b, capacity=capacity)

        place: dict[Hashable, Hashable] = {v: ("variable", v) for v in part}
        for v in part:
            edge(_SOURCE, place[v], self.costs[v][0])  # cut when v is on the sink's side
            edge(place[v], _SINK, self.costs[v][1])
        for v in self._around(part):
            if v in self.pins:
                place[v] = _SOURCE if self.pins[v] == 1 else _SINK
        for n in dict.fromkeys(n for v in part for n in self._touching.get(v, ())):
            maker, readers, cost = self.values[n]
            ahead, behind = ("ahead", n), ("behind", n)
            edge(place[maker], ahead, cost)
            edge(behind, place[maker], cost)
            for reader in readers:
                edge(ahead, place[reader], None)
                edge(place[reader], behind, None)
        _, (ones, _) = nx.minimum_cut(graph, _SOURCE, _SINK, flow_func=boykov_kolmogorov)
        return {v: int(place[v] in ones) for v in part}
