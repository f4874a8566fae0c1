"""The fixed-point arithmetic of TFLite's kernels, on arrays of int64 that hold int32 values.

Sources of the formulas: LiteRT, kernels/internal/quantization_util.cc and kernels/internal/common.{h,cc} (built without
TFLITE_SINGLE_ROUNDING, as LiteRT's own packages are), and gemmlowp, fixedpoint/fixedpoint.h. A value "Qm.n" is a raw
integer divided by 2^n, with m bits before the point, in 32 bits with the sign.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgecc.ir import Array

Integers = npt.NDArray[np.int64]

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

_EXP_MINUS_EIGHTH = 1895147668  # exp(-1/8) in Q0.31
_THIRD = 715827883  # 1/3 in Q0.31
# exp(-2^k) in Q0.31, k = -2..4
_EXP_OF_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
# of the logarithm, in Q0.31: ln 2, 2^-1/2, 2^-1/4, and the coefficients of a quotient of polynomials
_LN_2, _SQRT_HALF, _FOURTH_ROOT_HALF = 1488522236, 1518500250, 1805811301
_ALPHA_N, _ALPHA_D, _ALPHA_I, _ALPHA_F = 117049297, 127690142, 1057819769, 638450708
_48_OVER_17, _MINUS_32_OVER_17 = 1515870810, -1010580540  # in Q2.29, start of the Newton-Raphson division


def round_half_away(values: Array | float) -> npt.NDArray[np.float64]:
    """To the nearest integer, halves away from zero, as C's round does (numpy's goes to even)."""
    exact = np.asarray(values, np.float64)
    whole = np.trunc(exact)
    return np.asarray(whole + np.where(np.abs(exact - whole) >= 0.5, np.sign(exact), 0.0))


def wrap32(values: Array) -> Integers:
    """What is left of a sum in a 32-bit accumulator (two's complement)."""
    return np.asarray(values).astype(np.int64).astype(np.int32).astype(np.int64)


def quantize_multiplier(real: Array | float) -> tuple[Integers, Integers]:
    """A real factor as multiplier * 2^(shift - 31), with 2^30 <= |multiplier| < 2^31.

    Args:
        real: float64, any shape. Below 2^-32 in magnitude it becomes 0.

    Returns:
        Multipliers and shifts, int64 of that shape.
    """
    mantissa, exponent = np.frexp(np.asarray(real, np.float64))
    multiplier, shift = round_half_away(mantissa * 2.0**31).astype(np.int64), exponent.astype(np.int64)
    full = multiplier == 2**31
    multiplier, shift = np.where(full, 2**30, multiplier), shift + full
    lost = shift < -31
    return np.where(lost, 0, multiplier), np.where(lost, 0, shift)


def doubling_high_mul(a: Array, b: Array | int) -> Integers:
    """SaturatingRoundingDoublingHighMul: a * b / 2^31, halves up; -2^31 * -2^31 saturates."""
    # The reference adds 2^30, or 1 - 2^30 to a negative product, and divides toward zero: both are this floor.
    return np.asarray(np.minimum((a * np.asarray(b, np.int64) + 2**30) >> 31, INT32_MAX))


def divide_by_power(values: Array, exponent: Array | int) -> Integers:
    """RoundingDivideByPOT: values / 2^exponent, halves away from zero; exponent 0..31."""
    exponent = np.asarray(exponent, np.int64)
    half = (np.int64(1) << exponent) >> 1
    return np.asarray((values + half - ((values < 0) & (exponent > 0))) >> exponent)


def multiply(values: Array, multiplier: Array | int, shift: Array | int) -> Integers:
    """MultiplyByQuantizedMultiplier: values * multiplier * 2^(shift - 31), rounded twice.

    Args:
        values: int32 values, any shape.
        multiplier, shift: of `quantize_multiplier`; broadcast to `values` (one a channel).
    """
    shift = np.asarray(shift, np.int64)
    values = np.asarray(values).astype(np.int64)
    if np.any(shift > 0):
        values = wrap32(values << np.maximum(shift, 0))
    return divide_by_power(doubling_high_mul(values, np.asarray(multiplier)), np.maximum(-shift, 0))


def rescale(values: Array, real: Array | float) -> Integers:
    """`multiply` by a real factor."""
    return multiply(values, *quantize_multiplier(real))


def saturating_shift(values: Array, amount: int) -> Integers:
    """SaturatingRoundingMultiplyByPOT: values * 2^amount in 32 bits; a negative amount divides and rounds."""
    if amount < 0:
        return divide_by_power(values, -amount)
    return np.asarray(np.clip(values << np.int64(amount), INT32_MIN, INT32_MAX))


def exp_of_negative(values: Array) -> Integers:
    """exp(x) in Q0.31 of x <= 0 in Q5.26 (gemmlowp's exp_on_negative_values)."""
    quarter = np.int64(1 << 24)
    below = (values & (quarter - 1)) - quarter  # in [-1/4, 0)
    x = saturating_shift(below, 5) + (1 << 28)  # in Q0.31, around -1/8
    square = doubling_high_mul(x, x)
    cube, fourth = doubling_high_mul(square, x), doubling_high_mul(square, square)
    # x^4/24 + x^3/6 + x^2/2 = ((x^4/4 + x^3)/3 + x^2)/2
    rest = divide_by_power(doubling_high_mul(divide_by_power(fourth, 2) + cube, _THIRD) + square, 1)
    result = _EXP_MINUS_EIGHTH + doubling_high_mul(x + rest, _EXP_MINUS_EIGHTH)
    left = below - values
    for place, factor in enumerate(_EXP_OF_POWERS):
        result = np.where(left & (quarter << np.int64(place)), doubling_high_mul(result, factor), result)
    return np.asarray(np.where(values == 0, INT32_MAX, result))


def leading_zeros(values: Array) -> Integers:
    """Of positive 32-bit integers."""
    return np.asarray(32 - np.frexp(values.astype(np.float64))[1].astype(np.int64))


def reciprocal(values: Array, integer_bits: int) -> tuple[Integers, Integers]:
    """1 / x for x > 0 in Q`integer_bits`: a factor in Q0.31 and the bits by which x exceeds 1 (GetReciprocal)."""
    headroom = leading_zeros(values)
    half = values << headroom >> 1  # (1 + a) / 2 in Q0.31, where x = 2^bits (1 + a)
    return _half_over(half), integer_bits - headroom


def _half_over(half: Array) -> Integers:
    """1 / (2 h) in Q0.31 of h in Q0.31 from 1/2 to 1: Newton-Raphson (one_over_one_plus_x_for_x_in_0_1)."""
    x = _48_OVER_17 + doubling_high_mul(half, _MINUS_32_OVER_17)
    for _ in range(3):
        rest = (1 << 29) - doubling_high_mul(half, x)
        x = x + saturating_shift(doubling_high_mul(x, rest), 2)
    return saturating_shift(x, 1)


def logarithm(values: Array, integer_bits: int, result_bits: int) -> Integers:
    """ln(x) in Q`result_bits` of x >= 1 in Q`integer_bits` (log_x_for_x_greater_than_or_equal_to_1)."""
    mul, places = doubling_high_mul, 30 - result_bits  # one bit more than the result has before the point
    quarter = 1 << (places - 2)
    # x = 2^power r, r near 1, by halving either x or x / sqrt(2)
    a, b = leading_zeros(values), leading_zeros(mul(values, _SQRT_HALF)) - 1
    r = np.minimum(
        saturating_shift(mul(values << (a - 1), _SQRT_HALF), 1),
        np.clip(values << b, INT32_MIN, INT32_MAX),
    )
    power_a = saturating_shift(saturating_shift(integer_bits - a, places) + quarter, 0)
    power_b = saturating_shift(saturating_shift(integer_bits - b, places) - quarter, 0)
    power = np.maximum(power_a, power_b)
    p, q = (r + _FOURTH_ROOT_HALF + 1) >> 1, 2 * (r - _FOURTH_ROOT_HALF)
    square = mul(q, q)
    over = mul(q, r) + mul(mul(q, square), _ALPHA_N)
    under = mul(p, _ALPHA_I + q + mul(square, _ALPHA_D)) + mul(q, _ALPHA_F)  # less one
    ratio = mul(divide_by_power(over, 31 - places), _half_over((under + 2**31) >> 1))
    return saturating_shift(mul(power, _LN_2) + ratio, 1)


def saturate(values: Array, dtype: Any) -> Array:
    """Clipped to the range of an integer type."""
    limits = np.iinfo(dtype)
    return np.clip(values, limits.min, limits.max).astype(dtype)
