"""Unrolls LSTM, GRU and RNN layers over a known sequence into matrix products and elementwise operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecc import ir
from edgecc.analysis import refusals
from edgecc.analysis.recurrent import GATES, Recurrent, read
from edgecc.passes import _rewrite as rw
from edgecc.passes._cells import CELLS, Cell, State
from edgecc.passes._emit import Emitter, read_outputs
from edgecc.pipeline import Pass, PassContext, PassResult

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, kw_only=True)
class UnrollRecurrent(Pass):
    """Computes every step of a recurrent layer by its own operators (ONNX operator specification, LSTM, GRU, RNN).

    The products of all steps with the input weights are one matrix product. Layers of more than `max_steps`
    steps, or whose sequences have lengths of their own, are left alone.
    """

    name: ClassVar[str] = "unroll_recurrent"
    max_steps: int = 256

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        for node in model.graph:
            if not rw.is_op(node, *GATES):
                continue
            layer = read(node)
            reason = layer if isinstance(layer, str) else self._objection(node, layer)
            if reason is None and not isinstance(layer, str):
                _unroll(model.graph, node, layer)
                tally.rewritten += 1
            elif reason is not None:
                refusals.note(node, reason)
                tally.refuse(node, reason)
        return tally.result()

    def _objection(self, node: ir.Node, layer: Recurrent) -> str | None:
        if not 0 < layer.steps <= self.max_steps:
            return f"it has {layer.steps} steps; max_steps is {self.max_steps}"
        if node.inputs[0] is None or node.inputs[0].dtype not in _FLOATS:
            return "it computes on no floating-point numbers"
        return None


def _unroll(graph: ir.Graph, node: ir.Node, layer: Recurrent) -> None:
    x = node.inputs[0]
    assert x is not None
    assert x.dtype is not None
    emit = Emitter(graph, str(next(out.name for out in node.outputs if out.name)), x.dtype)
    directions = [_direction(emit, node, layer, index) for index in range(len(layer.reverse))]
    batch = (x.shape or ())[1 - layer.time_axis]
    results = []
    for kind in range(3):  # Y, Y_h, Y_c
        out = node.outputs[kind] if kind < len(node.outputs) else None
        if out is not None and out in read_outputs(node):
            axis = (2 if layer.time_axis else 1) if kind == 0 else layer.time_axis
            whole = []
            for sequence in directions:
                value = sequence[kind]
                shape = list(value.shape or (batch, layer.hidden))
                whole.append(emit.reshape(value, [*shape[:axis], 1, *shape[axis:]]))
            results.append((out, emit.concat(whole, axis)))
    emit.replace(node, results)


def _direction(
    emit: Emitter, node: ir.Node, layer: Recurrent, index: int
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """All hidden states [steps, batch, hidden] (layout 1: batch first), the last one, and the last cell."""

    def of(position: int, axis: int = 0) -> ir.Value | None:
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is None:
            return None
        part = emit.part(value, index, index + 1, axis)
        shape = list(part.shape or ())
        return emit.reshape(part, [*shape[:axis], *shape[axis + 1 :]])

    weight, recurrence = of(1), of(2)
    assert weight is not None
    assert recurrence is not None
    cell = Cell(
        emit, layer, layer.activations[index], emit.transpose(recurrence, (1, 0)), bias=of(3),
        peepholes=of(7) if layer.kind == "LSTM" else None,
    )  # fmt: skip
    projected = _projections(emit, node, layer, emit.transpose(weight, (1, 0)), cell.input_bias())
    state: State = (of(5, layer.time_axis), of(6, layer.time_axis) if layer.kind == "LSTM" else None)
    hidden: dict[int, ir.Value] = {}
    for step in reversed(range(layer.steps)) if layer.reverse[index] else range(layer.steps):
        state = CELLS[layer.kind](cell, projected[step], state)
        assert state[0] is not None
        hidden[step] = state[0]
    last = state[0]
    assert last is not None
    axis = layer.time_axis
    rows = []
    for step in range(layer.steps):
        shape = list(hidden[step].shape or ())
        rows.append(emit.reshape(hidden[step], [*shape[:axis], 1, *shape[axis:]]))
    return emit.concat(rows, axis), last, state[1] or last


def _projections(
    emit: Emitter, node: ir.Node, layer: Recurrent, weight: ir.Value, bias: ir.Value | None
) -> list[ir.Value]:
    """x W^T + b of every step, [batch, gates * hidden] each, by one matrix product."""
    x = node.inputs[0]
    assert x is not None
    shape = tuple(x.shape or ())
    batch, width = shape[1 - layer.time_axis], GATES[layer.kind] * layer.hidden
    count = layer.steps * layer.batch if layer.batch is not None else ir.SymbolicDim(None)
    flat = emit.reshape(x, [count, shape[2]])
    product = emit.op("Gemm", [flat, weight, *([] if bias is None else [bias])], [count, width])
    if layer.time_axis == 0 or layer.batch == 1:
        assert layer.batch is not None
        return emit.split(product, [layer.batch] * layer.steps, 0)
    whole = emit.reshape(product, [batch, layer.steps, width])
    return [emit.reshape(part, [batch, width]) for part in emit.split(whole, [1] * layer.steps, 1)]
