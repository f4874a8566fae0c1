"""The cheapest labelling of layouts: propagation where nothing disagrees, a minimum s-t cut where something does."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgecc import ir
from edgecc.analysis.orders import Flattened, Order, Pair, moves_nothing

# A byte moved costs 1; a transpose that moves nothing is a RESHAPE, which costs next to nothing but is not free.
_RESHAPE_COST = 1
_TRANSPOSE_COST = 1024
# Ties are broken towards ONNX's own order at the ports.
_TIE = 0.25


@dataclass
class Problem:
    """Labels to choose. A label belongs to a variable: a site or a graph input; every value has its maker's.

    Attributes:
        pair: the two orders of each value.
        maker: the variable that decides a value's label.
        pins: variables whose label is given.
        reads: (value, label wanted: 0 or 1, or the variable whose label it follows).
        wishes: (variable, label, bytes moved if it gets the other), where a value's order is settled.
    """

    pair: dict[ir.Value, Pair] = field(default_factory=dict)
    maker: dict[ir.Value, object] = field(default_factory=dict)
    pins: dict[object, int] = field(default_factory=dict)
    reads: list[tuple[ir.Value, object]] = field(default_factory=list)
    wishes: list[tuple[object, int, float]] = field(default_factory=list)

    def make(self, value: ir.Value, variable: object, pair: Pair) -> None:
        """Adds a value that `variable` decides."""
        self.pair[value] = pair
        self.maker[value] = variable

    def need(self, value: ir.Value, order: Order) -> None:
        """A reader that takes `order` and no other. If it is neither of the two, it pays whatever the label."""
        pair = self.pair[value]
        if pair[0] != pair[1] and order in pair:
            self.reads.append((value, pair.index(order)))


def transpose_bytes(value: ir.Value, pair: Pair) -> float:
    """What it costs to turn one order of `value` into the other."""
    shape = ir.static_dims(value) if ir.is_static(value) else tuple(d or 1 for d in ir.dims(value) or ())
    if (
        isinstance(pair[0], Flattened)
        or isinstance(pair[1], Flattened)
        or moves_nothing(shape, pair[0], pair[1])
    ):
        return _RESHAPE_COST
    return _TRANSPOSE_COST + 4 * float(np.prod(shape))


def solve(problem: Problem) -> dict[object, int]:
    """Labels of all variables: by propagation where nothing disagrees, else by a minimum cut a component."""
    parent: dict[object, object] = {v: v for v in (*problem.maker.values(), *problem.pins)}
    parent.update({r: r for _, r in problem.reads if not isinstance(r, int)})

    def find(variable: object) -> object:
        while parent[variable] is not variable:
            parent[variable] = parent[parent[variable]]
            variable = parent[variable]
        return variable

    pins: dict[object, set[int]] = {}
    for value, reader in problem.reads:
        if not isinstance(reader, int):
            parent[find(problem.maker[value])] = find(reader)
    for variable, label in problem.pins.items():
        pins.setdefault(find(variable), set()).add(label)
    for value, reader in problem.reads:
        if isinstance(reader, int):
            pins.setdefault(find(problem.maker[value]), set()).add(reader)
    for variable, label, _ in problem.wishes:
        pins.setdefault(find(variable), set()).add(label)
    labels: dict[object, int] = {}
    mixed: set[object] = set()
    for variable in parent:
        wanted = pins.get(find(variable), set())
        if len(wanted) == 2:
            mixed.add(variable)
        else:
            labels[variable] = next(iter(wanted), 0)
    if mixed:
        labels.update(_minimum_cut(problem, mixed))
    return labels


def _minimum_cut(problem: Problem, variables: set[object]) -> dict[object, int]:
    """Label 0 is the source's side. A value pays once, however many of its readers disagree with it."""
    import networkx as nx
    from networkx.algorithms.flow import boykov_kolmogorov

    source, sink = "source", "sink"
    cut = nx.DiGraph()
    cut.add_nodes_from((source, sink))

    def edge(a: object, b: object, capacity: float | None) -> None:
        if capacity is None:  # networkx takes an absent capacity as infinite
            cut.add_edge(a, b)
        elif cut.has_edge(a, b):
            if "capacity" in cut[a][b]:
                cut[a][b]["capacity"] += capacity
        else:
            cut.add_edge(a, b, capacity=capacity)

    for variable in variables:
        cut.add_node(variable)
        if variable in problem.pins:
            before, after = (source, variable) if problem.pins[variable] == 0 else (variable, sink)
            edge(before, after, None)
    for value, maker in problem.maker.items():
        if maker in variables and value.is_graph_input() and maker not in problem.pins:
            edge(source, maker, _TIE)
    for variable, label, cost in problem.wishes:
        if variable in variables:
            before, after = (source, variable) if label == 0 else (variable, sink)
            edge(before, after, cost)
    readers: dict[ir.Value, list[object]] = {}
    for value, reader in problem.reads:
        if problem.maker[value] in variables:
            readers.setdefault(value, []).append(
                reader if not isinstance(reader, int) else (source, sink)[reader]
            )
    for value, found in readers.items():
        maker, cost = problem.maker[value], transpose_bytes(value, problem.pair[value])
        others = [r for r in dict.fromkeys(found) if r is not maker]
        ahead, behind = ("ahead", value), ("behind", value)
        edge(maker, ahead, cost)
        edge(behind, maker, cost)
        for reader in others:
            edge(ahead, reader, None)
            edge(reader, behind, None)
    _, (zeros, _) = nx.minimum_cut(cut, source, sink, flow_func=boykov_kolmogorov)
    return {variable: 0 if variable in zeros else 1 for variable in variables}
