"""Convolutions and matrix products: sums in 32 bits, scaled once, one factor a channel.

Sources: LiteRT, kernels/internal/reference/integer_ops/{conv,depthwise_conv,transpose_conv,fully_connected}.h,
kernels/internal/reference/batch_matmul.h; multipliers: kernels/kernel_util.cc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgecc.ir import Array
from edgecc.simulate.common import Axis, Kernel, axis, centred, clamped, fitted, padded
from edgecc.simulate.fixed_point import Integers, rescale, round_half_away, wrap32
from edgecc.tflite.reader import Operator, Tensor

_SAME = 0  # schema.fbs: enum Padding


def exact_type(weights: Array, reduced: tuple[int, ...], largest: int) -> type[np.floating]:
    """The fastest type in which sums of products are exact: every partial sum is a whole number below 2^24 or 2^53.

    Args:
        weights: integers.
        reduced: axes over which a sum goes.
        largest: magnitude of the other factors.
    """
    reach = int(np.abs(weights.astype(np.int64)).sum(axis=reduced).max(initial=0)) * largest
    return np.float32 if reach < 2**24 else np.float64


def conv(op: Operator, values: Sequence[Array]) -> list[Array]:
    """CONV_2D: image (n, h, w, c), weights (out, kh, kw, c / groups)."""
    image, weights, options = values[0], values[1], op.options
    kernel, depth = weights.shape[1:3], weights.shape[3]
    rows, columns = _axes(image, kernel, options, (options.dilationHFactor, options.dilationWFactor))
    kind = exact_type(weights, (1, 2, 3), 255)
    source = padded(_real(op.given(0), image, kind), rows, columns)
    groups = image.shape[3] // depth
    each = weights.shape[0] // groups
    sums = np.empty((image.shape[0] * rows.count * columns.count, weights.shape[0]), kind)
    for group in range(groups):
        part = source[..., group * depth : (group + 1) * depth] if groups > 1 else source
        kernels = weights[group * each : (group + 1) * each].reshape(each, -1).astype(kind)
        sums[:, group * each : (group + 1) * each] = _windows(part, rows, columns) @ kernels.T
    shape = (image.shape[0], rows.count, columns.count, weights.shape[0])
    return [_finished(op, sums.reshape(shape), values, 2)]


def depthwise(op: Operator, values: Sequence[Array]) -> list[Array]:
    """DEPTHWISE_CONV_2D: image (n, h, w, c), weights (1, kh, kw, c * multiplier)."""
    image, weights, options = values[0], values[1], op.options
    dilations = options.dilationHFactor, options.dilationWFactor
    rows, columns = _axes(image, weights.shape[1:3], options, dilations)
    kind = exact_type(weights, (1, 2), 255)
    source = padded(_real(op.given(0), image, kind), rows, columns)
    multiplier = weights.shape[3] // image.shape[3]
    if multiplier > 1:
        source = np.repeat(source, multiplier, axis=3)
    factors = weights[0].astype(kind)
    sums = np.zeros((image.shape[0], rows.count, columns.count, weights.shape[3]), kind)
    product = np.empty_like(sums)
    for y, down in rows.taps():
        for x, across in columns.taps():
            sums += np.multiply(source[:, down, across], factors[y, x], out=product)
    return [_finished(op, sums, values, 2)]


def transpose_conv(op: Operator, values: Sequence[Array]) -> list[Array]:
    """TRANSPOSE_CONV: output shape, weights (out, kh, kw, in), image (n, h, w, in), bias."""
    shape, weights, image = tuple(int(d) for d in values[0]), values[1], values[2]
    same = op.options.padding == _SAME
    rows = axis(shape[1], weights.shape[1], op.options.strideH, same)
    columns = axis(shape[2], weights.shape[2], op.options.strideW, same)
    kind = exact_type(weights, (1, 2, 3), 255)
    source = _real(op.given(2), image, kind)
    height = max((image.shape[1] - 1) * rows.stride + rows.kernel, rows.before + shape[1])
    width = max((image.shape[2] - 1) * columns.stride + columns.kernel, columns.before + shape[2])
    canvas = np.zeros((image.shape[0], height, width, weights.shape[0]), kind)
    for y in range(rows.kernel):
        for x in range(columns.kernel):
            down = slice(y, y + (image.shape[1] - 1) * rows.stride + 1, rows.stride)
            across = slice(x, x + (image.shape[2] - 1) * columns.stride + 1, columns.stride)
            canvas[:, down, across] += source @ weights[:, y, x].T.astype(kind)
    top, left = rows.before, columns.before
    sums = canvas[:, top : top + shape[1], left : left + shape[2]]
    return [_finished(op, sums, values, 3, image=2)]


def fully_connected(op: Operator, values: Sequence[Array]) -> list[Array]:
    """FULLY_CONNECTED: rows (..., in), weights (out, in). LiteRT's reference kernel rounds a float64 product here."""
    factors = _factors(op.given(0), op.given(1), op.outputs[0])
    return _dense(op, values, round_half_away(_dense_sums(op, values) * factors).astype(np.int64))


