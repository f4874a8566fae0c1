"""Operators on booleans and on the bits of integers."""

from __future__ import annotations

import numpy as np

from edgecc.analysis.sites import Site
from edgecc.ir import Array
from edgecc.tflite import long_integers, lowers
from edgecc.tflite.builder import Builder, Unservable
from edgecc.tflite.compose import Term
from edgecc.tflite.elementwise import Elementwise
from edgecc.tflite.writer import tensor_type

_WIDTHS = {"int8": 8, "uint8": 8, "int16": 16, "int32": 32, "int64": 64}


@lowers("Xor")
def xor(site: Site, b: Builder) -> None:
    """NOT_EQUAL."""
    make = Elementwise(site, b)
    make.give(make.binary("NOT_EQUAL", *make.terms))


@lowers("BitwiseXor")
def bitwise_xor(site: Site, b: Builder) -> None:
    """BITWISE_XOR."""
    make = Elementwise(site, b)
    _give(make, _xor(make, *_words(make)))


@lowers("BitwiseAnd", "BitwiseOr")
def bitwise_and(site: Site, b: Builder) -> None:
    """x & y = (x + y - (x ^ y)) / 2, where nothing overflows; x | y = (x ^ y) + (x & y)."""
    make = Elementwise(site, b)
    if all(t.array is not None for t in make.terms):
        raise Unservable("it is constant", "fold it")
    x, y = _words(make)
    different = _xor(make, x, y)
    if make.terms[0].dtype in ("int32", "int64"):
        high = [_shifted(make, t, 16) for t in (x, y)]
        low = [t - h * 2**16 for t, h in zip((x, y), high, strict=True)]
        both = _and(make, *high) * 2**16 + _and(make, *low)
    else:
        both = _and(make, x, y)
    _give(make, both if site.op_type == "BitwiseAnd" else different + both)


def _and(make: Elementwise, x: Term, y: Term) -> Term:
    return (x + y - _xor(make, x, y)) / 2


@lowers("BitwiseNot")
def bitwise_not(site: Site, b: Builder) -> None:
    """-1 - x; 255 - x for bytes without a sign."""
    make = Elementwise(site, b)
    dtype = make.terms[0].dtype
    (x,) = _words(make)
    _give(make, make.whole(255 if dtype == "uint8" else -1) - x)


@lowers("BitShift")
def bit_shift(site: Site, b: Builder) -> None:
    """RIGHT_SHIFT; to the left a product with a power of 2. Amounts beyond the width leave the sign, or nothing."""
    make = Elementwise(site, b)
    width = _WIDTHS.get(make.terms[0].dtype, 0)
    if not width or str(site.inputs[0].value.dtype) == "UINT16":  # type: ignore[union-attr]
        raise Unservable(f"{make.terms[0].dtype} has no kernel for this")
    left = site.attribute("direction", "") == "LEFT"
    if width == 64 and not left:
        make.give(long_integers.shift_right(make, *make.terms))
        return
    x, amount = make.terms if width == 64 else _words(make)
    outside = make.binary(
        "LOGICAL_OR", make.binary("LESS", amount, 0), make.binary("GREATER_EQUAL", amount, width)
    )
    if left:
        two, places = Term(make, np.array(2, x.dtype)), make.select(outside, 0, amount)
        power = long_integers.power(make, two, places) if width == 64 else make.binary("POW", two, places)
        make.give(x * make.select(outside, Term(make, np.array(0, x.dtype)), power))
        return
    make.give(_right(make, x, make.select(outside, 31, amount)))


def _words(make: Elementwise) -> list[Term]:
    """The operands as int32; the halves of 64-bit integers in a last axis."""
    if any(t.dtype == "int64" for t in make.terms):
        return [long_integers.words(make, make.cast(t, "int64")) for t in make.terms]
    return [make.cast(t, "int32") for t in make.terms]


def _give(make: Elementwise, result: Term) -> None:
    long = any(t.dtype == "int64" for t in make.terms)
    make.give(long_integers.joined_words(make, result) if long else result)


def _xor(make: Elementwise, x: Term, y: Term) -> Term:
    return make.apply("BITWISE_XOR", [x, y], np.broadcast_shapes(x.shape, y.shape))


def _shifted(make: Elementwise, x: Term, amount: int) -> Term:
    return _right(make, x, make.whole(amount))


def _right(make: Elementwise, x: Term, amount: Term) -> Term:
    if x.array is not None and amount.array is not None:
        return Term(make, np.asarray(np.right_shift(x.array, amount.array)))
    return make.apply("RIGHT_SHIFT", [x, amount], np.broadcast_shapes(x.shape, amount.shape))


_SAME_BITS: frozenset[frozenset[str]] = frozenset(
    {frozenset({"float32", "int32"}), frozenset({"int8", "uint8"}), frozenset({"bool", "uint8"})}
)


@lowers("BitCast")
def bit_cast(site: Site, b: Builder) -> None:
    """BITCAST between words, CAST between bytes."""
    make = Elementwise(site, b)
    x, wanted = make.terms[0], b.dtype(site.outputs[0].value)
    kinds = {str(v.value.dtype).lower() for v in (site.inputs[0], site.outputs[0]) if v is not None}
    named = {"float": "float32"}
    if frozenset(named.get(k, k) for k in kinds) not in _SAME_BITS:
        raise Unservable(f"the bits of {' and '.join(sorted(kinds))} are stored otherwise in TFLite")
    if x.array is not None:
        make.give(Term(make, _viewed(x.array, wanted)))
    elif wanted in ("float32", "int32"):
        make.give(make.apply("BITCAST", [x], x.shape, dtype=wanted))
    else:
        types = {"inDataType": tensor_type(x.dtype), "outDataType": tensor_type(wanted)}
        make.give(make.apply("CAST", [x], x.shape, types, wanted))


def _viewed(array: Array, dtype: str) -> Array:
    return np.ascontiguousarray(array).view(dtype)
