"""QuantizeLinear and DequantizeLinear as operators: where no integer kernel's operand carries their scale."""

from __future__ import annotations

import numpy as np

from edgecc.analysis.sites import Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, Unservable
from edgecc.tflite.compose import Composer, Term

_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}
_EXACT = frozenset({"int8", "uint8", "int16", "uint16"})  # float32 holds each of these integers


def _spread(site: Site, k: Composer, position: int, shape: tuple[int, ...]) -> Term:
    """A scale or zero point as it is applied to each element: one, one a position of an axis, or one a block."""
    given = _real(k, k.input(position))
    axis = int(site.attribute("axis", 1))  # type: ignore[call-overload]
    if len(given.shape) == 0 or int(np.prod(given.shape)) == 1 < len(shape):
        return k.reshape(given, ())
    if len(given.shape) == 1:
        axis %= max(len(shape), 1)
        return k.reshape(given, (given.shape[0], *[1] * (len(shape) - axis - 1)))
    axis %= len(shape)
    block = int(site.attribute("block_size", 0)) or -(-shape[axis] // given.shape[axis])  # type: ignore[call-overload]
    if given.array is not None:
        return k.term(given.array.take(np.arange(shape[axis]) // block, axis))
    if given.shape[axis] * block != shape[axis]:
        raise Unservable("its last block is shorter than the others and its scales are computed")
    widened = (*given.shape[: axis + 1], 1, *given.shape[axis + 1 :])
    full = (*given.shape[: axis + 1], block, *given.shape[axis + 1 :])
    repeated = k.reshape(given, widened) * np.ones(full, np.float32)
    return k.reshape(repeated, shape)


@lowers("DequantizeLinear")
def dequantize_linear(site: Site, b: Builder) -> None:
    """(x - zero point) * scale in float32, exact for integers of up to 16 bits."""
    k = Composer(site, b, batch=True)
    x = k.input(0)
    shape = x.shape
    centred = _real(k, x)
    if k.has(2):
        zero = site.inputs[2]
        if zero is None or zero.array is None or zero.array.any():
            centred = centred - _spread(site, k, 2, shape)
    k.finish(centred * _spread(site, k, 1, shape))


def _real(k: Composer, x: Term) -> Term:
    if x.dtype not in _EXACT and x.dtype not in ("float32", "int32"):
        raise Unservable(f"integers of the type {x.dtype} have no kernel")
    return k.cast(x, "float32")


@lowers("QuantizeLinear")
def quantize_linear(site: Site, b: Builder) -> None:
    """round(x / scale) + zero point within the type: ties to even, as ROUND has them."""
    value = site.outputs[0].value
    dtype = "" if value.dtype is None else str(value.dtype).lower()
    if dtype not in _LIMITS:
        raise Unservable(f"integers of the type {dtype} have no kernel")
    k = Composer(site, b, batch=True)
    x = k.cast(k.input(0), "float32")
    shape = x.shape
    stored = k.one("ROUND", x / _spread(site, k, 1, shape))
    if k.has(2):
        stored = stored + _spread(site, k, 2, shape)
    low, high = _LIMITS[dtype]
    stored = k.binary("MINIMUM", k.binary("MAXIMUM", stored, float(low)), float(high))
    k.finish(k.cast(stored, "int32"))
