"""How every TFLite operator that edgecc may write is tried: which types, ranks and uses, for `kernels.py`.

A table entry is (kinds, ranks, function from rank to variants). Shapes have axes of 1 and of other sizes, as
XNNPACK drops the former and would hide what it cannot do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Any

import kernel_reference as ref
import numpy as np
from kernel_files import Data, Fixed, Item, Variant
from kernel_reference import Array

Variants = Callable[[int], Iterable[Variant]]
Entry = tuple[tuple[str, ...], Iterable[int], Variants]

QUANT = ("qint8", "quint8", "qint16")
INTS = ("int8", "uint8", "int16", "int32", "uint32", "int64")
NUMBERS = ("float32", *INTS, *QUANT)
ALL = ("float32", "float16", "bool", *INTS, "uint16", "uint64", *QUANT)
REAL = ("float32", *QUANT)
RANKS = range(7)  # XNNPACK defines no tensor of more axes
SOME = (2, 2, 1, 3, 1, 2, 3, 4)
FULL = (2, 3, 2, 2, 2, 3, 2, 3)
SIGMOID = {"qint8": (1 / 256, -128), "quint8": (1 / 256, 0), "qint16": (2.0**-15, 0)}
TANH = {"qint8": (1 / 128, 0), "quint8": (1 / 128, 128), "qint16": (2.0**-15, 0)}
LOG_SOFTMAX = {"qint8": (16 / 256, 127), "quint8": (16 / 256, 255), "qint16": (16 / 65536, 32767)}


def shapes(rank: int) -> tuple[tuple[int, ...], ...]:
    """Of an operand of that rank: with and without axes of 1."""
    return (SOME[8 - rank :], FULL[8 - rank :]) if rank else ((),)


def ints(*values: int) -> Fixed:
    """A constant vector of int32."""
    return Fixed(np.array(values, np.int32))


def whole(value: int) -> Fixed:
    """A constant int32 scalar."""
    return Fixed(np.array(value, np.int32))


def unary(function: Callable[[Array], Array], low: float = -3, high: float = 3, **more: Any) -> Variants:
    def variants(rank: int) -> Iterator[Variant]:
        for shape in shapes(rank):
            yield Variant([Data(shape, low, high)], function, **more)

    return variants


def operands(rank: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes of two operands that broadcast to `rank` axes."""
    full = FULL[8 - rank :]
    odd = tuple(d if i % 2 else 1 for i, d in enumerate(full))
    even = tuple(1 if i % 2 else d for i, d in enumerate(full))
    if rank > 1:
        yield from (
            (full, odd),
            (full, even),
            (odd, even),
            (full, full[1:]),
            (full[1:], full),
            (full, full[-1:]),
        )
    if rank:
        yield from ((full, (1,)), (full, ()), ((), full))


def binary(
    function: Callable[[Array, Array], Any],
    low: float = -3,
    high: float = 3,
    second: float | None = None,
    **more: Any,
) -> Variants:
    start = low if second is None else second

    def variants(rank: int) -> Iterator[Variant]:
        for shape in shapes(rank):
            yield Variant([Data(shape, low, high), Data(shape, start, high)], function, **more)
            yield Variant([Data(shape, low, high), Data(shape, start, high, True)], function, **more)
        for a, b in operands(rank):
            both = [Data(a, low, high), Data(b, start, high)]
            yield Variant(both, function, broadcast=True, **more)
        if rank > 1:
            last = Data(FULL[-1:], start, high, True)
            yield Variant([Data(FULL[8 - rank :], low, high), last], function, broadcast=True, **more)

    return variants


def slopes(rank: int) -> Iterator[Variant]:
    """PRELU: constant slopes, of which only axes of 1 broadcast. One slope is a LEAKY_RELU (2.14 errs)."""

    def apply(x: Array, a: Array) -> Array:
        return np.where(x > 0, x, x * a)

    for shape in shapes(rank):
        yield Variant([Data(shape), Data(shape, -1, 1, True)], apply)
    full = FULL[8 - rank :]
    odd = tuple(d if i % 2 else 1 for i, d in enumerate(full))
    for slope in {(*(1,) * (rank - 1), *full[-1:]), odd} if rank > 1 else ():
        yield Variant([Data(full), Data(slope, -1, 1, True)], apply, broadcast=True)


def select(rank: int) -> Iterator[Variant]:
    for shape in shapes(rank):
        mask = np.random.default_rng(rank).integers(0, 2, shape).astype(bool)
        yield Variant([Fixed(mask, False), Data(shape), Data(shape)], np.where, scale="same", steps=0)
    for a, b in operands(rank):
        mask = np.random.default_rng(rank).integers(0, 2, b).astype(bool)
        for other in (b, a):
            items: list[Item] = [Fixed(mask, False), Data(a), Data(other)]
            yield Variant(items, np.where, broadcast=True, scale="same", steps=0)


def axis_sets(rank: int) -> list[tuple[int, ...]]:
    """Single axes, neighbours, the outermost two and all."""
    pairs = [p for p in combinations(range(rank), 2) if p[1] - p[0] == 1 or p == (0, rank - 1)]
    return [*((a,) for a in range(rank)), *pairs, *([tuple(range(rank))] if rank > 2 else [])]


def reduce(function: Callable[..., Array], low: float = -3, high: float = 3, **more: Any) -> Variants:
    def variants(rank: int) -> Iterator[Variant]:
        for axes in axis_sets(rank):
            for keep in (True, False):

                def apply(x: Array, _: Array, axes: tuple[int, ...] = axes, keep: bool = keep) -> Array:
                    return np.asarray(function(x, axis=axes, keepdims=keep)).astype(x.dtype)

                shape = FULL[8 - rank :] if keep else SOME[8 - rank :]
                yield Variant([Data(shape, low, high), ints(*axes)], apply, {"keepDims": keep}, **more)

    return variants


def extremum(function: Callable[..., Array]) -> Variants:
    def variants(rank: int) -> Iterator[Variant]:
        for axis in range(rank):

            def apply(x: Array, _: Array, axis: int = axis) -> Array:
                return np.asarray(function(x, axis=axis))

            yield Variant([Data(FULL[8 - rank :]), ints(axis)], apply, {"outputType": 2}, ("int32",))

    return variants


def top_k(rank: int) -> Iterator[Variant]:
    if rank:
        yield Variant(
            [Data(FULL[8 - rank :]), whole(2)],
            lambda x, k: ref.top_k(x, int(k)),
            {},
            ("same", "int32"),
            "same",
        )


def scatter(rank: int) -> Iterator[Variant]:
    shape, rows = (4, *FULL[9 - rank :]), np.array([[2], [0]], np.int32)
    if rank:
        items: list[Item] = [Fixed(rows, False), Data((2, *shape[1:])), ints(*shape)]
        yield Variant(items, ref.scatter_nd, scale="same", steps=0)


def cumulated(rank: int) -> Iterator[Variant]:
    for axis in range(rank):
        for exclusive in (False, True):

            def add(x: Array, _: Array, axis: int = axis, exclusive: bool = exclusive) -> Array:
                return (np.cumsum(x, axis) - (x if exclusive else 0)).astype(x.dtype)

            options = {"exclusive": exclusive, "reverse": False}
            yield Variant([Data(FULL[8 - rank :]), whole(axis)], add, options)