def fully_connected_fixed(op: Operator, values: Sequence[Array]) -> list[Array]:
    """FULLY_CONNECTED as TFLite Micro computes it, in fixed point."""
    tensors = op.given(0), op.given(1), op.outputs[0]
    return _dense(op, values, rescale(_dense_sums(op, values), _factors(*tensors)))


def _dense_sums(op: Operator, values: Sequence[Array]) -> Integers:
    weights = values[1].astype(np.int64) - op.given(1).zero_point
    kind = exact_type(weights, (1,), 255)
    rows = _real(op.given(0), values[0], kind).reshape(-1, weights.shape[1])
    return _biased(rows @ weights.T.astype(kind), values, 2)


def _dense(op: Operator, values: Sequence[Array], steps: Integers) -> list[Array]:
    shape = (*values[0].shape[:-1], len(values[1])) if op.options.keepNumDims else (-1, len(values[1]))
    return [clamped(op, steps).reshape(shape)]


def batch_matmul(op: Operator, values: Sequence[Array]) -> list[Array]:
    """BATCH_MATMUL of two computed operands (..., m, k) and (..., k, n), either transposed on request."""
    left, right = (centred(op.given(i), values[i]) for i in (0, 1))
    left = left.swapaxes(-1, -2) if op.options.adjX else left
    right = right.swapaxes(-1, -2) if op.options.adjY else right
    sums = left.astype(np.float64) @ right.astype(np.float64)
    product = np.float64(
        op.given(0).scale * op.given(1).scale
    )  # rounded to float32 first, as the reference does
    return [fitted(op, rescale(sums.astype(np.int64), product / np.float64(op.outputs[0].scale)))]


def _axes(
    image: Array, kernel: tuple[int, ...], options: object, dilations: tuple[int, int]
) -> tuple[Axis, Axis]:
    same = getattr(options, "padding") == _SAME  # noqa: B009 - the schema's classes have no types
    strides = (getattr(options, name) for name in ("strideH", "strideW"))
    rows, columns = (
        axis(size, window, stride, same, dilation)
        for size, window, stride, dilation in zip(image.shape[1:3], kernel, strides, dilations, strict=True)
    )
    return rows, columns


def _real(tensor: Tensor, values: Array, kind: type[np.floating]) -> Array:
    """Integers without their zero point, in a floating type that holds them exactly."""
    return np.subtract(values.astype(kind), kind(tensor.zero_point))


def _windows(source: Array, rows: Axis, columns: Axis) -> Array:
    """Every window of a padded image as a row (n * count * count, kh * kw * c)."""
    n, _, _, depth = source.shape
    if rows.kernel == columns.kernel == 1:
        picked = source[:, : (rows.count - 1) * rows.stride + 1 : rows.stride]
        return picked[:, :, : (columns.count - 1) * columns.stride + 1 : columns.stride].reshape(-1, depth)
    windows = np.empty((n, rows.count, columns.count, rows.kernel, columns.kernel, depth), source.dtype)
    for y, down in rows.taps():
        for x, across in columns.taps():
            windows[:, :, :, y, x] = source[:, down, across]
    return windows.reshape(n * rows.count * columns.count, -1)


def _biased(sums: Array, values: Sequence[Array], place: int) -> Integers:
    total = sums.astype(np.int64)
    if place < len(values) and values[place].size:
        total += values[place].astype(np.int64)
    return wrap32(total)


def _factors(data: Tensor, weights: Tensor, output: Tensor) -> Array:
    return np.float64(data.scale) * weights.scales.astype(np.float64) / np.float64(output.scale)


def _finished(op: Operator, sums: Array, values: Sequence[Array], bias: int, image: int = 0) -> Array:
    factors = _factors(op.given(image), op.given(1), op.outputs[0])
    return clamped(op, rescale(_biased(sums, values, bias), factors))


INT8: Mapping[str, Kernel] = {
    "CONV_2D": conv,
    "DEPTHWISE_CONV_2D": depthwise,
    "TRANSPOSE_CONV": transpose_conv,
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": batch_matmul,
}
MICRO: Mapping[str, Kernel] = {"FULLY_CONNECTED": fully_connected_fixed}
"""Where TFLite Micro computes otherwise than LiteRT's reference kernels."""
