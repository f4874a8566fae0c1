"""What elementwise lowerings share: operands in one order, of few enough axes, in types that kernels take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecc import ir
from edgecc.analysis.layout import Flattened
from edgecc.analysis.sites import Operand, Site
from edgecc.tflite.builder import NARROWED, Builder, Unservable, is_batched
from edgecc.tflite.compose import Composer, Operandlike, Term

# Integers that fit into int32, in which every arithmetic kernel computes.
_SMALL = frozenset({"int8", "uint8", "int16", "bool"})
_WRAPPING = frozenset({"ADD", "SUB", "MUL", "POW", "NEG"})  # may leave the range of uint16, stored as int32
_FEW = 4  # axes that every kernel takes
_MOST = 6


class Elementwise(Composer):
    """The operands of a site in the order of its result; neighbouring axes are joined where there are too many."""

    def __init__(self, site: Site, b: Builder) -> None:
        super().__init__(site, b, batch=True)
        value = site.outputs[0].value
        self._order = b.order(value)
        operands = [o for o in site.inputs if o is not None]
        self.terms = [self._read(operand) for operand in operands]
        self._shape = np.broadcast_shapes(*(t.shape for t in self.terms))
        free = any(t.batched for t in self.terms)
        self._joined = joined([t.shape for t in self.terms], free=free)
        if self._joined is not None:
            self.terms = [
                self.reshape(t, s) if t.shape else t for t, s in zip(self.terms, self._joined, strict=True)
            ]

    def _read(self, operand: Operand) -> Term:
        order = self._order
        if isinstance(order, Flattened):
            return Term(self, None, self.b.read(operand, order))
        rank = len(ir.dims(operand.value) or ())
        if operand.array is not None:
            array = operand.real()
            array = array.astype(NARROWED.get(str(array.dtype), array.dtype))
            if array.size > 1:
                array = array.reshape((1,) * (len(order) - array.ndim) + array.shape).transpose(order)
            return Term(self, array)
        if rank == len(order):
            return Term(self, None, self.b.read(operand, order))
        term = Term(self, None, self.b.read(operand))
        if order == tuple(range(len(order))) or rank == 0:
            return term
        if is_batched(operand.value):
            raise Unservable(
                "it mixes the symbolic batch with other axes", "bind the batch with --input-shape"
            )
        lifted = self.reshape(term, (1,) * (len(order) - rank) + term.shape)
        return self.transpose(lifted, order)

    def give(self, term: Term) -> None:
        """Makes `term` the result, with the absorbed activation and in the type that ONNX says."""
        if self.site.activation != "NONE":
            term = self.one(self.site.activation, term)
        value = self.site.outputs[0].value
        if value.dtype == ir.DataType.UINT16 and term.dtype == "int32":  # which is what it is stored as
            term = term % 2**16
        term = self.cast(term, self.b.dtype(value))
        if term.array is not None:
            term = Term(self, np.broadcast_to(term.array, self._shape))
        self.b.alias(self.tensor(self.reshape(term, self._shape)))

    # ---- arithmetic that every type has ------------------------------------------------------------------------

    def wide(self, x: Operandlike, codes: Sequence[str]) -> Term:
        """`x` in a type that has all these kernels: as int32 where it is a smaller one."""
        term = self.term(x)
        if all(self.b.kernels.takes(code, term.dtype) for code in codes):
            return term
        if term.dtype in _SMALL:
            return self.cast(term, "int32")
        return term

    def unary(self, code: str, x: Term) -> Term:
        """A kernel of one operand, or what does its work on the integers that it does not take."""
        if x.dtype != "float32" and code == "RELU":
            return self.binary("MAXIMUM", x, 0)
        if x.dtype == "int64" and code == "ABS":
            return self.binary("MAXIMUM", x, self.one("NEG", x))
        if x.dtype == "int64" and code == "SIGN":
            above, below = (self.cast(self.binary(c, x, 0), "int32") for c in ("GREATER", "LESS"))
            return above - below
        return self.one(code, self.wide(x, (code,)))

    def chained(self, code: str, terms: Sequence[Term]) -> Term:
        """A kernel of two operands over all of them, from the left."""
        wide = [self.wide(t, (code,)) for t in terms]
        result = wide[0]
        for term in wide[1:]:
            result = self.binary(code, result, term)
        return result

    def number(self, value: float) -> Term:
        """A float constant."""
        return Term(self, np.asarray(value, np.float32))

    def polynomial(self, x: Term, coefficients: Sequence[float]) -> Term:
        """c0 + c1 x + c2 x^2 + ..."""
        result = self.number(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            result = result * x + self.number(coefficient)
        return result

    def log1p(self, x: Term) -> Term:
        """log(1 + x): near 0 twice the series of the area tangent, as kernels of LOG are inexact beside 1."""
        ratio = x / (x + 2.0)
        near = ratio * self.polynomial(ratio * ratio, [2 / n for n in (1, 3, 5, 7, 9)])
        close = self.binary("LESS", self.one("ABS", x), 0.4)
        return self.select(close, near, self.one("LOG", x + 1.0))

    def exponential_below(self, x: Term, alpha: float, scale: float = 1.0) -> Term:
        """x above 0, alpha (exp(x / scale) - 1) below: the ELU kernel is exact near 0, exp(x) - 1 is not."""
        below = self.binary("MINIMUM", x, 0.0)
        below = below if scale == 1.0 else below * (1 / scale)
        return self.binary("MAXIMUM", x, 0.0) + self.one("ELU", below) * alpha

    def softplus(self, x: Term) -> Term:
        """log(1 + exp(x)) without overflow."""
        small = self.one("EXP", self.one("NEG", self.one("ABS", x)))
        return self.binary("MAXIMUM", x, 0.0) + self.log1p(small)

    def atan(self, x: Term) -> Term:
        """Arc tangent to 2e-8 (Abramowitz and Stegun 4.4.49)."""
        size = self.one("ABS", x)
        large = self.binary("GREATER", size, 1.0)
        z = self.select(large, self.number(1.0) / size, size)
        angle = z * self.polynomial(z * z, _ATAN)
        return self.one("SIGN", x) * self.select(large, self.number(np.pi / 2) - angle, angle)


_ATAN = (
    1.0, -0.3333314528, 0.1999355085, -0.1420889944, 0.1065626393, -0.0752896400, 0.0429096138, -0.0161657367,
    0.0028662257,
)  # fmt: skip


def joined(shapes: Sequence[tuple[int, ...]], *, free: bool) -> list[tuple[int, ...]] | None:
    """The same operands with neighbouring axes that broadcast alike made one; None where there are few enough.

    Args:
        shapes: of the operands, which broadcast.
        free: axis 0 is the symbolic batch, which stays by itself.
    """
    rank = max((len(s) for s in shapes), default=0)
    if rank <= _FEW or (rank <= _MOST and len(set(shapes)) == 1):
        return None
    full = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    whole = np.broadcast_shapes(*full)
    groups: list[tuple[list[int], tuple[bool, ...] | None]] = []
    for axis, length in enumerate(whole):
        pattern = None if length == 1 else tuple(s[axis] == length for s in full)
        last = groups[-1] if groups and not (free and len(groups) == 1) else None
        if last is not None and (pattern is None or last[1] is None or pattern == last[1]):
            groups[-1] = ([*last[0], axis], pattern or last[1])
        else:
            groups.append(([axis], pattern))
    return [tuple(int(np.prod([s[a] for a in axes])) for axes, _ in groups) for s in full]


def served(site: Site, b: Builder, code: str, position: int = 0) -> bool:
    """Whether the kernel `code` takes the operands of a float site as they are."""
    operands = [o for o in site.inputs if o is not None]
    shapes = {ir.static_dims(o.value) for o in operands}
    rank = max(len(s) for s in shapes)
    dtype = b.dtype(operands[position].value)
    if operands[position].value.dtype == ir.DataType.UINT16 and code in _WRAPPING:
        return False
    if not b.kernels.takes(code, dtype):
        return False
    return rank <= (b.kernels.broadcast_rank(code, dtype) if len(shapes) > 1 else _MOST)
