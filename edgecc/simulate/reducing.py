"""Pools and reductions.

Sources: LiteRT, kernels/internal/reference/integer_ops/pooling.h, kernels/internal/reference/reduce.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from edgecc.ir import Array
from edgecc.simulate.common import Axis, Kernel, axis, clamped, fitted, padded
from edgecc.simulate.fixed_point import multiply, quantize_multiplier, wrap32
from edgecc.tflite.reader import Operator

_SAME = 0  # schema.fbs: enum Padding


def average_pool(op: Operator, values: Sequence[Array]) -> list[Array]:
    """AVERAGE_POOL_2D: over the elements inside the image, rounded half away from zero; scales are not touched."""
    rows, columns = _axes(op, values[0])
    sums = _gathered(padded(values[0].astype(np.int32), rows, columns), rows, columns, np.add, 0)
    inside = padded(np.ones((1, *values[0].shape[1:3], 1), np.int32), rows, columns)
    counts = _gathered(inside, rows, columns, np.add, 0)
    half = counts // 2
    means = np.where(sums > 0, (sums + half) // counts, -((half - sums) // counts))
    return [clamped(op, means.astype(np.int64) - op.outputs[0].zero_point)]


def max_pool(op: Operator, values: Sequence[Array]) -> list[Array]:
    """MAX_POOL_2D; scales are not touched."""
    rows, columns = _axes(op, values[0])
    least = np.iinfo(values[0].dtype).min
    best = _gathered(padded(values[0], rows, columns, least), rows, columns, np.maximum, least)
    return [clamped(op, best.astype(np.int64) - op.outputs[0].zero_point)]


def _axes(op: Operator, image: Array) -> tuple[Axis, Axis]:
    options = op.options
    same = options.padding == _SAME
    return (
        axis(image.shape[1], options.filterHeight, options.strideH, same),
        axis(image.shape[2], options.filterWidth, options.strideW, same),
    )


def _gathered(image: Array, rows: Axis, columns: Axis, join: Callable[..., Array], start: int) -> Array:
    shape = (image.shape[0], rows.count, columns.count, image.shape[3])
    joined = np.full(shape, start, image.dtype)
    for _, down in rows.taps():
        for _, across in columns.taps():
            join(joined, image[:, down, across], out=joined)
    return joined


def reduced_axes(op: Operator, values: Sequence[Array]) -> tuple[int, ...]:
    """Axes of a reduction, counted from the front, each once."""
    rank = values[0].ndim
    return tuple(sorted({int(a) % rank for a in np.atleast_1d(values[1])})) if rank else ()


def summed(op: Operator, values: Sequence[Array], mean: bool) -> list[Array]:
    """MEAN and SUM: a sum in 32 bits, then one factor, into which the mean's division goes."""
    source, axes = op.given(0), reduced_axes(op, values)
    count = int(np.prod([values[0].shape[a] for a in axes], dtype=np.int64))
    sums = values[0].astype(np.int64).sum(axis=axes, keepdims=op.options.keepDims)
    steps = wrap32(sums - source.zero_point * count)
    found = quantize_multiplier(np.float64(source.scale) / np.float64(op.outputs[0].scale))
    multiplier, shift = (int(v) for v in found)
    if mean and count:
        raised = min(count.bit_length() - 1, 32, 31 + shift)
        multiplier, shift = (multiplier << raised) // count, shift - raised
    return [fitted(op, multiply(steps, multiplier, shift))]


def extreme(op: Operator, values: Sequence[Array], pick: Callable[..., Array]) -> list[Array]:
    """REDUCE_MAX and REDUCE_MIN: integers as they are."""
    return [np.asarray(pick(values[0], axis=reduced_axes(op, values), keepdims=op.options.keepDims))]


INT8: Mapping[str, Kernel] = {
    "AVERAGE_POOL_2D": average_pool,
    "MAX_POOL_2D": max_pool,
    "MEAN": partial(summed, mean=True),
    "SUM": partial(summed, mean=False),
}
ANY: Mapping[str, Kernel] = {
    "REDUCE_MAX": partial(extreme, pick=np.max),
    "REDUCE_MIN": partial(extreme, pick=np.min),
}
