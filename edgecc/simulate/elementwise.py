"""Operators that compute each integer from the ones at its place.

Sources: LiteRT, kernels/internal/reference/integer_ops/{add,mul}.h, kernels/internal/reference/{sub,prelu,leaky_relu,
hard_swish,quantize,requantize,dequantize}.h, and the factors of kernels/{add,sub,mul,activations,quantize}.cc, whose
float32 and float64 steps are repeated here in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from edgecc.errors import UnsupportedError
from edgecc.ir import Array
from edgecc.simulate.common import Kernel, centred, clamped, fitted
from edgecc.simulate.fixed_point import (
    Integers,
    divide_by_power,
    multiply,
    quantize_multiplier,
    rescale,
    round_half_away,
    saturate,
)
from edgecc.tflite.reader import Operator, Tensor

_LEFT_SHIFT = 20
"""Bits by which Add and Sub raise their operands before they scale them (add.cc)."""


def add(op: Operator, values: Sequence[Array], sign: int = 1) -> list[Array]:
    """ADD, and SUB with `sign` -1: both operands on twice the larger scale, then on the output's."""
    tensors = op.given(0), op.given(1)
    twice = np.float64(np.float32(2) * max(t.scale for t in tensors))
    raised = [centred(t, v) << _LEFT_SHIFT for t, v in zip(tensors, values, strict=True)]
    left, right = (rescale(r, np.float64(t.scale) / twice) for t, r in zip(tensors, raised, strict=True))
    factor = twice / np.float64(np.float32(1 << _LEFT_SHIFT) * op.outputs[0].scale)
    return [clamped(op, rescale(left + sign * right, factor))]


def mul(op: Operator, values: Sequence[Array]) -> list[Array]:
    """MUL."""
    left, right = (centred(op.given(i), values[i]) for i in (0, 1))
    factor = np.float64(op.given(0).scale * op.given(1).scale / op.outputs[0].scale)
    return [clamped(op, rescale(left * right, factor))]


def extreme(op: Operator, values: Sequence[Array], pick: Callable[[Array, Array], Array]) -> list[Array]:
    """MAXIMUM and MINIMUM: integers as they are."""
    return [pick(values[0], values[1])]


def relu(op: Operator, values: Sequence[Array], *, limits: tuple[float | None, float | None]) -> list[Array]:
    """RELU, RELU6, RELU_N1_TO_1: on the output's scale, then limited."""
    steps = rescale(centred(op.given(0), values[0]), _ratio(op))
    return [clamped(op, steps, limits)]


def leaky_relu(op: Operator, values: Sequence[Array]) -> list[Array]:
    """LEAKY_RELU: two factors, by sign."""
    source = centred(op.given(0), values[0])
    slope = np.float64(op.given(0).scale * np.float32(op.options.alpha) / op.outputs[0].scale)
    below = int(np.sign(slope)) * rescale(source, abs(slope))
    return [fitted(op, np.where(source >= 0, rescale(source, _ratio(op)), below))]


def prelu(op: Operator, values: Sequence[Array]) -> list[Array]:
    """PRELU: negative values times the slope of their channel."""
    source, slope = (centred(op.given(i), values[i]) for i in (0, 1))
    factor = np.float64(op.given(0).scale * op.given(1).scale / op.outputs[0].scale)
    return [fitted(op, np.where(source >= 0, rescale(source, _ratio(op)), rescale(source * slope, factor)))]


def hard_swish(op: Operator, values: Sequence[Array]) -> list[Array]:
    """HARD_SWISH: x * relu6(x + 3) / 6 in 16 bits, on a table of all 256 inputs."""
    source, output = op.given(0), op.outputs[0]
    every = np.arange(-128, 128, dtype=np.int64)
    table = saturate(
        _hard_swish_steps(every - source.zero_point, source, output) + output.zero_point, np.int8
    )
    return [table[values[0].astype(np.int64) + 128]]


