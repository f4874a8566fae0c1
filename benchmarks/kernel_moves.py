"""How operators that move values and compute nothing are tried, and a few with operands of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from kernel_cases import FULL, Variants, ints, shapes, whole
from kernel_files import Data, Fixed, Variant
from kernel_reference import Array

Built = Iterator[tuple[list[Any], Callable[..., Any], dict[str, Any]]]


def moved(build: Callable[[tuple[int, ...]], Built]) -> Variants:
    """Operators that move values: `build` gives operands, function and options for a shape."""

    def variants(rank: int) -> Iterator[Variant]:
        for shape in shapes(rank):
            for items, function, options in build(shape):
                results = options.pop("results", 1)
                yield Variant(items, function, options, ("same",) * results, "same", steps=0)

    return variants


def concat(shape: tuple[int, ...]) -> Built:
    for axis in range(len(shape)):

        def join(*parts: Array, axis: int = axis) -> Array:
            return np.concatenate(parts, axis)

        yield [Data(shape)] * 2, join, {"axis": axis}
        yield [Data(shape)] * 5, join, {"axis": axis}


def split(shape: tuple[int, ...]) -> Built:
    for axis in [a for a, d in enumerate(shape) if d % 2 == 0]:

        def cut(_: Array, x: Array, axis: int = axis) -> list[Array]:
            return np.split(x, 2, axis)

        yield [whole(axis), Data(shape)], cut, {"numSplits": 2, "results": 2}


def split_v(shape: tuple[int, ...]) -> Built:
    for axis in [a for a, d in enumerate(shape) if d > 2]:

        def cut(x: Array, *_: Array, axis: int = axis) -> list[Array]:
            return np.split(x, [1], axis)

        yield [Data(shape), ints(1, shape[axis] - 1), whole(axis)], cut, {"numSplits": 2, "results": 2}


def part(shape: tuple[int, ...]) -> Built:
    begin = [int(d > 1) for d in shape]
    for sizes in ([d - b for d, b in zip(shape, begin, strict=True)], [1] * len(shape)):

        def cut(x: Array, *_: Array, sizes: list[int] = sizes) -> Array:
            return x[tuple(slice(b, b + n) for b, n in zip(begin, sizes, strict=True))]

        yield [Data(shape), ints(*begin), ints(*sizes)], cut, {}


def strided(shape: tuple[int, ...]) -> Built:
    for step, first in ((2, 0), (1, 1), (-1, -1)):
        starts = [0 if d == 1 and first == 1 else first for d in shape]
        ends = [-d - 1 if step < 0 else d for d in shape]

        def cut(x: Array, *_: Array, step: int = step, starts: list[int] = starts) -> Array:
            return x[tuple(slice(s, None, step) for s in starts)]

        yield [Data(shape), ints(*starts), ints(*ends), ints(*[step] * len(shape))], cut, {}


def paddings(shape: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    rank = len(shape)
    return (
        [[(1, 2)] * rank, [(0, 0)] * (rank - 1) + [(2, 0)], [(0, 1)] + [(0, 0)] * (rank - 1)] if rank else []
    )


def pad(shape: tuple[int, ...]) -> Built:
    for amounts in paddings(shape):

        def widen(x: Array, *_: Array, amounts: list[tuple[int, int]] = amounts) -> Array:
            return np.pad(x, amounts)

        yield [Data(shape), Fixed(np.array(amounts, np.int32))], widen, {}


def pad_value(shape: tuple[int, ...]) -> Built:
    for amounts in paddings(shape):

        def widen(x: Array, _: Array, value: Array, amounts: list[tuple[int, int]] = amounts) -> Array:
            return np.pad(x, amounts, constant_values=value)

        yield [Data(shape), Fixed(np.array(amounts, np.int32)), Data((), constant=True)], widen, {}


def mirror(shape: tuple[int, ...]) -> Built:
    for mode, name in enumerate(("reflect", "symmetric")):
        amounts = [(min(1, d - 1 + mode), 0) for d in shape]

        def widen(x: Array, *_: Array, amounts: list[tuple[int, int]] = amounts, name: str = name) -> Array:
            return np.pad(x, amounts, mode=name)  # type: ignore[call-overload, no-any-return]

        if shape:
            yield [Data(shape), Fixed(np.array(amounts, np.int32))], widen, {"mode": mode}


def gather(shape: tuple[int, ...]) -> Built:
    for axis, size in enumerate(shape):
        for indices, constant in (([size - 1, 0], True), (0, True), ([[0], [size - 1]], False)):
            places = np.array(indices, np.int32)

            def pick(x: Array, i: Array, axis: int = axis) -> Array:
                return x.take(i, axis)

            if len(shape) + places.ndim <= 9:
                yield [Data(shape), Fixed(places, constant)], pick, {"axis": axis}


def gather_nd(shape: tuple[int, ...]) -> Built:
    for depth in range(1, len(shape) + 1):
        places = np.array([[0] * depth, [d - 1 for d in shape[:depth]]], np.int32)
        yield [Data(shape), Fixed(places)], lambda x, i: x[tuple(i.T)], {}


def tile(shape: tuple[int, ...]) -> Built:
    for times in ([2] * len(shape), [1] * (len(shape) - 1) + [3]):
        if shape:
            yield [Data(shape), ints(*times)], np.tile, {}


def expand(shape: tuple[int, ...]) -> Built:
    wide = tuple(3 if d == 1 else d for d in shape)
    yield [Data(shape), ints(*wide)], lambda x, s: np.broadcast_to(x, s).copy(), {}
    half = tuple(1 if i % 2 else d for i, d in enumerate(shape))
    yield [Data(half), ints(*wide)], lambda x, s: np.broadcast_to(x, s).copy(), {}


def transpose(shape: tuple[int, ...]) -> Built:
    rank = len(shape)
    base = list(range(rank))
    rotated, swapped = base[1:] + base[:1], [*base[:-2], *base[-2:][::-1]]
    perms = [base[::-1], rotated, base[-1:] + base[:-1], swapped, [*base[:1], *base[1:][::-1]]]
    mixed = np.random.default_rng(rank).permutation(rank).tolist()
    for perm in {tuple(p): None for p in [*perms, mixed]} if rank else []:
        yield [Data(shape), ints(*perm)], lambda x, p: x.transpose(p), {}


def reshape(shape: tuple[int, ...]) -> Built:
    size = int(np.prod(shape))
    for new in ((size,), (*shape[1:], *shape[:1]), (1, *shape[:7])):
        if int(np.prod(new)) == size:
            yield [Data(shape), ints(*new)], lambda x, s: x.reshape(s), {"newShape": np.array(new, np.int32)}


def squeeze(shape: tuple[int, ...]) -> Built:
    lifted = (1, *shape[1:])
    if shape:
        yield [Data(lifted)], lambda x: x[0], {"squeezeDims": np.array([0], np.int32)}


def expand_dims(shape: tuple[int, ...]) -> Built:
    yield [Data(shape), whole(0)], lambda x, a: x[None], {}
    yield [Data(shape), whole(-1)], lambda x, a: x[..., None], {}


def pack(shape: tuple[int, ...]) -> Built:
    for axis in {0, len(shape)}:

        def join(*parts: Array, axis: int = axis) -> Array:
            return np.stack(parts, axis)

        yield [Data(shape)] * 3, join, {"valuesCount": 3, "axis": axis}


def unpack(shape: tuple[int, ...]) -> Built:
    for axis, size in enumerate(shape):

        def cut(x: Array, axis: int = axis) -> list[Array]:
            return list(np.moveaxis(x, axis, 0))

        yield [Data(shape)], cut, {"num": size, "axis": axis, "results": size}


def reverse(shape: tuple[int, ...]) -> Built:
    for axis in range(len(shape)):
        yield [Data(shape), ints(axis)], lambda x, a: np.flip(x, a[0]), {}


def halves(rank: int) -> Iterator[Variant]:
    """A 64-bit integer as its lower and upper half."""
    for shape in shapes(rank):
        yield Variant([Data(shape, 0)], lambda x: x.reshape(-1).view(np.int32).reshape(*x.shape, 2))


def wholes(rank: int) -> Iterator[Variant]:
    """Two halves as one 64-bit integer."""
    yield Variant([Data((*FULL[9 - rank :], 2), 0)], lambda x: x.view(np.int64)[..., 0])


def suppression(rank: int) -> Iterator[Variant]:
    """Of three boxes the second lies on the first."""
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1.9], [4, 4, 5, 5]], np.float32)
    numbers = [
        np.array([0.5, 0.4, 0.9], np.float32),
        np.array(3, np.int32),
        *np.array([0.5, 0.1], np.float32),
    ]
    fed = [Fixed(a, False) for a in (boxes, numbers[0])]
    items = [*fed, *(Fixed(np.asarray(a)) for a in numbers[1:])]
    answer = (np.array([2, 0, 0], np.int32), np.array(2, np.int32))
    yield Variant(items, lambda *_: answer, out=("int32", "int32"))
