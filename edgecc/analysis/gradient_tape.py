"""The nodes that a network of derivatives consists of, while they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecc import ir


@dataclass
class Tape:
    """The nodes that are added, in order, and the parts of each value's derivative."""

    graph: ir.Graph
    version: int
    nodes: list[ir.Node] = field(default_factory=list)
    parts: dict[ir.Value, list[ir.Value]] = field(default_factory=dict)

    def add(self, value: ir.Value, part: ir.Value) -> None:
        """Adds a part of the derivative of a value."""
        self.parts.setdefault(value, []).append(part)

    def total(self, value: ir.Value) -> ir.Value | None:
        """The derivative of a value, when all that reads it was run over; None: no output depends on it."""
        parts = self.parts.get(value)
        if not parts:
            return None
        if len(parts) > 1:
            self.parts[value] = parts = [self.op("Sum", parts)]
        return parts[0]

    def op(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """Adds a node and gives its output."""
        node = ir.Node("", op_type, inputs, attributes=ir.convenience.convert_attributes(attributes))
        node.outputs[0].name = ir.fresh_name(self.graph, f"gradient_{len(self.nodes)}")
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, array: Any) -> ir.Value:
        """Adds a constant."""
        return ir.add_initializer(
            self.graph, np.asarray(array), ir.fresh_name(self.graph, "gradient_constant")
        )


@dataclass
class Step:
    """One operator while the tape runs back over it."""

    tape: Tape
    node: ir.Node
    active: set[ir.Value]
    grads: list[ir.Value | None]

    @property
    def grad(self) -> ir.Value:
        """The derivative of the first output."""
        assert self.grads[0] is not None
        return self.grads[0]

    @property
    def out(self) -> ir.Value:
        """The first output."""
        return self.node.outputs[0]

    def read(self, i: int) -> ir.Value:
        """An input that is there."""
        value = self.node.inputs[i]
        assert value is not None
        return value

    def wants(self, i: int) -> bool:
        """Whether the derivative of an input matters."""
        return i < len(self.node.inputs) and self.node.inputs[i] in self.active

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Adds a node and gives its output."""
        return self.tape.op(op_type, inputs, **attributes)

    def give(self, i: int, grad: ir.Value) -> None:
        """Adds a derivative of the input's own shape."""
        self.tape.add(self.read(i), grad)

    def give_broadcast(self, i: int, grad: ir.Value) -> None:
        """Adds a derivative of the result's shape, summed over the axes along which the input was spread."""
        shape, own = ir.static_dims(self.out), ir.static_dims(self.read(i))
        lead = len(shape) - len(own)
        axes = [a for a, d in enumerate(shape) if a < lead or (own[a - lead] == 1 and d != 1)]
        if axes:
            grad = self.op("ReduceSum", grad, self.tape.constant(np.asarray(axes)), keepdims=1)
            grad = self.reshape(grad, own)
        self.give(i, grad)

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Adds a Reshape."""
        return self.op("Reshape", value, self.tape.constant(np.asarray(shape, np.int64)))

    def number(self, value: float) -> ir.Value:
        """Adds a constant of one number."""
        return self.tape.constant(np.float32(value))
