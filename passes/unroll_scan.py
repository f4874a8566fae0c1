"""Unrolls Scan, and Loop where the number of its iterations is known, into copies of its body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from edgecc import ir
from edgecc.analysis import refusals
from edgecc.passes import _rewrite as rw
from edgecc.passes._emit import Emitter, read_outputs, settle
from edgecc.passes._subgraph import Body, size
from edgecc.passes._trip_count import loop_steps
from edgecc.pipeline import Pass, PassContext, PassResult


@dataclass(frozen=True, kw_only=True)
class UnrollScan(Pass):
    """Copies the body of a Scan or Loop once a step (ONNX operator specification, Scan, Loop).

    A Loop's iterations are known where its trip count is constant and its condition depends on constants and
    the iteration alone. Where more than `max_nodes` nodes would come of it, it is left alone.
    """

    name: ClassVar[str] = "unroll_scan"
    max_nodes: int = 20_000

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place; loops in the copies too."""
        tally = rw.Tally()
        if not any(rw.is_op(node, "Scan", "Loop") for node in model.graph):
            return tally.result()
        version = rw.opset(model)
        while True:
            before, found = tally.rewritten, rw.Tally()
            for node in model.graph:
                if rw.is_op(node, "Scan", "Loop"):
                    unrolled = _Unrolled(model.graph, node, version)
                    reason = unrolled.reason or self._too_large(model.graph, unrolled)
                    if reason is not None:
                        refusals.note(node, reason)
                        found.refuse(node, reason)
                        continue
                    unrolled.write()
                    tally.rewritten += 1
            if tally.rewritten == before:
                return PassResult(tally.rewritten, found.result().refused)
            settle(model, ctx)

    def _too_large(self, graph: ir.Graph, unrolled: _Unrolled) -> str | None:
        total = graph.num_nodes() + unrolled.steps * max(unrolled.nodes, 1)
        if total <= self.max_nodes:
            return None
        return (
            f"its {unrolled.steps} steps of {unrolled.nodes} nodes would make {total} nodes of the graph;"
            f" max_nodes is {self.max_nodes}"
        )


class _Unrolled:
    """One Scan or Loop: how many steps it takes, or the reason why that is not known."""

    def __init__(self, graph: ir.Graph, node: ir.Node, version: int) -> None:
        self.graph, self.node = graph, node
        self.body: ir.Graph = ir.attribute(node, "body")
        self.nodes = size(self.body)
        self.is_scan = node.op_type == "Scan"
        self.steps = 0
        self.reason: str | None = None
        self.scanned = int(ir.attribute(node, "num_scan_inputs", 0)) if self.is_scan else 0
        given = list(node.inputs) if self.is_scan else list(node.inputs[2:])
        self.states = given[: len(given) - self.scanned]
        self.slices = given[len(self.states) :]
        found = self._scan_steps() if self.is_scan else loop_steps(node, version)
        if isinstance(found, str):
            self.reason = found
        else:
            self.steps = found
            self.reason = self._objection()

    def _objection(self) -> str | None:
        if any(value is None for value in (*self.states, *self.slices)):
            return "one of its inputs is left out"
        stacked = read_outputs(self.node)
        if self.steps == 0 and any(out in stacked for out in self.node.outputs[len(self.states) :]):
            return "it takes no step, and what it would have collected is empty"
        if any(ir.dims(out) is None and min(self._axes("output"), default=0) < 0 for out in stacked):
            return "the rank of what it collects is not known"
        return None

    def _list(self, what: str, position: int) -> int:
        given = ir.attribute(self.node, f"scan_{what}") or ()
        return int(given[position]) if position < len(given) else 0

    def _axes(self, side: str) -> Sequence[int]:
        return ir.attribute(self.node, f"scan_{side}_axes") or ()

    def _scan_steps(self) -> int | str:
        lengths = set()
        for position, value in enumerate(self.slices):
            shape = None if value is None else ir.dims(value)
            if shape is None:
                return "the shape of a sequence that it scans is not known when compiling"
            axis = self._list("input_axes", position)
            if not -len(shape) <= axis < len(shape) or not all(d is not None for d in shape[1:]):
                return "the shape of a sequence that it scans is not known when compiling"
            length = shape[axis]
            if length is None:
                return "the length of the sequence that it scans is not known when compiling"
            lengths.add(length)
        if len(lengths) != 1:
            return f"it scans sequences of the lengths {sorted(lengths)}"
        return lengths.pop()

    def write(self) -> None:
        """Replaces the node by its steps."""
        node, states = self.node, [v for v in self.states if v is not None]
        stem = str(next(out.name for out in node.outputs if out.name))
        emit = Emitter(self.graph, stem, ir.DataType.FLOAT)
        pieces = [self._pieces(emit, position) for position in range(len(self.slices))]
        body = Body(self.body, self.graph)
        collected: list[list[ir.Value]] = [[] for _ in node.outputs[len(states) :]]
        condition = None if self.is_scan else emit.constant(True, "condition", ir.DataType.BOOL)
        for step in range(self.steps):
            if condition is None:
                inputs = [*states, *(each[step] for each in pieces)]
            else:
                inputs = [emit.constant(step, "iteration", ir.DataType.INT64), condition, *states]
            nodes, results = body.copy(inputs)
            emit.nodes += nodes
            if condition is not None:
                results = results[1:]
            states = results[: len(states)]
            for target, value in zip(collected, results[len(states) :], strict=True):
                target.append(value)
        outputs = []
        for position, out in enumerate(node.outputs):
            if out not in read_outputs(node):
                continue
            if position < len(states):
                outputs.append((out, states[position]))
            else:
                index = position - len(states)
                outputs.append((out, self._stacked(emit, out, collected[index], index)))
        emit.replace(node, outputs)

    def _pieces(self, emit: Emitter, position: int) -> list[ir.Value]:
        """The slices of one sequence in the order of the steps, without the axis that is scanned."""
        value = self.slices[position]
        assert value is not None
        shape = list(value.shape or ())
        axis = self._list("input_axes", position) % len(shape)
        rest = [*shape[:axis], *shape[axis + 1 :]]
        parts = [emit.reshape(part, rest) for part in emit.split(value, [1] * self.steps, axis)]
        return parts[::-1] if self._list("input_directions", position) else parts

    def _stacked(self, emit: Emitter, out: ir.Value, values: list[ir.Value], position: int) -> ir.Value:
        """What the steps returned, along a new axis."""
        axis = self._list("output_axes", position)
        axis = axis + len(ir.dims(out) or ()) if axis < 0 else axis
        where = emit.integers([axis], "axis")
        kind = out.dtype
        rows = [emit.op("Unsqueeze", [value, where], None, value.dtype or kind) for value in values]
        if self._list("output_directions", position):
            rows.reverse()
        return emit.op("Concat", rows, None, kind, axis=axis)
