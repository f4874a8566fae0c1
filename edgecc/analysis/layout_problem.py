"""The choice of layouts as a problem of two labels."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import chain
from math import prod

from edgecc import ir
from edgecc.analysis.orders import Flattened, Order, Pair, moves_nothing
from edgecc.analysis.two_labels import TwoLabels

# A byte moved costs 1; a transpose that moves nothing is a RESHAPE, which costs next to nothing but is not free.
_RESHAPE_COST = 1
_TRANSPOSE_COST = 1024


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
    maker: dict[ir.Value, Hashable] = field(default_factory=dict)
    pins: dict[Hashable, int] = field(default_factory=dict)
    reads: list[tuple[ir.Value, Hashable]] = field(default_factory=list)
    wishes: list[tuple[Hashable, int, float]] = field(default_factory=list)

    def make(self, value: ir.Value, variable: Hashable, pair: Pair) -> None:
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
    shape = tuple(1 if d is None else d for d in ir.dims(value) or ())
    if (
        isinstance(pair[0], Flattened)
        or isinstance(pair[1], Flattened)
        or moves_nothing(shape, pair[0], pair[1])
    ):
        return _RESHAPE_COST
    return _TRANSPOSE_COST + 4 * float(prod(shape))


def solve(problem: Problem) -> dict[Hashable, int]:
    """The cheapest label of every variable; 0 where both cost the same."""
    cut = TwoLabels()  # there label 1 has the preference: it is 0 here
    readers: dict[ir.Value, list[Hashable]] = {}
    for value, reader in problem.reads:
        readers.setdefault(value, []).append(reader)
    for variable in chain(problem.maker.values(), *readers.values()):
        cut.add(variable)
    for variable, label in (*problem.pins.items(), (0, 0), (1, 1)):  # a reader may be a label
        cut.pin(variable, 1 - label)
    for variable, label, cost in problem.wishes:
        zero, one = cut.costs[variable]
        cut.costs[variable] = (zero + cost, one) if label == 0 else (zero, one + cost)
    for value, found in readers.items():
        cut.value(problem.maker[value], found, transpose_bytes(value, problem.pair[value]))
    return {variable: 1 - label for variable, label in cut.solve().items()}
