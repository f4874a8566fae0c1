"""Arithmetic on terms: one method an operator, folded where all operands are constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgecc.analysis.sites import Site
from edgecc.ir import Array
from edgecc.tflite.builder import Builder, Unservable
from edgecc.tflite.terms import BINARY, COMPARISONS, REDUCTIONS, UNARY, Operandlike, Term
from edgecc.tflite.writer import tensor_type

BATCH = ("it mixes the symbolic batch with other axes", "bind the batch with --input-shape")
_LARGEST = 2**26  # elements of a constant that folding may make


class Arithmetic:
    """Makes operators of the site being lowered."""

    def __init__(self, site: Site, b: Builder) -> None:
        self.site, self.b = site, b

    # ---- terms -------------------------------------------------------------------------------------------------

    def term(self, value: Operandlike, like: str = "float32") -> Term:
        """A constant term; numbers take the type `like`."""
        if isinstance(value, Term):
            return value
        return Term(self, np.asarray(value, like) if np.ndim(value) == 0 else np.asarray(value))

    def tensor(self, term: Term) -> int:
        """The tensor index of a term."""
        if term.array is None:
            return term.index
        return self.b.constant(np.ascontiguousarray(term.array).reshape(term.shape), f"{self.name}/const")

    @property
    def name(self) -> str:
        """Of the first result."""
        return str(self.site.outputs[0].value.name)

    def apply(
        self,
        code: str,
        inputs: Sequence[Term],
        shape: Sequence[int],
        options: dict[str, Any] | None = None,
        dtype: str | None = None,
    ) -> Term:
        """One operator. Its result has the batch where an operand has."""
        sources = [self.tensor(t) for t in inputs]
        batched = any(t.batched for t in inputs)
        index = self.b.tensor(
            f"{self.name}/{code.lower()}", shape, dtype or inputs[0].dtype, batched=batched and bool(shape)
        )
        return Term(self, None, self.b.operator(code, sources, [index], options))

    def one(self, code: str, x: Term) -> Term:
        """An operator of one operand."""
        if x.array is not None and code in UNARY:
            return Term(self, np.asarray(UNARY[code](x.array)))
        return self.apply(code, [x], x.shape)

    def binary(self, code: str, left: Operandlike, right: Operandlike) -> Term:
        """An operator of two operands that broadcast; a constant takes the other's type."""
        kind = left.dtype if isinstance(left, Term) else right.dtype if isinstance(right, Term) else "float32"
        x, y = self.term(left, kind), self.term(right, kind)
        if x.array is not None and y.array is not None:
            if (
                max(x.array.size, y.array.size, int(np.prod(np.broadcast_shapes(x.shape, y.shape))))
                > _LARGEST
            ):
                raise Unservable("its constants would be too large")
            return Term(self, np.asarray(BINARY[code](x.array, y.array)))
        if x.dtype != y.dtype:
            x, y = (x, self.cast(y, x.dtype)) if x.array is None else (self.cast(x, y.dtype), y)
        shape = np.broadcast_shapes(x.shape, y.shape)
        kind = "bool" if code in COMPARISONS else x.dtype
        if len(shape) > 4 and 1 in (
            int(np.prod(x.shape)),
            int(np.prod(y.shape)),
        ):  # few kernels broadcast so many
            flat = (shape[0], int(np.prod(shape[1:])))
            pair = [self.reshape(t, () if t.shape != shape else flat) for t in (x, y)]
            return self.reshape(self.apply(code, pair, flat, {}, kind), shape)
        return self.apply(code, [x, y], shape, {}, kind)

    def select(self, mask: Term, yes: Operandlike, no: Operandlike) -> Term:
        """`yes` where `mask`, else `no`."""
        kind = yes.dtype if isinstance(yes, Term) else no.dtype if isinstance(no, Term) else "float32"
        x, y = self.term(yes, kind), self.term(no, kind)
        if mask.array is not None and x.array is not None and y.array is not None:
            return Term(self, np.where(mask.array, x.array, y.array))
        y = self.cast(y, x.dtype)
        return self.apply(
            "SELECT_V2", [mask, x, y], np.broadcast_shapes(mask.shape, x.shape, y.shape), dtype=x.dtype
        )

    def cast(self, x: Term, dtype: str) -> Term:
        """The same numbers in another type."""
        if x.dtype == dtype:
            return x
        if x.array is not None:
            return Term(self, x.array.astype(dtype))
        types = {"inDataType": tensor_type(x.dtype), "outDataType": tensor_type(dtype)}
        return self.apply("CAST", [x], x.shape, types, dtype)

    def served(self, code: str, x: Term) -> Term:
        """`x`, as int32 where the kernel `code` does not take its (smaller) integers or booleans."""
        if self.b.kernels.takes(code, x.dtype) or x.dtype not in ("int8", "uint8", "int16", "bool"):
            return x
        return self.cast(x, "int32")

    # ---- moving ------------------------------------------------------------------------------------------------

    def reshape(self, x: Term, shape: Sequence[int]) -> Term:
        """Other axes, the same sequence."""
        shape = tuple(int(d) for d in shape)
        if x.shape == shape:
            return x
        if x.array is not None:
            return Term(self, x.array.reshape(shape))
        if x.batched and shape[:1] != (1,):
            raise Unservable(*BATCH)
        index = self.b.tensor(f"{self.name}/reshaped", shape, x.dtype, batched=x.batched)
        return Term(self, None, self.b.reshape(x.index, index))

    def transpose(self, x: Term, perm: Sequence[int]) -> Term:
        """Axis i of the result is axis perm[i] of `x`."""
        perm = [int(p) for p in perm]
        if perm == list(range(len(perm))):
            return x
        if x.array is not None:
            return Term(self, x.array.transpose(perm))
        if x.batched and perm[0] != 0:
            raise Unservable(*BATCH)
        index = self.b.tensor(
            f"{self.name}/transposed", [x.shape[p] for p in perm], x.dtype, batched=x.batched
        )
        reason = f"{self.name} is composed of kernels that work along other axes"
        source = self.b.graph.tensors[x.index].name
        return Term(self, None, self.b.transpose(x.index, index, perm, source, reason))

    def whole(self, values: Sequence[int] | Array | int) -> Term:
        """A constant of int32."""
        return Term(self, np.asarray(values, np.int32))

    def gather(self, x: Term, places: Term | Array, axis: int = 0) -> Term:
        """Slices of `x` along an axis; `places`, which count from the front, may have any rank."""
        where = places if isinstance(places, Term) else self.whole(places)
        if x.array is not None and where.array is not None:
            return Term(self, np.take(x.array, where.array, axis))
        if x.batched and axis == 0:
            raise Unservable(*BATCH)
        shape = (*x.shape[:axis], *where.shape, *x.shape[axis + 1 :])
        where = self.cast(where, "int32")
        return self.apply("GATHER", [x, where], shape, {"axis": axis, "batchDims": 0}, x.dtype)

    def pick(self, x: Term, places: Array | Term) -> Term:
        """Elements of `x`, by their positions in its flat sequence; the shape is that of `places`."""
        where = places if isinstance(places, Term) else self.whole(places)
        flat = self.gather(self.reshape(x, (-1,) if x.array is not None else (int(np.prod(x.shape)),)),
                           self.reshape(where, (int(np.prod(where.shape)),)))  # fmt: skip
        return self.reshape(flat, where.shape)

    def cut(self, x: Term, axis: int, begin: int, end: int, step: int = 1) -> Term:
        """Positions begin, begin + step, ... below `end` along one axis; step > 0."""
        axis %= len(x.shape)
        if (begin, end, step) == (0, x.shape[axis], 1):
            return x
        if x.array is not None:
            return Term(self, x.array[(slice(None),) * axis + (slice(begin, end, step),)])
        if x.batched and axis == 0:
            raise Unservable(*BATCH)
        rank = len(x.shape)
        first, last, stride = [0] * rank, list(x.shape), [1] * rank
        first[axis], last[axis], stride[axis] = begin, end, step
        mask = ((1 << rank) - 1) & ~(1 << axis)
        shape = [*x.shape[:axis], len(range(begin, end, step)), *x.shape[axis + 1 :]]
        operands = [x, *(self.whole(v) for v in (first, last, stride))]
        return self.apply("STRIDED_SLICE", operands, shape, {"beginMask": mask, "endMask": mask}, x.dtype)

    def concat(self, terms: Sequence[Term], axis: int) -> Term:
        """Joined along an axis."""
        terms = [t for t in terms if 0 not in t.shape]
        if len(terms) == 1:
            return terms[0]
        if all(t.array is not None for t in terms):
            return Term(self, np.concatenate([t.array for t in terms if t.array is not None], axis))
        kind = next(t.dtype for t in terms if t.array is None)
        terms = [self.cast(t, kind) for t in terms]
        shape = list(terms[0].shape)
        axis %= len(shape)
        if any(t.batched for t in terms) and (axis == 0 or not all(t.batched for t in terms)):
            raise Unservable(*BATCH)
        shape[axis] = sum(t.shape[axis] for t in terms)
        return self.apply("CONCATENATION", terms, shape, {"axis": axis}, kind)

    def pad(self, x: Term, amounts: Sequence[tuple[int, int]], value: float = 0.0) -> Term:
        """Constant cells before and behind each axis."""
        table = np.array(amounts, np.int32)
        if not table.any():
            return x
        if x.array is not None:
            return Term(self, np.pad(x.array, table, constant_values=value))
        if x.batched and table[0].any():
            raise Unservable(*BATCH)
        shape = [d + int(a) + int(z) for d, (a, z) in zip(x.shape, table, strict=True)]
        fill = Term(self, np.array(value, x.dtype))
        return self.apply("PADV2", [x, Term(self, table), fill], shape)

    # ---- joining numbers ---------------------------------------------------------------------------------------

    def reduce(self, code: str, x: Term, axes: Sequence[int], keep: bool = False) -> Term:
        """SUM, MEAN, REDUCE_MAX, REDUCE_MIN or REDUCE_PROD."""
        axes = sorted(a % len(x.shape) for a in axes)
        if x.array is not None:
            return Term(self, np.asarray(REDUCTIONS[code](x.array, axis=tuple(axes), keepdims=keep)))
        if not axes:
            return x
        if x.batched and 0 in axes:
            raise Unservable(*BATCH)
        shape = [1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes]
        return self.apply(code, [x, self.whole(axes)], shape, {"keepDims": keep})

    def matmul(self, x: Term, y: Term) -> Term:
        """The product of matrices with equal leading axes."""
        if x.array is not None and y.array is not None:
            return Term(self, np.matmul(x.array, y.array))
        lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        options = {"adjX": False, "adjY": False}
        return self.apply("BATCH_MATMUL", [x, y], (*lead, x.shape[-2], y.shape[-1]), options, "float32")

    def matrix(self, x: Term, weights: Array, axis: int = -1) -> Term:
        """The constant matrix `weights`, (out, in), along one axis of real numbers."""
        rank = len(x.shape)
        axis %= rank
        perm = [*(a for a in range(rank) if a != axis), axis]
        rows = np.ascontiguousarray(weights, np.float32)
        if x.array is not None:
            return Term(self, np.moveaxis(np.moveaxis(x.array, axis, -1) @ rows.T, -1, axis))
        moved = self.transpose(x, perm)
        shape = (*moved.shape[:-1], rows.shape[0])
        options = {"fusedActivationFunction": 0, "keepNumDims": True}
        zeros = Term(self, np.zeros(rows.shape[0], np.float32))
        product = self.apply("FULLY_CONNECTED", [moved, Term(self, rows), zeros], shape, options)
        return self.transpose(product, np.argsort(perm).tolist())
