"""What kernels compute on int32 only, on 64-bit integers: exact for every number that the result can hold."""

from __future__ import annotations

import numpy as np

from edgecc.tflite.compose import Term
from edgecc.tflite.elementwise import Elementwise

# |x / y| <= 2^63; float32 errs by less than 2^-22 of it each time: 2^62 (bounded), 2^40, 2^18, exact.
_ROUNDS = 4
_BOUND = 2.0**62
_BITS = 6  # of an exponent: powers from 64 on leave the range, but for those of 0, 1 and -1


def _whole(m: Elementwise, value: int) -> Term:
    return Term(m, np.array(value, np.int64))


def _exact(m: Elementwise, x: Term, y: Term) -> Term:
    """x / y, where y divides x: float32 quotients of what is left, added up in integers."""
    quotient, rest, divisor = _whole(m, 0), x, m.cast(y, "float32")
    for turn in range(_ROUNDS):
        step = m.cast(rest, "float32") / divisor
        if not turn:
            step = m.binary("MAXIMUM", m.binary("MINIMUM", step, _BOUND), -_BOUND)
        step = m.cast(m.one("ROUND", step), "int64")
        quotient = step + quotient if turn else step
        rest = rest - step * y
    return quotient


def remainder(m: Elementwise, x: Term, y: Term) -> Term:
    """x - y trunc(x / y), with the sign of x."""
    floored = x % y
    unlike = m.binary("NOT_EQUAL", m.binary("LESS", x, 0), m.binary("LESS", y, 0))
    unlike = m.binary("LOGICAL_AND", unlike, m.binary("NOT_EQUAL", floored, 0))
    return m.select(unlike, floored - y, floored)


def divide(m: Elementwise, x: Term, y: Term) -> Term:
    """Integer division towards zero."""
    return _exact(m, x - remainder(m, x, y), y)


def power(m: Elementwise, x: Term, y: Term) -> Term:
    """x to the y-th; 0 where y is negative and x neither 1 nor -1."""
    y = m.cast(y, "int64")
    result, square = _whole(m, 1), x
    bits = _BITS if y.array is None else max(1, int(np.max(np.abs(y.array), initial=0)).bit_length())
    for place in range(min(bits, _BITS)):
        if place:
            square = square * square
        bit = m.binary("GREATER_EQUAL", y % 2 ** (place + 1), 2**place)
        if bit.array is not None and bit.array.size == 1:
            result = result * square if bit.array.item() else result
        else:
            result = m.select(bit, result * square, result)
    if y.array is not None and (y.array >= 0).all():
        return result
    small = m.binary("LOGICAL_AND", m.binary("LESS", x, 2), m.binary("GREATER", x, -2))
    lost = m.binary("LOGICAL_AND", m.binary("LESS", y, 0), m.one("LOGICAL_NOT", small))
    return m.select(lost, _whole(m, 0), result)


def shift_right(m: Elementwise, x: Term, amount: Term) -> Term:
    """x / 2^amount, rounded down; the sign alone where the amount is below 0 or above 62."""
    amount = m.cast(amount, "int64")
    outside = m.binary("LOGICAL_OR", m.binary("LESS", amount, 0), m.binary("GREATER", amount, 62))
    divisor = power(m, _whole(m, 2), m.select(outside, _whole(m, 0), amount))
    sign = m.select(m.binary("LESS", x, 0), _whole(m, -1), _whole(m, 0))
    return m.select(outside, sign, _exact(m, x - x % divisor, divisor))


def words(m: Elementwise, x: Term) -> Term:
    """The bits of 64-bit integers as pairs of int32, the lower half first, in a last axis."""
    if x.array is not None:
        return Term(m, np.ascontiguousarray(x.array)[..., None].view(np.int32))
    return m.apply("BITCAST", [x], (*x.shape, 2), dtype="int32")


def joined_words(m: Elementwise, pairs: Term) -> Term:
    """64-bit integers from what `words` made."""
    return m.apply("BITCAST", [pairs], pairs.shape[:-1], dtype="int64")
