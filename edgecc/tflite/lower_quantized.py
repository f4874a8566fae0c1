"""ONNX's operators on integers with scales, computed with real numbers where these are exact."""

from __future__ import annotations

import numpy as np

from edgecc.analysis.layout import channels_last
from edgecc.analysis.sites import Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, Unservable
from edgecc.tflite.compose import Composer, Term
from edgecc.tflite.lower_spatial import convolved

# float32 holds every integer up to 2^24; a product of two bytes less their zero points is at most 255^2.
_EXACT = 2**24 // 255**2


def _centred(k: Composer, position: int, zero: int, axis: int | None = None, rank: int = 0) -> Term:
    """Operand `position` less its zero point, as real numbers; a vector of zero points lies along `axis`."""
    x = k.cast(k.input(position), "float32")
    if not k.has(zero):
        return x
    offset = k.cast(k.input(zero), "float32")
    return x - _along(k, offset, axis, rank or len(x.shape))


def _along(k: Composer, values: Term, axis: int | None, rank: int) -> Term:
    """One number, or one for each position along an axis (counted from behind)."""
    if int(np.prod(values.shape)) == 1:
        return k.reshape(values, ())
    if len(values.shape) > 1 or axis is None:
        return values
    return k.reshape(values, (values.shape[0], *[1] * (-axis - 1)))


def _exact(count: int) -> None:
    if count > _EXACT:
        raise Unservable(f"sums of {count} products are not exact in float32", "use a QDQ network instead")


def _quantized(k: Composer, real: Term, zero: Term, dtype: str) -> Term:
    """round(real) + zero, ties to even, within the type."""
    facts = np.iinfo(dtype)
    shifted = k.one("ROUND", real) + k.cast(zero, "float32")
    bounded = k.binary("MINIMUM", k.binary("MAXIMUM", shifted, float(facts.min)), float(facts.max))
    return k.cast(k.cast(bounded, "int32"), dtype)


@lowers("MatMulInteger")
def matmul_integer(site: Site, b: Builder) -> None:
    """BATCH_MATMUL of real numbers, exact while the sums are short."""
    k = Composer(site, b)
    left, right = _centred(k, 0, 2, -2), _centred(k, 1, 3, -1)
    _exact(left.shape[-1])
    k.finish(_matmul(k, left, right))


def _matmul(k: Composer, left: Term, right: Term) -> Term:
    x = k.reshape(left, (1, *left.shape)) if len(left.shape) == 1 else left
    y = k.reshape(right, (*right.shape, 1)) if len(right.shape) == 1 else right
    return k.reshape(k.matmul(x, y), k.out_shape())


@lowers("QLinearMatMul")
def qlinear_matmul(site: Site, b: Builder) -> None:
    """As MatMulInteger, then scaled, rounded and cut off."""
    k = Composer(site, b)
    left, right = _centred(k, 0, 2, -2), _centred(k, 3, 5, -1)
    _exact(left.shape[-1])
    scale = _along(k, k.input(1), -2, 2) * _along(k, k.input(4), -1, 2) / _along(k, k.input(6), -1, 2)
    real = _matmul(k, left, right) * scale
    k.finish(_quantized(k, real, _along(k, k.input(7), -1, 2), b.dtype(site.outputs[0].value)))


def _convolved(site: Site, k: Composer, weight: int, zeros: tuple[int, int]) -> Term:
    rank = len(k.input(weight).shape)
    x = _centred(k, 0, zeros[0])
    weights = _centred(k, weight, zeros[1], -rank)
    _exact(int(np.prod(weights.shape[1:])))
    return convolved(site, k, k.transpose(x, channels_last(rank)), weights, None)


@lowers("ConvInteger")
def conv_integer(site: Site, b: Builder) -> None:
    """A convolution of real numbers, exact while the sums are short."""
    k = Composer(site, b)
    k.finish(_convolved(site, k, 1, (2, 3)), order=channels_last(len(k.out_shape())))


@lowers("QLinearConv")
def qlinear_conv(site: Site, b: Builder) -> None:
    """As ConvInteger, with the bias, then scaled, rounded and cut off."""
    k = Composer(site, b)
    sums = _convolved(site, k, 3, (2, 5))
    if k.has(8):
        sums = sums + k.cast(k.input(8), "float32")
    scale = _along(k, k.input(1), -1, 1) * _along(k, k.input(4), -1, 1) / _along(k, k.input(6), -1, 1)
    zero = _along(k, k.input(7), -1, 1)
    made = _quantized(k, sums * scale, zero, b.dtype(site.outputs[0].value))
    k.finish(made, order=channels_last(len(k.out_shape())))


@lowers("DynamicQuantizeLinear")
def dynamic_quantize_linear(site: Site, b: Builder) -> None:
    """Scale and zero point from the smallest and the largest number (zero included), uint8."""
    k = Composer(site, b)
    x = k.input(0)
    axes = range(len(x.shape))
    low = k.binary("MINIMUM", k.reduce("REDUCE_MIN", x, axes), 0.0)
    high = k.binary("MAXIMUM", k.reduce("REDUCE_MAX", x, axes), 0.0)
    scale = (high - low) / 255.0
    safe = k.select(k.binary("EQUAL", scale, 0.0), 1.0, scale)
    zero = k.one("ROUND", k.binary("MINIMUM", k.binary("MAXIMUM", k.one("NEG", low) / safe, 0.0), 255.0))
    k.finish(_quantized(k, x / safe, zero, "uint8"), 0)
    k.finish(scale, 1)
    k.finish(k.cast(k.cast(zero, "int32"), "uint8"), 2)
