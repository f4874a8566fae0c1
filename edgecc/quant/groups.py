"""Same-scale operators: one scale for the values that they connect (DESIGN §5)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from edgecc import ir
from edgecc.quant import rules
from edgecc.quant.params import DType, QuantParams, fixed, from_range
from edgecc.quant.rules import Column
from edgecc.quant.units import Width, unit_outputs

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


def stored_values(
    units: Mapping[ir.Node, Column],
    widths: Mapping[ir.Node, Width],
    ranges: Mapping[Width, Mapping[str, Range]],
    narrow: DType,
) -> tuple[dict[str, QuantParams], dict[str, QuantParams]]:
    """Parameters of every value that a unit reads or writes, by value name; and those of the other width at seams.

    A value has the width of the unit that makes it; one that no unit makes is wide where any unit reads it wide.

    Args:
        units: what is computed in integers.
        widths: of the activations of each unit.
        ranges: lowest and highest value of each activation, by width.
        narrow: type of the narrow ones, int8 or uint8.
    """
    dtypes: dict[Width, DType] = {"int8": narrow, "int16": "int16"}
    parts = {
        w: activation_params({n: c for n, c in units.items() if widths[n] == w}, ranges[w], dtype)
        for w, dtype in dtypes.items()
    }
    maker = {str(out.name): widths[node] for node in units for out in unit_outputs(node)}
    tensors, seams = {**parts["int8"], **parts["int16"]}, dict[str, QuantParams]()
    bound = {
        str(v.name)
        for node, found in units.items()
        if found.scale == "same" and widths[node] == "int16"
        for v in node.inputs
        if v is not None
    }
    for name in parts["int8"].keys() & parts["int16"].keys():
        own: Width = maker.get(name, "int16")
        other: Width = "int16" if own == "int8" else "int8"
        tensors[name], seams[name] = parts[own][name], parts[other][name]
        if own == "int8" and name not in bound:
            # 256 steps of 128 lie within the 65536 of int16: every int8 value is met exactly.
            seams[name] = fixed(float(tensors[name].scale[0]) / 128, 0, "int16")
    return tensors, seams


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
    _widen(units, result, groups, demanded)
    return result


def _widen(
    units: Mapping[ir.Node, Column],
    params: dict[str, QuantParams],
    groups: _Groups,
    demanded: Mapping[str, QuantParams],
) -> None:
    """Gives results whose step says nothing a wider one, in place.

    Where operands cancel (the mean of centred values) the range that was observed is rounding noise, and the
    kernels stop or overflow: MLAS refuses a mean of n values from s_in / (256 n) down.
    """
    members = groups.members()
    for node in units:
        finest = _finest_step(node, params)
        for name in (str(out.name) for out in unit_outputs(node)) if finest else ():
            group = members[groups.root(name)]
            given = params[name]
            if float(given.scale[0]) >= finest or any(n in demanded for n in group):
                continue
            low, high = given.limits
            zero = int(given.zero_point[0])
            wide = from_range((low - zero) * finest, (high - zero) * finest, given.dtype)
            params.update(dict.fromkeys(group, wide))


def _finest_step(node: ir.Node, params: Mapping[str, QuantParams]) -> float:
    """The smallest step of a result that its operands' steps can fill; 0 where any can."""
    if node.op_type not in _CANCELLING:
        return 0.0
    steps = [float(params[str(v.name)].scale[0]) for i in rules.data_inputs(node) if (v := node.inputs[i])]
    count = 1.0
    if _CANCELLING[node.op_type]:
        sizes = [ir.dims(v) or () for v in (node.inputs[0], node.outputs[0]) if v is not None]
        count = math.prod(d or 1 for d in sizes[0]) / max(math.prod(d or 1 for d in sizes[1]), 1)
    return max(steps, default=0.0) / (_FINER * max(count, 1.0))


# Operators that may cancel, and whether they divide by the number of what they sum.
_CANCELLING = {"GlobalAveragePool": True, "ReduceMean": True, "ReduceSum": False, "Add": False, "Sub": False}
_FINER = 128.0  # a step this much finer than the operands' holds nothing but rounding


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
