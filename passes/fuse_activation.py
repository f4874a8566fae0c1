"""Recognises activations that are spelt out as primitive operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.passes._expression import Product, polynomial, product
from edgecc.pipeline import Pass, PassContext, PassResult

Bounds = tuple[float, float]

# The operators that these become exist from these versions on.
_SINCE = {"HardSwish": 14, "Gelu": 20, "Swish": 24}


@dataclass(frozen=True, kw_only=True)
class FuseActivation(Pass):
    """Writes Relu, Clip, HardSigmoid, HardSwish, Gelu and Swish as one operator where they are several.

    Min, Max, Relu and Clip in a row become one Relu or Clip. x * Clip(x + 3, 0, 6) / 6, in any order, becomes
    HardSwish (Howard et al. 2019, section 5.2) and Clip(x + 3, 0, 6) / 6 HardSigmoid;
    x * (1 + erf(x / sqrt 2)) / 2 and its tanh form become Gelu (Hendrycks and Gimpel 2016, section 2),
    x * Sigmoid(x) becomes Swish from opset 24 on.
    `tolerance`: relative difference allowed in constants, which exporters round.
    """

    name: ClassVar[str] = "fuse_activation"
    tolerance: float = 1e-4

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally, version = rw.Tally(), rw.opset(model)
        for node in model.graph:
            if rw.is_op(node, *_CLAMPS):
                _merge_clamps(model.graph, node, tally)
            elif rw.is_op(node, "Mul", "Div"):
                self._fuse(node, version, tally)
        return tally.result()

    def _fuse(self, node: ir.Node, version: int, tally: rw.Tally) -> None:
        found = self._recognise(product(node))
        if found is None:
            return
        if isinstance(found, str):
            if not _continues(node):  # the constant of the formula may follow
                tally.refuse(node, found)
            return
        op_type, source, attributes = found
        out = node.outputs[0]
        if version < _SINCE.get(op_type, 0):
            return tally.refuse(
                node, f"{op_type} exists from opset {_SINCE[op_type]} on, the model has {version}"
            )
        if ir.dims(source) != ir.dims(out):
            return tally.refuse(node, "a constant changes the shape")
        unread = list(node.inputs)
        new = rw.new_node(op_type, [source], out, attributes, name=node.name)
        ir.replace([node], [new], {out: new.outputs[0]})
        rw.drop_dead(unread)
        tally.rewritten += 1

    def _recognise(self, term: Product) -> tuple[str, ir.Value, dict[str, float | str]] | str | None:
        """The activation that a product is: operator, input, attributes; a reason where it is nearly one."""
        if len(term.factors) == 1:
            inner = term.factors[0].producer()
            if inner is None or not rw.is_op(inner, "Clip") or (x := self._shifted(inner)) is None:
                return None
            found: tuple[str, ir.Value, dict[str, float | str]] = (
                "HardSigmoid",
                x,
                {"alpha": 1 / 6, "beta": 0.5},
            )
            return self._if_factor(term, 1 / 6, found) if self._is_clip6(inner) else _not_six(inner)
        if len(term.factors) != 2:
            return None
        for x, other in (term.factors, term.factors[::-1]):
            gate = other.producer()
            if gate is None:
                continue
            if rw.is_op(gate, "Clip") and self._shifted(gate) is x:
                return (
                    self._if_factor(term, 1 / 6, ("HardSwish", x, {}))
                    if self._is_clip6(gate)
                    else _not_six(gate)
                )
            if rw.is_op(gate, "HardSigmoid") and gate.inputs[0] is x:
                alpha, beta = ir.attribute(gate, "alpha", 0.2), ir.attribute(gate, "beta", 0.5)
                if not (self._close(alpha, 1 / 6) and self._close(beta, 0.5)):
                    return f"HardSigmoid of slope {alpha:g} and offset {beta:g} is no factor of HardSwish"
                return self._if_factor(term, 1.0, ("HardSwish", x, {}))
            if rw.is_op(gate, "Sigmoid") and gate.inputs[0] is x:
                return self._if_factor(term, 1.0, ("Swish", x, {}))
            if rw.is_op(gate, "Add") and (form := self._gelu(gate, x)) is not None:
                return self._if_factor(term, 0.5, ("Gelu", x, {"approximate": form})) if form else _NOT_GELU
        return None

    def _close(self, a: float | None, b: float) -> bool:
        return rw.close(a, b, self.tolerance)

    def _if_factor(
        self, term: Product, factor: float, found: tuple[str, ir.Value, dict[str, float | str]]
    ) -> tuple[str, ir.Value, dict[str, float | str]] | str:
        if self._close(term.factor, factor):
            return found
        return f"its factor {term.factor:g} is not the {factor:g} of {found[0]}"

    def _shifted(self, clip: ir.Node) -> ir.Value | None:
        """x where a Clip reads x + 3."""
        add = None if clip.inputs[0] is None else clip.inputs[0].producer()
        if add is None or not rw.is_op(add, "Add"):
            return None
        for x, constant in (add.inputs, add.inputs[::-1]):
            if x is not None and self._close(rw.scalar(constant), 3.0):
                return x
        return None

    def _is_clip6(self, clip: ir.Node) -> bool:
        bounds = _bounds(clip)
        return bounds is not None and bounds[0] == 0 and self._close(bounds[1], 6.0)

    def _gelu(self, gate: ir.Node, x: ir.Value) -> str | None:
        """The form of Gelu whose gate is 1 + erf(...) or 1 + tanh(...); empty if the inner terms differ."""
        for one, value in (gate.inputs, gate.inputs[::-1]):
            function = None if value is None else value.producer()
            if function is None or not rw.is_op(function, *_GELU) or not self._close(rw.scalar(one), 1.0):
                continue
            form, wanted = _GELU[function.op_type]
            terms = polynomial(function.inputs[0], x)
            if terms is None:
                return None
            same = terms.keys() == wanted.keys() and all(self._close(terms[k], wanted[k]) for k in wanted)
            return form if same else ""
        return None


# The inner polynomial of each form of Gelu: power of x to coefficient.
_GELU: dict[str, tuple[str, dict[int, float]]] = {
    "Erf": ("none", {1: 1 / math.sqrt(2)}),
    "Tanh": ("tanh", {1: math.sqrt(2 / math.pi), 3: math.sqrt(2 / math.pi) * 0.044715}),
}
_NOT_GELU = "the terms inside its erf or tanh are not those of Gelu"
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
_CLAMPS = ("Relu", "Clip", "Min", "Max")


def _not_six(clip: ir.Node) -> str:
    return f"Clip(x + 3) of it has the bounds {_bounds(clip)}, not (0, 6)"


def _continues(node: ir.Node) -> bool:
    """Whether the product goes on: its only reader multiplies or divides it."""
    return rw.is_op(ir.single_consumer(node.outputs[0]), "Mul", "Div")


def _operand(node: ir.Node) -> ir.Value | None:
    """What a clamp is applied to."""
    if node.op_type in {"Relu", "Clip"}:
        return node.inputs[0]
    computed = [v for v in node.inputs if rw.scalar(v) is None]
    return computed[0] if len(computed) == 1 and len(node.inputs) == 2 else None


def _bounds(node: ir.Node) -> Bounds | None:
    """What a clamp keeps its input between; None if that is computed or not one number."""
    if node.op_type == "Relu":
        return (0.0, math.inf)
    if node.op_type == "Clip":
        low, high = (node.inputs[i] if len(node.inputs) > i else None for i in (1, 2))
        bounds = (-math.inf if low is None else rw.scalar(low), math.inf if high is None else rw.scalar(high))
        return None if bounds[0] is None or bounds[1] is None else (bounds[0], bounds[1])
    limit = next((number for v in node.inputs if (number := rw.scalar(v)) is not None), None)
    if limit is None or _operand(node) is None:
        return None
    return (-math.inf, limit) if node.op_type == "Min" else (limit, math.inf)


def _merge_clamps(graph: ir.Graph, node: ir.Node, tally: rw.Tally) -> None:
    """Writes a clamp as Relu or Clip, merged with the clamp before it."""
    source, out = _operand(node), node.outputs[0]
    bounds = _bounds(node)
    if source is None or bounds is None or out.dtype not in _FLOATS:
        return
    if ir.dims(source) != ir.dims(out):
        return tally.refuse(node, "its constant changes the shape")
    inner = source.producer()
    old, merged = [node], bounds
    first = _bounds(inner) if inner is not None and rw.is_op(inner, *_CLAMPS) else None
    if inner is not None and first is not None and (value := _operand(inner)) is not None:
        if ir.single_consumer(source) is None:
            tally.refuse(node, f"{source.name} between two clamps is read elsewhere")
        elif first[0] > first[1] or bounds[0] > bounds[1]:
            tally.refuse(node, "its lower bound is above its upper one")
        else:
            old, source = [inner, node], value
            merged = (min(max(first[0], bounds[0]), bounds[1]), min(max(first[1], bounds[0]), bounds[1]))
    top = float(np.finfo(out.dtype.numpy()).max)
    op_type = "Relu" if merged[0] == 0 and merged[1] >= top else "Clip"
    if len(old) == 1 and node.op_type == op_type:
        return
    inputs = [source, *(_limits(graph, merged, top, out) if op_type == "Clip" else ())]
    unread = [v for n in old for v in n.inputs if v is not source]
    new = rw.new_node(op_type, inputs, out, name=node.name)
    ir.replace(old, [new], {out: new.outputs[0]})
    rw.drop_dead(unread)
    tally.rewritten += 1


def _limits(graph: ir.Graph, bounds: Bounds, top: float, out: ir.Value) -> Sequence[ir.Value | None]:
    """The second and third input of a Clip; a bound that no number passes is left out."""
    assert out.dtype is not None
    values: list[ir.Value | None] = []
    for bound, part in zip(bounds, ("min", "max"), strict=True):
        open_ended = abs(bound) >= top
        array = np.asarray(bound, out.dtype.numpy())
        name = f"{out.name}_{part}"
        values.append(None if open_ended else ir.add_initializer(graph, array, ir.fresh_name(graph, name)))
    return values if values[1] is not None else values[:1]
