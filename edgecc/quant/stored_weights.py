"""The parameters of constant weights under a plan: int8 or int4, of one matrix for all nodes that read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgecc import ir
from edgecc.quant import int4, rules
from edgecc.quant.params import QuantParams, from_weights
from edgecc.quant.shared_values import shares_values

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan

# A bias is stored in int32 with scale s_in * s_w and begins an int32 sum. Where it would exceed this, the
# channel's weight scale is widened: its weights are negligible beside its bias.
_BIAS_LIMIT = 2.0**30


def weight_tensors(
    model: ir.Model,
    activations: Mapping[str, QuantParams],
    narrow: Callable[[ir.Node], bool],
    *,
    per_channel: bool,
) -> dict[str, QuantParams]:
    """Parameters by name, of the weights of every node that has some.

    Args:
        model: the float network.
        activations: parameters of what nodes read, by name.
        narrow: whether a node is to have int4 weights, if there are kernels; a matrix that another node reads, which
            is to have int8 ones, is int8.
        per_channel: one scale an output channel, or one a tensor.
    """
    found: dict[str, QuantParams] = {}
    for node in model.graph:
        weight = rules.weight_of(node)
        if weight is None:
            continue
        array = ir.constant(weight)
        assert array is not None
        params = _params(node, array, per_channel=per_channel, narrow=narrow(node))
        name, source = str(weight.name), node.inputs[0]
        if name in found and found[name].axis != params.axis:
            continue  # one matrix used in two ways: see integer_units
        if name in found and found[name].dtype != params.dtype:  # one reader takes no int4
            params = next(p for p in (params, found[name]) if p.dtype == "int8")
        elif name in found:
            params = replace(params, scale=np.maximum(params.scale, found[name].scale))
        read = None if source is None else activations.get(str(source.name))
        if read is not None:
            params = room_for_bias(node, params, read)
        if shares_values(array):  # one scale for all channels
            params = replace(params, scale=np.full_like(params.scale, params.scale.max()))
        found[name] = params
    return found


def wider_weights(model: ir.Model, plan: QuantPlan) -> dict[str, QuantParams]:
    """The int8 parameters of weights to which the plan gives int4, by name; nodes with an own precision keep theirs.

    Args:
        model: the float network that the plan was made for.
        plan: not specialised for a runtime.
    """
    activations = {name: plan.tensors[name] for name in plan.ranges}
    narrow = {str(w.name): p for node in model.graph if (w := rules.weight_of(node)) is not None
              and (p := plan.tensors[str(w.name)]).dtype == "int4"}  # fmt: skip
    per_channel = any(params.axis is not None for params in narrow.values())
    found = weight_tensors(
        model,
        activations,
        lambda node: plan.precisions.get(ir.label(node)) == "int4",
        per_channel=per_channel,
    )
    return {name: found[name] for name in narrow if found[name].dtype == "int8"}


def room_for_bias(node: ir.Node, weight: QuantParams, source: QuantParams) -> QuantParams:
    """The parameters with scales wide enough for the bias beside them.

    Args:
        node: whose weights and bias are meant.
        weight: parameters of its weights.
        source: of what it reads.
    """
    bias = ir.constant(rules.bias_of(node))
    if bias is None:
        return weight
    needed = np.abs(bias.astype(np.float64).reshape(-1)) / (float(source.scale[0]) * _BIAS_LIMIT)
    if weight.axis is None or needed.size != weight.scale.size:
        needed = np.full(weight.scale.size, needed.max(initial=0.0))
    return replace(weight, scale=np.maximum(weight.scale, needed.astype(np.float32)))


def _params(node: ir.Node, array: ir.Array, *, per_channel: bool, narrow: bool) -> QuantParams:
    """int4 where that is wanted and the node takes it, else int8."""
    axis = rules.channel_axis(node) if per_channel else None
    return from_weights(array, axis, "int4" if narrow and int4.objection(node, "int8") is None else "int8")
