"""Makes a network that carries quantization a float one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.analysis import qdq
from edgecc.passes import _pairs as pairs
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult

_SIX = 6.0


@dataclass(frozen=True, kw_only=True)
class RemoveQDQ(Pass):
    """Takes Q/DQ pairs away and makes stored weights real numbers.

    Quantizers leave out a Relu whose clamp the saturation of its result does anyhow: where a pair stores nothing below
    0, a Relu takes its place, and a Clip to 6 where it ends there.
    """

    name: ClassVar[str] = "remove_qdq"
    exact: ClassVar[bool] = False

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        graph = model.graph
        for node in tuple(graph):
            if node.graph is not graph or not rw.is_op(node, "DequantizeLinear"):
                continue
            reason = _real(graph, node) if ir.constant(node.inputs[0]) is not None else _pair(graph, node)
            if reason is None:
                tally.rewritten += 1
            else:
                tally.refuse(node, reason)
        return tally.result()


def _real(graph: ir.Graph, node: ir.Node) -> str | None:
    """A constant of real numbers in the place of stored ones."""
    out = node.outputs[0]
    if out.is_graph_output() or ir.constant(node.inputs[1]) is None:
        return "it is a result of the network, or its scale is computed"
    array = qdq.real_constant(node).astype(np.float32 if out.dtype is None else out.dtype.numpy())
    name, out.name = str(out.name), None
    unread = list(node.inputs)
    ir.replace([node], [], {out: ir.add_initializer(graph, array, name)})
    rw.drop_dead(unread)
    return None


def _pair(graph: ir.Graph, node: ir.Node) -> str | None:
    """The value itself in the place of what a pair makes of it, or the clamp that the pair did."""
    stored, out = node.inputs[0], node.outputs[0]
    first = None if stored is None else stored.producer()
    if first is None or not rw.is_op(first, "QuantizeLinear") or not qdq.absorbed(node):
        return "it is no half of a pair"
    source, found = first.inputs[0], pairs.stored(first)
    assert source is not None
    clamp = None if found is None or found.range[0] != 0.0 or _is_positive(source) else found.range[1]
    if clamp is None and ir.can_bypass(out, source):
        ir.replace([node], [], {out: source})
    elif clamp is None:
        new = rw.new_node("Identity", [source], out, name=node.name)
        ir.replace([node], [new], {out: new.outputs[0]})
    else:
        inputs = [source]
        assert found is not None
        six = abs(clamp - _SIX) <= found.scale
        for limit in (0.0, _SIX) if six else ():
            name = ir.fresh_name(graph, f"{source.name}_limit")
            inputs.append(ir.add_initializer(graph, np.array(limit, np.float32), name))
        new = rw.new_node("Clip" if six else "Relu", inputs, out, name=f"{source.name}/clamp")
        ir.replace([node], [new], {out: new.outputs[0]})
    rw.drop_dead([stored])
    return None


def _is_positive(value: ir.Value) -> bool:
    """Whether a value cannot be below 0, or nobody left a Relu out before it: an input, the result of an activation."""
    maker = value.producer()
    return maker is None or rw.is_op(
        maker, "Relu", "Clip", "Sigmoid", "Softmax", "HardSigmoid", "MaxPool", "Exp"
    )
