"""Replaces an If whose condition is computed: both branches are computed, and Where selects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from edgecc import ir
from edgecc.analysis import refusals
from edgecc.analysis.shapes import infer_static
from edgecc.errors import ModelError
from edgecc.passes import _rewrite as rw
from edgecc.passes._emit import Emitter, settle
from edgecc.passes._subgraph import Body, size
from edgecc.pipeline import Pass, PassContext, PassResult

_BRANCHES = ("then_branch", "else_branch")
_COMPUTED = "its condition is computed while running"
_DEEPEST = 4  # nested Ifs are tried out in every branch around them: the work doubles with each level
# Operators that stop the runtime when what they read elsewhere makes no sense, as in the branch not meant: the
# operands that decide.
_MAY_FAIL = {
    "Gather": 1, "GatherElements": 1, "GatherND": 1, "ScatterElements": 1, "ScatterND": 1, "OneHot": 0,
    "Div": 1, "Mod": 1,
}  # fmt: skip
_INTEGER_ONLY = ("Div", "Mod")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, kw_only=True)
class InlineIf(Pass):
    """Computes both branches of an If and selects, where they return the same shapes and neither can fail.

    Where one branch cannot run on inputs of these shapes (its operators contradict each other), the network
    fails whenever it takes that one, and the other is taken for good: the report says so. Ifs with constant
    conditions are left to fold_constants. Where more than `max_nodes` nodes would come of it, it is left alone.
    """

    name: ClassVar[str] = "inline_if"
    max_nodes: int = 20_000

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        if not any(rw.is_op(node, "If") for node in model.graph):
            return PassResult()
        return self._rounds(model, ctx, 0)

    def _rounds(self, model: ir.Model, ctx: PassContext, depth: int) -> PassResult:
        tally = rw.Tally()
        while True:
            before, found = tally.rewritten, rw.Tally()
            for position, node in enumerate(list(model.graph)):
                if rw.is_op(node, "If") and ir.constant(node.inputs[0]) is None:
                    reason = self._serve(model, node, position, ctx, depth)
                    if reason is None:
                        tally.rewritten += 1
                        break  # positions have changed
                    refusals.note(node, reason)
                    found.refuse(node, reason)
            if tally.rewritten == before:
                return PassResult(tally.rewritten, found.result().refused)
            settle(model, ctx)

    def _serve(
        self, model: ir.Model, node: ir.Node, position: int, ctx: PassContext, depth: int
    ) -> str | None:
        """Replaces the node, or returns the reason why not."""
        if depth >= _DEEPEST:
            return f"{_COMPUTED}, inside {_DEEPEST} others whose are too"
        branches: list[ir.Graph] = [ir.attribute(node, name) for name in _BRANCHES]
        total = model.graph.num_nodes() + sum(size(branch) for branch in branches)
        if total > self.max_nodes:
            return f"{_COMPUTED}, and both branches make {total} nodes; max_nodes is {self.max_nodes}"
        tried = [self._trial(model, position, name, ctx, depth) for name in _BRANCHES]
        failed = [result for result in tried if isinstance(result, str)]
        if len(failed) == 2:
            return f"neither of its branches can run on inputs of these shapes: {failed[0]}"
        if failed:
            _take(model.graph, node, branches[isinstance(tried[0], str)])
            return None
        first, second = (result for result in tried if not isinstance(result, str))
        reason = _difference(node, first.outputs, second.outputs)
        for branch, graph in zip(branches, (first, second), strict=True):
            reason = reason or _hazard(graph, {inner.name for inner in branch.all_nodes()})
        if reason is not None:
            return f"{_COMPUTED}, and {reason}"
        _select(model.graph, node, branches, first.outputs)
        return None

    def _trial(
        self, model: ir.Model, position: int, which: str, ctx: PassContext, depth: int
    ) -> ir.Graph | str:
        """A branch as a graph of its own, with types and shapes; the reason if it cannot run at all."""
        copy = model.clone()
        graph = copy.graph
        node = list(graph)[position]
        nodes, results = Body(ir.attribute(node, which), graph).copy([])
        emit = Emitter(graph, f"{ir.label(node)}_{which}", ir.DataType.FLOAT, nodes)
        outputs = [
            emit.op("Identity", [value], None, value.dtype or out.dtype)
            for value, out in zip(results, node.outputs, strict=True)
        ]
        graph.insert_before(node, emit.nodes)
        graph.outputs.clear()
        graph.outputs.extend(outputs)
        rw.forget_bodies(node)
        try:
            rw.remove_unused(copy)
            settle(copy, ctx)
            self._rounds(copy, ctx, depth + 1)
            infer_static(copy, strict=True)
        except ModelError as error:
            return str(error.message)
        return graph


def _difference(node: ir.Node, first: Sequence[ir.Value], second: Sequence[ir.Value]) -> str | None:
    """In what the results of the branches differ that Where cannot bridge."""
    for out, a, b in zip(node.outputs, first, second, strict=True):
        if a.dtype is None or a.dtype != b.dtype or a.dtype == ir.DataType.STRING:
            return f"its branches return different types for {out.name!r}"
        shapes = [_shape(value) for value in (a, b)]
        if shapes[0] != shapes[1]:
            return f"its branches return different shapes for {out.name!r}: {shapes[0]} and {shapes[1]}"
        if "?" in shapes[0]:
            return f"the shape of {out.name!r} is not known when compiling: {shapes[0]}"
    return None


def _shape(value: ir.Value) -> str:
    if value.shape is None:
        return "[?]"
    return str([d if isinstance(d, int) else d.value or "?" for d in value.shape.dims]).replace("'", "")


def _hazard(graph: ir.Graph, names: set[str | None]) -> str | None:
    """The first of these nodes that may stop the runtime."""
    for node in graph.all_nodes():
        position = _MAY_FAIL.get(node.op_type)
        if position is None or node.name not in names or ir.constant(node.inputs[position]) is not None:
            continue
        source = node.inputs[0]
        if node.op_type in _INTEGER_ONLY and source is not None and source.dtype in _FLOATS:
            continue
        return f"{ir.label(node)} ({node.op_type}) may fail where its branch is not meant to run"
    return None


def _take(graph: ir.Graph, node: ir.Node, branch: ir.Graph) -> None:
    emit = Emitter(graph, ir.label(node), ir.DataType.FLOAT)
    emit.nodes, results = Body(branch, graph).copy([])
    emit.replace(node, list(zip(node.outputs, results, strict=True)))


def _select(
    graph: ir.Graph, node: ir.Node, branches: Sequence[ir.Graph], results: Sequence[ir.Value]
) -> None:
    condition = node.inputs[0]
    assert condition is not None
    emit = Emitter(graph, ir.label(node), ir.DataType.FLOAT)
    if condition.shape is not None and len(
        condition.shape
    ):  # of one element: a shape of its own would spread
        condition = emit.reshape(condition, [])
    sides = []
    for branch in branches:
        nodes, values = Body(branch, graph).copy([])
        emit.nodes += nodes
        sides.append(values)
    outputs = []
    for out, like, left, right in zip(node.outputs, results, *sides, strict=True):
        shape = None if like.shape is None else tuple(like.shape)
        outputs.append((out, emit.op("Where", [condition, left, right], shape, like.dtype)))
    emit.replace(node, outputs)
