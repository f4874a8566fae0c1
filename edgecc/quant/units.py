"""Which nodes a runtime computes in integers under a plan, and why the others stay float."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from edgecc import ir
from edgecc.quant import rules
from edgecc.quant.rules import Column, Runtime

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan


def integer_units(
    model: ir.Model, runtime: Runtime, plan: QuantPlan
) -> tuple[dict[ir.Node, Column], dict[str, str]]:
    """The nodes computed in integers, and for each other one why it is not.

    A fused activation counts as its producer. Operators that only move values stay float where none of the
    nodes they are connected with computes in integers: quantizing them would cost and save nothing.
    """
    units: dict[ir.Node, Column] = {}
    reasons: dict[str, str] = {}
    axes: dict[str, int | None] = {}
    fused: dict[ir.Node, ir.Node] = {}
    for node in model.graph:
        if node in fused:
            continue
        found = plan.kept_float.get(ir.label(node)) or rules.column(node, runtime)
        if isinstance(found, Column):
            found = _missing(node, found, plan, axes)
        if isinstance(found, str):
            reasons[ir.label(node)] = found
            continue
        units[node] = found
        after = rules.fused_activation(node)
        if after is not None:
            fused[after] = node
    for node in _idle(units, fused):
        reasons[ir.label(node)] = "it only moves values between float operators"
        del units[node]
    return units, reasons


def _missing(node: ir.Node, found: Column, plan: QuantPlan, axes: dict[str, int | None]) -> Column | str:
    """The column, or what the plan lacks to quantize the node."""
    for value in (*(node.inputs[i] for i in rules.data_inputs(node)), *unit_outputs(node)):
        if value is not None and str(value.name) not in plan.ranges and ir.constant(value) is None:
            return f"{value.name} was not observed"
    weight = rules.weight_of(node)
    if weight is None:
        return found
    name, axis = str(weight.name), rules.channel_axis(node)
    params = plan.tensors.get(name)
    if params is None or (params.axis is not None and axes.setdefault(name, axis) != axis):
        return "its weights are shared with an operator that reads them along another axis"
    return found


def unit_outputs(node: ir.Node) -> tuple[ir.Value, ...]:
    """The outputs of a node, those of the activation fused into it where there is one."""
    after = rules.fused_activation(node)
    return tuple(after.outputs if after is not None else node.outputs)


def _idle(units: Mapping[ir.Node, Column], fused: Mapping[ir.Node, ir.Node]) -> list[ir.Node]:
    """Moving nodes in connected groups of moving nodes that touch no computing unit.

    `fused`: the unit that computes an activation, by the activation's node.
    """
    moving = [n for n in units if rules.RULES[n.op_type].hull]
    idle = []
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
            idle += group
    return idle


def _neighbours(node: ir.Node) -> Iterable[ir.Node]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None:
            yield producer
    for out in node.outputs:
        yield from ir.consumers(out)
