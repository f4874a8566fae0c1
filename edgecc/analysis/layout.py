"""NCHW or NHWC for every value, as a minimum cut (DESIGN §4).

Every site gets one of two labels; a label names, for each value, one of two *orders*. An order is a permutation:
axis i of the stored tensor is axis order[i] of the ONNX value. Ordinarily the two are ONNX's own order and
channels-last. Behind a Transpose both are re-based, so that a Transpose never moves data: it renames axes, and
whoever needs another order than either of the two pays for it. A Flatten that feeds only constant-weight Gemms
carries its input's order too: the weights' rows are permuted instead. Any other Reshape carries both where it keeps
the axes that it joins or splits together.

Readers that need another order than the one stored cost the bytes to transpose, once a value. The cheapest labelling
is an s-t minimum cut (Greig, Porteous, Seheult 1989), which is optimal for two labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgecc import ir
from edgecc.analysis.layout_problem import Problem, solve, transpose_bytes
from edgecc.analysis.orders import (
    Flattened,
    Order,
    Pair,
    Permutation,
    channels_last,
    default_pair,
    flattened,
    identity,
    moves_nothing,
    rebased,
    reshaped,
    reshaped_pair,
    without,
)
from edgecc.analysis.sites import Operand, Site, SiteGraph

__all__ = [
    "AXIS", "BIND", "CARRY", "REDUCE", "Flattened", "Layout", "Order", "Permutation", "channels_last",
    "choose_layout", "flattened", "flattens_for_gemm", "identity", "matmul_orders", "moves_nothing", "reduced_axes",
    "reshaped", "scalar_gather", "without",
]  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """The chosen order of every value, and what the choice costs in bytes moved by transposes."""

    orders: Mapping[ir.Value, Order]
    cost: int = 0

    def of(self, value: ir.Value) -> Order:
        """The order in which `value` is stored; ONNX's own where nothing was decided."""
        return self.orders.get(value, identity(value))


# Spatial operators: their kernels read the first operand and write the result channels-last.
BIND = frozenset(
    {
        "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool",
        "GlobalLpPool", "Resize", "DepthToSpace", "SpaceToDepth", "InstanceNormalization", "BatchNormalization",
        "LRN",
    }
)  # fmt: skip

# Elementwise operators: any order, the same for every operand of full rank; constants are transposed when compiling.
CARRY = frozenset(
    {
        "Abs", "Add", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
        "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max",
        "Mean", "Min", "Mod", "Mul", "Neg", "Not", "And", "Or", "Xor", "PRelu", "Pow", "Reciprocal", "Relu", "Round",
        "Selu",
        "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh",
        "ThresholdedRelu",
        "Where", "Mish", "Celu", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "IsInf", "IsNaN",
        "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BitShift", "BitCast",
    }
)  # fmt: skip

# Operators that name axes: any order, the axis attribute is rewritten when lowering.
AXIS = frozenset(
    {"Concat", "Softmax", "LogSoftmax", "Split", "Slice", "Pad", "Gather", "Tile", "LayerNormalization",
     "RMSNormalization"}
)  # fmt: skip
PARTS = frozenset({"Split", "Slice"})  # what takes parts of a value
RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
LAST_AXIS = frozenset({"Softmax", "LogSoftmax"})
REDUCE = frozenset(
    {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
     "ReduceLogSum", "ReduceLogSumExp"}
)  # fmt: skip


def choose_layout(graph: SiteGraph, io_layout: str = "auto") -> Layout:
    """The cheapest assignment of orders.

    Args:
        graph: the network.
        io_layout: "onnx" keeps inputs and outputs in ONNX's order, "nhwc" makes those of rank 3 to 5 channels-last,
            "auto" takes what is cheapest.
    """
    problem = Problem()
    for value in graph.inputs:
        problem.make(value, value, default_pair(value))
    for site in graph.sites:
        _add_site(problem, graph, site)
    _add_ports(problem, graph, io_layout)
    labels = solve(problem)
    orders = {v: pair[labels.get(problem.maker[v], 0)] for v, pair in problem.pair.items()}
    return Layout(orders)


def _add_ports(problem: Problem, graph: SiteGraph, io_layout: str) -> None:
    wanted: dict[str, Callable[[ir.Value], Permutation]] = {
        "onnx": identity,
        "nhwc": lambda v: channels_last(len(identity(v))),
    }
    if io_layout not in wanted:
        for _, operand in graph.outputs:
            if operand.array is None and operand.value in problem.pair:
                _free_output(problem, operand.value)
        return
    for value in graph.inputs:
        pair = problem.pair[value]
        if pair[0] != pair[1]:
            problem.pins[value] = pair.index(wanted[io_layout](value))
    for _, operand in graph.outputs:
        if operand.array is None and operand.value in problem.pair:
            problem.need(operand.value, wanted[io_layout](operand.value))


