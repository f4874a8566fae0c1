"""Constant weights of Conv, Gemm and MatMul as matrices, for passes that change their numbers and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from edgecc import ir
from edgecc.calibration import moments as mo
from edgecc.calibration.columns import fan_in, groups
from edgecc.passes import _rewrite as rw
from edgecc.passes._linear_layer import LINEAR
from edgecc.quant import rules


@dataclass(frozen=True)
class Weights:
    """The weights of one layer.

    Attributes:
        node: the layer.
        value: its constant; nothing else reads it.
        bias: the constant that takes a mean error; None where there is none, or others read it.
    """

    node: ir.Node
    value: ir.Value
    bias: ir.Value | None

    def matrix(self) -> ir.Array:
        """(groups, outputs of a group, fan_in) float64; fan_in in the order of `Columns`."""
        array = ir.constant(self.value)
        assert array is not None
        return rows(self.node, array).astype(np.float64).reshape(groups(self.node), -1, fan_in(self.node))

    def store(self, matrix: ir.Array, shift: ir.Array | None = None) -> None:
        """Replaces the weights; `shift`, (outputs,) in any shape, is added to the bias if that may be changed."""
        array = ir.constant(self.value)
        assert array is not None
        flat = matrix.reshape(-1, matrix.shape[-1])
        self.value.const_value = ir.Tensor(unrows(self.node, flat, array), name=self.value.name)
        if self.bias is None or shift is None:
            return
        old = ir.constant(self.bias)
        assert old is not None
        moved = (old + shift.reshape(old.shape)).astype(old.dtype)
        self.bias.const_value = ir.Tensor(moved, name=self.bias.name)

    @property
    def channels(self) -> int:
        """Neighbours along the input axis at one place of the kernel."""
        return ir.static_dims(self.value)[1] if self.node.op_type == "Conv" else fan_in(self.node)

    @property
    def taps(self) -> int:
        """Weights that one input channel meets in one output: the places of a kernel."""
        return fan_in(self.node) // self.channels

    def by_channel(self) -> ir.Array:
        """The order of fan_in in which input channels are neighbours, as runtimes store weights: (fan_in,)."""
        size = fan_in(self.node)
        return np.arange(size).reshape(self.channels, -1).T.reshape(-1)


def rows(node: ir.Node, weight: ir.Array) -> ir.Array:
    """Weights as (outputs, fan_in)."""
    if node.op_type == "Conv":
        return weight.reshape(len(weight), -1)
    return weight if rules.channel_axis(node) == 0 else weight.T


def unrows(node: ir.Node, matrix: ir.Array, like: ir.Array) -> ir.Array:
    """The inverse of `rows`, in the type and shape of `like`."""
    found = matrix if node.op_type == "Conv" or rules.channel_axis(node) == 0 else matrix.T
    return np.ascontiguousarray(found.reshape(like.shape).astype(like.dtype))


def layers(model: ir.Model, tally: rw.Tally) -> Iterator[Weights]:
    """The layers whose weights may be changed; the others of that kind are refused with a reason."""
    for node in model.graph:
        if not rw.is_op(node, *LINEAR):
            continue
        reason = _objection(node)
        if reason is not None:
            tally.refuse(node, reason)
            continue
        value, bias = node.inputs[1], rules.bias_of(node)
        assert value is not None
        outputs = prod(ir.static_dims(value)) // fan_in(node)
        known = ir.constant(bias)
        own = bias is not None and len(bias.uses()) == 1 and known is not None and known.size == outputs
        yield Weights(node, value, bias if own else None)


def _objection(node: ir.Node) -> str | None:
    if (reason := mo.objection(node)) is not None:
        return reason
    value = node.inputs[1]
    assert value is not None
    if value.dtype != ir.DataType.FLOAT:
        return "its weights are not float32"
    if len(value.uses()) > 1 or value.is_graph_output():
        return "other nodes read its weights, too"
    if node.op_type == "Gemm" and ir.attribute(node, "transA", 0):
        return "it transposes its input"
    if node.op_type == "Gemm" and {ir.attribute(node, k, 1.0) for k in ("alpha", "beta")} != {1.0}:
        return "it scales its product or its bias"
    return None
