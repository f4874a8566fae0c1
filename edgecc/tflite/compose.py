"""Operators written as arithmetic: a `Term` is a constant array or a tensor, and what is constant folds by itself.

A lowering that no kernel serves is then a few lines of numpy-like code, the same for operands that are constant (index
arithmetic costs nothing) and for those that are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgecc import ir
from edgecc.analysis.sites import Site
from edgecc.ir import Array
from edgecc.tflite.arithmetic import BATCH, Arithmetic
from edgecc.tflite.builder import NARROWED, Builder, Unservable, is_batched
from edgecc.tflite.terms import Operandlike, Term


class Composer(Arithmetic):
    """Reads the operands of a site as terms, computes with them, and hands the results back."""

    def __init__(self, site: Site, b: Builder, *, batch: bool = False) -> None:
        """`batch`: the lowering leaves the symbolic batch alone; else one is refused."""
        super().__init__(site, b)
        if not batch and any(o is not None and o.array is None and is_batched(o.value) for o in site.inputs):
            raise Unservable(*BATCH)

    # ---- operands and results ----------------------------------------------------------------------------------

    def has(self, position: int) -> bool:
        """Whether the operand is there."""
        return len(self.site.inputs) > position and self.site.inputs[position] is not None

    def input(self, position: int, order: Sequence[int] | None = None) -> Term:
        """An operand, in ONNX's order of axes unless told otherwise."""
        operand = self.site.inputs[position] if len(self.site.inputs) > position else None
        if operand is None:
            raise Unservable(f"operand {position} is absent")
        if operand.array is not None:
            array = operand.real()
            array = array.astype(NARROWED.get(str(array.dtype), array.dtype))
            return Term(self, array if order is None else array.transpose(order))
        return Term(self, None, self.b.read(operand, None if order is None else tuple(order)))

    def constant(self, position: int, default: Array | None = None) -> Array:
        """The array of an operand that must be constant; `default` where it is absent."""
        if not self.has(position) and default is not None:
            return default
        operand = self.site.inputs[position] if self.has(position) else None
        if operand is None or operand.array is None:
            raise Unservable(f"operand {position} is computed at run time", "make it an initializer")
        return operand.real()

    def out_shape(self, position: int = 0) -> tuple[int, ...]:
        """The shape of a result in ONNX's order."""
        return ir.static_dims(self.site.outputs[position].value)

    def wanted(self, position: int = 0) -> bool:
        """Whether anything reads the result."""
        if len(self.site.outputs) <= position:
            return False
        value = self.site.outputs[position].value
        return bool(value.name) and (bool(value.uses()) or value.is_graph_output())

    def finish(self, term: Term, position: int = 0, order: Sequence[int] | None = None) -> None:
        """Makes `term`, whose axes come in `order`, the result, with the absorbed activation and its type."""
        value = self.site.outputs[position].value
        if self.site.activation != "NONE":
            term = self.one(self.site.activation, term)
        term = self.cast(term, self.b.dtype(value))
        kept, stored = self.b.permutation(value), tuple(order or range(len(term.shape)))
        if kept != stored:
            term = self.transpose(term, [stored.index(a) for a in kept])
        shape = ir.static_dims(value)
        if term.shape != tuple(shape[a] for a in kept):
            raise Unservable(f"its result has the shape {list(term.shape)}, the model says {list(shape)}")
        if is_batched(value) != term.batched:
            raise Unservable(*BATCH)
        self.b.alias(self.tensor(term), position)


__all__ = ["Composer", "Operandlike", "Term"]
