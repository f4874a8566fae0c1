"""Same-scale operators: one scale for the values that they connect (DESIGN §5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgecc import ir
from edgecc.quant import rules
from edgecc.quant.params import DType, QuantParams, fixed, from_range
from edgecc.quant.rules import Column
from edgecc.quant.units import unit_outputs

Range = tuple[float, float]


class _Groups:
    """Union-find over value names. (networkx has one, and takes a quarter of a second to import.)"""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        """The representative of the group of `name`, which is added if it is new."""
        parent = self._parent.setdefault(name, name)
        while parent != self._parent[parent]:
            parent = self._parent[parent]
        self._parent[name] = parent
        return parent

    def union(self, a: str, b: str) -> None:
        """Makes one group of two."""
        self._parent[self.root(b)] = self.root(a)

    def members(self) -> dict[str, list[str]]:
        """Each group by its representative."""
        found: dict[str, list[str]] = {}
        for name in self._parent:
            found.setdefault(self.root(name), []).append(name)
        return found


def activation_params(
    units: Mapping[ir.Node, Column], ranges: Mapping[str, Range], dtype: DType
) -> dict[str, QuantParams]:
    """Parameters of every value that a unit reads or writes, by value name.

    Values that same-scale operators connect share them; where a kernel demands some, the group takes those.
    """
    groups, covered, derived = _Groups(), dict[str, Range](), set[str]()
    demanded: dict[str, QuantParams] = {}
    joins: list[tuple[str, str]] = []
    for node, found in units.items():
        sources = [v for i in rules.data_inputs(node) if (v := node.inputs[i]) is not None]
        for value in sources:
            array = ir.constant(value)
            seen = ranges[str(value.name)] if array is None else (array.min(initial=0), array.max(initial=0))
            covered[str(value.name)] = seen
            groups.root(str(value.name))
        outputs = [str(v.name) for v in unit_outputs(node)]
        for name in outputs:
            covered[name] = ranges[name]
            groups.root(name)
            if found.fixed is not None and dtype in found.fixed:
                demanded[name] = fixed(*found.fixed[dtype], dtype)
        if found.scale == "same":
            derived.update(outputs)
            for name in outputs:
                if len(sources) == 1:
                    groups.union(str(sources[0].name), name)
                else:
                    joins += [(str(v.name), name) for v in sources]
    _join(groups, joins, demanded)
    result: dict[str, QuantParams] = {}
    for group in groups.members().values():
        params = next((demanded[n] for n in group if n in demanded), None)
        if params is None:
            given = [covered[n] for n in group if n not in derived] or [covered[n] for n in group]
            params = from_range(min(r[0] for r in given), max(r[1] for r in given), dtype)
        result.update(dict.fromkeys(group, params))
    return result


def _join(groups: _Groups, joins: Iterable[tuple[str, str]], demanded: Mapping[str, QuantParams]) -> None:
    """Unites the operands of Concat, Max and Min with the result.

    An operand whose scale its kernel demands (a Sigmoid's) is left out unless all operands of that result
    agree
    in it: insert_qdq then requantizes it, as its range would clip the others.
    """
    demands = {groups.root(name): params for name, params in demanded.items()}
    operands: dict[str, list[str]] = {}
    for operand, result in joins:
        operands.setdefault(result, []).append(operand)
    for result, names in operands.items():
        given = {demands.get(groups.root(name)) for name in names}
        for name in names:
            if len(given) == 1 or demands.get(groups.root(name)) is None:
                params = demands.get(groups.root(name)) or demands.get(groups.root(result))
                groups.union(name, result)
                if params is not None:
                    demands[groups.root(name)] = params
