"""Between which whole numbers an integer value stays, as far as its makers tell: enough to know what fits int32."""

from __future__ import annotations

from collections.abc import Callable

from edgecc import ir

Bounds = tuple[int, int]

_DEPTH = 32  # makers looked through above a value
INT32: Bounds = (-(2**31) + 1, 2**31 - 1)  # without the one number whose negative does not fit
_TYPES: dict[ir.DataType, Bounds] = {
    ir.DataType.BOOL: (0, 1), ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-(2**15), 2**15 - 1), ir.DataType.UINT16: (0, 2**16 - 1),
    ir.DataType.INT32: (-(2**31), 2**31 - 1), ir.DataType.UINT32: (0, 2**32 - 1),
    ir.DataType.INT64: (-(2**63), 2**63 - 1), ir.DataType.UINT64: (0, 2**64 - 1),
}  # fmt: skip

# Every result element is an element of one of the first operands, or zero.
_MOVING = frozenset(
    """
    Concat Expand Flatten Gather GatherElements GatherND Identity Reshape Slice Split Squeeze Tile Transpose Unsqueeze
    Trilu ReduceMax ReduceMin Compress DepthToSpace SpaceToDepth Max Min Pad
    """.split()  # noqa: SIM905 - a table reads better as words
)
_OPERANDS = frozenset({"Concat", "Max", "Min"})  # all operands are data
_SIZES = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "NonZero"})  # counts and places


def fits(value: ir.Value, limits: Bounds = INT32) -> bool:
    """Whether every element of an integer value is known to lie within `limits`, both ends included."""
    low, high = bounds(value)
    return limits[0] <= low and high <= limits[1]


def bounds(value: ir.Value | None, depth: int = _DEPTH) -> Bounds:
    """The smallest and the largest number that `value` may hold; those of its type where nothing better is known."""
    widest = (
        _TYPES.get(value.dtype, _TYPES[ir.DataType.INT64]) if value and value.dtype else (-(2**63), 2**63 - 1)
    )
    if value is None:
        return widest
    array = ir.constant(value)
    if array is not None:
        return (int(array.min()), int(array.max())) if array.size and array.dtype.kind in "iub" else widest
    node = value.producer()
    if node is None or not depth or node.domain:
        return widest
    low, high = _made(node, value, widest, depth - 1)
    return (low, high) if widest[0] <= low and high <= widest[1] else widest


def _made(node: ir.Node, value: ir.Value, widest: Bounds, depth: int) -> Bounds:
    kind = node.op_type
    if kind in _SIZES or (kind == "TopK" and value is node.outputs[1]):
        return 0, 2**31 - 1  # no tensor of these runtimes has more elements
    if kind in _MOVING or kind == "TopK":
        read = node.inputs if kind in _OPERANDS else node.inputs[:1]
        found = [bounds(v, depth) for v in read if v is not None]
        zero = [0] if kind in ("Trilu", "Pad") else []
        return min([b[0] for b in found] + zero), max([b[1] for b in found] + zero)
    if kind == "Cast":
        source = node.inputs[0]
        return bounds(source, depth) if source is not None and source.dtype in _TYPES else widest
    if kind == "Where":
        yes, no = (bounds(v, depth) for v in node.inputs[1:3])
        return min(yes[0], no[0]), max(yes[1], no[1])
    rule = _ARITHMETIC.get(kind)
    if rule is None or len(node.inputs) < 2:
        return widest
    return rule(bounds(node.inputs[0], depth), bounds(node.inputs[1], depth), node)


def _product(x: Bounds, y: Bounds, node: ir.Node) -> Bounds:
    ends = [a * b for a in x for b in y]
    return min(ends), max(ends)


def _quotient(x: Bounds, y: Bounds, node: ir.Node) -> Bounds:
    size = max(abs(x[0]), abs(x[1]))
    return (-size, size) if x[0] < 0 or y[0] < 0 else (0, size)


def _remainder(x: Bounds, y: Bounds, node: ir.Node) -> Bounds:
    size = max(abs(y[0]), abs(y[1])) - 1
    return (0, size) if y[0] > 0 and (x[0] >= 0 or not ir.attribute(node, "fmod", 0)) else (-size, size)


_ARITHMETIC: dict[str, Callable[[Bounds, Bounds, ir.Node], Bounds]] = {
    "Add": lambda x, y, _: (x[0] + y[0], x[1] + y[1]),
    "Sub": lambda x, y, _: (x[0] - y[1], x[1] - y[0]),
    "Mul": _product,
    "Div": _quotient,
    "Mod": _remainder,
}
