"""The simulator's fixed-point functions against their definitions in whole numbers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecc.simulate import fixed_point as fp

INT32 = st.integers(-(2**31), 2**31 - 1)
MULTIPLIER = st.integers(2**30, 2**31 - 1)


def toward_zero(a: int, b: int) -> int:
    return abs(a) // b * (1 if a >= 0 else -1)


def high_mul(a: int, b: int) -> int:
    """gemmlowp's SaturatingRoundingDoublingHighMul as it is written."""
    if a == b == -(2**31):
        return 2**31 - 1
    product = a * b
    return toward_zero(product + (2**30 if product >= 0 else 1 - 2**30), 2**31)


def divide(x: int, exponent: int) -> int:
    """gemmlowp's RoundingDivideByPOT as it is written."""
    mask = (1 << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


@given(INT32, INT32)
def test_doubling_high_mul(a: int, b: int) -> None:
    assert int(fp.doubling_high_mul(np.array([a]), b)[0]) == high_mul(a, b)


def test_doubling_high_mul_saturates() -> None:
    assert int(fp.doubling_high_mul(np.array([-(2**31)]), -(2**31))[0]) == 2**31 - 1


@given(INT32, st.integers(0, 31))
def test_divide_by_power(x: int, exponent: int) -> None:
    got = int(fp.divide_by_power(np.array([x]), exponent)[0])
    assert got == divide(x, exponent)
    exact = Fraction(x, 2**exponent)
    assert got == math.floor(abs(exact) + Fraction(1, 2)) * (1 if x >= 0 else -1)  # halves away from zero


@given(st.floats(2.0**-31, 2.0**20))
def test_quantize_multiplier(real: float) -> None:
    multiplier, shift = (int(v) for v in fp.quantize_multiplier(real))
    assert 2**30 <= multiplier < 2**31
    assert abs(Fraction(multiplier) * Fraction(2) ** (shift - 31) / Fraction(real) - 1) <= Fraction(1, 2**31)


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (0.0, (0, 0)), (1.0, (2**30, 1)), (0.5, (2**30, 0)), (2.0**-40, (0, 0)), (2.0**-33, (0, 0)),
        (2.0**-32, (2**30, -31)), (1 - 2.0**-40, (2**30, 1)), (-0.75, (-3 * 2**29, 0)),
    ],
)  # fmt: skip
def test_quantize_multiplier_at_its_edges(real: float, expected: tuple[int, int]) -> None:
    assert tuple(int(v) for v in fp.quantize_multiplier(real)) == expected


@given(st.lists(st.integers(-(2**23), 2**23), min_size=1, max_size=8), MULTIPLIER, st.integers(-31, 7))
def test_multiply(values: list[int], multiplier: int, shift: int) -> None:
    got = fp.multiply(np.array(values), multiplier, shift)
    wanted = [divide(high_mul(v << max(shift, 0), multiplier), max(-shift, 0)) for v in values]
    assert got.tolist() == wanted


def test_multiply_takes_a_factor_a_channel() -> None:
    values = np.arange(-6, 6).reshape(2, 2, 3) * 1000
    factors = np.array([0.5, 1.5, 2.0**-9])
    multipliers, shifts = fp.quantize_multiplier(factors)
    for i in range(3):
        wanted = fp.multiply(values[..., i], int(multipliers[i]), int(shifts[i]))
        np.testing.assert_array_equal(fp.multiply(values, multipliers, shifts)[..., i], wanted)


@given(st.floats(-(2.0**31), 2.0**31))
def test_round_half_away(x: float) -> None:
    exact = math.floor(abs(Fraction(x)) + Fraction(1, 2))
    assert float(fp.round_half_away(x)) == (exact if x >= 0 else -exact)


def test_exp_of_negative() -> None:
    x = np.concatenate([np.arange(-(2**26), 1, 997), -(2 ** np.arange(31)), [-(2**31)]]).astype(np.int64)
    got = fp.exp_of_negative(x) / 2.0**31
    # A Taylor series around -1/8 up to the fourth power: what is left out is below (1/8)^5 / 5! = 2.6e-7.
    np.testing.assert_allclose(got, np.exp(x / 2.0**26), rtol=0, atol=2.6e-7)
    assert fp.exp_of_negative(np.array([0]))[0] == 2**31 - 1


def test_reciprocal() -> None:
    x = np.unique(np.geomspace(2**12, 2**31 - 1, 5000).astype(np.int64))  # Q12.19
    factor, over = fp.reciprocal(x, 12)
    np.testing.assert_allclose(factor / 2.0**31 / 2.0**over, 2.0**19 / x, rtol=2e-8)


def test_logarithm() -> None:
    x = np.unique(np.geomspace(2**19, 2**31 - 1, 5000).astype(np.int64))  # Q12.19
    np.testing.assert_allclose(fp.logarithm(x, 12, 5) / 2.0**26, np.log(x / 2.0**19), rtol=0, atol=3e-7)


def test_wrap32() -> None:
    assert fp.wrap32(np.array([2**31, -(2**31) - 1, 5])).tolist() == [-(2**31), 2**31 - 1, 5]


def test_saturate() -> None:
    assert fp.saturate(np.array([-300, 5, 300]), np.int8).tolist() == [-128, 5, 127]