def _free_output(problem: Problem, value: ir.Value) -> None:
    """An output may leave in ONNX's order or channels-last, whichever is cheaper, and in no other."""
    usual = (identity(value), channels_last(len(identity(value))))
    fitting = [order for order in problem.pair[value] if order in usual]
    if len(fitting) == 1:
        problem.need(value, fitting[0])


def _add_site(problem: Problem, graph: SiteGraph, site: Site) -> None:
    """Adds the variable, pins and reads of one site."""
    computed = [o.value for o in site.inputs if o is not None and o.array is None and o.value in problem.pair]
    kind = site.op_type
    results = [r.value for r in site.outputs if ir.dims(r.value) is not None]
    if kind in BIND and computed and len(identity(computed[0])) in (3, 4, 5):
        problem.need(computed[0], channels_last(len(identity(computed[0]))))
        for value in computed[1:]:
            problem.need(value, identity(value))
        for value in results:
            problem.make(value, site, default_pair(value))
        problem.pins[site] = 1
        return
    pairs = _carried(problem, graph, site, computed, results)
    if pairs is None:
        for value in computed if kind != "Shape" else ():
            if not _constant_gemm(site, value):  # which takes a flattened value in either order
                _need_one(problem, value, _taken(site, value))
        for value in results:
            problem.make(value, site, default_pair(value))
        problem.pins[site] = 0
        return
    for value, pair in zip(results, pairs, strict=True):
        problem.make(value, site, pair)
    for value in computed:
        pair = problem.pair[value]
        if kind in CARRY and pair != pairs[0]:
            _wish(problem, site, value, pairs[0])
        elif pair[0] != pair[1]:
            problem.reads.append((value, site))
    if kind in LAST_AXIS:  # the kernel works along the last axis only
        axis = _normalised(site.attribute("axis", -1), len(identity(computed[0])))
        fitting = [k for k in (0, 1) if pairs[0][k][-1:] == (axis,)]  # type: ignore[index]
        if len(fitting) == 1:
            problem.pins[site] = fitting[0]


def settled(problem: Problem, value: ir.Value) -> int | None:
    """The label of a value whose maker is pinned, or computes it element by element from one that is."""
    while True:
        maker = problem.maker[value]
        if maker in problem.pins:
            return problem.pins[maker]
        if not isinstance(maker, Site) or maker.op_type not in CARRY | {"Transpose"}:
            return None
        sources = [o.value for o in maker.inputs if o is not None and o.array is None]
        if len(sources) != 1 or sources[0] not in problem.pair:
            return None
        if maker.op_type in CARRY and problem.pair[sources[0]] != problem.pair[value]:
            return None
        value = sources[0]


def _wish(problem: Problem, site: Site, value: ir.Value, pair: Pair) -> None:
    """A settled operand in an order that is one of the site's two, or neither: then it moves in any case."""
    label = settled(problem, value)
    assert label is not None
    order, cost = problem.pair[value][label], transpose_bytes(value, pair)
    if order in pair and pair[0] != pair[1]:
        problem.wishes.append((site, pair.index(order), cost))
    while (maker := problem.maker[value]) not in problem.pins:  # what was relied on may not change any more
        assert isinstance(maker, Site)
        problem.pins[maker] = label
        value = next(o.value for o in maker.inputs if o is not None and o.array is None)


def _taken(site: Site, value: ir.Value) -> tuple[Permutation, ...]:
    """The orders in which a site that works in ONNX's own takes an operand."""
    if site.op_type != "MatMul":
        return (identity(value),)
    places = [i for i, o in enumerate(site.inputs) if o is not None and o.value is value]
    return min((matmul_orders(site, i) for i in places), key=len)


def _need_one(problem: Problem, value: ir.Value, orders: tuple[Permutation, ...]) -> None:
    """A reader that takes any of these orders: nothing to choose if it takes both."""
    fitting = [order for order in problem.pair[value] if order in orders]
    if len(fitting) == 1:
        problem.need(value, fitting[0])


