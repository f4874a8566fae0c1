"""Evaluates what does not depend on the input: constant expressions, and sizes of known shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from edgecc import ir
from edgecc.analysis.evaluate import EVALUATION_ERRORS, evaluate
from edgecc.analysis.shape_values import shape_values
from edgecc.ir import Array
from edgecc.passes import _rewrite as rw
from edgecc.passes._result_size import BOUNDS
from edgecc.pipeline import Pass, PassContext, PassResult

_LEFT_ALONE = {
    **dict.fromkeys(
        (
            "Bernoulli",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ),
        "draws random numbers anew each time",
    ),
    **dict.fromkeys(
        ("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"),
        "carries the quantization of a constant",
    ),
}


@dataclass(frozen=True, kw_only=True)
class FoldConstants(Pass):
    """Replaces nodes whose inputs are all constant, and sizes that static shapes determine, by constants.

    An If whose condition is constant is replaced by the branch that it takes. Random operators and those that
    carry the quantization are left alone, and so is a result larger than both its inputs and `max_bytes`.
    """

    name: ClassVar[str] = "fold_constants"
    max_bytes: int = 64 << 20

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        graph, version = model.graph, rw.opset(model)
        sizes = shape_values(graph)
        for node in graph:
            known = sizes.get(node.outputs[0]) if len(node.outputs) == 1 else None
            if rw.is_op(node, "If"):
                self._inline(node, tally)
            elif known is not None and None not in known.reshape(-1):
                self._store(node, [known.astype(node.outputs[0].dtype.numpy())], tally)  # type: ignore[union-attr]
            elif _is_constant(node):
                self._fold(node, version, tally)
        if tally.rewritten:
            rw.remove_unused(model)
        return tally.result()

    def _fold(self, node: ir.Node, version: int, tally: rw.Tally) -> None:
        inputs = [ir.constant(v) for v in node.inputs]
        bound = BOUNDS.get(node.op_type) if node.domain in rw.MAIN_DOMAINS else None
        if (reason := _LEFT_ALONE.get(node.op_type)) is not None:
            return tally.refuse(node, reason)
        if bound is None:
            return tally.refuse(node, "no rule bounds the size of what it computes")
        try:
            size = bound(node, inputs) * _itemsize(node)
            if size > max(self.max_bytes, sum(array.nbytes for array in inputs if array is not None)):
                return tally.refuse(node, f"its result would take {size >> 20} MiB")
            results = evaluate(node, inputs, version)
        except EVALUATION_ERRORS as error:
            return tally.refuse(node, f"cannot be evaluated while compiling: {error}")
        return self._store(node, results, tally)

    def _store(self, node: ir.Node, results: Sequence[Array], tally: rw.Tally) -> None:
        if any(out.is_graph_output() for out in node.outputs):
            return tally.refuse(node, "its result is a graph output, which a node must compute")
        for out, array in zip(node.outputs, results, strict=False):
            expected, shape = out.dtype, ir.dims(out)
            if expected is not None and expected.numpy() != array.dtype:
                return tally.refuse(node, f"evaluates to {array.dtype}, but is declared as {expected.name}")
            if shape is not None and (
                len(shape) != array.ndim
                or any(d not in {None, n} for d, n in zip(shape, array.shape, strict=True))
            ):
                return tally.refuse(node, f"evaluates to shape {array.shape}, but is declared as {shape}")
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        outputs = {}
        for out, array in zip(node.outputs, results, strict=False):
            name, out.name = out.name, None
            outputs[out] = ir.add_initializer(graph, array, name or ir.fresh_name(graph, "constant"))
        ir.replace([node], [], outputs)
        tally.rewritten += 1
        return None

    def _inline(self, node: ir.Node, tally: rw.Tally) -> None:
        condition = ir.constant(node.inputs[0])
        if condition is None:
            return tally.refuse(node, "its condition is computed while running")
        branch = ir.attribute(node, "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
        outer = node.graph
        assert isinstance(outer, ir.Graph)
        own = [v for inner in branch for v in inner.outputs]
        taken = dict(zip(node.outputs, branch.outputs, strict=True))
        if any(out.is_graph_output() and result not in own for out, result in taken.items()) or (
            len(set(taken.values())) < len(taken)
        ):
            return tally.refuse(node, "a graph output is what its branch hands through unchanged")
        for value in list(branch.initializers.values()):
            del branch.initializers[value.name]
            value.name = ir.fresh_name(outer, value.name)
            outer.register_initializer(value)
        for value in own:
            value.name = ir.fresh_name(outer, value.name or "value")
        inner_nodes = list(branch)
        branch.outputs.clear()
        branch.remove(inner_nodes)
        ir.replace([node], inner_nodes, taken)
        rw.forget_bodies(node)
        tally.rewritten += 1
        return None


def _is_constant(node: ir.Node) -> bool:
    return all(v is None or (v.const_value is not None and not v.is_graph_input()) for v in node.inputs)


def _itemsize(node: ir.Node) -> int:
    return max((math.ceil(out.dtype.itemsize) for out in node.outputs if out.dtype is not None), default=8)
