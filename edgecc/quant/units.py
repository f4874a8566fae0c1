"""Which nodes a runtime computes in integers under a plan, and why the others stay float."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgecc import ir
from edgecc.quant import rules
from edgecc.quant.params import QuantParams
from edgecc.quant.rules import Column, Runtime

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan

Width = Literal["int8", "int16"]

# Precisions whose activations are float32.
REAL = frozenset({"fp32", "fp16", "dynamic"})


def width(plan: QuantPlan, node: ir.Node) -> Width:
    """How wide the activations of an integer node are."""
    return "int16" if plan.precision_of(node) == "int16x8" else "int8"


def is_wide(params: QuantParams) -> bool:
    """Whether parameters are those of int16 activations."""
    return params.dtype == "int16"


def integer_units(
    model: ir.Model, runtime: Runtime, plan: QuantPlan
) -> tuple[dict[ir.Node, Column], dict[str, str]]:
    """The nodes computed in integers, and for each other one why it is not.

    A fused activation counts as its producer, whose precision it has.
    """
    units: dict[ir.Node, Column] = {}
    reasons: dict[str, str] = {}
    fused: set[ir.Node] = set()
    for node in model.graph:
        if node in fused:
            continue
        found = _column(node, runtime, plan)
        if isinstance(found, Column):
            found = _missing(node, found, plan)
        if isinstance(found, str):
            reasons[ir.label(node)] = found
            continue
        units[node] = found
        after = rules.fused_activation(node)
        if after is not None:
            fused.add(after)
    return units, reasons


def _column(node: ir.Node, runtime: Runtime, plan: QuantPlan) -> Column | str:
    label, precision = ir.label(node), plan.precision_of(node)
    if precision in REAL:
        return plan.kept_float.get(label) or f"the plan computes it in {precision}"
    return rules.column(node, runtime, width(plan, node))


def _missing(node: ir.Node, found: Column, plan: QuantPlan) -> Column | str:
    """The column, or what the plan lacks to quantize the node."""
    for value in (*(node.inputs[i] for i in rules.data_inputs(node)), *unit_outputs(node)):
        if value is not None and str(value.name) not in plan.ranges and ir.constant(value) is None:
            return f"{value.name} was not observed"
    weight = rules.weight_of(node)
    if weight is None:
        return found
    name, axis = str(weight.name), rules.channel_axis(node)
    params = plan.tensors.get(name)
    if params is None or (params.axis not in (None, axis) and not params.block_size):
        return "its weights are shared with an operator that reads them along another axis"
    return found


def unit_outputs(node: ir.Node) -> tuple[ir.Value, ...]:
    """The outputs of a node, those of the activation fused into it where there is one."""
    after = rules.fused_activation(node)
    return tuple(after.outputs if after is not None else node.outputs)