def _carried(
    problem: Problem, graph: SiteGraph, site: Site, computed: list[ir.Value], results: list[ir.Value]
) -> list[Pair] | None:
    """The two orders of each result of a site that works in either; None if it works only in ONNX's own."""
    if not computed or not results:
        return None
    first = problem.pair[computed[0]]
    kind, rank = site.op_type, len(identity(computed[0]))
    if kind in CARRY:
        ranks = {len(identity(v)) for v in (*computed, *results)}
        if len(ranks) != 1:
            return None
        if all(problem.pair[v] == first for v in computed):
            return [first] * len(results)
        free = {problem.pair[v] for v in computed if settled(problem, v) is None}
        if len(free) > 1:
            return None
        return [free.pop() if free else default_pair(results[0])] * len(results)
    if isinstance(first[0], Flattened) or isinstance(first[1], Flattened):
        return None
    if kind == "Gather" and (axis := scalar_gather(site, rank)) is not None:
        left = (without(first[0], (axis,)), without(first[1], (axis,)))
        # Else the operand moves once, before several of its kind.
        return [left] if tuple(range(rank - 1)) in left else None
    if kind in AXIS:
        if any(problem.pair[v] != first for v in computed) or any(len(identity(v)) != rank for v in results):
            return None
        if any(o is not None and o.array is None for o in site.inputs[1:]) and kind != "Concat":
            return None
        if better_once(graph, site, computed[0], first):
            return None
        return [first] * len(results)
    if kind in REDUCE and (
        len(site.inputs) < 2 or site.inputs[1] is None or site.inputs[1].array is not None
    ):
        gone = () if site.attribute("keepdims", 1) else reduced_axes(site, rank)
        return [(without(first[0], gone), without(first[1], gone))]
    if kind == "Transpose":
        moved = [int(a) for a in site.attribute("perm", tuple(reversed(range(rank))))]  # type: ignore[attr-defined]
        return [(rebased(first[0], moved), rebased(first[1], moved))]
    keeps_batch = first[0][:1] == first[1][:1] == (0,)
    if kind in RESHAPES and keeps_batch and ir.is_static(computed[0]) and ir.is_static(results[0]):
        shape = ir.static_dims(computed[0])
        if kind == "Reshape" and flattens_for_gemm(graph, site):
            return [(flattened(shape, first[0]), flattened(shape, first[1]))]
        kept = reshaped_pair(computed[0], results[0], first)
        if kept is not None:
            return [kept]
    return None


def better_once(graph: SiteGraph, site: Site, value: ir.Value, pair: Pair) -> bool:
    """Whether several parts of `value` go where ONNX's own order is needed, which neither of its two is.

    It is then transposed once instead of every part.
    """
    rank = len(pair[0]) if isinstance(pair[0], tuple) else 0
    if site.op_type not in PARTS or tuple(range(rank)) in pair:
        return False
    takers = graph.readers.get(value, ())
    parts = [out.value for taker in takers for out in taker.outputs]
    if any(taker.op_type not in PARTS for taker in takers) or len(parts) < 2:
        return False
    readers = [r for part in parts for r in graph.readers.get(part, ())]
    return all(r.op_type in RESHAPES or r.op_type == "MatMul" for r in readers)


def matmul_orders(site: Site, position: int) -> tuple[Permutation, ...]:
    """The orders in which a MatMul takes an operand: BATCH_MATMUL has a flag for a second one with swapped matrices."""
    operands = site.inputs
    first, second = operands[0], operands[1]
    assert first is not None
    assert second is not None
    own = identity((first, second)[position].value)
    if position == 0 or len(own) < 2 or len(identity(first.value)) < 2 or second.array is not None:
        return (own,)
    return own, (*own[:-2], own[-1], own[-2])


def scalar_gather(site: Site, rank: int) -> int | None:
    """The axis that a Gather of one constant position removes; None for other Gathers."""
    places = site.inputs[1]
    if places is None or places.array is None or places.array.ndim or site.inputs[0] is None:
        return None
    return None if site.inputs[0].array is not None else _normalised(site.attribute("axis", 0), rank)


def reduced_axes(site: Site, rank: int) -> tuple[int, ...]:
    """The ONNX axes that a Reduce* site removes or collapses."""
    operand = site.inputs[1] if len(site.inputs) > 1 else None
    if operand is None or operand.array is None or operand.array.size == 0:
        return () if site.attribute("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(int(a) % rank for a in operand.array.reshape(-1)))


def flattens_for_gemm(graph: SiteGraph, site: Site) -> bool:
    """Whether a Reshape makes (batch, rest) and only constant-weight Gemms read it."""
    source, result = site.inputs[0], site.outputs[0].value
    shape = ir.dims(result)
    if (
        source is None
        or source.array is not None
        or shape is None
        or len(shape) != 2
        or result.is_graph_output()
    ):
        return False
    before = ir.dims(source.value)
    if before is None or not ir.is_static(source.value) or len(before) < 2 or not ir.is_static(result):
        return False
    if before[0] != shape[0]:
        return False
    readers = graph.readers.get(result, ())
    return bool(readers) and all(_constant_gemm(r, result) for r in readers)


def _constant_gemm(site: Site, value: ir.Value) -> bool:
    if site.op_type != "Gemm" or site.attribute("transA", 0):
        return False
    data, weight = site.inputs[0], site.inputs[1]
    bias = site.inputs[2] if len(site.inputs) > 2 else None
    constant: Callable[[Operand | None], bool] = lambda o: o is None or o.array is not None  # noqa: E731
    return (
        data is not None
        and data.value is value
        and weight is not None
        and constant(weight)
        and constant(bias)
    )


def _normalised(axis: object, rank: int) -> int:
    return int(axis) % rank  # type: ignore[call-overload, no-any-return]