def _hard_swish_steps(x: Integers, source: Tensor, output: Tensor) -> Integers:
    """Steps of the output for centred inputs: the 16-bit steps of hard_swish.h."""
    fine = np.float32(1 / 128) * source.scale
    to_output, output_shift = (int(v) for v in quantize_multiplier(np.float64(fine / output.scale)))
    to_relu, relu_shift = (int(v) for v in quantize_multiplier(np.float64(fine / np.float32(3 / 32768))))
    raised = wrap16(x * 128)
    preshift = _high_mul16(raised, _upper_half(to_output))
    gate = saturate(raised << max(relu_shift - 1, 0), np.int16).astype(np.int64)
    gate = _high_mul16(gate, _upper_half(to_relu))
    if relu_shift > 0:
        gate = saturate(gate << 1, np.int16).astype(np.int64)
    elif relu_shift < 0:
        gate = divide_by_power(gate, -relu_shift)
    gate = (gate + 2**15) >> 1
    product = np.trunc(gate * preshift / 2**15).astype(np.int64)  # toward zero; exact in float64
    return divide_by_power(product, -output_shift)


def wrap16(values: Array) -> Integers:
    """What a 16-bit register keeps."""
    return values.astype(np.int16).astype(np.int64)


def _high_mul16(a: Integers, b: int) -> Integers:
    """SaturatingRoundingDoublingHighMul of 16 bits: a * b / 2^15, halves up (b is never -2^15)."""
    return (a * b + 2**14) >> 15


def _upper_half(multiplier: int) -> int:
    """A 32-bit multiplier in 16 bits, rounded (DownScaleInt32ToInt16Multiplier)."""
    return min((multiplier + 2**15) >> 16, 2**15 - 1)


def quantize(op: Operator, values: Sequence[Array]) -> list[Array]:
    """QUANTIZE: of float32, or from one scale of integers to another."""
    source, output = op.given(0), op.outputs[0]
    if source.dtype == "float32":
        if len(output.scales) != 1:
            raise UnsupportedError(f"quantization per channel is not simulated: {op.label}")
        real = np.clip(round_half_away(values[0] / output.scale), -(2.0**31), 2.0**31 - 1)
        return [saturate(real.astype(np.int64) + output.zero_point, output.dtype)]
    factor = np.float64(source.scale) / np.float64(output.scale)
    steps = multiply(centred(source, values[0]), *quantize_multiplier(factor))
    return [saturate(steps + output.zero_point, output.dtype)]


def dequantize(op: Operator, values: Sequence[Array]) -> list[Array]:
    """DEQUANTIZE of integers with one scale: the product rounded once to float32; float16 as it is."""
    source = op.given(0)
    if source.dtype == "float16":
        return [values[0].astype(np.float32)]
    if len(source.scales) != 1:
        raise UnsupportedError(f"dequantization per channel is not simulated: {op.label}")
    return [(np.float64(source.scale) * centred(source, values[0])).astype(np.float32)]


def _ratio(op: Operator) -> np.float64:
    """Input scale by output scale, divided in float32."""
    return np.float64(op.given(0).scale / op.outputs[0].scale)


INT8: Mapping[str, Kernel] = {
    "ADD": add,
    "SUB": partial(add, sign=-1),
    "MUL": mul,
    "MAXIMUM": partial(extreme, pick=np.maximum),
    "MINIMUM": partial(extreme, pick=np.minimum),
    "RELU": partial(relu, limits=(0.0, None)),
    "RELU6": partial(relu, limits=(0.0, 6.0)),
    "RELU_N1_TO_1": partial(relu, limits=(-1.0, 1.0)),
    "LEAKY_RELU": leaky_relu,
    "PRELU": prelu,
    "HARD_SWISH": hard_swish,
}
CONVERSIONS: Mapping[str, Kernel] = {"QUANTIZE": quantize, "DEQUANTIZE": dequantize}
