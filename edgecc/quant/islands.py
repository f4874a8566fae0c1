"""Which operators are worth computing in integers: islands of float chosen by a minimum cut on the target's costs.

Every operator that has an integer kernel gets one of two labels, integer or float; the others are float. An operator
costs what the target's numbers say (`edgecc.analysis.cost`), a value whose readers want it in another type than its
maker leaves it in costs one conversion, however many readers there are.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgecc import ir
from edgecc.analysis.cost import conversion, cycles
from edgecc.analysis.two_labels import TwoLabels
from edgecc.quant import NodePrecision, rules
from edgecc.quant.rules import Column, Runtime
from edgecc.quant.units import integer_units, unit_outputs

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan
    from edgecc.target import CostSpec

FLOAT, INTEGER = 0, 1

IDLE = "it only moves values between float operators"
DEARER = (
    "float takes less time here: converting what it reads and writes would take longer than integers save"
)

# Operators that a remark names.
_NAMED = 3

# Beside what moves values: operators that an explicit integer precision may leave in float.
_ELEMENTWISE = frozenset(
    {"Add", "Clip", "Elu", "Exp", "Gelu", "HardSwish", "LeakyRelu", "Mul", "PRelu", "Relu", "Sigmoid", "Sub", "Tanh"}
)  # fmt: skip


def assign(
    plan: QuantPlan, model: ir.Model, runtime: Runtime, rates: CostSpec, *, ports: bool = False
) -> QuantPlan:
    """A mixed plan in which every node that has a choice has a precision: the plan's own, or fp32 where that is less.

    Args:
        plan: nodes that it gives a precision keep it.
        model: the float network.
        runtime: whose kernels are meant.
        rates: of the target.
        ports: whether inputs and outputs of the network are integers.
    """
    units, _ = integer_units(model, runtime, plan)
    floats = slower(plan, model, runtime, rates, ports=ports)
    chosen: dict[str, NodePrecision] = {ir.label(node): plan.precision_of(node) for node in units}
    chosen.update(dict.fromkeys(map(ir.label, floats), "fp32"))
    kept = {**plan.kept_float, **reasoned(floats, DEARER)}
    return replace(plan, precisions={**chosen, **plan.precisions}, kept_float=kept)


def weigh(
    plan: QuantPlan,
    model: ir.Model,
    runtime: Runtime,
    rates: CostSpec,
    *,
    explicit: bool,
    ports: bool = False,
) -> tuple[QuantPlan, str | None]:
    """What the target's numbers make of a plan, and what the user should know of it.

    A mixed plan gets its precisions. Where no precision was asked for, nothing is quantized that would be slower for
    it; where one was, that is only said. The arguments are those of `assign`.
    """
    if plan.precision == "mixed":
        return assign(plan, model, runtime, rates, ports=ports), None
    floats = slower(plan, model, runtime, rates, ports=ports)
    if not floats:
        return plan, None
    if not explicit:
        return replace(plan, kept_float={**plan.kept_float, **reasoned(floats, DEARER)}), None
    units, _ = integer_units(model, runtime, plan)
    named = ", ".join(f"{node.op_type} {ir.label(node)}" for node in floats[:_NAMED])
    more = " and others" if len(floats) > _NAMED else ""
    return plan, (
        f"by the target's numbers {len(floats)} of {len(units)} operators take less time in float than in"
        f" {plan.precision} ({named}{more}); --precision mixed computes them so"
    )


def slower(
    plan: QuantPlan, model: ir.Model, runtime: Runtime, rates: CostSpec, *, ports: bool = False
) -> list[ir.Node]:
    """What takes less time in float than as the plan has it, the conversions around it counted: see `assign`."""
    units, _ = integer_units(model, runtime, plan)
    precisions = {node: plan.precision_of(node) for node in units}
    pinned = [node for node in units if ir.label(node) in plan.precisions]
    return dear(model, units, precisions, rates, pinned=pinned, ports=ports)


def reasoned(floats: Iterable[ir.Node], reason: str) -> dict[str, str]:
    """Of nodes that stay float, and of the activations that they absorb, which are no quantized operators then."""
    found: dict[str, str] = {}
    for node in floats:
        after = rules.fused_activation(node)
        found.update(dict.fromkeys(map(ir.label, (node, *(() if after is None else (after,)))), reason))
    return found


def dear(
    model: ir.Model, units: Collection[ir.Node], precisions: Mapping[ir.Node, str], rates: CostSpec, *,
    pinned: Collection[ir.Node] = (), ports: bool = False,
) -> list[ir.Node]:  # fmt: skip
    """The units that cost less in float, in the cheapest assignment.

    Args:
        model: the float network.
        units: the operators that have an integer kernel.
        precisions: of each of them, if computed in integers.
        rates: of the target.
        pinned: units that are to be computed in integers whatever that costs.
        ports: whether inputs and outputs of the network are integers.
    """
    problem = cut_problem(model, units, precisions, rates, ports=FLOAT if not ports else INTEGER)
    for node in pinned:
        problem.pin(node, INTEGER)
    labels = problem.solve()
    return [node for node in units if labels[node] == FLOAT]


def lazy(
    model: ir.Model,
    units: Mapping[ir.Node, Column],
    precisions: Mapping[ir.Node, str],
    rates: CostSpec,
    pinned: Collection[ir.Node] = (),
) -> dict[ir.Node, str]:
    """The units that an explicit integer precision leaves in float, with the reason: none that sums products.

    Only regions of elementwise and moving operators beside float operators are weighed; inputs and outputs of the
    network count as neither, since on integer devices they are integers.
    """
    found = {node: IDLE for node in idle(units) if node not in pinned}
    left = [node for node in units if node not in found]
    integer = {*left, *(rules.fused_activation(node) for node in left)}
    if all(n in integer or all(out.dtype != ir.DataType.FLOAT for out in n.outputs) for n in model.graph):
        return found
    weighed = {n for n in left if n.op_type in _ELEMENTWISE or rules.RULES[n.op_type].hull} - set(pinned)
    problem = cut_problem(model, left, precisions, rates, ports=None)
    for node in left:
        if node not in weighed:
            problem.pin(node, INTEGER)
    labels = problem.solve()
    return {**found, **{node: DEARER for node in left if labels[node] == FLOAT}}


def cut_problem(
    model: ir.Model, units: Collection[ir.Node], precisions: Mapping[ir.Node, str], rates: CostSpec, *,
    ports: int | None, wider: Mapping[ir.Node, str] | None = None,
) -> TwoLabels:  # fmt: skip
    """The choice as a two-label problem; its variables are nodes, and the ports of the network by name.

    Args:
        model: the float network.
        units: the operators that have an integer kernel.
        precisions: of each of them, if computed in integers.
        rates: of the target.
        ports: label of inputs and outputs; None: they cost nothing either way.
        wider: what units are that are not of the precision in `precisions`; None: fp32.
    """
    wider = wider or {}
    problem, known = TwoLabels(), set(units)
    absorbed = {after for node in units if (after := rules.fused_activation(node)) is not None}
    makers: list[tuple[Hashable, ir.Value]] = []
    for value in model.graph.inputs:
        if ports is not None and value.dtype == ir.DataType.FLOAT:
            problem.pin(("input", str(value.name)), ports)
            makers.append((("input", str(value.name)), value))
    for node in model.graph:
        if node in absorbed:
            continue
        outputs = unit_outputs(node) if node in known else tuple(node.outputs)
        if node in known:
            problem.add(
                node,
                cycles(node, outputs, wider.get(node, "fp32"), rates),
                cycles(node, outputs, precisions[node], rates),
            )
        else:
            problem.pin(node, FLOAT)
        makers += [(node, out) for out in outputs if out.dtype == ir.DataType.FLOAT]
    for maker, value in makers:
        readers: list[Hashable] = [
            u.node for u in value.uses() if u.node not in known or u.idx in rules.data_inputs(u.node)
        ]
        for inner in {u.node for u in value.uses() if u.node.graph is not model.graph}:
            problem.pin(inner, FLOAT)  # in the branch of an If
        if value.is_graph_output() and ports is not None:
            problem.pin(("output", str(value.name)), ports)
            readers.append(("output", str(value.name)))
        problem.value(maker, readers, conversion(value, rates))
        _wide_seams(problem, (maker, *readers), wider, conversion(value, rates))
    return problem


def _wide_seams(
    problem: TwoLabels, around: Collection[Hashable], wider: Mapping[ir.Node, str], cost: float
) -> None:
    """Label 0 of int16 nodes is no float: beside float that is pinned, as ports are, they convert in either label."""
    wide = [n for n in around if isinstance(n, ir.Node) and wider.get(n) == "int16x8"]
    if wide and any(problem.pins.get(n) == FLOAT for n in around):
        for node in wide:
            first, second = problem.costs[node]
            problem.costs[node] = (first + cost / len(wide), second)


def idle(units: Mapping[ir.Node, Column]) -> list[ir.Node]:
    """Moving nodes in connected groups of moving nodes that touch no computing unit."""
    fused = {after: node for node in units if (after := rules.fused_activation(node)) is not None}
    moving = [n for n in units if rules.RULES[n.op_type].hull]
    found: list[ir.Node] = []
    seen: set[ir.Node] = set()
    for start in moving:
        if start in seen:
            continue
        group, queue, useful = [], [start], False
        seen.add(start)
        while queue:
            node = queue.pop()
            group.append(node)
            for neighbour in _neighbours(node):
                other = fused.get(neighbour, neighbour)
                if other not in units:
                    continue
                if not rules.RULES[other.op_type].hull:
                    useful = True
                elif other not in seen:
                    seen.add(other)
                    queue.append(other)
        if not useful:
            found += group
    return found


def _neighbours(node: ir.Node) -> Iterable[ir.Node]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None:
            yield producer
    for out in node.outputs:
        yield from ir.consumers(out)
