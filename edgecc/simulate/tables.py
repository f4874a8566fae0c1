"""Operators whose kernel looks each integer up, Softmax and LogSoftmax.

Sources: LiteRT, kernels/internal/common.h (LUTPopulateInt8), kernels/{activations,exp}.cc,
kernels/internal/reference/{softmax,gelu}.h, kernels/internal/reference/integer_ops/log_softmax.h. The tables are
filled in float32; the functions of the C library are taken as correctly rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from edgecc.ir import Array
from edgecc.simulate.common import Kernel
from edgecc.simulate.fixed_point import (
    INT32_MIN,
    Integers,
    divide_by_power,
    doubling_high_mul,
    exp_of_negative,
    logarithm,
    multiply,
    quantize_multiplier,
    reciprocal,
    round_half_away,
    saturate,
)
from edgecc.tflite.reader import Operator

_DIFFERENCE_BITS = 5  # of the exponent, softmax.h: kScaledDiffIntegerBits
_SUM_BITS = 12  # of the sum of exponentials: kAccumulationIntegerBits

Function = Callable[[Array], Array]


def once(function: Function) -> Function:
    """A float64 function as a float32 one, rounded once."""
    return lambda x: function(x.astype(np.float64)).astype(np.float32)


def logistic(x: Array) -> Array:
    """1 / (1 + exp(-x)), each step in float32."""
    one = np.float32(1)
    with np.errstate(over="ignore"):
        return np.asarray(one / (one + once(np.exp)(-x)))


def elu(x: Array) -> Array:
    """x, or exp(x) - 1 below 0."""
    return np.where(x < 0, once(np.expm1)(np.minimum(x, 0)), x)


def gelu(x: Array) -> Array:
    """x / 2 * erfc(-x / sqrt(2)), each step in float32."""
    erfc = once(np.vectorize(math.erfc, otypes=[np.float64]))
    return np.asarray(np.float32(0.5) * x * erfc(x * np.float32(-math.sqrt(0.5))))


def gelu_by_tanh(x: Array) -> Array:
    """The approximation with tanh, each step in float32."""
    cubic = np.float32(0.044715) * x * x * x
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + cubic)
    return np.asarray(np.float32(0.5) * x * (np.float32(1) + once(np.tanh)(inner)))


def gelu_looked_up(op: Operator, values: Sequence[Array]) -> list[Array]:
    """GELU, in the form that the options say."""
    return looked_up(op, values, gelu_by_tanh if op.options.approximate else gelu)


def looked_up(op: Operator, values: Sequence[Array], function: Function) -> list[Array]:
    """A function of one value through a table of 256."""
    source, output = op.given(0), op.outputs[0]
    every = np.arange(-128, 128, dtype=np.int64)
    real = source.scale * (every - source.zero_point).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = round_half_away(function(real) * (np.float32(1) / output.scale))
    whole = np.clip(steps, -(2.0**31), 2.0**31 - 1).astype(np.int64) + output.zero_point
    return [saturate(whole, np.int8)[values[0].astype(np.int64) + 128]]


def softmax(op: Operator, values: Sequence[Array]) -> list[Array]:
    """SOFTMAX over the last axis, in fixed point; the output's scale is 1/256 and its zero point -128."""
    _, powers, _ = _exponentials(op, values[0], float(op.options.beta))
    total = divide_by_power(powers, _SUM_BITS).sum(axis=-1, keepdims=True)
    factor, over = reciprocal(total, _SUM_BITS)
    steps = divide_by_power(doubling_high_mul(factor, powers), over + 31 - 8)
    return [saturate(np.where(powers > 0, steps, 0) - 128, np.int8)]


def log_softmax(op: Operator, values: Sequence[Array]) -> list[Array]:
    """LOG_SOFTMAX over the last axis, in fixed point; the output's scale is 1/16 and its zero point 127."""
    below, powers, (multiplier, shift, least) = _exponentials(op, values[0], 1.0)
    total = divide_by_power(powers, _SUM_BITS).sum(axis=-1, keepdims=True)
    log = logarithm(total, _SUM_BITS, _DIFFERENCE_BITS)
    back = quantize_multiplier(2.0 ** (31 - shift) / multiplier)
    lowest = np.maximum(least - 1, multiply(log + INT32_MIN, *back))
    steps = divide_by_power(multiply(-below, multiplier, shift) - log, 31 - _DIFFERENCE_BITS - 4)
    return [saturate(np.where(-below > lowest, steps + 127, -128), np.int8)]


def _exponentials(op: Operator, data: Array, beta: float) -> tuple[Integers, Integers, tuple[int, int, int]]:
    """How far each element lies under the largest of its row, exp(-beta * that) in Q0.31, and how that is scaled.

    The third are the multiplier and shift of a difference, and the least difference that counts.
    """
    room = 31 - _DIFFERENCE_BITS
    scaled = min(np.float64(beta) * np.float64(op.given(0).scale) * 2.0**room, 2.0**31 - 1)
    multiplier, shift = (int(v) for v in quantize_multiplier(scaled))
    least = -int(np.floor((2**_DIFFERENCE_BITS - 1) * 2.0**room / 2.0**shift))
    every = np.arange(256, dtype=np.int64)
    table = np.where(-every >= least, exp_of_negative(multiply(-every, multiplier, shift)), 0)
    wide = data.astype(np.int64)
    below = wide.max(axis=-1, keepdims=True) - wide
    return below, table[below], (multiplier, shift, least)


INT8: Mapping[str, Kernel] = {
    "LOGISTIC": partial(looked_up, function=logistic),
    "TANH": partial(looked_up, function=once(np.tanh)),
    "EXP": partial(looked_up, function=once(np.exp)),
    "ELU": partial(looked_up, function=elu),
    "GELU": gelu_looked_up,
    "SOFTMAX": softmax,
    "LOG_SOFTMAX": log_softmax,
}
